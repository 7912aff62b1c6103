"""Pictures of what training did to the layer that meets the image. It trains, loads and predicts nothing."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from scipy.spatial import KDTree
from torch import Tensor

# Okabe and Ito's colors, which color-blind readers can tell apart.
COLORS, GOLD = {"z": (0.90, 0.38, 0.0), "y": (0.34, 0.71, 0.91), "x": (0.94, 0.89, 0.26)}, (0.0, 0.62, 0.45)
SIGNED = "RdBu_r"  # color-blind readers can tell its halves apart too
MOST = 32  # filters in one picture
NEAR = 2.0  # voxels from gold that still are on the neurite
HALF = 24  # voxels from the middle of a close-up to its border
_Reals, _Flags = NDArray[np.floating], NDArray[np.bool_]
_Spacing = tuple[float, float, float]
_Shape = tuple[int, ...]


def relative_change(before: _Reals, after: _Reals) -> NDArray[np.float64]:
    """Return |after - before| / |before| of every filter [E, ...]: [E], 0 if unchanged, inf if only ``before`` is 0."""
    size, moved = _norm(before), _norm(after - before)
    return np.divide(moved, size, out=np.where(moved > 0, np.inf, 0.0), where=size > 0)


def choose_filters(before: _Reals, after: _Reals, most: int = MOST) -> NDArray[np.int64]:
    """Return at most ``most`` rows, evenly over the ranking by |before| + |after - before|, the largest first."""
    ranking = np.argsort(-(_norm(before) + _norm(after - before)), kind="stable")
    return ranking[np.linspace(0, len(ranking) - 1, min(most, len(ranking))).round().astype(np.int64)]


def filters_figure(
    path: Path,
    title: str,
    *,
    before: Tensor,
    after: Tensor,
    names: tuple[str, str] = ("after transfer", "after training"),
) -> Path:
    """Draw the filters of an embedding before and after training, and what changed.

    At most 32 filters are drawn, evenly over the ranking by |before| + |change|, so that large and small ones are seen.
    A filter's pictures share one color scale; the change is amplified by a round number common to all. A kernel is seen
    in two cuts through its strongest weight, xy and (if it has a depth) xz; a tube is a strip of colors per axis.

    Args:
        path: PNG to write; its folder is made.
        title: above the picture.
        before: kernels [E, 1, D, Y, X], or straight tubes [A, E, K].
        after: as ``before``.
        names: of ``before`` and ``after``.

    Returns:
        ``path``.

    Raises:
        ValueError: the shapes differ or are neither.
    """
    if before.shape != after.shape or not (before.ndim == 3 or (before.ndim == 5 and before.shape[1] == 1)):
        found = f"{tuple(before.shape)} and {tuple(after.shape)}"
        raise ValueError(f"filters: shapes {found}; accepted: twice [E, 1, D, Y, X] or twice [A, E, K]")
    old, new = (tensor.detach().cpu().double().numpy() for tensor in (before, after))
    old, new = (old[:, 0], new[:, 0]) if before.ndim == 5 else (old.swapaxes(0, 1), new.swapaxes(0, 1))
    change, shown = relative_change(old, new), choose_filters(old, new)
    low, middle, high = (_percent(float(v)) for v in (change.min(), np.median(change), change.max()))
    cuts = f"each cut through its strongest weight (xy{', and xz with z downward' if old.shape[1] > 1 else ''})"
    strips = f"each strip runs along a tube of {old.shape[-1]} taps, its center in the middle"
    text = (
        f"{title}\n{len(shown)} of {len(change)} filters, the largest first; {cuts if before.ndim == 5 else strips}.\n"
        f"Change of all {len(change)}, |after - before| / |before|: median {middle}, from {low} to {high}."
    )
    return _save(_draw_filters(text, old[shown], new[shown], [f"#{e}" for e in shown], names), path)


def _draw_filters(text: str, old: _Reals, new: _Reals, labels: Sequence[str], names: tuple[str, str]) -> Figure:
    scale = np.maximum(_norm(old, np.inf), _norm(new, np.inf))
    scale[scale == 0] = 1
    # An ordinary change is to be about as strong in color as its filter.
    share = float(np.median(_norm(new - old, np.inf) / scale))
    gain = max(gain for gain in (1, 2, 5, 10, 20, 50, 100) if gain == 1 or 0 < gain * share <= 1)
    heads, columns = (*names, f"change x {gain}"), min(4, len(old))
    rows, tall = -(-len(old) // columns), sum(height for _, _, height in _views(old[0], (0, 0)))
    figure = Figure(figsize=(13, max(rows * (3.6 * tall / columns + 0.28) + 1.2, 4)), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for ax in grid.ravel():
        ax.axis("off")
    sizes, changes = _norm(old), relative_change(old, new)
    for i, ax in enumerate(grid.ravel()[: len(old)]):
        place = [int(index) for index in np.unravel_index(np.argmax(np.abs(old[i]) + np.abs(new[i])), old[i].shape)]
        bottom = 0.0
        for column, filt in enumerate((old[i], new[i], (new[i] - old[i]) * gain)):
            bottom = _tile(ax, column * 1.1, _views(filt / scale[i], place))
            head = textwrap.fill(heads[column], 15) if i < columns else ""
            ax.text(column * 1.1 + 0.5, -0.05, head, ha="center", va="bottom", fontsize=8)
        caption = f"{labels[i]}: size {sizes[i]:.2g}, changed by {_percent(changes[i])}"
        ax.text(1.6, bottom, caption, ha="center", va="top", fontsize=8)
        ax.set(xlim=(-0.15, 3.22), ylim=(bottom + 0.02, -0.03))
    bar = figure.colorbar(ScalarMappable(Normalize(-1, 1), SIGNED), ax=grid, shrink=0.4, aspect=30, ticks=(-1, 0, 1))
    bar.set_label("weight, as a share of the filter's\nlargest before or after", fontsize=8)
    figure.suptitle(text, fontsize=10)
    return figure


def _views(filt: _Reals, place: Sequence[int]) -> list[tuple[str, _Reals, float]]:
    """Return name, picture and height in widths of what is drawn of a filter: two cuts, or a strip per axis."""
    if filt.ndim == 2:
        names = "zyx" if len(filt) == 3 else " " * len(filt)
        return [(name, row[None], 0.2) for name, row in zip(names, filt, strict=True)]
    cuts = {"xy": filt[place[0]]} | ({"xz": filt[:, place[1]]} if len(filt) > 1 else {})
    return [(name, cut, cut.shape[0] / cut.shape[1]) for name, cut in cuts.items()]


def _tile(ax: Axes, left: float, views: list[tuple[str, _Reals, float]]) -> float:
    """Draw the views below each other, one wide, y downward; return where they end."""
    top = 0.0
    for name, shade, tall in views:
        ax.imshow(shade, cmap=SIGNED, vmin=-1, vmax=1, extent=(left, left + 1, top + tall, top))
        ax.add_patch(Rectangle((left, top), 1, tall, fill=False, edgecolor="0.5", linewidth=0.7))
        if left == 0:
            ax.text(-0.03, top + tall / 2, name, ha="right", va="center", fontsize=7)
        top += tall + 0.05
    return top


def _norm(filters: _Reals, order: float = 2) -> NDArray[np.float64]:
    return np.linalg.norm(filters.reshape(len(filters), -1), order, axis=1)


def _percent(share: float) -> str:
    return "∞ (was 0)" if np.isinf(share) else f"{100 * share:.{1 if 0 < share < 0.1 else 0}f} %"


def share_on_neurite(taps_zyx_vox: _Reals, mask: _Flags, radius_vox: float = NEAR) -> float:
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


def _inside(points_zyx_vox: _Reals, shape: _Shape) -> _Flags:
    return np.all((points_zyx_vox >= -0.5) & (points_zyx_vox <= np.array(shape) - 0.5), axis=-1)


def choose_blocks(centers_zyx_vox: _Reals, *, mask: _Flags, image: _Reals, count: int) -> NDArray[np.int64]:
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
    image: _Reals,
    mask: _Flags,
    taps_zyx_vox: _Reals,
    axes: tuple[str, ...],
    spacing_um: _Spacing,
    straight_zyx_vox: _Reals | None = None,
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
        _show(ax, image, np.zeros(3, np.int64), axis, spacing_um)
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
    found = f"share of taps within {NEAR:g} voxels of gold{shares()}" if mask.any() else "no gold: the brightest blocks"
    limit = "" if reach is None else f"; a tap may leave the straight tube by {reach:g} voxels"
    figure.suptitle(f"{title}\n{found}{limit}", fontsize=10)
    return _save(figure, path)


def _layout(size_um: _Reals, count: int) -> tuple[Figure, Sequence[Axes], Sequence[Axes]]:
    """Return a figure, its two axes for the whole image and, right of them, those for close-ups."""
    z, y, x = size_um
    figure = Figure(figsize=(13, float(np.clip(6.2 * (z + y) / x, 8, 12)) + 0.8), layout="constrained")
    left, right = figure.subfigures(1, 2, squeeze=False)[0]
    closeups = right.subplots(-(-count // 2), 2, squeeze=False).ravel()
    for ax in closeups:
        ax.axis("off")
    return figure, left.subplots(2, 1, height_ratios=(y, z)), closeups


def _background(ax: Axes, image: _Reals, mask: _Flags, spacing_um: _Spacing, tubes_zyx_vox: _Reals) -> None:
    """Show the slab of the image that the tubes of one block [A, K, 3] pass through near its center, and its gold."""
    last, center = np.array(image.shape) - 1, tubes_zyx_vox[0, tubes_zyx_vox.shape[1] // 2].round().astype(np.int64)
    # At a border the window moves inward, so that all close-ups have one scale.
    low = np.clip(center - HALF, 0, np.maximum(last - 2 * HALF, 0))
    high = np.minimum(low + 2 * HALF, last)
    seen = _inside(tubes_zyx_vox - [0, *low[1:]], (len(image), *(high - low + 1)[1:]))
    depths = np.clip(tubes_zyx_vox[seen, 0].round().astype(np.int64), 0, last[0])
    low[0], high[0] = depths.min(), depths.max()
    part = tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))
    _show(ax, image[part], low, 0, spacing_um)
    gold = mask[part].max(axis=0)
    if gold.any() and not gold.all() and min(gold.shape) > 1:
        xs, ys = (np.arange(low[a], high[a] + 1) for a in (2, 1))
        ax.contour(xs, ys, gold, levels=[0.5], colors=[GOLD], linewidths=1)
    ax.set(xlim=(low[2] - 0.5, high[2] + 0.5), ylim=(high[1] + 0.5, low[1] - 0.5), autoscale_on=False)


def _show(ax: Axes, part: _Reals, start_zyx_vox: NDArray[np.int64], axis: int, spacing_um: _Spacing) -> None:
    """Draw a maximum projection along z (0) or y (1) at its place in the whole image."""
    flat, row = part.max(axis=axis), 1 - axis
    low, high = np.percentile(flat, (5, 99.5))
    top, left = start_zyx_vox[row] - 0.5, start_zyx_vox[2] - 0.5
    drawn = ax.imshow(flat, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), aspect=spacing_um[row] / spacing_um[2])
    drawn.set_extent((left, left + flat.shape[1], top + flat.shape[0], top))
    ax.axis("off")


def _lines(ax: Axes, tubes_zyx_vox: _Reals, names: Sequence[str], axis: int, shape: _Shape, dashes: str = "-") -> None:
    """Draw tubes [A, n, K, 3] as seen along z (0) or y (1), the parts inside the image, and a dot at each center."""
    inside = np.where(_inside(tubes_zyx_vox, shape)[..., None], tubes_zyx_vox, np.nan)
    for name, tubes in zip(names, inside, strict=True):
        ax.plot(tubes[..., 2].T, tubes[..., 1 - axis].T, dashes, color=COLORS[name], lw=1.6 if dashes == "-" else 0.9)
    centers = inside[0, :, inside.shape[2] // 2, [2, 1 - axis]]
    ax.plot(*centers, "o", color="white", markeredgecolor="black", markersize=5)
    box = {"facecolor": "black", "edgecolor": "none", "alpha": 0.6, "pad": 1}
    for i, center in enumerate(centers.T if len(centers.T) > 1 else ()):
        ax.annotate(str(i + 1), center, (6, 6), textcoords="offset points", color="white", fontsize=10, bbox=box)


def _save(figure: Figure, path: Path) -> Path:
    FigureCanvasAgg(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, facecolor="white")
    return path
