"""Draws where the tubes of a network look, against the neurites they start on. It bends no tube."""

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
from distill3d.evaluation.metrics.tubes import NEAR, inside, share_on_neurite

COLORS, GOLD = {"z": ORANGE, "y": BLUE, "x": YELLOW}, GREEN
AROUND = 8.0  # voxels around a block's center in which gold says where the neurite runs
MARGIN = 4  # voxels of a close-up beyond the tube
HALF = (10, 24)  # voxels along the tube from the middle of a close-up to its border: at least, at most


def choose_blocks(centers_zyx_vox: Reals, *, mask: Flags, image: Reals, count: int) -> NDArray[np.int64]:
    """Return the indices of at most ``count`` blocks inside the image, on the neuron and far from each other.

    Candidates are the blocks [N, 3] within 2 voxels of gold, or the ``count`` nearest if these are fewer. The first is
    the nearest, each next one is the candidate farthest from those before. Without gold: the brightest blocks.
    """
    blocks = np.flatnonzero(inside(centers_zyx_vox, mask.shape))
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


def main_axis(center_zyx_vox: Reals, gold: KDTree, axes: Sequence[str]) -> int:
    """Return the index in ``axes`` of the one along which gold spreads most around the gold voxel nearest to a point.

    Args:
        center_zyx_vox: [3].
        gold: voxels, one or more.
        axes: each z, y or x.
    """
    _, nearest = gold.query(center_zyx_vox)
    near = gold.data[gold.query_ball_point(gold.data[nearest], AROUND)]
    direction = np.abs(np.linalg.svd(near - near.mean(axis=0), full_matrices=False)[2][0])
    return int(np.argmax([direction["zyx".index(axis)] for axis in axes]))


def tubes_figure(
    path: Path,
    title: str,
    *,
    image: Reals,
    mask: Flags,
    taps: tuple[Reals, Reals],
    axes: tuple[str, ...],
    spacing_um: Spacing,
    count: int = 6,
) -> Path:
    """Draw one tube of each of a few blocks against the neurite it starts on: that of the axis along which this runs.

    Each close-up shows the tube bent and straight over a maximum projection of the slab that it passes through, seen
    along the transverse axis that shows most of its bending.

    Args:
        path: PNG to write; its folder is made.
        title: above the picture; the share of the drawn taps within 2 voxels of gold stands below it.
        image: [Z, Y, X] intensities in [0, 1].
        mask: gold [Z, Y, X].
        taps: twice [A, N, K, 3], ZYX in voxels, of each axis and block: of the bent tubes, and of straight ones.
        axes: the A axes, each z, y or x.
        spacing_um: ZYX, for the aspect.
        count: blocks drawn at most.

    Returns:
        ``path``.
    """
    bent, straight = taps
    middle = bent.shape[2] // 2
    chosen = choose_blocks(straight[0, :, middle], mask=mask, image=image, count=count)
    gold = KDTree(np.argwhere(mask)) if mask.any() else None
    along = [0 if gold is None else main_axis(straight[0, block, middle], gold, axes) for block in chosen]
    drawn = [(bent[axis, block], straight[axis, block]) for axis, block in zip(along, chosen, strict=True)]
    names = [axes[axis] for axis in along]
    figure, whole, closeups = _layout(np.array(image.shape) * spacing_um, max(len(chosen), 1))
    for view, ax in enumerate(whole):
        show(ax, image, np.zeros(3, np.int64), view, spacing_um)
        for number, (name, tube) in enumerate(zip(names, drawn, strict=True), start=1):
            _line(ax, tube[0], COLORS[name], view, image.shape)
            _dot(ax, tube[1][middle], view, str(number))
        ax.set_title(f"whole window, seen along {'zy'[view]}", fontsize=9)
    for number, (ax, name, tube) in enumerate(zip(closeups, names, drawn, strict=False), start=1):
        view = best_view(*tube, "zyx".index(name))
        _background(ax, image, mask, spacing_um, tube, view)
        for line, dashes in zip(tube, ("-", "--"), strict=True):
            _line(ax, line, COLORS[name], view, image.shape, dashes)
        _dot(ax, tube[1][middle], view)
        ax.set_title(f"{number}: {name} tube, seen along {'zyx'[view]}\n{_shares([tube], mask)}", fontsize=9)
    legend = [Line2D([], [], color=COLORS[name], label=f"{name} tube") for name in axes if name in names]
    legend += [Line2D([], [], color="0.3", linestyle="--", label="if straight")]
    legend += [Line2D([], [], color=GOLD, label="outline of gold")] if mask.any() else []
    figure.legend(handles=legend, loc="outside lower center", ncols=6, fontsize=9, frameon=False)
    figure.suptitle(
        f"{title}\nthe drawn tubes: {_shares(drawn, mask) or 'no gold here; the brightest blocks'}", fontsize=10
    )
    return save(figure, path)


def _shares(tubes: Sequence[tuple[Reals, Reals]], mask: Flags) -> str:
    """Say the share of taps on neurites of bent and of straight tubes; empty where there is no gold."""
    if not tubes or not mask.any():
        return ""
    bent, straight = (f"{100 * share_on_neurite(np.array(of), mask):.0f} %" for of in zip(*tubes, strict=True))
    return f"{bent} of taps on neurites, {straight} if straight"


def best_view(bent: Reals, straight: Reals, axis: int) -> int:
    """Return the axis across a tube [K, 3] from which most of its bending is seen; the first if none is better."""
    moved = np.abs(bent - straight).sum(axis=0)
    return min((a for a in range(3) if a != axis), key=lambda a: (moved[a], a))


def _layout(size_um: Reals, count: int) -> tuple[Figure, Sequence[Axes], Sequence[Axes]]:
    """Return a figure, its two axes for the whole image and, right of them, those for close-ups."""
    z, y, x = size_um
    figure = Figure(figsize=(13, float(np.clip(6.2 * (z + y) / x, 8, 12)) + 0.8), layout="constrained")
    left, right = figure.subfigures(1, 2, squeeze=False)[0]
    closeups = right.subplots(-(-count // 2), 2, squeeze=False).ravel()
    for ax in closeups:
        ax.axis("off")
    return figure, left.subplots(2, 1, height_ratios=(y, z)), closeups


def _background(ax: Axes, image: Reals, mask: Flags, spacing_um: Spacing, tube: tuple[Reals, Reals], view: int) -> None:
    """Show the slab of the image, and its gold, that a tube passes through, seen along an axis."""
    last, center = np.array(image.shape) - 1, tube[1][len(tube[1]) // 2].round().astype(np.int64)
    reach = np.abs(tube[1] - center).max(axis=0)
    um = np.clip(reach.max() + MARGIN, *HALF) * spacing_um[reach.argmax()]
    half = np.rint(um / np.array(spacing_um)).astype(np.int64)
    # At a border the window moves inward, so that all close-ups of an axis have one scale.
    low = np.clip(center - half, 0, np.maximum(last - 2 * half, 0))
    high = np.minimum(low + 2 * half, last)
    depths = np.concatenate(tube)[..., view]
    low[view] = np.clip(np.floor(depths.min() - NEAR), 0, center[view])
    high[view] = np.clip(np.ceil(depths.max() + NEAR), center[view], last[view])
    part = tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))
    show(ax, image[part], low, view, spacing_um)
    gold, (row, column) = mask[part].max(axis=view), (a for a in range(3) if a != view)
    if gold.any() and not gold.all() and min(gold.shape) > 1:
        xs, ys = (np.arange(low[a], high[a] + 1) for a in (column, row))
        ax.contour(xs, ys, gold, levels=[0.5], colors=[GOLD], linewidths=1)
    ax.set(xlim=(low[column] - 0.5, high[column] + 0.5), ylim=(high[row] + 0.5, low[row] - 0.5), autoscale_on=False)


def _line(ax: Axes, tube: Reals, color: object, view: int, shape: Shape, dashes: str = "-") -> None:
    """Draw the part of a tube [K, 3] inside the image as seen along an axis; a bent one's taps are dots."""
    seen = np.where(inside(tube, shape)[..., None], tube, np.nan)
    row, column = (a for a in range(3) if a != view)
    width, marker = (1.6, ".") if dashes == "-" else (1.0, "")
    ax.plot(seen[:, column], seen[:, row], dashes, color=color, lw=width, marker=marker, ms=4)


def _dot(ax: Axes, center: Reals, view: int, number: str = "") -> None:
    """Draw a block's center, and its number."""
    row, column = (a for a in range(3) if a != view)
    ax.plot(center[column], center[row], "o", color="white", markeredgecolor="black", markersize=5)
    if number:
        box = {"facecolor": "black", "edgecolor": "none", "alpha": 0.6, "pad": 1}
        at = (float(center[column]), float(center[row]))
        ax.annotate(number, at, (6, 6), textcoords="offset points", color="white", fontsize=10, bbox=box)
