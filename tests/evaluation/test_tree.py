from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_trees import EMPTY, make, moved, slow_share, straight, trees
from scipy.spatial.transform import Rotation

from distill3d.errors import InputError
from distill3d.evaluation.metrics.tree import length_scores, tree_scores
from distill3d.volumes.swc import read_swc
from distill3d.volumes.tree import Tree

OP = ("OP_1", "OP_2", "OP_3", "OP_5", "OP_6")


@given(pred=trees(), gold=trees(), tolerance=st.sampled_from([0.0, 1.0, 2.5, 4.0]))
@settings(max_examples=100, deadline=None)
def test_shares_of_length_are_those_of_all_pairs(pred, gold, tolerance):
    scores = tree_scores(pred=pred, gold=gold, tolerance=tolerance)
    assert scores.precision == pytest.approx(slow_share(pred, gold, tolerance), abs=1e-9)
    assert scores.recall == pytest.approx(slow_share(gold, pred, tolerance), abs=1e-9)


@given(pred=trees(), gold=trees())
@settings(max_examples=50, deadline=None)
def test_swapping_the_trees_swaps_names_only(pred, gold):
    a, b = tree_scores(pred=pred, gold=gold), tree_scores(pred=gold, gold=pred)
    assert (a.esa, a.dsa, a.pds, a.f1) == pytest.approx((b.esa, b.dsa, b.pds, b.f1))
    assert (a.precision, a.recall, a.length_pred) == (b.recall, b.precision, b.length_gold)
    assert (a.tips_pred, a.branches_gold, a.tips_error) == (b.tips_gold, b.branches_pred, b.tips_error)


@given(pred=trees(), gold=trees(), seed=st.integers(0, 10**6))
@settings(max_examples=50, deadline=None)
def test_the_order_of_nodes_and_a_motion_of_both_change_nothing(pred, gold, seed):
    # Lengths that are just half or whole voxels would round to another number of points.
    pred, gold = (replace(tree, points_zyx_um=tree.points_zyx_um * np.pi) for tree in (pred, gold))
    rng = np.random.default_rng(seed)
    rotation = Rotation.random(rng=rng)

    def changed(tree: Tree) -> Tree:
        order = rng.permutation(tree.n_nodes)
        back = np.append(np.argsort(order), -1)
        points = rotation.apply(tree.points_zyx_um[order]) + np.array([1.0, -2.0, 3.0])
        return Tree(points, tree.radii_um, back[tree.parents[order]], tree.types)

    one = tree_scores(pred=pred, gold=gold, tolerance=3.7)
    other = tree_scores(pred=changed(pred), gold=changed(gold), tolerance=3.7)
    assert asdict(other) == pytest.approx(asdict(one), abs=1e-9)


@given(pred=trees(), gold=trees(), unit=st.sampled_from(["vox", "um"]))
@settings(max_examples=30, deadline=None)
def test_length_alone_is_scored_as_beside_all_else(pred, gold, unit):
    arguments = {"gold": gold, "spacing_um": (3.0, 1.0, 0.5), "unit": unit, "tolerance": 2.5}
    for each in (pred, EMPTY):
        scores = tree_scores(pred=each, **arguments)
        assert length_scores(pred=each, **arguments) == (scores.precision, scores.recall, scores.f1)


def test_a_tolerance_in_um_is_even_where_slices_are_thick():
    """Slices of 3 um: a line one slice off is 3 um off, one two rows off 2 um; both are within 2 voxels."""
    gold = straight(20)
    for shift, in_um in (((3.0, 0, 0), 0.0), ((0, 2.0, 0), 1.0)):
        pair = {"pred": moved(gold, shift), "gold": gold, "spacing_um": (3.0, 1.0, 1.0), "tolerance": 2.0}
        assert length_scores(**pair, unit="vox") == (1.0, 1.0, 1.0)
        assert length_scores(**pair, unit="um") == (in_um, in_um, in_um)


def test_scores_order_perfect_slightly_wrong_half_and_elsewhere():
    gold = make([(0, 0, 0), (40, 0, 0), (80, 0, 0), (40, 30, 0)], [-1, 0, 1, 1])
    half = make([(0, 0, 0), (40, 0, 0)], [-1, 0])
    ladder = [gold, moved(gold, (1, 0, 0)), half, moved(gold, (50, 0, 0))]
    scores = [tree_scores(pred=pred, gold=gold) for pred in ladder]
    assert [s.f1 for s in scores[:2]] == [1.0, 1.0]
    assert 1.0 > scores[2].f1 > scores[3].f1 == 0.0
    assert [s.esa for s in scores] == sorted(s.esa for s in scores)
    assert scores[0].esa == pytest.approx(0)
    assert scores[1].esa > 0.9
    # 40 of 110, and the 4 voxels beyond the end and up the branch count as found.
    assert (scores[2].precision, scores[2].recall) == (1.0, pytest.approx(48 / 110))
    assert (scores[2].length_pred, scores[2].length_gold, scores[2].length_error) == (40, 110, 70)
    assert (scores[2].tips_pred, scores[2].tips_gold, scores[2].tips_error) == (1, 2, 1)
    assert (scores[2].branches_pred, scores[2].branches_gold, scores[2].branches_error) == (0, 1, 1)


def test_the_tolerance_includes_its_end():
    for tolerance, expected in ((3.0, 1.0), (2.999, 0.0)):
        assert tree_scores(pred=straight(10, y=3), gold=straight(10), tolerance=tolerance).f1 == expected


def test_length_counts_and_not_the_number_of_nodes():
    """30 of 40 voxels are right; the wrong ten are cut into a hundred edges."""
    wrong = [(30 + x, 50, 0) for x in np.linspace(0, 10, 101)]
    pred = make([(0, 0, 0), (30, 0, 0), *wrong], [-1, 0, -1, *range(2, 102)])
    assert tree_scores(pred=pred, gold=straight(30)).precision == pytest.approx(0.75)


def test_empty_trees_follow_the_honest_rule():
    both = tree_scores(pred=EMPTY, gold=EMPTY)
    assert (both.esa, both.dsa, both.pds, both.precision, both.recall, both.f1, both.missed) == (
        0,
        0,
        0,
        1,
        1,
        1,
        False,
    )
    box = make([(0, 0, 0), (3, 4, 12)], [-1, 0])
    for pred, gold in ((EMPTY, box), (box, EMPTY)):
        scores = tree_scores(pred=pred, gold=gold, shape_zyx=(20, 10, 5), spacing_um=(2, 2, 2))
        assert scores.missed
        assert (scores.precision, scores.recall, scores.f1, scores.pds) == (0, 0, 0, 1)
        assert scores.esa == scores.dsa == pytest.approx(np.sqrt(525))
        assert tree_scores(pred=pred, gold=gold).esa == pytest.approx(13)
        um = tree_scores(pred=pred, gold=gold, shape_zyx=(20, 10, 5), spacing_um=(2, 2, 2), unit="um")
        assert um.esa == pytest.approx(2 * np.sqrt(525))
    point = make([(1, 1, 1)], [-1])
    assert tree_scores(pred=EMPTY, gold=point).esa == 4.0  # a point has no diagonal: the tolerance stands in


def test_a_tree_without_edges_is_its_nodes():
    one, far = make([(0, 0, 0)], [-1]), make([(3, 4, 0)], [-1])
    scores = tree_scores(pred=one, gold=far)
    assert (scores.esa, scores.dsa, scores.pds, scores.f1, scores.missed) == (5, 5, 1, 0, False)
    assert tree_scores(pred=one, gold=far, tolerance=5.0).f1 == 1.0
    to_the_point = [np.hypot(x - 5, 3) for x in range(11)]
    beside = tree_scores(pred=make([(5, 3, 0)], [-1]), gold=straight(10))
    assert beside.esa == pytest.approx((3 + np.mean(to_the_point)) / 2)
    zero = make([(0, 0, 0), (0, 0, 0)], [-1, 0])
    assert tree_scores(pred=zero, gold=one).esa == 0.0


def test_beside_edges_a_node_without_one_counts_for_nothing():
    crumb = make([(0, 0, 0), (10, 0, 0), (500, 500, 500)], [-1, 0, -1])
    assert tree_scores(pred=crumb, gold=straight(10)).esa == 0.0
    assert tree_scores(pred=straight(10), gold=crumb).f1 == 1.0


@given(pred=st.one_of(trees(), st.just(EMPTY)), gold=st.one_of(trees(), st.just(EMPTY)), compat=st.booleans())
@settings(max_examples=100, deadline=None)
def test_no_value_is_ever_nan_or_infinite(pred, gold, compat):
    scores = asdict(tree_scores(pred=pred, gold=gold, vaa3d_compat=compat))
    assert np.isfinite([float(value) for key, value in scores.items() if key != "unit"]).all()
    assert all(0 <= scores[name] <= 1 for name in ("pds", "precision", "recall", "f1"))


def test_voxels_undo_the_spacing_and_micrometers_keep_it():
    """Trees of a file in voxels of 3 x 1 x 0.5 um, two voxels apart in z: 2 voxels, 6 um."""
    spacing = np.array([3.0, 1.0, 0.5])
    file = make([(0, 0, 0), (10, 0, 0)], [-1, 0])
    gold = replace(file, points_zyx_um=file.points_zyx_um * spacing)
    pred = moved(gold, (6, 0, 0))
    vox = tree_scores(pred=pred, gold=gold, spacing_um=spacing)
    assert (vox.esa, vox.dsa, vox.pds, vox.length_gold, vox.f1) == (2, 2, 1, 10, 1)
    um = tree_scores(pred=pred, gold=gold, spacing_um=spacing, unit="um")
    assert (um.esa, um.dsa, um.pds, um.length_gold, um.f1) == (6, 6, 1, 5, 0)
    assert (vox.unit, um.unit, vox.tolerance) == ("vox", "um", 4.0)
    assert tree_scores(pred=pred, gold=gold, spacing_um=spacing, unit="um", tolerance=6.0).f1 == 1.0


def test_in_micrometers_length_is_still_sampled_every_voxel():
    """A line of 10 um in voxels of 0.1 um, of which gold holds the first 5.25: a step of 1 um would say 0.5 or 0.6."""
    in_um = tree_scores(pred=straight(10), gold=straight(5.25), unit="um", spacing_um=(0.1,) * 3, tolerance=0.0)
    assert in_um.precision == pytest.approx(0.525, abs=0.006)


@pytest.mark.parametrize(
    "arguments",
    [
        {"tolerance": -1.0},
        {"tolerance": np.nan},
        {"tolerance": np.inf},
        {"unit": "nm"},
        {"spacing_um": (1.0, 0.0, 1.0)},
        {"spacing_um": (1.0, 1.0)},
        {"pred": make([(0, 0, np.nan), (1, 0, 0)], [-1, 0])},
        {"pred": make([(0, 0, np.inf), (1, 0, 0)], [-1, 0])},
        {"pred": make([(0, 0, 1e200), (1, 0, 0)], [-1, 0])},
        {"gold": straight(1e8)},
    ],
)
def test_what_cannot_be_scored_is_refused(arguments):
    with pytest.raises(InputError, match="accepted"):
        tree_scores(**{"pred": straight(10), "gold": straight(10)} | arguments)


@pytest.mark.parametrize("name", OP)
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.03, 1.0, 1.0)])
def test_real_gold_against_itself_is_perfect(data_dir, name, spacing):
    gold = read_swc(data_dir / "pairs" / f"{name}.swc", spacing_um=spacing)
    for unit in ("vox", "um"):
        scores = tree_scores(pred=gold, gold=gold, spacing_um=spacing, unit=unit)
        assert (scores.esa, scores.dsa, scores.pds) == (pytest.approx(0, abs=1e-9), 0.0, 0.0)
        assert (scores.precision, scores.recall, scores.f1) == (1.0, 1.0, 1.0)
        assert (scores.length_error, scores.tips_error, scores.branches_error) == (0, 0, 0)


@pytest.mark.parametrize("name", OP)
def test_real_gold_shifted_by_three_voxels(data_dir, name):
    """Every point has its own copy 3 away, so no distance is larger; of a flat tree shifted across, none is smaller."""
    spacing = (3.03, 1.0, 1.0)
    gold = read_swc(data_dir / "pairs" / f"{name}.swc", spacing_um=spacing)
    shift = np.array([3.0, 0, 0]) * spacing
    scores = tree_scores(pred=moved(gold, shift), gold=gold, spacing_um=spacing)
    assert 0.5 < scores.esa <= 3 + 1e-9
    assert 2 <= scores.dsa <= 3 + 1e-9
    assert (scores.precision, scores.recall) == (1.0, 1.0)
    assert tree_scores(pred=moved(gold, shift), gold=gold, spacing_um=spacing, tolerance=3.0).f1 == 1.0
    flat = replace(gold, points_zyx_um=gold.points_zyx_um * [0, 1, 1])
    scores = tree_scores(pred=moved(flat, shift), gold=flat, spacing_um=spacing)
    assert (scores.esa, scores.dsa, scores.pds) == (pytest.approx(3), pytest.approx(3), 1.0)
    assert tree_scores(pred=moved(flat, shift), gold=flat, spacing_um=spacing, tolerance=2.99).f1 == 0.0
