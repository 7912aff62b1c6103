"""What all figures share: colors, projections at their place, and a canvas that is saved. It draws no figure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

Reals, Flags = NDArray[np.floating], NDArray[np.bool_]
Spacing = tuple[float, float, float]
Shape = tuple[int, ...]


def show(ax: Axes, part: Reals, start_zyx_vox: NDArray[np.int64], axis: int, spacing_um: Spacing) -> None:
    """Draw a maximum projection along z (0) or y (1) at its place in the whole image."""
    flat, row = part.max(axis=axis), 1 - axis
    low, high = np.percentile(flat, (5, 99.5))
    top, left = start_zyx_vox[row] - 0.5, start_zyx_vox[2] - 0.5
    drawn = ax.imshow(flat, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), aspect=spacing_um[row] / spacing_um[2])
    drawn.set_extent((left, left + flat.shape[1], top + flat.shape[0], top))
    ax.axis("off")


def save(figure: Figure, path: Path, *, dpi: int = 100) -> Path:
    """Write a PNG on white; its folder is made. Returns ``path``."""
    FigureCanvasAgg(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=dpi, facecolor="white")
    return path
