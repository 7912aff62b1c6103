"""A convolution over the taps of bent tubes that stores no map per tap: a pure function.

Every voxel reads K taps by linear interpolation. Sampled all at once, they would be a map K times as large as the
image, of which autograd keeps every corner. Here a chunk of voxels is sampled, multiplied and forgotten; the backward
pass samples again, and scatters one tap at a time.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from distill3d.layers.tubes.geometry import Outside, Points
from distill3d.layers.tubes.rows import TapGrid, gather, scatter, tap_grids, without_middle

# Values sampled at a time: a CPU is faster within its caches, other devices in fewer and larger steps.
CHUNK_ON_CPU, CHUNK_ELSEWHERE = 2**19, 2**25


def tube_conv(image: Tensor, moves: Points, weight: Tensor, bias: Tensor, *, outside: Outside) -> Tensor:
    """Convolve an image along tubes: ``out(v) = bias + sum_k weight[:, :, k] @ image(v + moves[k])``.

    Between voxels the image is interpolated linearly. Gradients reach the image, moves of floating dtype, weight and
    bias; there are no second derivatives. `torch.compile` sees a single operator.

    Args:
        image: [B, C, Z, Y, X]; fastest where a voxel's channels lie together (``channels_last_3d``).
        moves: Z, Y and X in voxels from a voxel to its taps: of floating dtype [B, K, Z, Y, X], or of integer dtype
            [K, 1, 1, 1], which costs no interpolation. The middle tap stays at its voxel whatever its move.
        weight: [O, C, K] of the image's dtype, K odd.
        bias: [O] of the image's dtype.
        outside: what lies beyond the volume: "border" the nearest voxel, "zeros" nothing.

    Returns:
        [B, O, Z, Y, X], channels last in memory.

    Example:
        >>> image, zero = torch.tensor([[[[[1.0, 2.0, 4.0]]]]]), torch.zeros(3, 1, 1, 1, dtype=torch.int64)
        >>> x = torch.tensor([-1.0, 0.0, 0.5]).view(1, 3, 1, 1, 1).expand(1, 3, 1, 1, 3)
        >>> weight, bias = torch.tensor([[[10.0, 0.0, 1.0]]]), torch.zeros(1)
        >>> [tube_conv(image, (zero, zero, x), weight, bias, outside=o).flatten().tolist() for o in ("border", "zeros")]
        [[11.5, 13.0, 24.0], [1.5, 13.0, 22.0]]
    """
    return _forward(image, *moves, weight, bias, outside == "border")


@torch.library.custom_op("distill3d::tube_conv", mutates_args=())
def _forward(
    image: Tensor,
    z: Tensor,
    y: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    border: bool,
) -> Tensor:
    kernel, bias = weight.detach().permute(2, 1, 0), bias.detach()
    center, outer = kernel[len(kernel) // 2], without_middle(kernel).flatten(0, 1)
    out = _new_rows(image, weight.shape[0])
    for rows, grid, result in zip(_rows(image), _grids(image, (z, y, x), border=border), out, strict=True):
        for chunk in _chunks(rows, taps=len(kernel) - 1):
            corners = grid.corners(chunk)
            values = gather(rows, corners.addresses(), corners.shares()).flatten(1)
            torch.addmm(torch.addmm(bias, rows[chunk], center), values, outer, out=result[chunk])
    return _image(out, image)


@torch.library.custom_op("distill3d::tube_conv_backward", mutates_args=())
def _backward(
    grad: Tensor,
    image: Tensor,
    z: Tensor,
    y: Tensor,
    x: Tensor,
    weight: Tensor,
    border: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of image, weight and bias."""
    kernel = weight.detach().permute(2, 0, 1).contiguous()
    grad_image, grad_kernel = _new_rows(image, image.shape[1]), torch.zeros_like(kernel)
    grad_bias = weight.new_zeros(weight.shape[0])
    middle = len(kernel) // 2
    grids = _grids(image, (z, y, x), border=border)
    for rows, grid, upper, result in zip(_rows(image), grids, _rows(grad), grad_image, strict=True):
        grad_bias += upper.sum(0)
        torch.mm(upper, kernel[middle], out=result)
        grad_kernel[middle].addmm_(upper.T, rows)
        for tap in itertools.chain(range(middle), range(middle + 1, len(kernel))):
            corners = grid.corners(slice(0, len(rows)), tap=tap)
            landed = scatter(upper, corners.addresses(), corners.shares())
            result.addmm_(landed, kernel[tap])
            grad_kernel[tap].addmm_(landed.T, rows)
    return _image(grad_image, image), grad_kernel.permute(1, 2, 0).contiguous(), grad_bias


@torch.library.custom_op("distill3d::tube_conv_backward_moves", mutates_args=())
def _backward_moves(
    grad: Tensor,
    image: Tensor,
    z: Tensor,
    y: Tensor,
    x: Tensor,
    weight: Tensor,
    border: bool,
) -> Tensor:
    """Return the gradients of those moves that are of floating dtype, [A, B, K, Z, Y, X]."""
    outer = without_middle(weight.detach().permute(2, 0, 1)).transpose(0, 1).flatten(1)
    out = _new_moves((z, y, x), image)
    bent = [axis for axis, move in enumerate((z, y, x)) if move.is_floating_point()]
    half = weight.shape[2] // 2
    grids = _grids(image, (z, y, x), border=border)
    for b, (rows, grid, upper) in enumerate(zip(_rows(image), grids, _rows(grad), strict=True)):
        for chunk in _chunks(rows, taps=2 * half):
            pulls = (upper[chunk] @ outer).unflatten(1, (2 * half, -1))
            corners = grid.corners(chunk)
            address = corners.addresses()
            for a, axis in enumerate(bent):
                slopes = gather(rows, address, corners.shares(slope_along=axis))
                along = slopes.mul_(pulls).sum(-1, dtype=out.dtype).T
                out[a, b, :half, chunk], out[a, b, half + 1 :, chunk] = along[:half], along[half:]
    return out.unflatten(3, image.shape[2:])


@_forward.register_fake
def _(image: Tensor, *others: Any) -> Tensor:  # noqa: ANN401 - tensors and a flag
    weight = others[3]
    return _image(_new_rows(image, weight.shape[0]), image)


@_backward.register_fake
def _(_: Tensor, image: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ANN401 - as above
    weight = others[3]
    grad_image = _image(_new_rows(image, image.shape[1]), image)
    return grad_image, weight.new_empty(weight.shape), weight.new_empty(weight.shape[0])


@_backward_moves.register_fake
def _(_: Tensor, image: Tensor, z: Tensor, y: Tensor, x: Tensor, *__: Any) -> Tensor:  # noqa: ANN401 - as above
    return _new_moves((z, y, x), image).unflatten(3, image.shape[2:])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ANN401, ARG001 - torch's signature
    ctx.save_for_backward(*inputs[:5])
    ctx.border = inputs[6]


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401 - torch types no context
    grad_moves: list[Tensor | None] = [None, None, None]
    if any(ctx.needs_input_grad[1:4]):
        bent = [axis for axis, move in enumerate(ctx.saved_tensors[1:4]) if move.is_floating_point()]
        grads = _backward_moves(grad, *ctx.saved_tensors, ctx.border)
        for axis, grad_move in zip(bent, grads.unbind(), strict=True):
            grad_moves[axis] = grad_move
    grad_image, grad_weight, grad_bias = _backward(grad, *ctx.saved_tensors, ctx.border)
    return grad_image, *grad_moves, grad_weight, grad_bias, None


_forward.register_autograd(_differentiate, setup_context=_keep)


def _rows(image: Tensor) -> Tensor:
    """View or copy [B, C, Z, Y, X] as [B, V, C], V voxels."""
    return image.detach().movedim(1, -1).contiguous().flatten(1, 3)


def _new_rows(image: Tensor, channels: int) -> Tensor:
    return image.new_empty(image.shape[0], math.prod(image.shape[2:]), channels)


def _image(rows: Tensor, like: Tensor) -> Tensor:
    return rows.unflatten(1, like.shape[2:]).movedim(-1, 1)


def _grids(image: Tensor, moves: Points, *, border: bool) -> list[TapGrid]:
    batch, _, z, y, x = image.shape
    detached = moves[0].detach(), moves[1].detach(), moves[2].detach()
    return tap_grids((z, y, x), detached, batch=batch, border=border)


def _new_moves(moves: Points, image: Tensor) -> Tensor:
    """Return zeros for all moves of floating dtype, [A, B, K, V]."""
    bent = [move for move in moves if move.is_floating_point()]
    shape = len(bent), image.shape[0], bent[0].shape[1] if bent else 0, math.prod(image.shape[2:])
    return (bent[0] if bent else image).new_zeros(shape)


def _chunks(rows: Tensor, *, taps: int) -> Iterator[slice]:
    values = CHUNK_ON_CPU if rows.device.type == "cpu" else CHUNK_ELSEWHERE
    size = max(1, values // (taps * rows.shape[1]))
    return (slice(start, min(start + size, len(rows))) for start in range(0, len(rows), size))
