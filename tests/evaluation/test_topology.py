import itertools
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import label
from skimage.morphology import skeletonize

from distill3d.errors import InputError
from distill3d.evaluation.metrics.topology import topology_scores
from distill3d.volumes.raster import rasterize
from distill3d.volumes.swc import read_swc
from distill3d.volumes.thinning import skeleton

ALL = np.ones((3, 3, 3))
SIDE = np.stack(np.meshgrid(*[np.arange(-12, 13)] * 3, indexing="ij"))


def ball(radius: float, center=(0, 0, 0)) -> np.ndarray:
    return ((SIDE - np.reshape(center, (3, 1, 1, 1))) ** 2).sum(axis=0) <= radius**2


def torus(center=(0, 0, 0), radius: float = 5.0, thick: float = 1.8) -> np.ndarray:
    z, y, x = SIDE - np.reshape(center, (3, 1, 1, 1))
    return (np.hypot(y, x) - radius) ** 2 + z**2 <= thick**2


def line(*voxels: int, length: int = 40) -> np.ndarray:
    mask = np.zeros((5, 5, length), bool)
    mask[2, 2, list(voxels)] = True
    return mask


def noise(seed: int, share: float) -> np.ndarray:
    return np.random.default_rng(seed).random((7, 8, 9)) < share


SHARES = st.sampled_from([0.0, 0.03, 0.2, 0.5, 0.8, 0.97, 1.0])


def betti_numbers(mask: np.ndarray) -> tuple[int, int, int]:
    """Components, tunnels and cavities of a mask, as it is scored."""
    scores = topology_scores(pred=mask, gold=np.zeros_like(mask))
    return (
        scores.betti0_pred,
        scores.betti1_pred,
        scores.euler_pred - scores.betti0_pred + scores.betti1_pred,
    )


def count_cells(mask: np.ndarray) -> int:
    """Vertices - edges + faces - cubes of a mask seen as closed unit cubes, one per voxel: its Euler characteristic.

    A cell of the lattice is part of the mask if one of the voxels around it is: an OR of the mask with itself moved by
    one voxel along some axes.
    """
    solid, total = np.pad(mask, 1), 0
    for moved in itertools.chain.from_iterable(itertools.combinations(range(3), n) for n in range(4)):
        cells = solid
        for axis in moved:
            along = np.moveaxis(cells, axis, 0)
            cells = np.moveaxis(along[:-1] | along[1:], 0, axis)
        total += (-1) ** (3 - len(moved)) * int(np.count_nonzero(cells))
    return total


@pytest.mark.parametrize(
    ("mask", "expected", "euler"),
    [
        (np.zeros((3, 4, 5), bool), (0, 0, 0), 0),
        (np.ones((3, 4, 5), bool), (1, 0, 0), 1),
        (ball(9), (1, 0, 0), 1),
        (torus(), (1, 1, 0), 0),
        (torus((-6, 0, 0)) | torus((6, 0, 0)), (2, 2, 0), 0),
        (torus((0, 0, -5)) | torus((0, 0, 5)), (1, 2, 0), -1),  # a figure of eight
        (ball(9) & ~ball(6), (1, 0, 1), 2),  # a hollow sphere
        (ball(11) & ~ball(9) | ball(6) & ~ball(3), (2, 0, 2), 4),
        (ball(10) & ~torus(), (1, 1, 1), 1),  # its hole is a ring: a cavity, around which one can loop
        (ball(11) & ~ball(3, (0, 0, -5)) & ~ball(3, (0, 0, 5)), (1, 0, 2), 3),
    ],
)
def test_betti_numbers_of_shapes_one_can_count(mask, expected, euler):
    assert betti_numbers(mask) == betti_numbers(mask.transpose(2, 0, 1)[::-1]) == expected
    assert topology_scores(pred=mask, gold=mask).euler_gold == euler


def test_foreground_touches_at_corners_and_background_does_not():
    """Two voxels that share a corner are one; a shell with gaps at corners and edges only shuts its inside in."""
    corner = np.zeros((2, 2, 2), bool)
    corner[0, 0, 0] = corner[1, 1, 1] = True
    assert betti_numbers(corner) == (1, 0, 0)
    six = np.zeros((3, 3, 3), bool)
    six[[0, 2, 1, 1, 1, 1], [1, 1, 0, 2, 1, 1], [1, 1, 1, 1, 0, 2]] = True  # the face neighbors of the middle
    assert betti_numbers(six) == (1, 0, 1)


@given(seed=st.integers(0, 10**6), share=SHARES)
@settings(max_examples=80, deadline=None)
def test_the_euler_characteristic_is_that_of_closed_unit_cubes(seed, share):
    mask = noise(seed, share)
    assert topology_scores(pred=mask, gold=mask).euler_pred == count_cells(mask)
    assert min(betti_numbers(mask)) >= 0


def slow_hits(pred: np.ndarray, gold: np.ndarray, tolerance: float) -> np.ndarray:
    """Components at most the tolerance apart, bool [predicted, gold], by all pairs of voxels."""
    (of_pred, n_pred), (of_gold, n_gold) = label(pred, ALL), label(gold, ALL)
    hits = np.zeros((n_pred, n_gold), bool)
    for p in range(n_pred):
        for g in range(n_gold):
            gaps = np.argwhere(of_pred == p + 1)[:, None] - np.argwhere(of_gold == g + 1)[None]
            hits[p, g] = np.linalg.norm(gaps, axis=2).min() <= tolerance
    return hits


@given(
    seed=st.integers(0, 10**6),
    shares=st.tuples(SHARES, SHARES),
    tolerance=st.sampled_from([0.0, 1.0, 1.5, 2.0, 3.0, 5.0]),
)
@settings(max_examples=80, deadline=None)
def test_breaks_and_spurious_parts_are_those_of_all_pairs(seed, shares, tolerance):
    pred, gold = noise(seed, shares[0]), noise(seed + 1, shares[1])
    scores = topology_scores(pred=pred, gold=gold, tolerance_vox=tolerance)
    hits = slow_hits(pred, gold, tolerance)
    assert scores.n_breaks == np.abs(hits.sum(axis=0) - 1).sum()
    assert scores.n_spurious == (~hits.any(axis=1)).sum()


def test_a_line_in_three_pieces_has_two_breaks_and_a_crumb_is_spurious():
    gold, pred = line(*range(2, 38)), line(*range(2, 10), *range(14, 20), *range(25, 38))
    pred[0, 0, 0], pred[4, 4, 39] = True, True  # sqrt(12) from the line's ends
    scores = topology_scores(pred=pred, gold=gold)
    assert (scores.n_breaks, scores.n_spurious) == (2, 2)
    assert (scores.betti0_pred, scores.betti0_gold, scores.betti0_error) == (5, 1, 4)
    near = topology_scores(pred=pred, gold=gold, tolerance_vox=3.5)
    assert (near.n_breaks, near.n_spurious) == (4, 0)
    assert scores.cl_recall == pytest.approx(27 / 36)


def test_a_closed_loop_is_a_betti1_error():
    gold = torus()
    cut = gold & ~((SIDE[2] > 0) & (abs(SIDE[1]) < 2))
    scores = topology_scores(pred=cut, gold=gold)
    assert (scores.betti1_pred, scores.betti1_gold, scores.betti1_error) == (0, 1, 1)
    assert (scores.euler_pred, scores.euler_gold, scores.euler_error) == (1, 0, 1)
    assert (scores.betti0_error, scores.n_breaks, scores.n_spurious) == (0, 0, 0)


def test_cldice_is_that_of_scikit_images_skeletons():
    gold, pred = torus(thick=2.2), torus(thick=1.4, center=(0, 1, 1)) | ball(2, (9, 9, 9))
    lines_pred, lines_gold = skeletonize(pred), skeletonize(gold)
    precision, recall = (lines_pred & gold).sum() / lines_pred.sum(), (lines_gold & pred).sum() / lines_gold.sum()
    scores = topology_scores(pred=pred, gold=gold)
    assert (scores.cl_precision, scores.cl_recall) == (pytest.approx(precision), pytest.approx(recall))
    assert scores.cldice == pytest.approx(2 * precision * recall / (precision + recall))
    assert 0 < scores.cldice < 1


def test_a_wider_prediction_keeps_cldice_where_dice_falls():
    gold, wide = torus(thick=1.2), torus(thick=2.4)
    assert topology_scores(pred=wide, gold=gold).cldice > 0.95
    assert 2 * gold.sum() / (gold.sum() + wide.sum()) < 0.5


def test_scores_order_perfect_slightly_wrong_wrong_inverted():
    gold = np.zeros((12, 24, 40), bool)
    gold[4:7, 9:12, 3:37] = True
    ladder = [gold, np.roll(gold, 8, 2), np.roll(gold, 5, 1), ~gold]
    scores = [topology_scores(pred=pred, gold=gold) for pred in ladder]
    assert (scores[0].cldice, scores[0].betti0_error, scores[0].betti1_error, scores[0].n_breaks) == (1.0, 0, 0, 0)
    assert scores[0].cldice > scores[1].cldice > scores[2].cldice >= scores[3].cldice == 0.0
    assert scores[2].n_spurious == scores[2].n_breaks == 1
    assert scores[3].euler_error == 1  # the hole is a cavity


def test_empty_masks_follow_the_honest_rule():
    none, some = np.zeros((9, 10, 11), bool), np.zeros((9, 10, 11), bool)
    some[2, 2, 2:5] = some[6, 6, 6:9] = True
    both = topology_scores(pred=none, gold=none)
    assert (both.cldice, both.cl_precision, both.cl_recall, both.missed) == (1.0, 1.0, 1.0, False)
    assert {value for name, value in asdict(both).items() if "cl" not in name} == {0}
    empty = topology_scores(pred=none, gold=some)
    assert (empty.cldice, empty.cl_precision, empty.cl_recall, empty.missed) == (0.0, 0.0, 0.0, True)
    assert (empty.betti0_error, empty.n_breaks, empty.n_spurious) == (2, 2, 0)
    crumbs = topology_scores(pred=some, gold=none)
    assert (crumbs.cldice, crumbs.cl_precision, crumbs.cl_recall, crumbs.missed) == (0.0, 0.0, 0.0, True)
    assert (crumbs.betti0_error, crumbs.n_breaks, crumbs.n_spurious) == (2, 0, 2)


@given(seed=st.integers(0, 10**6), shares=st.tuples(SHARES, SHARES))
@settings(max_examples=60, deadline=None)
def test_no_value_is_ever_nan_and_shares_are_shares(seed, shares):
    scores = topology_scores(pred=noise(seed, shares[0]), gold=noise(seed + 1, shares[1]))
    assert np.isfinite([float(value) for value in asdict(scores).values()]).all()
    assert all(0 <= value <= 1 for value in (scores.cldice, scores.cl_precision, scores.cl_recall))
    assert min(scores.n_breaks, scores.n_spurious, scores.betti1_pred, scores.betti1_gold) >= 0


def test_voxels_nobody_labelled_change_nothing():
    pred, gold, known = noise(1, 0.2), noise(2, 0.2), np.zeros((7, 8, 9), bool)
    known[2:5] = True
    first = topology_scores(pred=pred, gold=gold, known=known)
    other = [np.where(known, mask, noise(3, 0.5)) for mask in (pred, gold)]
    assert topology_scores(pred=other[0], gold=other[1], known=known) == first
    assert topology_scores(pred=pred[2:5], gold=gold[2:5]) == first  # as if the volume ended there
    assert topology_scores(pred=pred, gold=gold) != first


def test_empty_space_around_both_masks_changes_nothing():
    pred, gold = noise(1, 0.2), noise(2, 0.2)
    wide = topology_scores(pred=np.pad(pred, 9), gold=np.pad(gold, 9))
    assert wide == topology_scores(pred=pred, gold=gold)


@pytest.mark.parametrize(
    "arguments",
    [
        {"pred": np.zeros((2, 3, 4))},
        {"pred": np.zeros((2, 3, 5), bool)},
        {"known": np.ones((2, 3, 4))},
        {"tolerance_vox": -1.0},
        {"tolerance_vox": 17.0},
        {"tolerance_vox": np.nan},
    ],
)
def test_what_cannot_be_scored_is_refused(arguments):
    masks = {"pred": np.zeros((2, 3, 4), bool), "gold": np.zeros((2, 3, 4), bool)}
    with pytest.raises(InputError, match="accepted"):
        topology_scores(**masks | arguments)


@given(seed=st.integers(0, 10**6), share=SHARES)
@settings(max_examples=60, deadline=None)
def test_every_component_keeps_a_skeleton_inside_itself(seed, share):
    mask = noise(seed, share)
    labels, number = label(mask, ALL)
    lines = skeleton(mask, labels)
    assert not (lines & ~mask).any()
    assert np.unique(labels[lines]).tolist() == list(range(1, number + 1))


@pytest.mark.parametrize("thick", [(1, 4), (2, 1), (2, 2), (3, 6), (4, 4), (6, 6)])
def test_bars_that_scikit_image_deletes_keep_their_length(thick):
    bar = np.zeros((10, 10, 24), bool)
    bar[2 : 2 + thick[0], 2 : 2 + thick[1], 2:22] = True
    assert not skeletonize(bar).any()
    lines = skeleton(bar, bar.astype(np.int32))
    assert np.ptp(np.argwhere(lines)[:, 2]) >= 13
    assert lines.sum() <= 20
    assert topology_scores(pred=bar, gold=bar).cldice == 1.0


def test_a_part_that_scikit_image_keeps_is_not_changed():
    mask = torus(thick=2.2)
    np.testing.assert_array_equal(skeleton(mask, mask.astype(np.int32)), skeletonize(mask))


def test_a_real_tree_has_as_many_parts_as_its_picture_and_no_break_against_itself(data_dir):
    gold = rasterize(read_swc(data_dir / "pairs" / "OP_5.swc"), (76, 512, 512), radius="fixed", radius_um=2.0)
    scores = topology_scores(pred=gold, gold=gold)
    assert (scores.cldice, scores.betti0_gold, scores.n_breaks, scores.n_spurious) == (1.0, 1, 0, 0)
    cut = gold.copy()
    cut[:, 250:256] = False
    assert topology_scores(pred=cut, gold=gold).n_breaks == label(cut, ALL)[1] - 1 > 0
