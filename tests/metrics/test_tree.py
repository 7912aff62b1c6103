from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from distill3d.errors import InputError
from distill3d.metrics.tree import tree_scores
from distill3d.metrics.tree_distance import Segments, nearest_distances
from distill3d.swc import read_swc
from distill3d.tree import Tree

OP = ("OP_1", "OP_2", "OP_3", "OP_5", "OP_6")
EMPTY = Tree(np.empty((0, 3)), np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64))


def make(xyz, parents, orphans=()) -> Tree:
    n = len(parents)
    points = np.array(xyz, float).reshape(n, 3)[:, ::-1]
    return Tree(points, np.ones(n), np.array(parents), np.full(n, 3), np.array(orphans, np.int64))


def straight(length: float, y: float = 0.0) -> Tree:
    return make([(0, y, 0), (length, y, 0)], [-1, 0])


def moved(tree: Tree, shift_zyx) -> Tree:
    return replace(tree, points_zyx_um=tree.points_zyx_um + np.array(shift_zyx, float))


# A second, slow version of section 9 of the methods: no index, one pair of point and segment at a time.


def slow_gap(point, a, b) -> float:
    along = b - a
    t = 0.0 if not along.any() else min(max(float(np.dot(point - a, along) / np.dot(along, along)), 0.0), 1.0)
    return float(np.linalg.norm(point - (a + t * along)))


def slow_edges(tree: Tree, compat: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    p = tree.points_zyx_um
    edges = [(p[i], p[parent]) for i, parent in enumerate(tree.parents) if parent >= 0]
    if compat:
        edges += [(p[i], p[0]) for i in tree.orphans]
    return edges or [(point, point) for point in p]


def slow_points(edges) -> list[np.ndarray]:
    points = []
    for a, b in edges:
        n = int(1 + np.linalg.norm(b - a) + 0.5)
        points += [a] if n <= 1 else [a + (b - a) * j / (n - 1) for j in range(n)]
    return points


def slow_vaa3d(pred: Tree, gold: Tree, compat: bool = False) -> tuple[float, float, float]:
    one, other = slow_edges(pred, compat), slow_edges(gold, compat)
    means, apart, shares = [], [], []
    for mine, yours in ((one, other), (other, one)):
        distances = [min(slow_gap(point, a, b) for a, b in yours) for point in slow_points(mine)]
        different = [d for d in distances if d >= 2.0 - 1e-9]
        means.append(sum(distances) / len(distances))
        shares.append(len(different) / len(distances))
        apart += [sum(different) / len(different)] if different else []
    return sum(means) / 2, sum(apart) / len(apart) if apart else 0.0, sum(shares) / 2


def slow_share(tree: Tree, of: Tree, tolerance: float) -> float:
    right = total = 0.0
    edges = slow_edges(tree, compat=False)
    all_points = all(np.linalg.norm(b - a) == 0 for a, b in edges)
    for a, b in edges:
        length = float(np.linalg.norm(b - a))
        pieces = max(1, int(np.ceil(length)))
        for j in range(pieces):
            middle = a + (b - a) * (j + 0.5) / pieces
            weight = 1.0 if all_points else length / pieces
            near = min(slow_gap(middle, c, d) for c, d in slow_edges(of, compat=False)) <= tolerance + 1e-9
            right, total = right + weight * near, total + weight
    return right / total


@st.composite
def trees(draw) -> Tree:
    """Several roots, orphans, and, as coordinates are few, edges without length and edges that lie on each other."""
    n = draw(st.integers(1, 14))
    coordinate = draw(st.sampled_from([st.integers(0, 3), st.integers(-9, 9), st.floats(-20, 20, width=32)]))
    xyz = draw(st.lists(st.tuples(coordinate, coordinate, coordinate), min_size=n, max_size=n))
    parents = [draw(st.integers(-1, i - 1)) for i in range(n)]
    roots = [i for i, parent in enumerate(parents) if parent < 0]
    return make(xyz, parents, [i for i in roots if draw(st.booleans())])


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


@given(pred=trees(), gold=trees(), tolerance=st.sampled_from([0.0, 1.0, 2.5, 4.0]))
@settings(max_examples=100, deadline=None)
def test_shares_of_length_are_those_of_all_pairs(pred, gold, tolerance):
    scores = tree_scores(pred=pred, gold=gold, tolerance=tolerance)
    assert scores.precision == pytest.approx(slow_share(pred, gold, tolerance), abs=1e-9)
    assert scores.recall == pytest.approx(slow_share(gold, pred, tolerance), abs=1e-9)


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
    found = tree_scores(pred=straight(10), gold=straight(5.25), unit="um", spacing_um=(0.1,) * 3, tolerance=0.0)
    assert found.precision == pytest.approx(0.525, abs=0.006)


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
            found = (compat[path.stem].esa, compat[path.stem].dsa, compat[path.stem].pds)
            assert found == pytest.approx(slow_vaa3d(cleaned, gold, compat=True), abs=1e-9)
    assert all(scores.esa > 0.1 and scores.f1 == 1.0 for scores in compat.values())
    assert max(scores.esa for scores in compat.values()) > 3.0
