"""Linear CKA, estimated without bias: of two descriptions of the same examples, of many layers, and as a loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from distill3d.transfer.matching.relations import TINY, sampled_clouds

_NOISE = 1e-5  # share of a matrix's size below which its spread is float32 rounding
_FLAT = 3e-4  # share of a kernel's least square below which it tells no pair of examples from another; rounding is 1e-5
_STRIP = 256  # rows of the kernels of all layers that are in memory at once


def cka(*, student: Tensor, teacher: Tensor, places: int = 1024, seed: int = 0) -> Tensor:
    """Return 1 - linear CKA, a float32 scalar, with sampled places of the whole batch as examples; see `linear_cka`.

    Range [0, 2]: 0 if the centered clouds differ by a rotation and a scale only, about 1 without any linear relation,
    exactly 1 if one side is constant. The estimate is unbiased, so that fewer places than channels do.

    Source: Kornblith et al. 2019, Similarity of Neural Network Representations Revisited, arXiv 1905.00414. There it
    is a measure over data sets; a loss over the places of a batch is ours.

    Args:
        student: [B, C, Z, Y, X].
        teacher: [B, D, Z, Y, X], D may differ from C.
        places: at least 4; all places if there are fewer.
        seed: of the sample.

    Raises:
        ValueError: the grids differ, or ``places`` is too small.

    Example:
        >>> features = torch.arange(12.0).sin().view(1, 3, 1, 2, 2)
        >>> cka(student=features.flip(1) * 3, teacher=features).item() < 1e-6
        True
    """
    with sampled_clouds(student=student, teacher=teacher, places=places, seed=seed, least=4) as clouds:
        return 1 - linear_cka(*clouds)


def linear_cka(a: Tensor, b: Tensor) -> Tensor:
    """Linear centered kernel alignment of two descriptions of the same n examples, estimated without bias.

    ``H(K, L) / sqrt(H(K, K) H(L, L))`` with K = a a', L = b b' and H the estimate of their independence criterion

    ``H = (tr(K L) + 1'K1 1'L1 / ((n - 1) (n - 2)) - 2 / (n - 2) 1'KL1) / (n (n - 3))``, diagonals of K and L set to 0.

    It is in [-1, 1], symmetric, and invariant to an orthogonal transform, a shift and a scale of either side; 1 only if
    the sides differ by these alone, about 0 if they are unrelated. The original, biased estimate counts an example's
    likeness to itself, and gives two unrelated sides of p channels about ``p / (n + p)``: 0.43 for 768 channels at 1024
    examples. Fewer than 4 examples, and a side that is constant (or whose spread is within rounding), give 0.

    With centered columns the rows of K have the sum 0, hence ``-k`` for k = diag(K) once the diagonal is 0; tr(K L) is
    ``|b'a|^2``, from the smaller of the features' and the examples' products.

    Source: Kornblith et al. 2019, arXiv 1905.00414; the estimate of Song et al. 2012, Feature Selection via Dependence
    Maximization (JMLR 13), equation 5, in it: Nguyen et al. 2021, arXiv 2010.15327, over minibatches.

    Args:
        a: [n, p].
        b: [n, q].

    Returns:
        A scalar of the wider dtype of both, at least float32.

    Raises:
        ValueError: not two matrices of the same number of rows.

    Example:
        >>> a = torch.tensor([[0.0, 1.0], [2.0, 0.0], [1.0, 3.0], [4.0, 0.0]])
        >>> linear_cka(a, a.flip(1) * 2 + 5).item() > 1 - 1e-6, linear_cka(a, torch.ones(4, 4)).item()
        (True, 0.0)
    """
    if a.ndim != 2 or b.ndim != 2 or len(a) != len(b) or not len(a):
        raise ValueError(f"{tuple(a.shape)} and {tuple(b.shape)} have no examples in common; accepted: [n, p], [n, q]")
    dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    with torch.autocast(a.device.type, enabled=False):
        x, y = (_centered(side.to(dtype)) for side in (a, b))
        if len(x) < 4:
            return (x.sum() + y.sum()) * 0
        wide = max(x.shape[1], y.shape[1]) >= len(x)
        products = (x @ x.T) * (y @ y.T) if wide else (y.T @ x).square()
        return _unbiased(products.sum(), _squares(x), _squares(y)) / (_norm(x) * _norm(y))


@torch.no_grad()
def linear_cka_table(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """Return `linear_cka` of each of the first descriptions with each of the second, [len(first), len(second)].

    Each n x n kernel is computed once, in strips of rows: for many pairs of wide layers a fraction of the time.
    """
    rows, columns = ([_centered(side.float()) for side in sides] for sides in (first, second))
    products = torch.zeros(len(rows), len(columns), dtype=torch.float64)
    if len(rows[0]) < 4:
        return products
    for start in range(0, len(rows[0]), _STRIP):
        strips = ([(side[start : start + _STRIP] @ side.T).flatten() for side in sides] for sides in (rows, columns))
        own, other = (torch.stack(strip) for strip in strips)
        products += (own @ other.T).double().cpu()
    squares = [torch.stack([_squares(side) for side in sides]).double().cpu() for sides in (rows, columns)]
    norms = [torch.stack([_norm(side) for side in sides]).double().cpu() for sides in (rows, columns)]
    return _unbiased(products, *squares) / torch.outer(*norms)


def _centered(side: Tensor) -> Tensor:
    """Center columns and divide by the Frobenius norm, unless that is no more than rounding or `TINY`."""
    centered = side - side.mean(0)
    centered = centered - centered.mean(0)  # what the first mean was off by is the same for all rows, and rounds finer
    return centered / centered.norm().clamp(min=(_NOISE * side.detach().norm()).clamp(min=TINY))


def _squares(side: Tensor) -> Tensor:
    return side.square().sum(1)


def _unbiased(products: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Return n (n - 3) H of `linear_cka`.

    Args:
        products: tr(K L) with the diagonals, a scalar, or [r, c] of r kernels K and c kernels L.
        first: the diagonals of K, [n] or [r, n].
        second: those of L, [n] or [c, n].
    """
    n, sums = first.shape[-1], (side.sum(-1, keepdim=True) for side in (first, second))
    return products - n / (n - 2) * torch.inner(first, second) + torch.inner(*sums) / ((n - 1) * (n - 2))


def _norm(side: Tensor) -> Tensor:
    """Square root of `_unbiased` of a side with itself, and at least that of one in which nearly nothing varies."""
    gram = side @ side.T if len(side) < side.shape[1] else side.T @ side
    squares = _squares(side)
    # With trace 1 the gram matrix has the square 1 / rank or more; the bound acts on constant sides, and on such of
    # which all places but one, or all pairs of places, are alike: they align with none.
    least = _FLAT / min(side.shape)
    return _unbiased(gram.square().sum(), squares, squares).clamp(min=least).sqrt()
