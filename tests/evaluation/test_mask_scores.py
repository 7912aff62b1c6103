from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill3d.evaluation.metrics.topology import topology_scores
from distill3d.evaluation.metrics.voxel import voxel_scores
from distill3d.evaluation.scores import clean_scores, mask_scores
from distill3d.volumes.components import label_components


def test_the_scores_of_masks_are_those_of_both_functions():
    rng = np.random.default_rng(1)
    masks = {name: rng.random((6, 7, 8)) < share for name, share in (("pred", 0.2), ("gold", 0.3), ("known", 0.9))}
    spacing = (3.0, 1.0, 0.5)
    voxel, topology = voxel_scores(**masks, spacing_um=spacing), topology_scores(**masks)
    scored = {name: value for name, value in (asdict(voxel) | asdict(topology)).items() if value is not None}
    assert mask_scores(**masks, spacing_um=spacing) == scored
    in_um = {"tolerance_um": 1.0, "surface_um": 0.5}  # the tolerances too
    scored = asdict(voxel_scores(**masks, spacing_um=spacing, **in_um)) | asdict(topology)
    assert mask_scores(**masks, spacing_um=spacing, **in_um) == scored
    assert voxel.hd95_um != voxel_scores(**masks).hd95_um  # the spacing is passed on
    assert voxel.dice != voxel_scores(pred=masks["pred"], gold=masks["gold"]).dice  # and so is what is known


def line(*pieces):
    """A row of 60 voxels with pieces of foreground, each from a first voxel to before a last one."""
    mask = np.zeros((1, 1, 60), bool)
    for first, last in pieces:
        mask[..., first:last] = True
    return mask


@given(seed=st.integers(0, 10**6), share=st.sampled_from([0.0, 0.05, 0.3]))
@settings(max_examples=30, deadline=None)
def test_a_mask_without_small_pieces_is_clean_already(seed, share):
    rng = np.random.default_rng(seed)
    pred, gold, known = (rng.random((6, 7, 8)) < part for part in (share, 0.2, 0.9))
    labels, count = label_components(pred)
    smallest = int(np.bincount(labels.ravel(), minlength=2)[1:].min()) if count else 50
    masks = {"pred": pred, "gold": gold, "known": known, "spacing_um": (3.0, 1.0, 0.5)}
    masks |= {"tolerance_um": 1.0, "surface_um": 0.5}
    whole, clean = mask_scores(**masks), clean_scores(**masks, min_voxels=smallest)
    assert len(clean) == 12
    assert clean == {key: whole[key.removesuffix("_clean")] for key in clean}


@given(at=st.integers(15, 54), size=st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_a_small_false_piece_far_away_moves_the_raw_hd95_and_no_clean_score(at, size):
    gold, pred = line((2, 12)), line((2, 12), (at, at + size))
    whole, clean = mask_scores(pred=pred, gold=gold), clean_scores(pred=pred, gold=gold, min_voxels=6)
    assert whole["hd95_um"] > 1
    assert whole["dice"] < 1
    assert clean == clean_scores(pred=gold, gold=gold, min_voxels=6)
    assert (clean["hd95_um_clean"], clean["dice_clean"]) == (0, 1)


def test_clean_scores_are_right_where_a_true_piece_goes_too():
    gold, pred = line((2, 12)), line((2, 8), (9, 12), (40, 42))  # 6 and 3 of 10 voxels, and 2 false ones
    spacing = (1.0, 1.0, 2.0)
    raw = mask_scores(pred=pred, gold=gold, spacing_um=spacing)
    assert (raw["precision"], raw["recall"]) == (pytest.approx(9 / 11), 0.9)
    clean = clean_scores(pred=pred, gold=gold, spacing_um=spacing, min_voxels=4)  # keeps the 6
    assert (clean["precision_clean"], clean["recall_clean"]) == (1, 0.6)
    assert clean["dice_clean"] == pytest.approx(2 * 6 / 16)
    # Of gold's voxels 8 to 11, 1 to 4 voxels of 2 um from voxel 7: the 95th percentile of six 0, 2, 4, 6, 8.
    assert clean["hd95_um_clean"] == pytest.approx(np.percentile([0] * 6 + [2, 4, 6, 8], 95))
    assert clean["recall_tol_clean"] == 0.8


def test_a_piece_is_as_large_as_the_trace_sees_it_not_as_somebody_labelled_it():
    gold = line((2, 6))
    known = ~line((4, 60))
    assert clean_scores(pred=gold, gold=gold, known=known, min_voxels=4)["recall_clean"] == 1
    assert clean_scores(pred=gold, gold=gold, known=known, min_voxels=5)["recall_clean"] == 0
