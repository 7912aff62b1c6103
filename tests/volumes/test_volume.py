from pathlib import Path

import nibabel
import nrrd
import numpy as np
import pytest
import tifffile
from cuts import outcome_of_cut
from hypothesis import given, settings
from hypothesis import strategies as st
from stored import write_h5, write_ims
from v3dpy.loaders import PBD, Raw

from distill3d.errors import InputError
from distill3d.volumes import volume
from distill3d.volumes.stack_files import FILE_SUFFIXES
from distill3d.volumes.volume import Volume, open_volume, read_volume, write_volume

SPACING = (3.03, 0.5, 0.25)


@pytest.fixture
def stack() -> np.ndarray:
    """[Z, Y, X] of three different lengths, every voxel another value: any swapped axis shows."""
    return np.arange(1, 1 + 5 * 7 * 6, dtype=np.uint8).reshape(5, 7, 6)


def write_any(path: Path, data: np.ndarray) -> None:
    """Write ``data`` [Z, Y, X] with each format's own library."""
    if path.name.endswith((".nii", ".nii.gz")):
        nibabel.save(nibabel.Nifti1Image(data.transpose(), np.eye(4)), path)
    elif path.suffix in {".nrrd", ".nhdr"}:
        nrrd.write(str(path), data, index_order="C", detached_header=path.suffix == ".nhdr")
    elif path.suffix in {".h5", ".hdf5"}:
        write_h5(path, data)
    elif path.suffix == ".ims":
        write_ims(path, data)
    elif path.suffix == ".npy":
        np.save(path, data)
    elif path.suffix == ".v3draw":
        Raw().save(str(path), data[None])
    elif path.suffix == ".v3dpbd":
        PBD().save(str(path), data[None])
    else:
        tifffile.imwrite(path, data, compression="lzw")


@pytest.mark.parametrize("suffix", FILE_SUFFIXES)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_format_gives_the_same_array(tmp_path, stack, suffix, dtype):
    path = tmp_path / f"stack{suffix}"
    data = stack.astype(dtype) * (1 if dtype == np.uint8 else 257)
    write_any(path, data)
    read = read_volume(path, spacing_um=SPACING)
    np.testing.assert_array_equal(read.data, data)
    assert (read.data.dtype, read.spacing_um) == (dtype, SPACING)
    assert read.data.flags.writeable
    assert read.data.flags.c_contiguous


@pytest.mark.parametrize("suffix", FILE_SUFFIXES)
def test_a_truncated_file_never_becomes_another_volume(tmp_path, suffix):
    """Wherever a file is cut, the answer is one line that names it (or the whole array, if only a tail was lost)."""
    path = tmp_path / f"stack{suffix}"
    data = np.random.default_rng(0).integers(1, 99, (5, 17, 16), np.uint8)
    write_any(path, data)
    content = path.read_bytes()
    cuts = sorted({*range(0, len(content), max(len(content) // 40, 1)), len(content) - 1})
    assert sum(outcome_of_cut(path, content[:cut], data) == "whole" for cut in cuts) <= 2


shapes = st.tuples(*[st.integers(1, 6)] * 3)
spacings = st.tuples(*[st.floats(1e-3, 1e3)] * 3)


@given(
    shape=shapes, spacing=spacings, dtype=st.sampled_from([np.uint8, np.uint16, np.float32]), seed=st.integers(0, 99)
)
@settings(max_examples=60, deadline=None)
def test_writing_and_reading_keeps_array_and_spacing(tmp_path_factory, shape, spacing, dtype, seed):
    data = np.random.default_rng(seed).integers(1, 200, shape).astype(dtype)
    path = tmp_path_factory.mktemp("v") / "a.tif"
    write_volume(path, Volume(data, spacing))
    read = read_volume(path)
    np.testing.assert_array_equal(read.data, data)
    assert read.data.dtype == dtype
    assert read.spacing_um == pytest.approx(spacing, rel=1e-6)
    assert list(path.parent.iterdir()) == [path]  # no partial file is left


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, stack, monkeypatch):
    path = tmp_path / "a.tif"
    write_volume(path, Volume(stack, SPACING))
    before = path.read_bytes()

    def fail(partial, *_args, **_kwargs):
        Path(partial).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(tifffile, "imwrite", fail)
    with pytest.raises(OSError, match="disk full"):
        write_volume(path, Volume(stack + 1, SPACING))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_nrrd_directions_are_the_spacing_in_zyx(tmp_path, stack):
    header = {"space dimension": 3, "space directions": np.diag([0.25, 0.5, 3.03]), "space units": ["microns"] * 3}
    nrrd.write(str(tmp_path / "a.nrrd"), stack, header, index_order="C")
    read = read_volume(tmp_path / "a.nrrd")
    np.testing.assert_array_equal(read.data, stack)
    assert read.spacing_um == pytest.approx(SPACING)


@pytest.mark.parametrize(
    "header",
    [
        {"spacings": [0.25, 0.5], "units": ["um", "um"]},
        {"space dimension": 2, "space directions": [[250, 0], [0, 500]], "space units": ["nm", "nm"]},
    ],
)
def test_the_sizes_of_a_pixel_of_one_nrrd_slice_are_its_spacing(tmp_path, stack, header):
    nrrd.write(str(tmp_path / "a.nrrd"), stack[0], header, index_order="C")
    read = read_volume(tmp_path / "a.nrrd")
    assert read.shape == (1, *stack.shape[1:])
    assert read.spacing_um == pytest.approx((1.0, 0.5, 0.25))


@pytest.mark.parametrize("name", ["a.tif", "a.nrrd", "a.nii", "a.npy", "a.v3draw"])
def test_a_stack_of_one_channel_has_no_other(tmp_path, stack, name):
    write_any(tmp_path / name, stack)
    assert read_volume(tmp_path / name).shape == stack.shape
    with pytest.raises(InputError, match=r"channel 1 asked for; this file has channels 0\.\.0"):
        read_volume(tmp_path / name, channel=1)


def test_nrrd_spacings_are_the_spacing_in_zyx(tmp_path, stack):
    nrrd.write(str(tmp_path / "a.nrrd"), stack, {"spacings": [0.25, 0.5, 3.03]}, index_order="C")
    assert read_volume(tmp_path / "a.nrrd").spacing_um == pytest.approx(SPACING)


def test_the_channel_axis_of_a_nrrd_is_the_one_outside_space(tmp_path, stack):
    both = np.stack([stack, 255 - stack], axis=-1)  # C order: channel fastest, as VectorImages store it
    directions = np.vstack([np.full(3, np.nan), np.diag([0.25, 0.5, 3.03])])
    header = {"space dimension": 3, "space directions": directions, "kinds": ["vector", *["domain"] * 3]}
    nrrd.write(str(tmp_path / "a.nrrd"), both, header, index_order="C")
    read = read_volume(tmp_path / "a.nrrd", channel=1)
    np.testing.assert_array_equal(read.data, both[..., 1])
    assert read.spacing_um == pytest.approx(SPACING)


def test_a_detached_header_lies_in_two_files_and_needs_both(tmp_path, stack):
    nrrd.write(str(tmp_path / "a.nhdr"), stack, index_order="C", detached_header=True)
    assert volume.volume_files(tmp_path / "a.nhdr") == (tmp_path / "a.nhdr", tmp_path / "a.raw.gz")
    (tmp_path / "a.raw.gz").unlink()
    with pytest.raises(InputError, match=r"a\.nhdr: its data file .*a\.raw\.gz is not there"):
        read_volume(tmp_path / "a.nhdr")


def test_nifti_zooms_are_the_spacing_in_zyx(tmp_path, stack):
    image = nibabel.Nifti1Image(stack.transpose(), np.diag([0.25e-3, 0.5e-3, 3.03e-3, 1]))
    image.header.set_xyzt_units("mm")
    nibabel.save(image, tmp_path / "a.nii.gz")
    read = read_volume(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read.data, stack)
    assert read.spacing_um == pytest.approx(SPACING, rel=1e-5)


def test_the_argument_wins_over_the_file(tmp_path, stack):
    write_volume(tmp_path / "a.tif", Volume(stack, SPACING))
    assert read_volume(tmp_path / "a.tif", spacing_um=(2, 1, 1)).spacing_um == (2.0, 1.0, 1.0)


def test_a_missing_spacing_is_warned_of_once(tmp_path, stack, caplog, monkeypatch):
    monkeypatch.setattr(volume, "_SPACING_WARNED", [])
    np.save(tmp_path / "a.npy", stack)
    for _ in range(3):
        assert read_volume(tmp_path / "a.npy").spacing_um == (1.0, 1.0, 1.0)
    assert caplog.text.count("states no spacing") == 1


@pytest.mark.parametrize(
    ("stored", "kept"),
    [
        (bool, np.uint8),
        (np.int64, np.uint16),
        (np.int16, np.uint16),
        (np.float64, np.float32),
        (np.float16, np.float32),
        (">u2", np.uint16),
        (">f4", np.float32),
        (np.uint16, np.uint16),
    ],
)
def test_dtypes_become_one_of_three_with_the_same_values(stored, kept):
    data = np.array([[[0, 1, 1]]]).astype(stored)
    read = Volume(data).data
    assert read.dtype == kept
    assert read.dtype.isnative
    np.testing.assert_array_equal(read, data)


def test_negative_whole_numbers_become_float32():
    assert Volume(np.array([[[-5, 3]]])).data.dtype == np.float32


def test_an_accepted_array_is_not_copied(stack):
    assert np.shares_memory(Volume(stack).data, stack)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_not_finite_are_refused(tmp_path, value):
    data = np.ones((2, 3, 4), np.float32)
    data[1, 2, 3] = value
    np.save(tmp_path / "a.npy", data)
    with pytest.raises(InputError, match=r"a\.npy: holds NaN"):
        read_volume(tmp_path / "a.npy")


@pytest.mark.parametrize("suffix", [".npy", ".zarr"])
def test_a_part_with_voxels_that_are_not_finite_is_refused_when_it_is_read(tmp_path, suffix):
    data = np.ones((4, 6, 8), np.float32)
    data[3, 5, 7] = np.nan
    path = tmp_path / f"a{suffix}"
    np.save(path, data) if suffix == ".npy" else write_volume(path, Volume(data))
    opened = open_volume(path)
    assert np.asarray(opened.data[:3, :, :]).min() == 1
    with pytest.raises(InputError, match=rf"a\{suffix}: holds NaN or infinite voxels; finite"):
        opened.data[2:, :, 4:]


def test_a_volume_of_zeros_is_refused_unless_it_may_be_blank(tmp_path):
    write_volume(tmp_path / "a.tif", Volume(np.zeros((2, 3, 4), np.uint8)))
    with pytest.raises(InputError, match="every voxel is 0"):
        read_volume(tmp_path / "a.tif")
    assert not read_volume(tmp_path / "a.tif", allow_blank=True).data.any()


@pytest.mark.parametrize("shape", [(4,), (2, 2, 2, 2, 2), (0, 3, 3)])
def test_arrays_that_are_no_volume_are_refused(tmp_path, shape):
    np.save(tmp_path / "a.npy", np.ones(shape, np.uint8))
    with pytest.raises(InputError, match=r"a\.npy"):
        read_volume(tmp_path / "a.npy")


@pytest.mark.parametrize("suffix", FILE_SUFFIXES)
def test_missing_empty_and_wrong_files_are_one_line_with_the_path(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    with pytest.raises(InputError, match="no such file"):
        read_volume(path)
    path.touch()
    with pytest.raises(InputError, match="empty"):
        read_volume(path)
    path.write_bytes(b"this is no image at all, but it is long enough to hold a header\n" * 9)
    with pytest.raises(InputError) as caught:
        read_volume(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.zip", "a.png", "a", "a.gz", "a.czi", "a.LIF", "a.lsm", "a.nd2", "a.mha"])
def test_an_unknown_suffix_lists_the_accepted_ones(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(InputError, match=r"\.v3dpbd .*\.nii\.gz"):
        read_volume(tmp_path / name)


def test_a_folder_is_no_volume(tmp_path):
    (tmp_path / "a.tif").mkdir()
    with pytest.raises(InputError, match="no such file"):
        read_volume(tmp_path / "a.tif")


@pytest.mark.parametrize("spacing", [(1, 1), (0, 1, 1), (1, -1, 1), (1, 1, np.nan), (1, np.inf, 1)])
def test_a_spacing_that_is_none_is_refused(stack, spacing):
    with pytest.raises(InputError, match="three finite numbers > 0"):
        Volume(stack, spacing)


def test_only_tiff_and_zarr_are_written(tmp_path, stack):
    with pytest.raises(InputError, match=r"\.tif, \.tiff and \.zarr are accepted"):
        write_volume(tmp_path / "a.nrrd", Volume(stack))
    assert not list(tmp_path.iterdir())


def test_every_real_stack_reads_in_the_shape_the_manifest_gives(data_dir):
    paths = [
        p for p in sorted(data_dir.rglob("*.tif")) if p.parent.name in {"pairs", "masks", "unlabelled", "vessel2d"}
    ]
    assert len(paths) >= 30
    for path in paths:
        read = read_volume(path)
        with tifffile.TiffFile(path) as tif:
            np.testing.assert_array_equal(read.data[-1], tif.pages[len(tif.pages) - 1].asarray())
            assert read.shape[0] == len(tif.pages)
