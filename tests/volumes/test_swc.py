from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill3d.errors import InputError
from distill3d.volumes.swc import Tree, read_swc, validate, write_swc


def swc(tmp_path: Path, text: str, newline: str = "\n") -> Path:
    path = tmp_path / "a.swc"
    path.write_bytes(text.replace("\n", newline).encode())
    return path


PLAIN = "1 1 10 20 30 2 -1\n2 3 11 20 30 1 1\n3 3 12 20 30 1 2\n4 3 11 21 30 1 2\n"


def random_tree(seed: int, n: int, n_roots: int = 1) -> Tree:
    """A forest whose node order is shuffled, so that parents may follow their children."""
    rng = np.random.default_rng(seed)
    parents = np.array([-1 if i < n_roots else rng.integers(i) for i in range(n)])
    order = rng.permutation(n)
    place = np.argsort(order)  # old index -> new index
    shuffled = np.where(parents[order] < 0, -1, place[parents[order]])
    return Tree(rng.uniform(-500, 500, (n, 3)), rng.uniform(0, 5, n), shuffled, rng.integers(0, 275, n))


def edge_set(tree: Tree) -> set[tuple]:
    """Edges as rounded coordinates of both ends: the same however nodes are numbered."""
    points = np.round(tree.points_zyx_um, 5)
    return {(*points[child], *points[parent]) for child, parent in tree.edges}


def test_file_columns_xyz_become_zyx(tmp_path):
    tree = read_swc(swc(tmp_path, PLAIN))
    np.testing.assert_array_equal(tree.points_zyx_um[0], [30, 20, 10])
    np.testing.assert_array_equal(tree.parents, [-1, 0, 1, 1])
    np.testing.assert_array_equal(tree.types, [1, 3, 3, 3])
    np.testing.assert_array_equal(tree.radii_um, [2, 1, 1, 1])


def test_spacing_turns_voxels_into_micrometers(tmp_path):
    tree = read_swc(swc(tmp_path, PLAIN), spacing_um=(3.0, 0.5, 2.0))
    np.testing.assert_allclose(tree.points_zyx_um[0], [90, 10, 20])
    np.testing.assert_allclose(tree.radii_um[0], 2.0)  # in plane sqrt(0.5 * 2) = 1 um a voxel


@pytest.mark.parametrize(
    "text",
    [
        PLAIN.replace(" ", "\t"),
        PLAIN.replace(" ", ","),
        PLAIN.replace(" ", ", "),
        "## name\n#id,type\n\n" + PLAIN + "\n  \n# end",
        "  " + PLAIN.replace("\n", "  \n  "),
        "\ufeff" + PLAIN,
        PLAIN.replace("\n", " 7 8\n"),
        PLAIN.replace("\n", " # remark\n"),
        PLAIN.rstrip(),
        "1.0e0 1.0 10. 2e1 30 2 -1.0\n2.0 3 11 20 30 1 1.0\n3.0 3 12 20 30 1 2.0\n4.0 3 11 21 30 1 2.000\n",
        "0 1 10 20 30 2 -1\n1 3 11 20 30 1 0\n2 3 12 20 30 1 1\n3 3 11 21 30 1 1\n",
        "100000 1 10 20 30 2 -1\n100001 3 11 20 30 1 100000\n9 3 12 20 30 1 100001\n3 3 11 21 30 1 100001\n",
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_every_dialect_gives_the_same_tree(tmp_path, text, newline):
    tree = read_swc(swc(tmp_path, text, newline))
    np.testing.assert_array_equal(tree.points_zyx_um, [[30, 20, 10], [30, 20, 11], [30, 20, 12], [30, 21, 11]])
    np.testing.assert_array_equal(tree.parents, [-1, 0, 1, 1])
    np.testing.assert_array_equal(tree.radii_um, [2, 1, 1, 1])


def test_a_parent_may_follow_its_child(tmp_path):
    tree = read_swc(swc(tmp_path, "7 3 1 0 0 1 5\n5 3 0 0 0 1 -1\n6 3 2 0 0 1 7\n"))
    np.testing.assert_array_equal(tree.parents, [1, -1, 0])


def test_minus_one_is_no_parent_even_where_it_is_an_id(tmp_path):
    np.testing.assert_array_equal(read_swc(swc(tmp_path, "5 1 0 0 0 1 -1\n-1 3 1 0 0 1 5\n")).parents, [-1, 0])


def test_a_missing_parent_makes_a_root_that_is_counted(tmp_path):
    tree = read_swc(swc(tmp_path, "1 1 0 0 0 1 -1\n2 3 1 0 0 1 99\n3 3 2 0 0 1 2\n4 3 5 0 0 1 0\n"))
    np.testing.assert_array_equal(tree.parents, [-1, -1, 1, -1])
    np.testing.assert_array_equal(tree.orphans, [1, 3])
    report = validate(tree)
    assert (report.n_roots, report.n_orphans) == (3, 2)


def test_a_radius_that_is_no_number_becomes_zero(tmp_path):
    tree = read_swc(swc(tmp_path, "1 1 0 0 0 nan -1\n2 3 1 0 0 inf 1\n3 3 1 0 0 0 1\n"))
    np.testing.assert_array_equal(tree.radii_um, 0)
    validate(tree)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no node found"),
        ("# only a comment\n\n", "no node found"),
        ("1 1 0 0 0 1 -1\n2 3 1 0 0 1\n", "line 2 has 6 columns"),
        ("# c\n1 1 0 0 0 1 -1\n2 3 one 0 0 1 1\n", "line 3 reads '2 3 one 0 0 1 1'"),
        ("# c\n\n1 1 0 0 0 1 -1\n2 3 nan 0 0 1 1\n", "line 4 holds a value that is not finite"),
        ("1 1 0 inf 0 1 -1\n", "line 1 holds a value that is not finite"),
        ("1 1 0 0 0 1 -1\n2.5 1 0 0 0 1 1\n", "line 2 has an id, type or parent that is not whole"),
        ("1 1 0 0 0 1 -1\n1 3 1 0 0 1 1\n", "id 1 is used by more than one node"),
        ("7 1 0 0 0 1 7\n", "node 7 is its own ancestor"),
        ("1 1 0 0 0 1 -1\n2 1 0 0 0 1 4\n3 1 0 0 0 1 2\n4 1 0 0 0 1 3\n", "node [234] is its own ancestor"),
    ],
)
def test_a_file_that_is_no_tree_is_one_line_with_path_and_place(tmp_path, text, message):
    with pytest.raises(InputError, match=message) as caught:
        read_swc(swc(tmp_path, text))
    assert "a.swc" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_named_node_of_a_cycle_is_in_it_not_below_it(tmp_path):
    below = "".join(f"{i} 1 0 0 0 1 {i - 1}\n" for i in range(20, 30))
    with pytest.raises(InputError, match=r"node (18|19) is"):
        read_swc(swc(tmp_path, below + "19 1 0 0 0 1 18\n18 1 0 0 0 1 19\n"))


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "no.swc", tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            read_swc(path)


def test_a_tree_without_nodes_is_written_and_read_where_it_may_be(tmp_path):
    empty = Tree.empty()
    write_swc(tmp_path / "e.swc", empty)
    assert read_swc(tmp_path / "e.swc", allow_empty=True).n_nodes == 0
    with pytest.raises(InputError, match="no node found"):
        read_swc(tmp_path / "e.swc")


spacings = st.tuples(*[st.floats(0.01, 100)] * 3)


@given(seed=st.integers(0, 10**6), n=st.integers(1, 40), n_roots=st.integers(1, 4), spacing=spacings)
@settings(max_examples=60, deadline=None)
def test_writing_and_reading_keeps_places_radii_and_topology(tmp_path_factory, seed, n, n_roots, spacing):
    tree = random_tree(seed, n, n_roots)
    path = tmp_path_factory.mktemp("t") / "a.swc"
    write_swc(path, tree, spacing_um=spacing)
    read = read_swc(path, spacing_um=spacing)
    lookup = np.argmin(((read.points_zyx_um[:, None] - tree.points_zyx_um[None]) ** 2).sum(-1), axis=1)
    np.testing.assert_allclose(read.points_zyx_um, tree.points_zyx_um[lookup], atol=1e-5)
    np.testing.assert_allclose(read.radii_um, tree.radii_um[lookup], atol=1e-5)
    np.testing.assert_array_equal(read.types, tree.types[lookup])
    np.testing.assert_array_equal(np.where(read.parents < 0, -1, lookup[read.parents]), tree.parents[lookup])
    assert (read.parents < np.arange(n)).all()  # parents come before children
    assert list(path.parent.iterdir()) == [path]


def test_a_file_in_order_is_written_in_its_order(tmp_path):
    tree = read_swc(swc(tmp_path, PLAIN))
    write_swc(tmp_path / "b.swc", tree)
    lines = [line for line in (tmp_path / "b.swc").read_text().splitlines() if not line.startswith("#")]
    assert lines == PLAIN.splitlines()


@given(seed=st.integers(0, 10**6), n=st.integers(2, 40))
@settings(max_examples=40, deadline=None)
def test_length_does_not_depend_on_rotation_or_numbering(seed, n):
    tree = random_tree(seed, n)
    rng = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    order = rng.permutation(n)
    place = np.argsort(order)
    parents = np.where(tree.parents[order] < 0, -1, place[tree.parents[order]])
    turned = Tree((tree.points_zyx_um @ rotation)[order], tree.radii_um[order], parents, tree.types[order])
    assert turned.length_um == pytest.approx(tree.length_um)
    assert (len(turned.tips), len(turned.branch_points)) == (len(tree.tips), len(tree.branch_points))


def test_report_counts_a_known_tree(tmp_path):
    report = validate(read_swc(swc(tmp_path, PLAIN)))
    assert (report.n_nodes, report.n_roots, report.n_orphans, report.n_tips) == (4, 1, 0, 2)
    assert report.length_um == 3.0  # three edges of one voxel


def test_validate_refuses_what_is_no_tree():
    def tree(points, parents):
        return Tree(np.array(points, float), np.ones(len(points)), np.array(parents), np.ones(len(points)))

    for points, parents, message in (
        ([[0, 0, 0], [1, 1, 1]], [1, 0], "its own ancestor"),
        ([[0, 0, 0], [1, np.nan, 1]], [-1, 0], "node 1 lies at"),
    ):
        with pytest.raises(InputError, match=message):
            validate(tree(points, parents))
    with pytest.raises(InputError, match=r"parents -1\.\.5"):
        tree([[0, 0, 0], [1, 1, 1]], [-1, 5])
    with pytest.raises(InputError, match="shapes"):
        Tree(np.zeros((2, 3)), np.ones(3), np.array([-1, 0]), np.ones(2))


def test_a_cyclic_tree_is_not_written(tmp_path):
    tree = Tree(np.zeros((2, 3)), np.ones(2), np.array([1, 0]), np.ones(2))
    with pytest.raises(InputError, match="cycle"):
        write_swc(tmp_path / "a.swc", tree)
    assert not list(tmp_path.iterdir())


def test_all_real_files_read_whole(data_dir, tmp_path):
    paths = sorted((data_dir / "swc").rglob("*.swc")) + sorted((data_dir / "pairs").glob("*.swc"))
    assert len(paths) == 115 + 5
    nodes = 0
    for path in paths:
        tree = read_swc(path)
        rows = [line for line in path.read_text(errors="replace").splitlines() if line.strip()[:1].isdigit()]
        assert validate(tree).n_nodes == len(rows)
        nodes += tree.n_nodes
    assert nodes > 300_000


@pytest.mark.parametrize(("name", "nodes", "tips", "length"), [("OP_1", 1496, 49, 2264), ("OP_6", 193, 18, 1312)])
def test_real_pairs_have_the_counts_their_readme_gives(data_dir, name, nodes, tips, length):
    report = validate(read_swc(data_dir / "pairs" / f"{name}.swc", spacing_um=(3.03, 1, 1)))
    assert (report.n_nodes, report.n_tips) == (nodes, tips)
    assert report.length_um == pytest.approx(length, abs=1)


def test_a_real_tree_with_many_orphans_survives_a_round_trip(data_dir, tmp_path):
    tree = max((read_swc(p) for p in sorted((data_dir / "swc" / "CWMBS").glob("*.swc"))), key=lambda t: len(t.orphans))
    assert len(tree.orphans) > 1
    write_swc(tmp_path / "a.swc", tree)
    read = read_swc(tmp_path / "a.swc")
    assert edge_set(read) == edge_set(tree)
    assert (len(read.roots), len(read.orphans)) == (len(tree.roots), 0)
