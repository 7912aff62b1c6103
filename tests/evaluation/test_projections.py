"""What `evaluate` leaves of a case seen from above: the right values, the same when read again, one line if broken."""

import dataclasses

import numpy as np
import pytest

from distill3d.errors import InputError
from distill3d.evaluation.figures.case import IS_FALSE, IS_HIT, IS_LOST, IS_UNKNOWN, NOTHING
from distill3d.evaluation.projections import project, read_projections, write_projections
from distill3d.volumes.tree import Tree


def projected(tree):
    shape = (3, 4, 5)
    image = np.arange(60, dtype=np.uint16).reshape(shape)
    gold, pred, known = np.zeros(shape, bool), np.zeros(shape, bool), np.ones(shape, bool)
    gold[1, 0, 0] = pred[1, 0, 0] = gold[0, 1, 1] = pred[2, 2, 2] = True
    known[:, 3] = False
    return project(image, gold=gold, known=known, pred=pred, spacing_um=(2.0, 0.5, 0.25), tree=tree)


def test_a_case_is_seen_along_z_and_its_bright_voxels_are_white():
    seen = projected(None)
    expected = np.full((4, 5), NOTHING)
    expected[0, 0], expected[1, 1], expected[2, 2], expected[3] = IS_HIT, IS_LOST, IS_FALSE, IS_UNKNOWN
    assert (seen.errors == expected).all()
    assert np.argwhere(seen.gold).tolist() == [[0, 0], [1, 1]]
    assert (seen.image.dtype, seen.image[0, 0], seen.image[3, 4]) == (np.uint8, 0, 255)
    assert (np.diff(seen.image.ravel().astype(int)) >= 0).all()


def test_the_image_is_seen_along_y_and_x_too_and_files_of_before_that_are_read(tmp_path):
    seen, path = projected(None), tmp_path / "case.npz"
    assert seen.along_y.shape == (3, 5)
    assert seen.along_x.shape == (3, 4)
    assert (seen.along_y[-1, -1], seen.along_x[-1, -1]) == (255, 255)
    write_projections(path, seen)
    again = read_projections(path)
    assert (again.along_y == seen.along_y).all()
    assert (again.along_x == seen.along_x).all()
    write_projections(path, dataclasses.replace(seen, along_y=None, along_x=None))
    again = read_projections(path)
    assert (again.along_y, again.along_x) == (None, None)
    assert (again.image == seen.image).all()


@pytest.mark.parametrize("n_nodes", [None, 0, 3])
def test_what_is_read_is_what_was_written_also_without_a_tree_and_with_an_empty_one(tmp_path, n_nodes):
    tree = None
    if n_nodes is not None:
        points = np.random.default_rng(0).random((n_nodes, 3))
        tree = Tree(points, np.ones(n_nodes), np.arange(n_nodes) - 1, np.full(n_nodes, 3))
    seen, path = projected(tree), tmp_path / "new" / "case.npz"
    write_projections(path, seen)
    again = read_projections(path)
    for name in ("image", "gold", "errors"):
        values, expected = getattr(again, name), getattr(seen, name)
        assert values.dtype == expected.dtype
        assert (values == expected).all()
    assert (again.spacing_um, again.depth) == ((2.0, 0.5, 0.25), 3)
    if tree is None:
        assert again.tree is None
    else:
        assert (again.tree.points_zyx_um == tree.points_zyx_um).all()
        assert again.tree.parents.tolist() == tree.parents.tolist()
    assert [file.name for file in path.parent.iterdir()] == ["case.npz"]


@pytest.mark.parametrize("harm", ["absent", "text", "cut", "lacking"])
def test_a_broken_file_is_one_line_that_names_it(tmp_path, harm):
    path = tmp_path / "case.npz"
    write_projections(path, projected(None))
    if harm == "absent":
        path.unlink()
    elif harm == "text":
        path.write_text("{] no such thing")
    elif harm == "cut":
        path.write_bytes(path.read_bytes()[:300])
    else:
        np.savez_compressed(path, image=np.zeros((2, 2), np.uint8))
    with pytest.raises(InputError, match=r"case\.npz: no projections .*accepted: what `distill3d evaluate` writes"):
        read_projections(path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"image": np.zeros((2, 2), np.uint8)},
        {"image": np.zeros((4, 5), np.float64)},
        {"gold": np.zeros((4, 5, 1), bool)},
        {"errors": np.full((4, 5), 99, np.uint8)},
        {"spacing_um": np.array([1.0, 0.0, 1.0])},
        {"spacing_um": np.array([1.0, np.nan, 1.0])},
        {"depth": np.array([1, 2])},
        {"along_y": np.zeros(4)},
        {"tree_points_zyx_um": np.full((1, 3), np.nan)},
        {"tree_points_zyx_um": np.full((1, 3), 1e300)},
        {"tree_parents": np.array([7])},
        {"more": np.zeros(1)},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_what_cannot_be_drawn_is_one_line(tmp_path, wrong):
    path = tmp_path / "case.npz"
    write_projections(path, projected(Tree(np.zeros((1, 3)), np.ones(1), np.array([-1]), np.array([3]))))
    with np.load(path) as arrays:
        fields = dict(arrays)
    assert read_projections(path).depth == 3
    np.savez_compressed(path, **fields | wrong)
    with pytest.raises(InputError, match=r"case\.npz: no projections ") as refused:
        read_projections(path)
    assert len(str(refused.value).splitlines()) == 1
