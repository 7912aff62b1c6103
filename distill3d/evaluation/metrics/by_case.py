"""All scores of masks per case, gathered over the processes of a training: ``ScoresByCase`` and its functional core.

It compares no masks itself (``metrics.voxel``, ``metrics.topology``) and predicts nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import NamedTuple, final

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from distill3d.errors import InputError
from distill3d.evaluation.metrics.topology import TopologyScores, topology_scores
from distill3d.evaluation.metrics.voxel import DEFAULT_TOLERANCE_VOX, VoxelScores, voxel_scores

COUNTS = frozenset({"n_pred", "n_gold"})
# In the order of the columns; ``missed``, which both have, comes last.
SCORE_NAMES = (
    *(f.name for f in fields(VoxelScores) if f.name != "missed"),
    *(f.name for f in fields(TopologyScores)),
)


def mask_scores(
    *,
    pred: np.ndarray,
    gold: np.ndarray,
    known: np.ndarray | None = None,
    spacing_um: Sequence[float] = (1.0, 1.0, 1.0),
    tolerance_vox: float = DEFAULT_TOLERANCE_VOX,
) -> dict[str, float]:
    """Score a predicted mask against the gold one in every way, by the names in ``SCORE_NAMES``; never nan.

    Args, errors and rules are those of ``voxel_scores`` and ``topology_scores``.

    >>> gold = np.zeros((1, 1, 10), bool); gold[..., 2:6] = True
    >>> scores = mask_scores(pred=gold, gold=gold)
    >>> scores["dice"], scores["cldice"], scores["missed"], tuple(scores) == SCORE_NAMES
    (1.0, 1.0, 0.0, True)
    """
    voxel = voxel_scores(pred=pred, gold=gold, known=known, spacing_um=spacing_um, tolerance_vox=tolerance_vox)
    topology = topology_scores(pred=pred, gold=gold, known=known, tolerance_vox=tolerance_vox)
    scores = asdict(voxel) | asdict(topology)
    return {name: float(scores[name]) for name in SCORE_NAMES}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Scores of several cases by name: mean and sample standard deviation (0 for one case).

    Attributes:
        mean: over the cases that have the score.
        sd: likewise.
        n_cases: number of cases.
        n_missed: cases of which exactly one mask is empty; they are in the mean with their worst values.
    """

    mean: dict[str, float]
    sd: dict[str, float]
    n_cases: int
    n_missed: int


def summarize(scores: Mapping[str, Mapping[str, float]]) -> Summary:
    """Summarize cases with equal weight each; counts of voxels and of misses are not averaged.

    Args:
        scores: case -> its scores; cases without a gold tree lack those of trees.

    Raises:
        InputError: no case.

    >>> found = summarize({"a": {"dice": 1.0, "missed": 0.0}, "b": {"dice": 0.0, "missed": 1.0}})
    >>> found.mean, found.n_missed
    ({'dice': 0.5}, 1)
    """
    if not scores:
        raise InputError("no case to average; at least one is needed")
    names = list(dict.fromkeys(name for row in scores.values() for name in row))
    columns = {
        name: np.array([row[name] for row in scores.values() if name in row])
        for name in names
        if not name.endswith("missed") and name not in COUNTS
    }
    return Summary(
        mean={name: float(column.mean()) for name, column in columns.items()},
        sd={name: float(column.std(ddof=1)) if len(column) > 1 else 0.0 for name, column in columns.items()},
        n_cases=len(scores),
        n_missed=sum(row["missed"] > 0 for row in scores.values()),
    )


class ScoresOfCases(NamedTuple):
    """What ``ScoresByCase`` computes; the columns are ``SCORE_NAMES``.

    Attributes:
        per_case: float64 [cases, scores], in the order of ``ScoresByCase.cases``; 0 for a case that was not seen.
        seen: bool [cases].
        mean: float64 [scores], over the cases seen; 0 if there is none.
        n_missed: int64 scalar, cases of which exactly one mask is empty; they are in the mean.
    """

    per_case: Tensor
    seen: Tensor
    mean: Tensor
    n_missed: Tensor


@final
class ScoresByCase(Metric):
    """Scores of whole volumes, a row per case; every process scores its own cases, the sum holds all.

    A case that is scored twice, as a distributed sampler does to fill its last round, counts once, with the mean. The
    cases are fixed at construction, so every process holds rows of the same shape. The state is float64, which Apple's
    MPS has not: keep the metric on the CPU there, where the scores are computed anyway.

    Args:
        cases: names of all cases, without repeats.
        tolerance_vox: see ``voxel_scores`` and ``topology_scores``.

    >>> metric = ScoresByCase(cases=("a", "b"))
    >>> line = torch.zeros(1, 1, 10, dtype=torch.bool); line[..., 2:6] = True
    >>> metric.update(pred=line, gold=line, case="b")
    >>> metric.update(pred=torch.zeros_like(line), gold=line, case="a")
    >>> found = metric.compute()
    >>> metric.named(found.mean)["cldice"], found.n_missed.item()
    (0.5, 1)
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False
    sums: Tensor
    times: Tensor

    def __init__(self, *, cases: Sequence[str], tolerance_vox: float = DEFAULT_TOLERANCE_VOX) -> None:
        super().__init__()
        if len(set(cases)) != len(cases):
            raise ValueError(f"cases {list(cases)}; distinct names needed")
        self.cases = tuple(cases)
        self.index = {name: i for i, name in enumerate(self.cases)}
        self.tolerance_vox = tolerance_vox
        self.add_state("sums", torch.zeros(len(cases), len(SCORE_NAMES), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("times", torch.zeros(len(cases), dtype=torch.int64), dist_reduce_fx="sum")

    def update(
        self,
        *,
        pred: Tensor,
        gold: Tensor,
        case: str,
        known: Tensor | None = None,
        spacing_um: Sequence[float] = (1.0, 1.0, 1.0),
    ) -> None:
        """Add the volume of a case.

        Args:
            pred: [Z, Y, X] bool.
            gold: [Z, Y, X] bool.
            case: its name.
            known: [Z, Y, X] bool, False where nobody labelled.
            spacing_um: ZYX voxel size.

        Raises:
            KeyError: the name was not given at construction.
            InputError: the masks are none, see ``voxel_scores``.
        """
        row = self.index[case]
        scores = mask_scores(
            pred=pred.numpy(force=True),
            gold=gold.numpy(force=True),
            known=None if known is None else known.numpy(force=True),
            spacing_um=spacing_um,
            tolerance_vox=self.tolerance_vox,
        )
        self.sums[row] += torch.tensor([scores[name] for name in SCORE_NAMES], dtype=torch.float64).to(self.sums)
        self.times[row] += 1

    def compute(self) -> ScoresOfCases:
        """Return the scores per case, their mean, and how many cases were missed."""
        seen = self.times > 0
        per_case = self.sums / self.times.clamp(min=1)[:, None]
        mean = per_case.sum(dim=0) / seen.sum().clamp(min=1)
        n_missed = (per_case[:, SCORE_NAMES.index("missed")] > 0).sum()
        return ScoresOfCases(per_case, seen, mean, n_missed)

    @staticmethod
    def named(row: Tensor) -> dict[str, float]:
        """Return one row of scores by name, as plain numbers for a log or a file."""
        return dict(zip(SCORE_NAMES, row.tolist(), strict=True))
