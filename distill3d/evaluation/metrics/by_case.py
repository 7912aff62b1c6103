"""All scores of a case's masks by name, and their summary over cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import final

import numpy as np

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
