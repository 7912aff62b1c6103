"""Every score has one entry, which is true of what the metrics produce."""

import math
from dataclasses import asdict

import numpy as np
import pytest
from made_trees import EMPTY, make, straight

from distill3d.evaluation.metrics.tree import length_scores, tree_scores
from distill3d.evaluation.scores import SCORES, clean_scores, mask_scores
from distill3d.report.comparison.columns import DEFAULT

GOLD = np.zeros((7, 16, 40), bool)
GOLD[3, 3, 2:38] = True
BROKEN = GOLD.copy()  # a break, a crumb and a ring
BROKEN[3, 3, 15:20] = False
BROKEN[0, 14, 39] = BROKEN[3, 9:12, 9:12] = True
BROKEN[3, 10, 10] = False
LINE = straight(36)
BRANCHED = make([(0, 0, 0), (15, 0, 0), (15, 20, 0), (30, 0, 20)], [-1, 0, 1, 1])


def scores_of(mask: np.ndarray, tree) -> dict[str, float]:
    of_tree = asdict(tree_scores(pred=tree, gold=LINE, shape_zyx=GOLD.shape))
    in_um = length_scores(pred=tree, gold=LINE, unit="um", tolerance=2.0)._asdict()
    of_mask = mask_scores(pred=mask, gold=GOLD, tolerance_um=2.0)
    of_mask |= clean_scores(pred=mask, gold=GOLD, min_voxels=2, tolerance_um=2.0)
    of_tree |= {f"{name}_um": value for name, value in in_um.items()}
    return of_mask | {f"tree_{name}": value for name, value in of_tree.items()}


@pytest.mark.parametrize(("key", "most"), [("dice", 1), ("tree_pds", 1), ("hd95_um", math.inf)])
def test_a_score_is_between_its_bounds(key, most):
    assert SCORES[key].bounds == (0, most)


def test_every_score_that_the_metrics_produce_has_an_entry_and_no_other():
    produced = scores_of(GOLD, LINE)
    assert (produced.pop("tree_unit"), produced.pop("tree_tolerance")) == ("vox", 4.0)
    assert tuple(SCORES) == tuple(produced)


def test_the_direction_of_every_judged_score_is_that_from_wrong_to_perfect():
    perfect, wrong, missed = scores_of(GOLD, LINE), scores_of(BROKEN, BRANCHED), scores_of(~GOLD & GOLD, EMPTY)
    for key, score in SCORES.items():
        if score.judged:
            sign = 1 if score.higher_is_better else -1
            other = missed if key.endswith("missed") else wrong
            assert sign * perfect[key] > sign * other[key], key


def test_the_usual_columns_of_a_report_are_scores_a_case_is_judged_by():
    assert all(SCORES[key].judged for key in DEFAULT)


def test_a_column_is_headed_by_label_and_unit():
    assert [SCORES[key].column for key in ("dice", "hd95_um", "tree_f1")] == ["Dice", "HD95\num", "length\nF1"]
