"""Two stacks of one space are brought to the same axes by their headers, or refused."""

import itertools

import nibabel
import nrrd
import numpy as np
import pytest

from distill3d.errors import InputError
from distill3d.volumes import tiff
from distill3d.volumes.geometry import Grid, Stated
from distill3d.volumes.placement import brought_to, contradict
from distill3d.volumes.prob import write_prob
from distill3d.volumes.volume import Volume, read_volume, write_volume

STACK = np.arange(1, 1 + 5 * 7 * 6, dtype=np.uint8).reshape(5, 7, 6)
SIZES_XYZ = np.array([0.25, 0.5, 1.5])
ORIGIN_XYZ = np.array([10.0, -20.0, 30.0])
NAMES = ("image", "mask")


def turned(order, signs):
    """The stack as XYZ with axes reordered and mirrored, and the affine that says where its voxels lie."""
    data = STACK.T.transpose(order)
    steps, origin = np.diag(SIZES_XYZ)[:, list(order)], ORIGIN_XYZ.copy()
    for axis, sign in enumerate(signs):
        if sign < 0:
            data = np.flip(data, axis)
            origin += steps[:, axis] * (data.shape[axis] - 1)
    return data, steps * signs, origin


def write(path, data_xyz, steps, origin, *, unit="micron"):
    if path.suffix == ".nii":
        affine = np.eye(4)
        affine[:3, :3], affine[:3, 3] = steps, origin
        image = nibabel.Nifti1Image(data_xyz, affine)
        image.header.set_xyzt_units(unit)
        nibabel.save(image, path)
    else:  # NRRD of medicine counts to the left and to the back
        to_lps = np.array([-1.0, -1.0, 1.0])
        header = {"space": "left-posterior-superior", "space directions": (steps * to_lps[:, None]).T}
        header |= {"space origin": origin * to_lps, "space units": [unit] * 3}
        nrrd.write(str(path), data_xyz, header, index_order="F")


TURNS = list(itertools.product([(0, 1, 2), (2, 0, 1)], [(1, 1, 1), (-1, 1, 1), (-1, -1, -1), (1, 1, -1)]))


@pytest.mark.parametrize(("image", "mask"), [("a.nii", "m.nii"), ("a.nrrd", "m.nrrd"), ("a.nii", "m.nrrd")])
@pytest.mark.parametrize(("order", "signs"), TURNS)
def test_a_stack_stored_turned_or_mirrored_lies_on_its_image_again(tmp_path, image, mask, order, signs):
    write(tmp_path / image, *turned((0, 1, 2), (1, -1, 1)))
    write(tmp_path / mask, *turned(order, signs))
    reference, stored = read_volume(tmp_path / image), read_volume(tmp_path / mask)
    brought = brought_to(reference, stored, names=NAMES)
    np.testing.assert_array_equal(brought.data, reference.data)
    assert brought.spacing_um == pytest.approx((1.5, 0.5, 0.25), rel=1e-5)
    again = brought_to(reference, brought, names=NAMES)
    assert again is brought  # its header was turned with it


@pytest.mark.parametrize("bytes_of_imagej", [2**32, 0], ids=["ImageJ", "OME"])
@pytest.mark.parametrize("suffix", [".nii", ".nrrd"])
def test_a_prediction_lies_where_the_stack_it_was_made_from_lies(tmp_path, monkeypatch, suffix, bytes_of_imagej):
    monkeypatch.setattr(tiff, "_IMAGEJ_BYTES", bytes_of_imagej)
    write(tmp_path / f"image{suffix}", *turned((2, 0, 1), (-1, 1, -1)))
    write(tmp_path / "gold.nii", *turned((0, 1, 2), (1, -1, 1)))
    image, gold = read_volume(tmp_path / f"image{suffix}"), read_volume(tmp_path / "gold.nii")
    write_prob(tmp_path / "prob.tif", image.data / 255, image.spacing_um, grid=image.stated.grid, made_from="sha256:0")
    prob = read_volume(tmp_path / "prob.tif")
    np.testing.assert_array_equal(prob.data, image.data)  # as stored
    np.testing.assert_array_equal(brought_to(gold, prob, names=NAMES).data, gold.data)


@pytest.mark.parametrize("origin", [None, np.array([1e-7, -2.5, 1e6])])
@pytest.mark.parametrize("space", ["", "3D-right-handed", "a b<&%=µ"])
def test_a_place_in_any_space_survives_the_header_of_a_tiff(tmp_path, space, origin):
    write_volume(tmp_path / "a.tif", Volume(STACK, stated=Stated(grid=Grid(np.diag([2.0, -0.3, 0.1]), origin, space))))
    grid = read_volume(tmp_path / "a.tif").stated.grid
    assert grid is not None
    assert grid.space == space
    np.testing.assert_array_equal(grid.axes, np.diag([2.0, -0.3, 0.1]))
    assert (grid.origin is None) if origin is None else np.array_equal(grid.origin, origin)


def test_a_unit_that_only_one_header_names_moves_nothing(tmp_path):
    write(tmp_path / "a.nii", *turned((0, 1, 2), (1, 1, 1)), unit="mm")
    write(tmp_path / "m.nii", *turned((0, 1, 2), (-1, 1, 1)), unit="unknown")
    reference, stored = read_volume(tmp_path / "a.nii"), read_volume(tmp_path / "m.nii")
    np.testing.assert_array_equal(brought_to(reference, stored, names=NAMES).data, reference.data)
    assert not contradict(reference.stated, stored.stated)


def oblique(data, steps, origin):
    angle = np.radians(10)
    rotation = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    return data, rotation @ steps, origin


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (oblique, "mask: its header turns its axes against those of image"),
        (
            lambda data, steps, origin: (data, steps, origin + np.array([0, 0, 1.5])),
            "mask: by its header it begins zyx 1 0 0 voxels",
        ),
        (lambda data, steps, origin: (data[::-1], steps * (-1, 1, 1), origin), "begins zyx 0 0 -5 voxels away"),
    ],
)
@pytest.mark.parametrize("suffix", [".nii", ".nrrd"])
def test_stacks_that_lie_elsewhere_or_askew_are_refused_in_one_line(tmp_path, change, message, suffix):
    placed = turned((0, 1, 2), (1, 1, 1))
    write(tmp_path / f"a{suffix}", *placed)
    write(tmp_path / f"m{suffix}", *change(*placed))
    reference, stored = read_volume(tmp_path / f"a{suffix}"), read_volume(tmp_path / f"m{suffix}")
    with pytest.raises(InputError, match=message) as caught:
        brought_to(reference, stored, names=NAMES)
    assert len(caught.value.lines) == 1


def test_two_oblique_stacks_of_one_place_are_left_as_they_are(tmp_path):
    write(tmp_path / "a.nii", *oblique(*turned((0, 1, 2), (1, 1, 1))))
    reference, stored = read_volume(tmp_path / "a.nii"), read_volume(tmp_path / "a.nii")
    assert brought_to(reference, stored, names=NAMES) is stored


def test_a_file_that_says_nothing_of_space_is_left_as_it_is(tmp_path):
    write(tmp_path / "a.nii", *turned((0, 1, 2), (-1, 1, 1)))
    placed, plain = read_volume(tmp_path / "a.nii"), Volume(STACK)
    assert brought_to(placed, plain, names=NAMES) is plain
    assert brought_to(plain, placed, names=NAMES) is placed


@pytest.mark.parametrize(
    ("a", "b", "apart"),
    [
        (Stated((1.5, 0.5, 0.25)), Stated((1.5, 0.5, 0.2501)), False),
        (Stated((1.5, 0.5, 0.25)), Stated((1.0, 1.0, 1.0)), True),
        (Stated((1.5, 0.5, 0.25)), Stated((1500.0, 500.0, 250.0)), True),
        (Stated((1.5, 0.5, 0.25)), Stated((1500.0, 500.0, 250.0), has_unit=False), False),
        (Stated((1.5, 0.5, 0.25)), Stated((0.25, 0.5, 1.5), has_unit=False), True),
        (Stated(), Stated((1.5, 0.5, 0.25)), False),
    ],
)
def test_spacings_contradict_each_other_by_more_than_rounding_and_a_missing_unit(a, b, apart):
    assert (contradict(a, b), contradict(b, a)) == (apart, apart)
