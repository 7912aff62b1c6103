"""Turn 2D kernels into 3D ones and three input channels into one: pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from distill3d.errors import ConfigError

ChannelRule = Literal["sum", "mean"]


def inflate_average(w2: Tensor, depth: int) -> Tensor:
    """Repeat a kernel along depth and divide by ``depth``: ``W3[o,i,d,h,w] = W2[o,i,h,w] / D``.

    On a volume that is constant along depth the inflated network equals the 2D one on a slice, at any stride.

    Source: Carreira & Zisserman 2017, Quo Vadis, Action Recognition? (I3D), section 2.4, arXiv 1705.07750.

    Args:
        w2: [O, I, Y, X].
        depth: D, at least 1.

    Returns:
        [O, I, D, Y, X].

    Example:
        >>> inflate_average(torch.ones(1, 1, 1, 1), 4).flatten().tolist()
        [0.25, 0.25, 0.25, 0.25]
    """
    return (w2 / depth).unsqueeze(2).repeat(1, 1, depth, 1, 1)


def inflate_center(w2: Tensor, depth: int) -> Tensor:
    """Place a kernel in the slice ``D // 2`` and zeros elsewhere.

    At depth stride 1 the inflated network equals the 2D one slice by slice, exactly, if all else of it looks at one
    slice with the 2D network's own statistics: normalization by frozen ones, squeeze-excite and global response
    normalization slice by slice. Over a volume these differ (relative error 2e-3 for EfficientNet-B0, 1e-2 for
    MobileNetV3, 1.6e-3 for ConvNeXt V2); `distill3d audit` measures how far a student's start is from its teacher.

    Source: Cheng et al. 2024, Boosting 3D Neuron Segmentation with 2D Vision Transformer Pre-trained on Natural Images,
    arXiv 2405.02686 ("Center").

    Args:
        w2: [O, I, Y, X].
        depth: D, at least 1.

    Returns:
        [O, I, D, Y, X].

    Example:
        >>> inflate_center(torch.ones(1, 1, 1, 1), 3).flatten().tolist()
        [0.0, 1.0, 0.0]
    """
    w3 = w2.new_zeros(*w2.shape[:2], depth, *w2.shape[2:])
    w3[:, :, depth // 2] = w2
    return w3


def inflate_center_noise(w2: Tensor, depth: int, *, noise_std: float, generator: torch.Generator) -> Tensor:
    """Place a kernel in the center slice and noise in the others, which start neither at zero nor all alike.

    The slices off center hold Gaussian noise of ``noise_std`` times the kernel's own standard deviation. The law of the
    noise is our choice; the field only says "repeat the center with noise".

    Args:
        w2: [O, I, Y, X].
        depth: D, at least 1.
        noise_std: relative to the standard deviation of ``w2``; 0 gives `inflate_center`.
        generator: on the CPU.

    Returns:
        [O, I, D, Y, X].
    """
    w3 = inflate_center(w2, depth)
    noise = torch.randn(w3.shape, generator=generator).to(w3) * (noise_std * w2.std(correction=0))
    noise[:, :, depth // 2] = 0
    return w3 + noise


def inflate_multi_axis(w2: Tensor, depth: int) -> Tensor:
    """Average the three axial placements of a kernel: across z, across y and across x, each through the center.

    The placement across z holds ``W2[y, x]``, the one across y ``W2[z, x]``, the one across x ``W2[z, y]``. Where
    the 3D kernel is not cubic, rows that stand for z are moved to the D slices by linear splatting (`splat_matrix`),
    which keeps every sum along z, so D = 1 works too.

    Args:
        w2: [O, I, K, K].
        depth: D, at least 1.

    Returns:
        [O, I, D, K, K], whose sum is that of ``w2``.

    Raises:
        ConfigError: the kernel is not square.

    Example:
        >>> inflate_multi_axis(torch.ones(1, 1, 1, 1), 1).flatten().tolist()
        [1.0]
    """
    rows, columns = w2.shape[2:]
    if rows != columns:
        raise ConfigError(f"multi_axis: a kernel's plane is {rows} x {columns}; accepted: square ones, or another mode")
    along_z = torch.einsum("dk,oikc->oidc", splat_matrix(rows, depth).to(w2), w2)
    across_y, across_x = (w2.new_zeros(*w2.shape[:2], depth, rows, rows) for _ in range(2))
    across_y[:, :, :, rows // 2, :] = along_z
    across_x[:, :, :, :, rows // 2] = along_z
    return (inflate_center(w2, depth) + across_y + across_x) / 3


def splat_matrix(source: int, target: int) -> Tensor:
    """Return the [target, source] matrix that spreads each source tap over its two nearest targets; columns sum to 1.

    Example:
        >>> splat_matrix(3, 3).tolist()
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
        >>> splat_matrix(5, 3)[:, 1].tolist()
        [0.5, 0.5, 0.0]
    """
    place = torch.linspace(0, target - 1, source) if source > 1 else torch.tensor([float(target // 2)])
    distance = (torch.arange(target).view(-1, 1) - place.view(1, -1)).abs()
    return (1 - distance).clamp(min=0)


def resample_patch(w2: Tensor, size_yx: tuple[int, int]) -> Tensor:
    """Bring a patch embedding's kernel to another size of patch, as if every patch were first resized to the kernel's.

    The response to a patch is that of ``w2`` to the same patch after bicubic, antialiased resizing: the result is
    ``w2`` times the matrix of that resizing, so sums, and with them responses to a constant, are kept. Tokens of an
    image differ from those of the resized image only because patches are resized each on its own. timm's
    ``resample_patch_embed`` instead inverts the opposite resizing, which from 14 to 8 pixels sharpens: its norm is 1.6
    times that of DINOv2's kernel (here 1.05), and its embeddings of photos have cosine 0.91 with those of the enlarged
    photo (here 0.99).

    Args:
        w2: [O, I, Y, X].
        size_yx: Y' and X' of the result.

    Returns:
        [O, I, Y', X']; the kernel itself where the sizes agree.

    Example:
        >>> resample_patch(torch.ones(1, 1, 14, 14), (8, 8)).sum().round().item()
        196.0
    """
    if tuple(w2.shape[2:]) == tuple(size_yx):
        return w2
    pixels = torch.eye(size_yx[0] * size_yx[1], dtype=w2.dtype, device=w2.device).view(-1, 1, *size_yx)
    resized = F.interpolate(pixels, size=tuple(w2.shape[2:]), mode="bicubic", antialias=True)
    return torch.einsum("nyx,oiyx->oin", resized[:, 0], w2).unflatten(2, size_yx)


def shuffle_control(w2: Tensor, *, generator: torch.Generator) -> Tensor:
    """Permute a tensor's values: same scale, same law, no knowledge. The control for whether the values matter.

    Args:
        w2: any shape.
        generator: on the CPU.

    Example:
        >>> shuffle_control(torch.arange(4.0), generator=torch.Generator().manual_seed(0)).sort().values.tolist()
        [0.0, 1.0, 2.0, 3.0]
    """
    order = torch.randperm(w2.numel(), generator=generator).to(w2.device)
    return w2.flatten()[order].view_as(w2)


@dataclass(frozen=True, slots=True, kw_only=True)
class GrayStatistics:
    """How one gray channel stands in for a 2D network's three normalized ones.

    A gray value g enters the student as ``(g - mean) / std``, the 2D network's channel c as ``(g - mean_c) / std_c``,
    which is ``gains[c] * (g - mean) / std + offsets[c]``. Kernels absorb the gains, a stem's bias the offsets.

    Attributes:
        mean: of the gray channel, for intensities in [0, 1].
        std: of the gray channel.
        gains: of the three channels.
        offsets: of the three channels.
    """

    mean: float
    std: float
    gains: tuple[float, ...]
    offsets: tuple[float, ...]


def gray_statistics(*, mean: tuple[float, ...], std: tuple[float, ...]) -> GrayStatistics:
    """Take the channels' averages for gray, and return what remains of each channel.

    Args:
        mean: of the 2D network's input channels, for intensities in [0, 1].
        std: likewise, positive.

    Example:
        >>> gray_statistics(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)).gains
        (1.0, 1.0, 1.0)
    """
    gray_mean, gray_std = sum(mean) / len(mean), sum(std) / len(std)
    return GrayStatistics(
        mean=gray_mean,
        std=gray_std,
        gains=tuple(gray_std / s for s in std),
        offsets=tuple((gray_mean - m) / s for m, s in zip(mean, std, strict=True)),
    )


def merge_channels(w2: Tensor, *, rule: ChannelRule, gains: tuple[float, ...]) -> Tensor:
    """Turn a stem's three input channels into one.

    ``sum`` keeps the response to a gray image fed three times; ``mean`` is a third of it (NeurINO, arXiv 2603.23104).

    Args:
        w2: [O, 3, Y, X].
        rule: see above.
        gains: factor of each channel, see `GrayStatistics`.

    Returns:
        [O, 1, Y, X].

    Example:
        >>> merge_channels(torch.ones(1, 3, 1, 1), rule="sum", gains=(1.0, 1.0, 1.0)).item()
        3.0
    """
    total = (w2 * torch.tensor(gains).to(w2).view(1, -1, 1, 1)).sum(1, keepdim=True)
    return total if rule == "sum" else total / w2.shape[1]


def channel_shift(w2: Tensor, *, rule: ChannelRule, offsets: tuple[float, ...]) -> Tensor:
    """Return what a stem's channels add, per output channel, because their means differ (away from the border).

    Args:
        w2: [O, 3, Y, X].
        rule: as for `merge_channels`.
        offsets: of each channel, see `GrayStatistics`.

    Returns:
        [O].
    """
    total = w2.sum(dim=(2, 3)) @ torch.tensor(offsets).to(w2)
    return total if rule == "sum" else total / w2.shape[1]
