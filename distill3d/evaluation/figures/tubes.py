"""Draws where the tubes of a network look, and what share of their taps lies on neurites. It bends no tube."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from scipy.spatial import KDTree

from distill3d.evaluation.figures.canvas import BLUE, GREEN, ORANGE, YELLOW, Flags, Reals, Shape, Spacing, save, show

COLORS, GOLD = {"z": ORANGE, "y": BLUE, "x": YELLOW}, GREEN
NEAR = 2.0  # voxels from gold that still are on the neurite
HALF = 24  # voxels from the middle of a close-up to its border


def share_on_neurite(taps_zyx_vox: Reals, mask: Flags, radius_vox: float = NEAR) -> float:
    """Return the share of the taps inside the image that lie at most ``radius_vox`` from the middle of a gold voxel.

    It is 0 where there is no gold or no tap inside.

    Args:
        taps_zyx_vox: [..., 3]; whole numbers are the middles of voxels.
        mask: gold [Z, Y, X].
        radius_vox: 0 or more.

    Example:
        >>> share_on_neurite(np.array([[0.0, 0, 0], [0, 0, 3], [0, 0, 9]]), np.eye(1, 5, dtype=bool)[None])
        0.5
    """
    inside = taps_zyx_vox[_inside(taps_zyx_vox, mask.shape)]
    gold = np.argwhere(mask)
    return float((KDTree(gold).query(inside)[0] <= radius_vox).mean()) if len(gold) and len(inside) else 0.0


def _inside(points_zyx_vox: Reals, shape: Shape) -> Flags:
    return np.all((points_zyx_vox >= -0.5) & (points_zyx_vox <= np.array(shape) - 0.5), axis=-1)


def choose_blocks(centers_zyx_vox: Reals, *, mask: Flags, image: Reals, count: int) -> NDArray[np.int64]:
    """Return the indices of at most ``count`` blocks inside the image, on the neuron and far from each other.

    Candidates are the blocks [N, 3] within 2 voxels of gold, or the ``count`` nearest if these are fewer. The first is
    the nearest, each next one is the candidate farthest from those before. Without gold: the brightest blocks.
    """
    blocks = np.flatnonzero(_inside(centers_zyx_vox, mask.shape))
    centers, gold = centers_zyx_vox[blocks], np.argwhere(mask)
    if not len(gold):
        voxels = np.clip(centers.round().astype(np.int64), 0, np.array(mask.shape) - 1)
        return blocks[np.argsort(-image[tuple(voxels.T)], kind="stable")[:count]]
    away = KDTree(gold).query(centers)[0]
    candidates = np.argsort(away, kind="stable")[: max(count, int((away <= NEAR).sum()))]
    picked = list(candidates[:1])
    while len(picked) < min(count, len(candidates)):
        gaps = np.linalg.norm(centers[candidates, None] - centers[None, picked], axis=-1).min(axis=1)
        picked.append(candidates[gaps.argmax()])
    return blocks[picked]


def tubes_figure(
    path: Path,
    title: str,
    *,
    image: Reals,
    mask: Flags,
    taps_zyx_vox: Reals,
    axes: tuple[str, ...],
    spacing_um: Spacing,
    straight_zyx_vox: Reals | None = None,
    reach: float | None = None,
    count: int = 6,
) -> Path:
    """Draw the tubes of a few blocks over maximum projections, all and in close-ups, to see if they follow neurites.

    Args:
        path: PNG to write; its folder is made.
        title: above the picture; the share of the drawn taps within 2 voxels of gold stands below it.
        image: [Z, Y, X] intensities in [0, 1].
        mask: gold [Z, Y, X].
        taps_zyx_vox: [A, N, K, 3] taps of each axis and block; those outside the image are left out.
        axes: the A axes, each z, y or x.
        spacing_um: ZYX, for the aspect.
        straight_zyx_vox: as ``taps_zyx_vox``, where they would be if nothing had bent the tubes.
        reach: how far a tap may leave the straight line, in voxels.
        count: blocks drawn at most.

    Returns:
        ``path``.
    """
    chosen = choose_blocks(taps_zyx_vox[0, :, taps_zyx_vox.shape[2] // 2], mask=mask, image=image, count=count)
    drawn = [taps[:, chosen] for taps in (taps_zyx_vox, straight_zyx_vox) if taps is not None]

    def shares(axis: slice | int = slice(None), block: slice | int = slice(None)) -> str:
        both = [f"{100 * share_on_neurite(taps[axis, block], mask):.0f} %" for taps in drawn]
        return ": " + " (straight: ".join(both) + ")" * (len(both) - 1) if mask.any() else ""

    figure, whole, closeups = _layout(np.array(image.shape) * spacing_um, max(len(chosen), 1))
    for axis, ax in enumerate(whole):
        show(ax, image, np.zeros(3, np.int64), axis, spacing_um)
        _lines(ax, drawn[0], axes, axis, image.shape)
        ax.set_title(f"whole image, seen along {'zy'[axis]}", fontsize=9)
    for i, ax in enumerate(closeups[: len(chosen)]):
        _background(ax, image, mask, spacing_um, drawn[0][:, i])
        for tubes, dashes in zip(drawn, ("-", "--"), strict=False):
            _lines(ax, tubes[:, [i]], axes, 0, image.shape, dashes)
        ax.set_title(f"{i + 1}{shares(block=i)}", fontsize=9)
    legend = [Line2D([], [], color=COLORS[name], label=f"{name} tubes{shares(i)}") for i, name in enumerate(axes)]
    legend += [Line2D([], [], color="0.3", linestyle="--", label="straight tubes") for _ in drawn[1:]]
    legend += [Line2D([], [], color=GOLD, label="outline of gold")] if mask.any() else []
    figure.legend(handles=legend, loc="outside lower center", ncols=6, fontsize=9, frameon=False)
    share_text = (
        f"share of taps within {NEAR:g} voxels of gold{shares()}" if mask.any() else "no gold: the brightest blocks"
    )
    limit = "" if reach is None else f"; a tap may leave the straight tube by {reach:g} voxels"
    figure.suptitle(f"{title}\n{share_text}{limit}", fontsize=10)
    return save(figure, path)


def _layout(size_um: Reals, count: int) -> tuple[Figure, Sequence[Axes], Sequence[Axes]]:
    """Return a figure, its two axes for the whole image and, right of them, those for close-ups."""
    z, y, x = size_um
    figure = Figure(figsize=(13, float(np.clip(6.2 * (z + y) / x, 8, 12)) + 0.8), layout="constrained")
    left, right = figure.subfigures(1, 2, squeeze=False)[0]
    closeups = right.subplots(-(-count // 2), 2, squeeze=False).ravel()
    for ax in closeups:
        ax.axis("off")
    return figure, left.subplots(2, 1, height_ratios=(y, z)), closeups


def _background(ax: Axes, image: Reals, mask: Flags, spacing_um: Spacing, tubes_zyx_vox: Reals) -> None:
    """Show the slab of the image that the tubes of one block [A, K, 3] pass through near its center, and its gold."""
    last, center = np.array(image.shape) - 1, tubes_zyx_vox[0, tubes_zyx_vox.shape[1] // 2].round().astype(np.int64)
    # At a border the window moves inward, so that all close-ups have one scale.
    low = np.clip(center - HALF, 0, np.maximum(last - 2 * HALF, 0))
    high = np.minimum(low + 2 * HALF, last)
    seen = _inside(tubes_zyx_vox - [0, *low[1:]], (len(image), *(high - low + 1)[1:]))
    depths = np.clip(tubes_zyx_vox[seen, 0].round().astype(np.int64), 0, last[0])
    low[0], high[0] = depths.min(), depths.max()
    part = tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))
    show(ax, image[part], low, 0, spacing_um)
    gold = mask[part].max(axis=0)
    if gold.any() and not gold.all() and min(gold.shape) > 1:
        xs, ys = (np.arange(low[a], high[a] + 1) for a in (2, 1))
        ax.contour(xs, ys, gold, levels=[0.5], colors=[GOLD], linewidths=1)
    ax.set(xlim=(low[2] - 0.5, high[2] + 0.5), ylim=(high[1] + 0.5, low[1] - 0.5), autoscale_on=False)


def _lines(ax: Axes, tubes_zyx_vox: Reals, names: Sequence[str], axis: int, shape: Shape, dashes: str = "-") -> None:
    """Draw tubes [A, n, K, 3] as seen along z (0) or y (1), the parts inside the image, and a dot at each center."""
    inside = np.where(_inside(tubes_zyx_vox, shape)[..., None], tubes_zyx_vox, np.nan)
    for name, tubes in zip(names, inside, strict=True):
        ax.plot(tubes[..., 2].T, tubes[..., 1 - axis].T, dashes, color=COLORS[name], lw=1.6 if dashes == "-" else 0.9)
    centers = inside[0, :, inside.shape[2] // 2, [2, 1 - axis]]
    ax.plot(*centers, "o", color="white", markeredgecolor="black", markersize=5)
    box = {"facecolor": "black", "edgecolor": "none", "alpha": 0.6, "pad": 1}
    for i, center in enumerate(centers.T if len(centers.T) > 1 else ()):
        ax.annotate(str(i + 1), center, (6, 6), textcoords="offset points", color="white", fontsize=10, bbox=box)
