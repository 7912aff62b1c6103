"""Draws the gradients of a run's loss terms by step. It computes none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from distill3d.evaluation.figures.canvas import save

Row = dict[str, Any]


def gradient_figure(path: Path, title: str, history: Sequence[Row]) -> Path:
    """Draw norm, cosine and share of every term's gradient by step.

    Args:
        path: PNG to write.
        title: above it.
        history: see `GradientAudit`; at least one row.

    Returns:
        ``path``.
    """
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    steps = np.array([row["step"] for row in history])
    names = list(dict.fromkeys(name for row in history for name in row["terms"]))
    panels = {
        "norm": "norm of the raw term's gradient at the student",
        "cosine": "cosine with the gradient of the labels' terms",
        "share": "share of the sum of weighted norms",
    }
    for ax, (key, label) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        for name in names:
            values = [row["terms"].get(name, {}).get(key, np.nan) for row in history]
            ax.plot(steps, values, "o-", markersize=3, label=name)
        ax.set(xlabel="step", title=label)
        ax.title.set_fontsize(9)
        ax.grid(alpha=0.3)
        if key == "norm" and all(each["norm"] > 0 for row in history for each in row["terms"].values()):
            ax.set_yscale("log")
        if key != "norm":
            ax.set_ylim(-1.05 if key == "cosine" else 0, 1.05)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=9)
    figure.suptitle(title, fontsize=10)
    return save(figure, path)
