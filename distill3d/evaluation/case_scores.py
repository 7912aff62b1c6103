"""Scores what a method found in a case, as a mask and as a tree."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distill3d.config.schema import EvaluationConfig
from distill3d.config.trace import TraceConfig
from distill3d.data.prepared import PreparedCase
from distill3d.evaluation.cleaning import Clean
from distill3d.evaluation.metrics.tree import length_scores, tree_scores
from distill3d.evaluation.scores import SCORES, clean_scores, mask_scores
from distill3d.tracing.trace import MAX_SHARE, DenseError, trace
from distill3d.volumes.tree import Tree

Scores = dict[str, float]


@dataclass(frozen=True, slots=True)
class Found:
    """What a method found in a case.

    Attributes:
        mask: [Z, Y, X].
        tree: traced; None where there is more foreground than a neuron has.
        untraced: why there is no tree.
    """

    mask: NDArray[np.bool_]
    tree: Tree | None
    untraced: str = ""


def traced(case: PreparedCase, values: NDArray[np.number], settings: TraceConfig) -> tuple[Tree | None, str]:
    """Return a case's tree, or why it has none."""
    try:
        return trace(values, case.spacing_um, settings, max_share=MAX_SHARE), ""
    except DenseError as error:
        return None, str(error)


def case_scores(case: PreparedCase, result: Found, clean: Clean, evaluation: EvaluationConfig) -> Scores:
    """Score what a method found in a case: its mask and, where gold has one, its tree (none is missed) in voxels."""
    scores = mask_scores(
        pred=result.mask,
        gold=case.mask,
        known=case.known,
        spacing_um=case.spacing_um,
        tolerance_um=evaluation.mask_um,
        surface_um=evaluation.surface_um,
    )
    scores |= clean_scores(
        pred=result.mask,
        gold=case.mask,
        known=case.known,
        spacing_um=case.spacing_um,
        min_voxels=clean.min_voxels,
        tolerance_um=evaluation.mask_um,
        surface_um=evaluation.surface_um,
    )
    gold = case.tree()
    if gold is not None:
        scores |= _scores_of_trees(result.tree or Tree.empty(), gold, case, evaluation.tree_um)
    return scores


def _scores_of_trees(pred: Tree, gold: Tree, case: PreparedCase, tree_um: float | None) -> Scores:
    of_tree = tree_scores(pred=pred, gold=gold, spacing_um=case.spacing_um, shape_zyx=case.shape)
    named = {f"tree_{name}": value for name, value in dataclasses.asdict(of_tree).items()}
    if tree_um is not None:
        in_um = length_scores(pred=pred, gold=gold, spacing_um=case.spacing_um, unit="um", tolerance=tree_um)
        named |= {f"tree_{name}_um": value for name, value in in_um._asdict().items()}
    return {key: float(value) for key, value in named.items() if key in SCORES}  # not their unit and tolerance
