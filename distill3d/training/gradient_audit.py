"""`GradientAudit`: watches which loss term moves the student. It changes no gradient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, final

import lightning as L
from torch import Tensor

from distill3d.errors import TrainingError
from distill3d.evaluation.figures.gradients import Row
from distill3d.training.gradients import StepTerms, TermGradient, term_gradients
from distill3d.training.module import DistillModule
from distill3d.types import Batch


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
        self._step, self._measured_at = 0, -1

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
        if not isinstance(pl_module, DistillModule):
            return
        terms = pl_module.step_terms
        if terms is None or not self._is_due(terms):
            return
        gradients = term_gradients(terms, pl_module.student.parameters())
        self._judge(gradients)
        self._measured_at = self._step
        self.history.append({"step": self._step, "terms": {name: asdict(g) for name, g in gradients.items()}})
        for name, gradient in gradients.items():
            for key in ("norm", "cosine", "share"):
                pl_module.log(f"gradient/{name}/{key}", getattr(gradient, key), batch_size=1)

    def state_dict(self) -> dict[str, Any]:
        """Go into the checkpoint, so that the curves of a resumed run are whole."""
        return {"history": self.history, "proven": sorted(self._proven)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the checkpoint was written."""
        self.history, self._proven = list(state_dict["history"]), set(state_dict["proven"])

    def _is_due(self, terms: StepTerms) -> bool:
        regular = self.every > 0 and self._step % self.every == 0 and self._step != self._measured_at
        return regular or any(term.weight and name not in self._proven for name, term in terms.all.items())

    def _judge(self, gradients: Mapping[str, TermGradient]) -> None:
        cut = [name for name, g in gradients.items() if not g.connected]
        still = [name for name, g in gradients.items() if not g.norm and g.weight and name not in self._proven]
        self._proven |= {name for name, g in gradients.items() if g.norm}
        if cut or (still and self._has_gold):
            names = ", ".join(cut or still)
            raise TrainingError(
                f"loss term {names}: no gradient reaches the student at step {self._step}; accepted: terms that depend "
                "on what is trained of the student, so check the term's layers, where it detaches and what is frozen"
            )
