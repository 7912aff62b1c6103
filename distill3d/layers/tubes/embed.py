"""A block embedding that reads along tubes instead of boxes."""

from __future__ import annotations

from typing import Literal, final, get_args

import torch
from torch import Tensor, nn

from distill3d.layers.inflate2d import splat_matrix
from distill3d.layers.tubes.attention_fit import AttentionFit
from distill3d.layers.tubes.geometry import (
    OffsetLaw,
    Outside,
    Points,
    angle_tube,
    block_centers,
    curved_tube,
    sample,
    share_outside,
    snake_tube,
    straight_tube,
    tap_distances,
)
from distill3d.types import Axis

Fusion = Literal["sum", "mean", "concat"]
EmbedLaw = OffsetLaw | Literal["fit"]


def taps_from_plane(w2: Tensor, taps: int) -> Tensor:
    """Unroll a 2D patch embedding's kernel into the taps of a tube, row by row.

    If ``taps`` is not P * Q, the row of values is spread linearly over ``taps`` places (`splat_matrix`), which keeps
    its sum and so the response to a constant; if it is, the values come back as they are.

    Source: Cheng et al. 2024, DINeuro, arXiv 2410.22078: a 16 x 16 kernel becomes 256 taps. The order of the taps and
    the resampling are our choice.

    Args:
        w2: [E, 1, P, Q].
        taps: K, at least 1.

    Returns:
        [E, K].

    Example:
        >>> plane = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
        >>> taps_from_plane(plane, 4).tolist(), taps_from_plane(plane, 1).tolist()
        ([[1.0, 2.0, 3.0, 4.0]], [[10.0]])
    """
    row = w2.flatten(1)
    return row if taps == row.shape[1] else row @ splat_matrix(row.shape[1], taps).to(row).T


@final
class TubularEmbed(nn.Module):
    """Embed every block of a volume by what tubes through its center read, one tube per axis.

    Tap k of K lies ``(k - K // 2) * tap_spacing`` voxels along its axis from the block's center ``i * b + b // 2``. A
    small network looks at the volume and bends the tubes; its last layer starts at zero, so that tubes start straight.
    The response of an axis is ``sum_k tubes[a, :, k] * v_k`` over the values v (`geometry.sample`).

    * ``fit``: a parabola is fitted to a predicted attention map near the block (`AttentionFit`, `curved_tube`).
    * ``snake``: every tap steps ``extent * tanh(predicted)`` voxels sideways from its inner neighbor (`snake_tube`).
    * ``angles``: each half turns by two angles, ``extent * pi / 4 * tanh(predicted)`` (`angle_tube`).

    Parameters: ``tubes`` [A, E, K], ``bias`` [E]; children: ``offsets`` (None where nothing can bend), ``proj`` (the
    ordinary block embedding, None without ``keep_block``), ``fuse`` (None unless ``fusion`` is "concat").

    Source: the idea is of Cheng et al. 2024, DINeuro, arXiv 2410.22078 (deformable tubes along z, y and x in place of a
    ViT's patch embedding). The predictor, both laws' use here, where taps lie, what is read outside the volume and how
    views are fused are not known from there: they are our choice.

    Args:
        embed_dim: E, channels of the output.
        block_zyx: edges of a block in voxels.
        taps: K, per tube.
        axes: of the tubes, each once; A of them.
        tap_spacing: voxels between taps, above 0. Whole numbers are faster: straight tubes then need no interpolation.
        deformable: whether tubes bend; those of a single tap never do.
        law: how they bend, see above.
        extent: bound of a step sideways: per voxel along the tube ("fit"), in voxels ("snake"), or of an angle in units
            of pi / 4 ("angles", at most 1); above 0.
        fusion: of the V views (the tubes and the block, if kept): their sum, their mean, or a 1 x 1 x 1 convolution
            that starts as the mean.
        outside: what taps beyond the volume read: "border" the nearest voxel, "zeros" nothing.
        keep_block: keep an ordinary block embedding as one more view.
        hidden: channels of the predictor.

    Raises:
        ValueError: a setting is out of its range.

    Example:
        >>> embed = TubularEmbed(8, block_zyx=(4, 8, 8), taps=16)
        >>> embed(torch.rand(2, 1, 8, 16, 24)).shape
        torch.Size([2, 8, 2, 2, 3])
    """

    offsets: nn.Sequential | AttentionFit | None
    proj: nn.Conv3d | None
    fuse: nn.Conv3d | None

    def __init__(
        self,
        embed_dim: int,
        *,
        block_zyx: tuple[int, int, int],
        taps: int,
        axes: tuple[Axis, ...] = ("z", "y", "x"),
        tap_spacing: float = 1.0,
        deformable: bool = True,
        law: EmbedLaw = "fit",
        extent: float = 1.0,
        fusion: Fusion = "mean",
        outside: Outside = "border",
        keep_block: bool = False,
        hidden: int = 8,
    ) -> None:
        super().__init__()
        _check_tubes(taps=taps, axes=axes, tap_spacing=tap_spacing, block_zyx=block_zyx)
        _check_bending(law=law, extent=extent)
        _check_choice("fusion", fusion, get_args(Fusion))
        _check_choice("outside", outside, get_args(Outside))
        self.block_zyx, self.taps, self.tap_spacing = block_zyx, taps, tap_spacing
        self.axes, self.law, self.extent = axes, law, extent
        self.axis_numbers = ["zyx".index(axis) for axis in axes]
        self.fusion: Fusion = fusion
        self.outside: Outside = outside
        self.views, self.channels = len(axes) + keep_block, 2 * (taps - 1) if law == "snake" else 4
        # The bounds of a convolution of K inputs (torch's default), for each tube alone.
        self.tubes = nn.Parameter(torch.empty(len(axes), embed_dim, taps).uniform_(-1, 1) * taps**-0.5)
        self.bias = nn.Parameter(torch.empty(embed_dim).uniform_(-1, 1) * taps**-0.5)
        self.proj = nn.Conv3d(1, embed_dim, block_zyx, stride=block_zyx, bias=False) if keep_block else None
        self.fuse = _mean_of_views(embed_dim, self.views) if fusion == "concat" else None
        self.offsets = None
        if deformable and taps > 1:
            reach = taps // 2 * tap_spacing
            self.offsets = (
                AttentionFit(self.axis_numbers, block_zyx=block_zyx, reach=reach, hidden=hidden, extent=extent)
                if law == "fit"
                else _predictor(block_zyx, hidden=hidden, channels=len(axes) * self.channels)
            )

    def forward(self, image: Tensor) -> Tensor:
        """Embed [B, 1, Z, Y, X], axes divisible by ``block_zyx``, as [B, E, Z / bz, Y / by, X / bx]."""
        volume = image.squeeze(1).to(_at_least_float32(image.dtype))
        tubes = self.place(self._predict(image), image)
        values = torch.stack([sample(volume, points, outside=self.outside) for points in tubes]).to(self.tubes.dtype)
        if self.fuse is not None:
            views = torch.einsum("aek,abkzyx->baezyx", self.tubes, values).flatten(1, 2)
            if self.proj is not None:
                views = torch.cat([views, self.proj(image)], dim=1)
            total = self.fuse(views)
        else:
            total = torch.einsum("aek,abkzyx->bezyx", self.tubes, values)
            if self.proj is not None:
                total = total + self.proj(image)
            if self.fusion == "mean":
                total = total / self.views
        return total + self.bias.to(total.dtype).view(-1, 1, 1, 1)

    def tap_points(self, image: Tensor, *, straight: bool = False) -> Tensor:
        """Return where the taps lie for [B, 1, Z, Y, X], also beyond the volume, to be drawn or checked.

        Args:
            image: as for `forward`.
            straight: where they would lie if no tube were bent.

        Returns:
            [B, A, N, K, 3], ZYX in voxels, N blocks in ZYX order.
        """
        grid = tuple(size // block for size, block in zip(image.shape[2:], self.block_zyx, strict=True))
        shape = (image.shape[0], self.taps, *grid)
        placed = self.place(None if straight else self._predict(image), image)
        tubes = torch.stack([torch.stack([c.expand(shape) for c in points], dim=-1) for points in placed])
        return tubes.to(_at_least_float32(image.dtype)).flatten(3, 5).permute(1, 0, 3, 2, 4)

    def shares_outside(self, size_zyx: tuple[int, int, int]) -> dict[Axis, float]:
        """Return by axis the share of the taps of its straight tubes that lie beyond a volume of this size."""
        return {
            axis: share_outside(size_zyx[a], block=self.block_zyx[a], taps=self.taps, spacing=self.tap_spacing)
            for axis, a in zip(self.axes, self.axis_numbers, strict=True)
        }

    def place(self, predicted: Tensor | None, image: Tensor) -> list[Points]:
        """Return where the taps of every axis lie; ``predicted`` is what `offsets` gave, None leaves them straight."""
        z, y, x = image.shape[2:]
        if any(size % block for size, block in zip((z, y, x), self.block_zyx, strict=True)):
            raise ValueError(f"volume {z, y, x} cannot be cut into blocks; accepted: multiples of {self.block_zyx}")
        dtype = _at_least_float32(image.dtype)
        centers = block_centers((z, y, x), self.block_zyx, device=image.device)
        distances = tap_distances(self.taps, self.tap_spacing, dtype=dtype, device=image.device)
        if predicted is None:
            return [straight_tube(axis, centers, distances) for axis in self.axis_numbers]
        # In bfloat16 the rounding of many steps would add up to a good part of a voxel.
        with torch.autocast(image.device.type, enabled=False):
            predicted = predicted.to(dtype)
            if isinstance(self.offsets, AttentionFit):
                curves = [self.offsets.curves(predicted, axis) for axis in self.axis_numbers]
                bends, bend = torch.stack(curves, dim=1), curved_tube
            elif self.law == "snake":
                bends, bend = self._bounded(predicted).unflatten(2, (2, self.taps - 1)), snake_tube
            else:
                bends, bend = self._bounded(predicted) * torch.pi / 4, angle_tube
            return [bend(axis, centers, distances, bends[:, i]) for i, axis in enumerate(self.axis_numbers)]

    def _bounded(self, predicted: Tensor) -> Tensor:
        """Return [B, A, C, Gz, Gy, Gx] within the extent."""
        return predicted.tanh().unflatten(1, (len(self.axes), self.channels)) * self.extent

    def _predict(self, image: Tensor) -> Tensor | None:
        if self.offsets is None:
            return None
        with torch.autocast(image.device.type, enabled=False):
            return self.offsets(image.to(self.tubes.dtype))


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _predictor(block_zyx: tuple[int, int, int], *, hidden: int, channels: int) -> nn.Sequential:
    last = nn.Conv3d(hidden, channels, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)  # pyright: ignore[reportArgumentType] - it has a bias
    return nn.Sequential(
        nn.Conv3d(1, hidden, block_zyx, stride=block_zyx),
        nn.GELU(),
        nn.Conv3d(hidden, hidden, 3, padding=1),
        nn.GELU(),
        last,
    )


def _mean_of_views(embed_dim: int, views: int) -> nn.Conv3d:
    fuse = nn.Conv3d(views * embed_dim, embed_dim, 1, bias=False)
    with torch.no_grad():
        fuse.weight.copy_((torch.eye(embed_dim).repeat(1, views) / views).view_as(fuse.weight))
    return fuse


def _check_tubes(*, taps: int, axes: tuple[Axis, ...], tap_spacing: float, block_zyx: tuple[int, int, int]) -> None:
    if taps < 1:
        raise ValueError(f"taps={taps} is too small; accepted: 1 or more")
    if not axes or len(set(axes)) < len(axes) or set(axes) - set(get_args(Axis)):
        raise ValueError(f"axes={axes} do not name axes; accepted: one or more of z, y, x, each once")
    if not tap_spacing > 0:
        raise ValueError(f"tap_spacing={tap_spacing} is too small; accepted: above 0")
    if min(block_zyx) < 1:
        raise ValueError(f"block_zyx={block_zyx} is too small; accepted: edges of 1 or more")


def _check_bending(*, law: EmbedLaw, extent: float) -> None:
    _check_choice("law", law, ("fit", *get_args(OffsetLaw)))
    if not extent > 0:
        raise ValueError(f"extent={extent} is too small; accepted: above 0")
    if law == "angles" and extent > 1:
        raise ValueError(f"extent={extent} is too large for angles; accepted: above 0, at most 1")


def _check_choice(name: str, value: str, accepted: tuple[str, ...]) -> None:
    if value not in accepted:
        raise ValueError(f"{name}={value} is unknown; accepted: {', '.join(accepted)}")
