"""ESA, DSA and PDS, and the search for the nearest segment under them."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_trees import make, moved, slow_gap, slow_vaa3d, straight, trees

from distill3d.evaluation.metrics.tree import tree_scores
from distill3d.evaluation.metrics.tree_distance import Segments, nearest_distances
from distill3d.volumes.swc import read_swc


@pytest.mark.parametrize(
    ("one", "two", "expected"),
    [
        (straight(10), straight(10, y=3), (3, 3, 1)),
        (straight(10), straight(10, y=1), (1, 0, 0)),
        (straight(10), straight(10, y=2), (2, 2, 1)),
        (straight(10), straight(20), (1.3095, 6, 0.2143)),
        (
            straight(20),
            make([(0, 0, 0), (10, 0, 0), (20, 0, 0), (10, 8, 0)], [-1, 0, 1, 1]),
            (0.5806, 5, 0.1129),
        ),
    ],
)
def test_vaa3ds_golden_vectors(one, two, expected):
    for pred, gold in ((one, two), (two, one)):
        scores = tree_scores(pred=pred, gold=gold)
        assert (scores.esa, scores.dsa, scores.pds) == pytest.approx(expected, abs=5e-5)


@given(pred=trees(), gold=trees(), compat=st.booleans())
@settings(max_examples=150, deadline=None)
def test_distances_are_those_of_all_pairs(pred, gold, compat):
    scores = tree_scores(pred=pred, gold=gold, vaa3d_compat=compat)
    assert (scores.esa, scores.dsa, scores.pds) == pytest.approx(slow_vaa3d(pred, gold, compat), abs=1e-9)


@given(seed=st.integers(0, 10**6), scale=st.sampled_from([0.01, 1.0, 300.0]), mixed=st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_index_finds_the_nearest_of_segments_of_any_length(seed, scale, mixed):
    rng = np.random.default_rng(seed)
    start = rng.normal(size=(40, 3)) * scale
    along = rng.normal(size=(40, 3)) * (10.0 ** rng.uniform(-3, 2, (40, 1)) if mixed else 1.0) * scale
    along[:3], start[3:6] = 0.0, start[:3]
    segments = Segments(start, start + along)
    points = np.concatenate([rng.normal(size=(60, 3)) * 3 * scale, start + along / 3])
    expected = [min(slow_gap(p, a, b) for a, b in zip(segments.start, segments.end, strict=True)) for p in points]
    np.testing.assert_allclose(nearest_distances(points, segments), expected, rtol=0, atol=1e-9 * max(scale, 1))


def test_where_many_segments_meet_all_of_them_are_looked_at():
    """The nearest samples of a point beside a hub are the hub's, once per segment; the one that counts may be any."""
    angle = np.linspace(0, 2 * np.pi, 50, endpoint=False)
    ends = np.stack([np.zeros(50), np.sin(angle), np.cos(angle)], axis=1) * 100
    points = ends * 0.04
    np.testing.assert_allclose(nearest_distances(points, Segments(np.zeros((50, 3)), ends)), 0.0, atol=1e-12)


def test_thousands_of_nodes_at_one_place_are_no_burden():
    n = 20_000
    heap = make(np.zeros((n, 3)), [-1, *range(n - 1)])
    assert tree_scores(pred=heap, gold=moved(heap, (0, 3, 4))).esa == pytest.approx(5)


def test_orphans_are_roots_unless_vaa3d_is_imitated():
    """Two lines ten apart; the second starts with an orphan, from which Vaa3D draws an edge to the first node.

    That edge has 11 points at 0, 1, .., 5, .., 1, 0 from the two lines: sum 25, of which 2, 3, 4, 5, 4, 3, 2 (sum 23)
    count as different. With 2 x 11 points of the lines: 25 / 33 and 0 on the way back, mean 25 / 66.
    """
    xyz, parents = [(0, 0, 0), (10, 0, 0), (0, 10, 0), (10, 10, 0)], [-1, 0, -1, 2]
    file, cleaned = make(xyz, parents, orphans=[2]), make(xyz, parents)
    default = tree_scores(pred=cleaned, gold=file)
    assert (default.esa, default.dsa, default.pds, default.f1) == (0.0, 0.0, 0.0, 1.0)
    compat = tree_scores(pred=cleaned, gold=file, vaa3d_compat=True)
    assert compat.esa == pytest.approx(25 / 66)
    assert compat.dsa == pytest.approx(23 / 7)
    assert compat.pds == pytest.approx(7 / 66)
    assert (compat.f1, compat.length_gold) == (1.0, 20.0)  # the edge that is none has no length


def test_a_first_node_that_is_an_orphan_is_a_point_of_vaa3ds():
    lone = make([(5, 0, 0), (0, 0, 0), (10, 0, 0)], [-1, -1, 1], orphans=[0])
    expected = slow_vaa3d(lone, straight(10), compat=True)
    scores = tree_scores(pred=lone, gold=straight(10), vaa3d_compat=True)
    assert (scores.esa, scores.dsa, scores.pds) == pytest.approx(expected)


def test_real_gold_against_its_cleaned_copy_with_and_without_vaa3ds_orphan_edges(data_dir):
    files = sorted((data_dir / "swc" / "CWMBS").glob("*.swc"))
    assert len(files) == 60
    compat = {}
    for path in files:
        gold = read_swc(path)
        cleaned = replace(gold, orphans=np.empty(0, np.int64))
        scores = tree_scores(pred=cleaned, gold=gold)
        assert (scores.esa, scores.dsa, scores.pds, scores.f1) == (pytest.approx(0, abs=1e-9), 0.0, 0.0, 1.0)
        compat[path.stem] = tree_scores(pred=cleaned, gold=gold, vaa3d_compat=True)
        if gold.n_nodes < 160:
            distances = (compat[path.stem].esa, compat[path.stem].dsa, compat[path.stem].pds)
            assert distances == pytest.approx(slow_vaa3d(cleaned, gold, compat=True), abs=1e-9)
    assert all(scores.esa > 0.1 and scores.f1 == 1.0 for scores in compat.values())
    assert max(scores.esa for scores in compat.values()) > 3.0
