"""Dice per case gathered from patches over the processes of a training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, final

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric


class CaseDice(NamedTuple):
    """What ``DiceByCase`` computes.

    Attributes:
        per_case: float32 [cases], in the order of ``DiceByCase.cases``; 0 for a case that was not seen.
        seen: bool [cases].
        mean: float32 scalar, over the cases seen; 0 if there is none.
    """

    per_case: Tensor
    seen: Tensor
    mean: Tensor


@final
class DiceByCase(Metric):
    """Dice per case from patches: voxel counts are summed over all patches of a case, on all ranks, then divided.

    A case whose patches hold neither gold nor predicted voxels scores 1. A voxel seen in two patches counts twice. The
    cases are fixed at construction, so every rank holds the same ones, also those whose gold is empty.

    Args:
        cases: names of all cases, without repeats.
        threshold: probability from which on a voxel is foreground, in (0, 1).

    >>> metric = DiceByCase(cases=("a", "b"))
    >>> ones = torch.ones(1, 1, 2, 2, 2)
    >>> metric.update(logits=ones, target=ones, known=ones.bool(), cases=("b",))
    >>> metric.compute().per_case.tolist(), metric.compute().mean.item()
    ([0.0, 1.0], 1.0)
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    counts: Tensor

    def __init__(self, *, cases: Sequence[str], threshold: float = 0.5) -> None:
        super().__init__()
        if len(set(cases)) != len(cases) or not 0 < threshold < 1:
            raise ValueError(
                f"cases {list(cases)} and threshold {threshold}; distinct names and a value in (0, 1) needed"
            )
        self.cases = tuple(cases)
        self.index = {name: i for i, name in enumerate(self.cases)}
        self.threshold_logit = float(np.log(threshold / (1 - threshold)))
        # Columns: predicted and gold, predicted, gold, patches seen.
        self.add_state("counts", torch.zeros(len(cases), 4, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, *, logits: Tensor, target: Tensor, known: Tensor, cases: Sequence[str]) -> None:
        """Add patches.

        Args:
            logits: [B, 1, Z, Y, X].
            target: [B, 1, Z, Y, X], foreground above 0.5.
            known: [B, 1, Z, Y, X] bool, False where nobody labelled.
            cases: B names.

        Raises:
            KeyError: a name was not given at construction.
        """
        pred = ((logits >= self.threshold_logit) & known).flatten(1)
        gold = ((target > 0.5) & known).flatten(1)
        columns = [(pred & gold).sum(1), pred.sum(1), gold.sum(1), torch.ones_like(pred[:, 0], dtype=torch.int64)]
        rows = torch.tensor([self.index[name] for name in cases], device=self.counts.device)
        self.counts.index_add_(0, rows, torch.stack(columns, dim=1).to(self.counts))

    def compute(self) -> CaseDice:
        """Return Dice per case and their mean."""
        both, pred, gold, patches = self.counts.unbind(dim=1)
        seen, total = patches > 0, pred + gold
        dice = torch.where(total > 0, 2 * both / total.clamp(min=1), 1.0) * seen
        mean = dice.sum() / seen.sum().clamp(min=1)
        return CaseDice(dice.float(), seen, mean.float())
