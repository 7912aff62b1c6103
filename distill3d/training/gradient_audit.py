"""`GradientAudit`: watches which loss term moves the student. It changes no gradient."""

from __future__ import annotations

import logging
from collections import Counter
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

BATCHES = 20  # with gold, of which one must give a gradient
_LOG = logging.getLogger(__name__)


@final
class GradientAudit(L.Callback):
    """Measure every term's gradient at the student at the first step and every so many steps.

    Logged as ``gradient/<term>/{norm,cosine,share}``. A term that does not depend on the student stops the run at the
    first step: it would be trained with in vain. One whose gradient is exactly 0 is asked again, for a patch may hold
    gold but nothing for this term; after `BATCHES` batches with gold it stops the run too.

    Args:
        every: steps between two measurements; 0 measures until every term has shown a gradient once.

    Attributes:
        history: per measurement ``step`` and ``terms``, name -> the fields of `TermGradient`.
    """

    def __init__(self, *, every: int) -> None:
        self.every = every
        self.history: list[Row] = []
        self._proven: set[str] = set()
        self._in_vain = Counter[str]()  # batches with gold that gave a term no gradient, until one does
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

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Warn of terms that never had a gradient in a training too short to judge them."""
        for name, count in self._in_vain.items():
            _LOG.warning("loss term %s: its gradient at the student was 0 in all of %d batches with gold", name, count)

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
        self._proven |= {name for name, g in gradients.items() if g.norm}
        self._in_vain.update(
            name for name, g in gradients.items() if self._has_gold and g.weight and name not in self._proven
        )
        for name in self._proven & self._in_vain.keys():
            del self._in_vain[name]
        still = [name for name, count in self._in_vain.items() if count >= BATCHES]
        if cut or still:
            names, tried = ", ".join(cut or still), "" if cut else f", nor in any of {BATCHES} batches with gold"
            raise TrainingError(
                f"loss term {names}: no gradient reaches the student at step {self._step}{tried}; accepted: terms that "
                "depend on what is trained of the student, so check the term's layers, where it detaches and what is "
                "frozen"
            )
