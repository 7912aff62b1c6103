"""Draws the filters of the layer that meets the image, before training and after it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from torch import Tensor

from distill3d.evaluation.figures.canvas import Reals, save

SIGNED = "RdBu_r"  # color-blind readers can tell its halves apart too
MOST = 32  # filters in one picture


def relative_change(before: Reals, after: Reals) -> NDArray[np.float64]:
    """Return |after - before| / |before| of every filter [E, ...]: [E], 0 if unchanged, inf if only ``before`` is 0."""
    size, moved = _norm(before), _norm(after - before)
    return np.divide(moved, size, out=np.where(moved > 0, np.inf, 0.0), where=size > 0)


def choose_filters(before: Reals, after: Reals) -> NDArray[np.int64]:
    """Return at most ``MOST`` rows, evenly over the ranking by |before| + |after - before|, the largest first."""
    ranking = np.argsort(-(_norm(before) + _norm(after - before)), kind="stable")
    return ranking[np.linspace(0, len(ranking) - 1, min(MOST, len(ranking))).round().astype(np.int64)]


def filters_figure(path: Path, title: str, *, before: Tensor, after: Tensor) -> Path:
    """Draw the filters of an embedding before and after training, and what changed.

    At most 32 filters are drawn, evenly over the ranking by |before| + |change|, so that large and small ones are seen.
    A filter's pictures share one color scale; the change is amplified by a round number common to all. A kernel is seen
    in two cuts through its strongest weight, xy and (if it has a depth) xz; a tube is a strip of colors per axis.

    Args:
        path: PNG to write; its folder is made.
        title: above the picture.
        before: kernels [E, 1, D, Y, X], or straight tubes [A, E, K].
        after: as ``before``.

    Returns:
        ``path``.

    Raises:
        ValueError: the shapes differ or are neither.
    """
    if before.shape != after.shape or not (before.ndim == 3 or (before.ndim == 5 and before.shape[1] == 1)):
        shapes = f"{tuple(before.shape)} and {tuple(after.shape)}"
        raise ValueError(f"filters: shapes {shapes}; accepted: twice [E, 1, D, Y, X] or twice [A, E, K]")
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
    return save(_draw_filters(text, old[shown], new[shown], [f"#{e}" for e in shown]), path)


def _draw_filters(text: str, old: Reals, new: Reals, labels: Sequence[str]) -> Figure:
    scale = np.maximum(_norm(old, np.inf), _norm(new, np.inf))
    scale[scale == 0] = 1
    # An ordinary change is to be about as strong in color as its filter.
    share = float(np.median(_norm(new - old, np.inf) / scale))
    gain = max(gain for gain in (1, 2, 5, 10, 20, 50, 100) if gain == 1 or 0 < gain * share <= 1)
    heads, columns = ("after transfer", "after training", f"change x {gain}"), min(4, len(old))
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


def _views(filt: Reals, place: Sequence[int]) -> list[tuple[str, Reals, float]]:
    """Return name, picture and height in widths of what is drawn of a filter: two cuts, or a strip per axis."""
    if filt.ndim == 2:
        names = "zyx" if len(filt) == 3 else " " * len(filt)
        return [(name, row[None], 0.2) for name, row in zip(names, filt, strict=True)]
    cuts = {"xy": filt[place[0]]} | ({"xz": filt[:, place[1]]} if len(filt) > 1 else {})
    return [(name, cut, cut.shape[0] / cut.shape[1]) for name, cut in cuts.items()]


def _tile(ax: Axes, left: float, views: list[tuple[str, Reals, float]]) -> float:
    """Draw the views below each other, one wide, y downward; return where they end."""
    top = 0.0
    for name, shade, tall in views:
        ax.imshow(shade, cmap=SIGNED, vmin=-1, vmax=1, extent=(left, left + 1, top + tall, top))
        ax.add_patch(Rectangle((left, top), 1, tall, fill=False, edgecolor="0.5", linewidth=0.7))
        if left == 0:
            ax.text(-0.03, top + tall / 2, name, ha="right", va="center", fontsize=7)
        top += tall + 0.05
    return top


def _norm(filters: Reals, order: float = 2) -> NDArray[np.float64]:
    return np.linalg.norm(filters.reshape(len(filters), -1), order, axis=1)


def _percent(share: float) -> str:
    return "∞ (was 0)" if np.isinf(share) else f"{100 * share:.{1 if 0 < share < 0.1 else 0}f} %"
