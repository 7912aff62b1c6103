"""Pictures of a prediction. It scores nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

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
    pred = prob >= threshold
    columns = {
        "image": (np.sqrt(np.clip(image, 0, 1)), "gray"),
        "gold": (gold.astype(np.float32), "gray"),
        "probability": (prob, "magma"),
    }
    height = 3.2 + 3.2 * image.shape[0] * spacing_um[0] / (image.shape[1] * spacing_um[1])
    figure = Figure(figsize=(13, min(height, 7.5) + 0.8), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    ratios = [image.shape[1] * spacing_um[1], image.shape[0] * spacing_um[0]]
    axes = figure.subplots(2, 4, squeeze=False, height_ratios=ratios)
    for row, axis in enumerate((0, 1)):
        aspect = spacing_um[1 if axis == 0 else 0] / spacing_um[2]
        for column, (name, (volume, colors)) in enumerate(columns.items()):
            axes[row][column].imshow(
                volume.max(axis=axis), cmap=colors, vmin=0, vmax=1, aspect=aspect, interpolation="nearest"
            )
            axes[row][column].set_title(f"{name}, {'along z' if axis == 0 else 'along y'}", fontsize=9)
        errors = error_projection(pred=pred, gold=gold, known=known, axis=axis)
        axes[row][3].imshow(errors, aspect=aspect, interpolation="nearest")
        axes[row][3].set_title("errors", fontsize=9)
    for ax in axes.flat:
        ax.set_xticks([])
        ax.set_yticks([])
    legend = [Patch(color=HIT, label="found"), Patch(color=FALSE, label="false"), Patch(color=LOST, label="missed")]
    if not known.all():
        legend.append(Patch(color=UNKNOWN, label="not labelled"))
    figure.legend(handles=legend, loc="outside lower right", ncols=4, fontsize=9, frameon=False)
    figure.suptitle(title, fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path


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
