"""Draws how alike the layers of student and teacher are, before training and after it. It compares nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from distill3d.evaluation.figures.canvas import save

SCALE = Normalize(0, 1)


def similarity_figure(path: Path, title: str, *, before: Mapping[str, Any], after: Mapping[str, Any]) -> Path:
    """Draw a heat map per axis, before training above and after it below.

    Args:
        path: PNG to write.
        title: above it.
        before: as `layer_similarity` returns it.
        after: likewise.

    Returns:
        ``path``.
    """
    axes = list(after["cka"])
    rows, columns = len(after["student"]), len(after["teacher"])
    figure = Figure(
        figsize=(2.2 + len(axes) * (1.1 + 0.33 * columns), 2.2 + 2 * (1.0 + 0.24 * rows)), layout="constrained"
    )
    panels = figure.subplots(2, len(axes), squeeze=False, sharex=True, sharey=True)
    for row, (when, measured) in enumerate((("before training", before), ("after training", after))):
        for ax, axis in zip(panels[row], axes, strict=True):
            ax.imshow(np.array(measured["cka"][axis]), norm=SCALE, cmap="viridis", aspect="auto")
            ax.set_title(f"{when}, slices across {axis}", fontsize=9)
            ax.set_xticks(range(columns), after["teacher"], rotation=90, fontsize=7)
            ax.set_yticks(range(rows), after["student"], fontsize=7)
            for (y, x), value in np.ndenumerate(np.array(measured["cka"][axis])):
                ax.text(x, y, f"{value:.1f}".lstrip("0"), ha="center", va="center", fontsize=5, color=_ink(value))
    panels[0][0].set_ylabel("student", fontsize=9)
    panels[1][0].set_ylabel("student", fontsize=9)
    figure.colorbar(ScalarMappable(SCALE, "viridis"), ax=panels, shrink=0.6, label="linear CKA")
    figure.suptitle(title, fontsize=10)
    return save(figure, path)


def _ink(value: float) -> str:
    return "black" if value > 0.6 else "white"
