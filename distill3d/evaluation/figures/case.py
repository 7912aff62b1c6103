"""Draws a case: its image, gold, prediction and errors as projections."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from distill3d.evaluation.figures.canvas import save

# Okabe and Ito's colors, which color-blind readers can tell apart.
HIT, FALSE, LOST, UNKNOWN = (0.0, 0.62, 0.45), (0.90, 0.38, 0.0), (0.34, 0.71, 0.91), (0.35, 0.35, 0.35)


def case_figure(
    path: Path,
    title: str,
    *,
    image: NDArray[np.floating],
    gold: NDArray[np.bool_],
    known: NDArray[np.bool_],
    prob: NDArray[np.floating],
    threshold: float,
    spacing_um: tuple[float, float, float],
) -> Path:
    """Draw image, gold, probability and errors as maximum projections along z (above) and along y (below).

    Args:
        path: PNG to write; its folder is made.
        title: above the picture.
        image: [Z, Y, X] intensities in [0, 1].
        gold: [Z, Y, X].
        known: [Z, Y, X], voxels that somebody labelled.
        prob: [Z, Y, X] in [0, 1].
        threshold: from which ``prob`` counts as neuron.
        spacing_um: ZYX, for the aspect of the lower row.

    Returns:
        ``path``.
    """
    columns = {"image": (image, "gray"), "gold": (gold.astype(np.float32), "gray"), "probability": (prob, "magma")}
    height = 3.2 + 3.2 * image.shape[0] * spacing_um[0] / (image.shape[1] * spacing_um[1])
    figure = Figure(figsize=(13, min(height, 7.5) + 0.8), layout="constrained")
    ratios = [image.shape[1] * spacing_um[1], image.shape[0] * spacing_um[0]]
    axes = figure.subplots(2, 4, squeeze=False, height_ratios=ratios)
    for row, (axis, along) in enumerate(((0, "along z"), (1, "along y"))):
        aspect = spacing_um[0 if axis else 1] / spacing_um[2]
        for ax, (name, (volume, colors)) in zip(axes[row], columns.items(), strict=False):
            flat = volume.max(axis=axis)
            low, high = _window(flat) if name == "image" else (0, 1)
            _panel(ax, f"{name}, {along}", flat, aspect=aspect, cmap=colors, vmin=low, vmax=high)
        errors = error_projection(pred=prob >= threshold, gold=gold, known=known, axis=axis)
        _panel(axes[row][3], f"errors, {along}", errors, aspect=aspect)
    legend = [Patch(color=HIT, label="found"), Patch(color=FALSE, label="false"), Patch(color=LOST, label="missed")]
    if not known.all():
        legend.append(Patch(color=UNKNOWN, label="not labelled"))
    figure.legend(handles=legend, loc="outside lower right", ncols=4, fontsize=9, frameon=False)
    figure.suptitle(title, fontsize=11)
    return save(figure, path, dpi=110)


def _panel(ax: Axes, title: str, flat: NDArray[np.floating], **how: Any) -> None:  # noqa: ANN401 - matplotlib's own
    ax.imshow(flat, interpolation="nearest", **how)
    ax.set_title(title, fontsize=9)
    ax.set_xticks([])
    ax.set_yticks([])


def _window(flat: NDArray[np.floating]) -> tuple[float, float]:
    """Return the intensities to draw black and white, so that a dim neurite on a bright background is seen."""
    low, high = np.percentile(flat, (5, 99.5))
    return (float(low), float(high)) if high > low else (0.0, float(flat.max()) or 1.0)


def error_projection(
    *, pred: NDArray[np.bool_], gold: NDArray[np.bool_], known: NDArray[np.bool_], axis: int
) -> NDArray[np.float32]:
    """Project hits and errors to RGB: a hit anywhere along the ray wins, then a miss, then a false voxel.

    Returns:
        [..., 3] in [0, 1]; black where there is nothing.
    """
    layers = (
        (~known, UNKNOWN),
        (pred & ~gold & known, FALSE),
        (gold & ~pred & known, LOST),
        (gold & pred & known, HIT),
    )
    flat = np.zeros((*np.delete(pred.shape, axis), 3), np.float32)
    for voxels, color in layers:
        where = voxels.all(axis=axis) if color is UNKNOWN else voxels.any(axis=axis)
        flat[where] = color
    return flat
