"""`GradientAudit`: watches which loss term moves the student, and draws it. It changes no gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, final

import lightning as L
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from distill3d.errors import TrainingError
from distill3d.gradients import TermGradient, term_gradients
from distill3d.module import DistillModule
from distill3d.types import Batch

Row = dict[str, Any]


@final
class GradientAudit(L.Callback):
    """Measure every term's gradient at the student at the first step and every so many steps.

    Logged as ``gradient/<term>/{norm,cosine,share}``. A term from which no gradient reaches the student stops the run
    at the first step: it would be trained with in vain. A gradient that is exactly 0 does too, unless the batch holds
    no gold; then the next step is asked.

    Args:
        every: steps between two measurements; 0 measures until every term has shown a gradient once.

    Attributes:
        history: per measurement ``step`` and ``terms``, name -> the fields of `TermGradient`.
    """

    def __init__(self, *, every: int) -> None:
        self.every = every
        self.history: list[Row] = []
        self._proven: set[str] = set()
        self._has_gold = True
        self._step = 0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Note what the step sees."""
        self._step, self._has_gold = trainer.global_step, bool(batch.target.any())

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        """Measure while the graphs are there.

        Raises:
            TrainingError: a term has no gradient at the student.
        """
        if not isinstance(pl_module, DistillModule) or not self._is_due(pl_module):
            return
        found = term_gradients(
            pl_module.live_terms, supervised=pl_module.supervised, parameters=pl_module.student.parameters()
        )
        self._judge(found)
        self.history.append({"step": self._step, "terms": {name: asdict(each) for name, each in found.items()}})
        for name, each in found.items():
            for key in ("norm", "cosine", "share"):
                pl_module.log(f"gradient/{name}/{key}", getattr(each, key), batch_size=1)

    def state_dict(self) -> dict[str, Any]:
        """Go into the checkpoint, so that the curves of a resumed run are whole."""
        return {"history": self.history, "proven": sorted(self._proven)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the checkpoint was written."""
        self.history, self._proven = list(state_dict["history"]), set(state_dict["proven"])

    def _is_due(self, module: DistillModule) -> bool:
        regular = self.every > 0 and self._step % self.every == 0
        return regular or any(term.weight and name not in self._proven for name, term in module.live_terms.items())

    def _judge(self, found: Mapping[str, TermGradient]) -> None:
        cut = [name for name, each in found.items() if not each.connected]
        still = [name for name, each in found.items() if not each.norm and each.weight and name not in self._proven]
        self._proven |= {name for name, each in found.items() if each.norm}
        if cut or (still and self._has_gold):
            names = ", ".join(cut or still)
            raise TrainingError(
                f"loss term {names}: no gradient reaches the student at step {self._step}; accepted: terms that depend "
                "on the student's parameters, so check the term's layers and where it detaches"
            )


def gradient_figure(path: Path, title: str, history: Sequence[Row]) -> Path:
    """Draw norm, cosine and share of every term's gradient by step.

    Args:
        path: PNG to write.
        title: above it.
        history: see `GradientAudit`; at least one row.

    Returns:
        ``path``.
    """
    figure = Figure(figsize=(13, 4.2), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
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
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    return path
