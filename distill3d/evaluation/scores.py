"""What every score is called, its unit, its direction, its digits, and how scores are summarized over cases.

A new score of ``metrics`` has its entry in ``SCORES``; tables, reports and sweeps ask there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import final

import numpy as np

from distill3d.errors import InputError
from distill3d.evaluation.metrics.topology import topology_scores
from distill3d.evaluation.metrics.voxel import DEFAULT_SURFACE_UM, DEFAULT_TOLERANCE_VOX, voxel_scores
from distill3d.volumes.components import drop_small


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """One number about a case.

    Args:
        key: in ``metrics.json``, such as ``hd95_um``.
        label: for people, such as ``HD95``.
        unit: ``um``, ``vox`` or empty.
        higher_is_better: whether a larger value is the better one; says nothing where ``judged`` is False.
        digits: after the decimal point.
        heading: of a narrow column, where it is not the label; see `column`.
        sentence: what a table of two files calls it, where it is not the label.
        judged: a case is better or worse by it; a number of voxels or parts is not.
        averaged: it has a mean over cases, which a sweep may look at.
        most: what it can be; None stands for 1 where higher is better, else for no limit.
    """

    key: str
    label: str
    unit: str = ""
    higher_is_better: bool = False
    digits: int = 3
    heading: str = ""
    sentence: str = ""
    judged: bool = True
    averaged: bool = True
    most: float | None = None

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the largest value of one that is judged."""
        return 0.0, self.most or (1.0 if self.higher_is_better else math.inf)

    @property
    def column(self) -> str:
        """Heading of a narrow column: its own, else the label above the unit."""
        return self.heading or "\n".join(filter(None, (self.label, self.unit)))


_OF_VOXELS = (
    Score(key="dice", label="Dice", higher_is_better=True),
    Score(key="precision", label="precision", higher_is_better=True),
    Score(key="recall", label="recall", higher_is_better=True),
    Score(
        key="dice_tol",
        label="Dice within 2 vox",
        higher_is_better=True,
        heading="Dice\n2 vox",
        sentence="Dice within the tolerance",
    ),
    Score(key="precision_tol", label="precision tol", higher_is_better=True),
    Score(key="recall_tol", label="recall tol", higher_is_better=True),
    Score(
        key="dice_tol_um",
        label="Dice within um",
        higher_is_better=True,
        heading="Dice\nin um",
        sentence="Dice within the tolerance in um",
    ),
    Score(key="precision_tol_um", label="precision tol um", higher_is_better=True),
    Score(key="recall_tol_um", label="recall tol um", higher_is_better=True),
    Score(key="nsd", label="NSD", higher_is_better=True, sentence="surface Dice (NSD) within its tolerance in um"),
    Score(key="hd95_um", label="HD95", unit="um", digits=1, sentence="HD95, in the unit of the spacing"),
    Score(key="asd_um", label="asd", unit="um", digits=2, sentence="mean surface distance"),
)
_CLEAN = {  # by the score of the whole mask
    score.key: replace(
        score, key=f"{score.key}_clean", label=f"clean {score.label}", heading=f"clean\n{score.label}", sentence=""
    )
    for score in _OF_VOXELS
}
SCORES = {
    score.key: score
    for score in (
        *_OF_VOXELS,
        Score(key="n_pred", label="n pred", digits=1, judged=False, averaged=False),
        Score(key="n_gold", label="n gold", digits=1, judged=False, averaged=False),
        Score(key="cldice", label="clDice", higher_is_better=True),
        Score(key="cl_precision", label="cl precision", higher_is_better=True),
        Score(key="cl_recall", label="cl recall", higher_is_better=True),
        Score(key="betti0_pred", label="betti0 pred", judged=False),
        Score(key="betti0_gold", label="betti0 gold", judged=False),
        Score(key="betti0_error", label="Betti 0 error", digits=1, sentence="error in the number of parts (Betti 0)"),
        Score(key="betti1_pred", label="betti1 pred", judged=False),
        Score(key="betti1_gold", label="betti1 gold", judged=False),
        Score(key="betti1_error", label="Betti 1 error", digits=1, sentence="error in the number of tunnels (Betti 1)"),
        Score(key="euler_pred", label="euler pred", judged=False),
        Score(key="euler_gold", label="euler gold", judged=False),
        Score(key="euler_error", label="euler error", digits=1),
        Score(key="n_breaks", label="breaks", digits=1),
        Score(key="n_spurious", label="spurious parts", digits=1),
        Score(key="missed", label="missed", digits=1, averaged=False),
        *_CLEAN.values(),
        Score(key="tree_esa", label="ESA", unit="vox", digits=2, sentence="ESA, mean distance"),
        Score(
            key="tree_dsa", label="tree dsa", unit="vox", digits=2, sentence="DSA, mean distance where it is 2 or more"
        ),
        Score(key="tree_pds", label="tree pds", most=1, sentence="PDS, share that is 2 or more away"),
        Score(
            key="tree_precision",
            label="length prec.",
            higher_is_better=True,
            heading="length\nprec.",
            sentence="precision",
        ),
        Score(
            key="tree_recall", label="length recall", higher_is_better=True, heading="length\nrecall", sentence="recall"
        ),
        Score(key="tree_f1", label="length F1", higher_is_better=True, heading="length\nF1", sentence="F1"),
        Score(key="tree_length_pred", label="tree length pred", judged=False, sentence="length of the prediction"),
        Score(key="tree_length_gold", label="tree length gold", judged=False, sentence="length of gold"),
        Score(key="tree_length_error", label="tree length error", unit="vox", digits=0),
        Score(key="tree_tips_pred", label="tree tips pred", judged=False),
        Score(key="tree_tips_gold", label="tree tips gold", judged=False),
        Score(key="tree_tips_error", label="tree tips error", digits=1, sentence="error in the number of tips"),
        Score(key="tree_branches_pred", label="tree branches pred", judged=False),
        Score(key="tree_branches_gold", label="tree branches gold", judged=False),
        Score(
            key="tree_branches_error",
            label="tree branches error",
            digits=1,
            sentence="error in the number of branch points",
        ),
        Score(key="tree_missed", label="tree missed", digits=1, averaged=False),
        Score(key="tree_precision_um", label="length prec. within um", higher_is_better=True),
        Score(key="tree_recall_um", label="length recall within um", higher_is_better=True),
        Score(
            key="tree_f1_um",
            label="length F1 within um",
            higher_is_better=True,
            heading="length\nF1, um",
            sentence="F1 of length within the tolerance in um",
        ),
    )
}


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
        name: np.array([row[name] for row in scores.values() if name in row]) for name in names if SCORES[name].averaged
    }
    return Summary(
        mean={name: float(column.mean()) for name, column in columns.items()},
        sd={name: float(column.std(ddof=1)) if len(column) > 1 else 0.0 for name, column in columns.items()},
        n_cases=len(scores),
        n_missed=sum(row["missed"] > 0 for row in scores.values()),
    )


def mask_scores(
    *,
    pred: np.ndarray,
    gold: np.ndarray,
    known: np.ndarray | None = None,
    spacing_um: Sequence[float] = (1.0, 1.0, 1.0),
    tolerance_vox: float = DEFAULT_TOLERANCE_VOX,
    tolerance_um: float | None = None,
    surface_um: float = DEFAULT_SURFACE_UM,
) -> dict[str, float]:
    """Score a predicted mask against the gold one in every way; never nan.

    Args, errors and rules are those of ``voxel_scores`` and ``topology_scores``.

    >>> gold = np.zeros((1, 1, 10), bool); gold[..., 2:6] = True
    >>> scores = mask_scores(pred=gold, gold=gold)
    >>> scores["dice"], scores["cldice"], scores["missed"]
    (1.0, 1.0, 0.0)
    """
    voxel = voxel_scores(
        pred=pred,
        gold=gold,
        known=known,
        spacing_um=spacing_um,
        tolerance_vox=tolerance_vox,
        tolerance_um=tolerance_um,
        surface_um=surface_um,
    )
    topology = topology_scores(pred=pred, gold=gold, known=known, tolerance_vox=tolerance_vox)
    of_voxels = asdict(voxel)
    del of_voxels["missed"]  # both have it; it comes last
    return {name: float(value) for name, value in (of_voxels | asdict(topology)).items() if value is not None}


def clean_scores(
    *,
    pred: np.ndarray,
    gold: np.ndarray,
    known: np.ndarray | None = None,
    spacing_um: Sequence[float] = (1.0, 1.0, 1.0),
    min_voxels: int,
    tolerance_um: float | None = None,
    surface_um: float = DEFAULT_SURFACE_UM,
) -> dict[str, float]:
    """Score a predicted mask as voxels once its small pieces are dropped.

    Args:
        pred: bool [Z, Y, X].
        gold: bool [Z, Y, X].
        known: bool [Z, Y, X], False where nobody labelled; a piece counts with its voxels there.
        spacing_um: ZYX voxel size.
        min_voxels: smaller pieces (26-connected) are dropped.
        tolerance_um: see `voxel_scores`.
        surface_um: likewise.

    Returns:
        ``dice_clean`` and so on, as `voxel_scores` has them of the whole mask.

    >>> gold = np.zeros((1, 1, 40), bool); gold[..., 2:6] = True
    >>> pred = gold.copy(); pred[..., 39] = True
    >>> clean_scores(pred=pred, gold=gold, min_voxels=2)["hd95_um_clean"]
    0.0
    """
    voxel = asdict(
        voxel_scores(
            pred=drop_small(pred, min_voxels),
            gold=gold,
            known=known,
            spacing_um=spacing_um,
            tolerance_um=tolerance_um,
            surface_um=surface_um,
        )
    )
    return {clean.key: float(voxel[key]) for key, clean in _CLEAN.items() if voxel[key] is not None}
