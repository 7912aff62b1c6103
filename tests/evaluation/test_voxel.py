import warnings
from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import HausdorffDistanceMetric, SurfaceDiceMetric, SurfaceDistanceMetric

from distill3d.errors import InputError
from distill3d.evaluation.metrics import surface
from distill3d.evaluation.metrics.voxel import voxel_scores
from distill3d.evaluation.scores import summarize

OVERLAPS = ("dice", "precision", "recall", "dice_tol", "precision_tol", "recall_tol", "nsd")
IN_UM = ("dice_tol_um", "precision_tol_um", "recall_tol_um")


def line(*voxels: int, length: int = 20) -> np.ndarray:
    mask = np.zeros((1, 1, length), bool)
    mask[..., list(voxels)] = True
    return mask


def blobs(seed: int, shape: tuple[int, ...] = (9, 14, 12), share: float = 0.15) -> np.ndarray:
    mask = np.random.default_rng(seed).random(shape) < share
    mask[tuple(n // 2 for n in shape)] = True
    return mask


def test_golden_values_of_two_short_lines():
    """Gold 2..5, prediction 4..8: 2 of 5 predicted right, 2 of 4 gold found, Dice 2 * 2 / 9.

    Tolerance 2: predicted 4..7 lie at most 2 from voxel 5 (4 of 5), gold 2, 3, 4, 5 all at most 2 from voxel 4.
    In one dimension of a 1 x 1 x N volume every voxel is surface. Distances pred -> gold 0, 0, 1, 2, 3, gold -> pred
    2, 1, 0, 0, in steps of 0.5 um. 95th percentiles: 2.8 (four fifths between 2 and 3) and 1.85, so 2.8;
    mean 9 / 9.
    """
    scores = voxel_scores(pred=line(4, 5, 6, 7, 8), gold=line(2, 3, 4, 5), spacing_um=(1.0, 1.0, 0.5))
    assert (scores.precision, scores.recall) == (2 / 5, 2 / 4)
    assert scores.dice == pytest.approx(4 / 9)
    assert (scores.precision_tol, scores.recall_tol) == (4 / 5, 1.0)
    assert scores.dice_tol == pytest.approx(2 * 0.8 / 1.8)
    assert scores.hd95_um == pytest.approx(2.8 * 0.5)
    assert scores.asd_um == pytest.approx(0.5 * 9 / 9)
    assert (scores.missed, scores.n_pred, scores.n_gold) == (False, 5, 4)


def test_golden_surface_dice_of_two_short_lines():
    """The lines above: within 0.5 um, one voxel, of gold's surface lie predicted 4, 5, 6 of 5, of the prediction's gold
    3, 4, 5 of 4: 6 of 9. Within 0.499 um only 4 and 5 of both: 4 of 9. Within 1 um predicted 4..7 and all of gold.
    """
    lines = {"pred": line(4, 5, 6, 7, 8), "gold": line(2, 3, 4, 5), "spacing_um": (1.0, 1.0, 0.5)}
    for surface_um, right in ((0.5, 6), (0.499, 4), (1.0, 8)):
        assert voxel_scores(**lines, surface_um=surface_um).nsd == right / 9


def test_golden_surface_dice_leaves_the_inside_of_solids_out():
    """Cubes of 5 and 3 voxels around one center: 98 and 26 surface voxels, those of the small one exactly 1 um inside.

    The 6 faces of the large one hold 9 voxels each opposite to the small one, 1 um away; the next nearest, at its
    edges, are sqrt(2), at its 8 corners sqrt(3) away.
    """
    large, small = np.zeros((9, 9, 9), bool), np.zeros((9, 9, 9), bool)
    large[2:7, 2:7, 2:7] = small[3:6, 3:6, 3:6] = True
    for surface_um, right in ((0.9, 0), (1.0, 26 + 54), (1.5, 26 + 90), (1.8, 26 + 98)):
        assert voxel_scores(pred=small, gold=large, surface_um=surface_um).nsd == right / (26 + 98)


def test_a_tolerance_in_um_is_even_where_slices_are_thick():
    """Slices of 3 um: a line one slice off is 3 um off, one two rows off 2 um; both are within 2 voxels."""
    gold, spacing = np.zeros((7, 9, 5), bool), (3.0, 1.0, 1.0)
    gold[3, 4] = True
    for shift, axis, within in ((1, 0, (0.0, 1.0)), (2, 1, (1.0, 1.0))):
        for tolerance_um, right in zip((2.0, 3.0), within, strict=True):
            pred = np.roll(gold, shift, axis)
            scores = voxel_scores(pred=pred, gold=gold, spacing_um=spacing, tolerance_um=tolerance_um)
            assert scores.dice_tol == 1.0
            assert [getattr(scores, name) for name in IN_UM] == [right] * 3


def test_the_tolerance_includes_its_end_and_is_euclidean():
    gold, pred = np.zeros((9, 9, 9), bool), np.zeros((9, 9, 9), bool)
    gold[1, 1, 1] = pred[3, 4, 7] = True  # 2, 3, 6 apart: exactly 7
    for tolerance, expected in ((7.0, 1.0), (6.999, 0.0)):
        assert voxel_scores(pred=pred, gold=gold, tolerance_vox=tolerance).dice_tol == expected


def test_the_inside_of_a_solid_is_no_surface():
    """Two concentric cubes of 9 and 5: with surfaces only, no distance is below 2; with solids half would be 0."""
    big, small = np.zeros((15, 15, 15), bool), np.zeros((15, 15, 15), bool)
    big[3:12, 3:12, 3:12] = small[5:10, 5:10, 5:10] = True
    scores = voxel_scores(pred=small, gold=big)
    assert scores.asd_um >= 2.0
    assert scores.hd95_um == pytest.approx(np.sqrt(12), abs=0.7)  # corner to corner is sqrt(3 * 2 ** 2)


def test_empty_masks_follow_the_honest_rule():
    """1 x 1 x 20 voxels of 2 x 3 x 0.3 um: the diagonal is sqrt(4 + 9 + 36) = 7 um."""
    some, none, spacing = line(1), line(), (2.0, 3.0, 0.3)
    for pred, gold in ((some, none), (none, some)):
        scores = voxel_scores(pred=pred, gold=gold, spacing_um=spacing, tolerance_um=9.0, surface_um=9.0)
        assert [getattr(scores, name) for name in (*OVERLAPS, *IN_UM)] == [0.0] * 10
        assert (scores.hd95_um, scores.asd_um) == (pytest.approx(7.0), pytest.approx(7.0))
        assert scores.missed
    scores = voxel_scores(pred=none, gold=none, spacing_um=spacing, tolerance_um=0.0)
    assert [getattr(scores, name) for name in (*OVERLAPS, *IN_UM)] == [1.0] * 10
    assert (scores.hd95_um, scores.asd_um, scores.missed) == (0.0, 0.0, False)


def test_nothing_can_be_farther_than_a_missed_case():
    pred, gold = np.zeros((8, 9, 10), bool), np.zeros((8, 9, 10), bool)
    pred[0, 0, 0] = gold[-1, -1, -1] = True
    worst = voxel_scores(pred=np.zeros_like(gold), gold=gold, spacing_um=(3, 1, 1)).hd95_um
    assert voxel_scores(pred=pred, gold=gold, spacing_um=(3, 1, 1)).hd95_um < worst


def test_scores_order_perfect_slightly_wrong_wrong_inverted():
    gold = np.zeros((20, 40, 40), bool)
    gold[8:11, 10:13, 5:35] = True
    ladder = [gold, np.roll(gold, 1, 1), np.roll(gold, 8, 1), ~gold]
    scores = [voxel_scores(pred=pred, gold=gold, spacing_um=(3, 1, 1)) for pred in ladder]
    assert [getattr(scores[0], name) for name in OVERLAPS] == [1.0] * 7
    assert scores[0].nsd == scores[1].nsd > scores[2].nsd == 0.0
    assert (scores[0].hd95_um, scores[0].asd_um) == (0.0, 0.0)
    assert scores[0].dice > scores[1].dice > scores[2].dice == scores[3].dice == 0.0
    assert scores[1].dice_tol == 1.0 > scores[2].dice_tol
    assert scores[0].hd95_um < scores[1].hd95_um < scores[2].hd95_um < scores[3].hd95_um
    assert scores[0].asd_um < scores[1].asd_um < scores[2].asd_um


@given(seed=st.integers(0, 10**6), share=st.sampled_from([0.01, 0.1, 0.5]))
@settings(max_examples=30, deadline=None)
def test_distances_are_monais_on_masks_that_are_not_empty(seed, share):
    pred, gold, spacing = blobs(seed, share=share), blobs(seed + 1, share=share), (3.03, 0.7, 1.1)
    scores = voxel_scores(pred=pred, gold=gold, spacing_um=spacing, surface_um=1.3)
    tensors = [torch.from_numpy(mask)[None, None].float() for mask in (pred, gold)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MONAI's own, on masks of one class
        hd95 = HausdorffDistanceMetric(percentile=95)(*tensors, spacing=spacing)
        asd = SurfaceDistanceMetric(symmetric=True)(*tensors, spacing=spacing)
        nsd = SurfaceDiceMetric(class_thresholds=[1.3], include_background=True)(*tensors, spacing=spacing)
    assert scores.hd95_um == pytest.approx(float(hd95), rel=1e-5)
    assert scores.asd_um == pytest.approx(float(asd), rel=1e-5)
    assert scores.nsd == pytest.approx(float(nsd), rel=1e-5)


@given(
    seed=st.integers(0, 10**6),
    share=st.sampled_from([0.005, 0.1, 0.6]),
    tolerance=st.sampled_from([0.0, 1.0, 2.0, 3.5]),
)
@settings(max_examples=30, deadline=None)
def test_overlaps_at_a_tolerance_are_those_of_all_pairs(seed, share, tolerance):
    pred, gold = blobs(seed, share=share), blobs(seed + 7, share=share / 2)
    spacing = (3.03, 0.7, 1.1)
    scores = voxel_scores(pred=pred, gold=gold, tolerance_vox=tolerance, tolerance_um=tolerance, spacing_um=spacing)
    steps = np.argwhere(pred)[:, None] - np.argwhere(gold)[None]
    for size, suffix in (((1, 1, 1), ""), (spacing, "_um")):
        near = np.linalg.norm(steps * size, axis=-1) <= tolerance + 1e-9
        assert getattr(scores, f"precision_tol{suffix}") == pytest.approx(near.any(axis=1).mean())
        assert getattr(scores, f"recall_tol{suffix}") == pytest.approx(near.any(axis=0).mean())
    if tolerance == 0.0:
        assert scores.dice_tol == pytest.approx(scores.dice)


@given(seed=st.integers(0, 10**6), share=st.sampled_from([0.01, 0.1, 0.4]))
@settings(max_examples=20, deadline=None)
def test_tree_and_transform_give_the_same_scores(seed, share):
    pred, gold = blobs(seed, share=share), blobs(seed + 1)
    means = []
    for limit in (0.0, 1.0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(surface, "_TREE_SHARE", limit)
            means.append(asdict(voxel_scores(pred=pred, gold=gold, spacing_um=(3.0, 1.0, 0.5), tolerance_um=4.0)))
    assert means[0] == pytest.approx(means[1])


@given(seed=st.integers(0, 10**6), axes=st.permutations([0, 1, 2]))
@settings(max_examples=20, deadline=None)
def test_swapping_roles_or_axes_changes_nothing_but_the_names(seed, axes):
    pred, gold, spacing = blobs(seed), blobs(seed + 1), np.array([3.0, 1.0, 0.5])
    scores = voxel_scores(pred=pred, gold=gold, spacing_um=spacing, tolerance_um=1.0)
    turned = voxel_scores(
        pred=pred.transpose(axes), gold=gold.transpose(axes), spacing_um=spacing[axes], tolerance_um=1.0
    )
    assert asdict(turned) == pytest.approx(asdict(scores))
    swapped = voxel_scores(pred=gold, gold=pred, spacing_um=spacing)
    assert (swapped.precision, swapped.recall_tol) == (scores.recall, scores.precision_tol)
    assert (swapped.dice, swapped.hd95_um, swapped.nsd) == pytest.approx((scores.dice, scores.hd95_um, scores.nsd))


def test_voxels_nobody_labelled_change_nothing():
    pred, gold, known = blobs(1), blobs(2), np.zeros((9, 14, 12), bool)
    known[3:5] = True
    first = voxel_scores(pred=pred, gold=gold, known=known)
    rng = np.random.default_rng(0)
    other = [np.where(known, mask, rng.random(mask.shape) < 0.5) for mask in (pred, gold)]
    assert voxel_scores(pred=other[0], gold=other[1], known=known) == first
    assert voxel_scores(pred=pred[3:5], gold=gold[3:5]) == first  # as if the volume ended there
    assert voxel_scores(pred=pred, gold=gold) != first


@pytest.mark.parametrize(
    "arguments",
    [
        {"pred": np.zeros((2, 3, 4)), "gold": np.zeros((2, 3, 4))},
        {"pred": np.zeros((2, 3, 4), bool), "gold": np.zeros((2, 3, 5), bool)},
        {"pred": np.zeros((2, 3), bool), "gold": np.zeros((2, 3), bool)},
        {"pred": np.zeros((2, 3, 4), bool), "gold": np.zeros((2, 3, 4), bool), "known": np.ones((2, 3, 4))},
        {"pred": np.zeros((2, 3, 4), bool), "gold": np.zeros((2, 3, 4), bool), "tolerance_vox": -1.0},
        {"pred": np.zeros((2, 3, 4), bool), "gold": np.zeros((2, 3, 4), bool), "tolerance_vox": np.nan},
        {"pred": np.zeros((2, 3, 4), bool), "gold": np.zeros((2, 3, 4), bool), "tolerance_um": -1.0},
        {"pred": np.zeros((2, 3, 4), bool), "gold": np.zeros((2, 3, 4), bool), "surface_um": np.nan},
    ],
)
def test_what_are_no_masks_is_refused(arguments):
    with pytest.raises(InputError, match="accepted"):
        voxel_scores(**arguments)


def test_a_missed_case_lowers_the_mean_and_is_counted():
    gold = blobs(0)
    good = voxel_scores(pred=gold, gold=gold, tolerance_um=2.0)
    missed = voxel_scores(pred=np.zeros_like(gold), gold=gold, tolerance_um=2.0)
    summary = summarize({"a": asdict(good), "b": asdict(missed)})
    assert (summary.n_cases, summary.n_missed) == (2, 1)
    assert (summary.mean["dice"], summary.sd["dice"]) == (0.5, pytest.approx(np.sqrt(0.5)))
    assert summary.mean["hd95_um"] == pytest.approx(np.sqrt(81 + 196 + 144) / 2)
    assert "missed" not in summary.mean
    assert not {"n_pred", "n_gold"} & set(summary.mean)
    assert summarize({"a": asdict(good)}).sd["dice"] == 0.0
    with pytest.raises(InputError, match="no case"):
        summarize({})
