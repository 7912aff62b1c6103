"""Draws a case: its image, gold, prediction and errors as projections."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from distill3d.evaluation.figures.canvas import FALSE, HIT, LOST, UNKNOWN, Flags, Reals, Spacing, Stack, save
from distill3d.volumes.lazy import Blocks
from distill3d.volumes.parts import computed, parts_of

# Kinds of a pixel of an error projection, and their colors.
NOTHING, IS_UNKNOWN, IS_FALSE, IS_LOST, IS_HIT = range(5)
KIND_COLORS = np.array([(0, 0, 0), UNKNOWN, FALSE, LOST, HIT], np.float32)

_OF_KINDS = np.array([IS_UNKNOWN, NOTHING, IS_FALSE, IS_LOST, IS_HIT], np.uint8)


def case_figure(
    path: Path,
    title: str,
    *,
    image: Stack,
    gold: Blocks,
    known: Blocks,
    prob: Stack,
    threshold: float,
    spacing_um: Spacing,
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
    columns = {"image": (image, "gray"), "gold": (computed(_as_real, gold), "gray"), "probability": (prob, "magma")}
    kinds = computed(_kinds, computed(lambda part: part >= threshold, prob), gold, known)
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
        errors = KIND_COLORS[_OF_KINDS[kinds.max(axis=axis)]]
        _panel(axes[row][3], f"errors, {along}", errors, aspect=aspect)
    legend = [Patch(color=HIT, label="found"), Patch(color=FALSE, label="false"), Patch(color=LOST, label="missed")]
    if not all(part.all() for part in parts_of(known)):
        legend.append(Patch(color=UNKNOWN, label="not labelled"))
    figure.legend(handles=legend, loc="outside lower right", ncols=4, fontsize=9, frameon=False)
    figure.suptitle(title, fontsize=11)
    return save(figure, path, dpi=110)


def _panel(ax: Axes, title: str, flat: Reals, **how: Any) -> None:  # noqa: ANN401 - matplotlib's own
    ax.imshow(flat, interpolation="nearest", **how)
    ax.set_title(title, fontsize=9)
    ax.set_xticks([])
    ax.set_yticks([])


def _window(flat: Reals) -> tuple[float, float]:
    """Return the intensities to draw black and white, so that a dim neurite on a bright background is seen."""
    low, high = np.percentile(flat, (5, 99.5))
    return (float(low), float(high)) if high > low else (0.0, float(flat.max()) or 1.0)


def error_kinds(*, pred: Flags, gold: Flags, known: Flags, axis: int) -> NDArray[np.uint8]:
    """Project hits and errors: a hit anywhere along the ray wins, then a miss, then a false voxel.

    Returns:
        [...], places in `KIND_COLORS`; unknown where no voxel of the ray is labelled.
    """
    return _OF_KINDS[_kinds(pred, gold, known).max(axis=axis)]


def _kinds(pred: Flags, gold: Flags, known: Flags) -> NDArray[np.uint8]:
    """Return places of voxels in `_OF_KINDS`: what wins along a ray is the highest."""
    return known * (np.uint8(1) + pred + np.uint8(2) * gold)


def _as_real(mask: Flags) -> NDArray[np.float32]:
    return mask.astype(np.float32)
