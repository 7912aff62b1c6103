import logging

import numpy as np
import pytest
import tifffile
from cuts import outcome_of_cut

from distill3d.errors import InputError
from distill3d.volumes import tiff
from distill3d.volumes.volume import Volume, read_volume, write_volume

SPACING = (3.03, 0.5, 0.25)


@pytest.fixture
def stack() -> np.ndarray:
    """[Z, Y, X] of three different lengths, every voxel another value: any swapped axis shows."""
    return np.arange(1, 1 + 5 * 7 * 6, dtype=np.uint8).reshape(5, 7, 6)


@pytest.mark.parametrize(
    "options",
    [
        {"metadata": None},
        {"imagej": True, "metadata": {"axes": "ZYX"}},
        {"imagej": True, "metadata": {"axes": "TYX"}},
        {"ome": True, "metadata": {"axes": "ZYX"}},
        {"metadata": None, "contiguous": False, "compression": "zlib"},
        {"imagej": True, "compression": "lzw"},
    ],
    ids=str,
)
def test_a_truncated_tiff_never_becomes_a_shorter_stack(tmp_path, options):
    path, data = tmp_path / "a.tif", np.random.default_rng(0).integers(1, 99, (5, 17, 16), np.uint8)
    options = dict(options)
    if options.pop("contiguous", True):
        tifffile.imwrite(path, data, **options)
    else:
        with tifffile.TiffWriter(path) as writer:
            for page in data:
                writer.write(page, contiguous=False, **options)
    np.testing.assert_array_equal(read_volume(path).data, data)
    content = path.read_bytes()
    outcomes = {outcome_of_cut(path, content[:cut], data) for cut in range(0, len(content), 61)}
    assert "refused" in outcomes


def test_a_stack_too_large_for_imagej_keeps_array_and_spacing(tmp_path, stack, monkeypatch):
    monkeypatch.setattr(tiff, "_IMAGEJ_BYTES", 10)
    write_volume(tmp_path / "a.tif", Volume(stack, SPACING))
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        assert tif.is_bigtiff
        assert tif.is_ome
    read = read_volume(tmp_path / "a.tif")
    np.testing.assert_array_equal(read.data, stack)
    assert read.spacing_um == pytest.approx(SPACING)


@pytest.mark.parametrize(
    ("axes", "expected"),
    [("ZYX", (5, 7, 6)), ("TYX", (5, 7, 6)), ("CYX", (5, 7, 6)), ("YX", (1, 7, 6))],
)
def test_imagej_axes_become_zyx_and_are_logged(tmp_path, stack, caplog, axes, expected):
    data = stack if len(axes) == 3 else stack[0]
    tifffile.imwrite(tmp_path / "a.tif", data, imagej=True, metadata={"axes": axes})
    with caplog.at_level(logging.INFO):
        read = read_volume(tmp_path / "a.tif")
    np.testing.assert_array_equal(read.data, data.reshape(expected))
    assert f"read as ZYX {expected}" in caplog.text


@pytest.mark.parametrize("flavor", ["imagej", "ome"])
def test_the_asked_channel_of_a_stack_is_read(tmp_path, stack, flavor):
    both = np.stack([stack, 255 - stack], axis=1)
    tifffile.imwrite(tmp_path / "a.tif", both, metadata={"axes": "ZCYX"}, **{flavor: True})
    for channel in (0, 1):
        np.testing.assert_array_equal(read_volume(tmp_path / "a.tif", channel=channel).data, both[:, channel])
    with pytest.raises(InputError, match=r"channel 2 .* channels 0\.\.1"):
        read_volume(tmp_path / "a.tif", channel=2)


def test_one_color_of_an_rgb_stack_is_read_and_said(tmp_path, stack, caplog):
    rgb = np.stack([stack, stack + 1, stack // 2 + 1], axis=-1)
    tifffile.imwrite(tmp_path / "a.tif", rgb, photometric="rgb")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.tif", channel=2).data, rgb[..., 2])
    assert "RGB" in caplog.text


def test_a_time_series_of_stacks_is_refused(tmp_path, stack):
    tifffile.imwrite(tmp_path / "a.tif", np.stack([stack, stack]), imagej=True, metadata={"axes": "TZYX"})
    with pytest.raises(InputError, match="more than one stack"):
        read_volume(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("unit", "factor"), [("um", 1), ("micron", 1), ("\\u00B5m", 1), ("nm", 1e-3), ("mm", 1e3), ("pixel", 1)]
)
def test_imagej_units_become_micrometers(tmp_path, stack, unit, factor):
    metadata = {"axes": "ZYX", "spacing": 4.0, "unit": unit}
    tifffile.imwrite(tmp_path / "a.tif", stack, imagej=True, resolution=(8.0, 2.0), metadata=metadata)
    assert read_volume(tmp_path / "a.tif").spacing_um == pytest.approx((4.0 * factor, 0.5 * factor, 0.125 * factor))


def test_ome_units_become_micrometers(tmp_path, stack):
    metadata = {"axes": "ZYX", "PhysicalSizeX": 250.0, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.5}
    metadata |= {"PhysicalSizeZ": 0.003, "PhysicalSizeZUnit": "mm"}
    tifffile.imwrite(tmp_path / "a.ome.tif", stack, ome=True, metadata=metadata)
    assert read_volume(tmp_path / "a.ome.tif").spacing_um == pytest.approx((3.0, 0.5, 0.25))


def append(path, *images, **how):
    for image in images:
        tifffile.imwrite(path, image, append=path.exists(), **how)


@pytest.mark.parametrize(
    "how", [{}, {"compression": "zlib"}, {"metadata": None}, {"photometric": "minisblack"}], ids=str
)
def test_slices_that_were_appended_one_by_one_are_a_stack(tmp_path, stack, how):
    append(tmp_path / "a.tif", *stack, **how)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.tif").data, stack)
    colored = np.stack([stack, 255 - stack, stack // 2], axis=-1)
    append(tmp_path / "b.tif", *colored, photometric="rgb")
    np.testing.assert_array_equal(read_volume(tmp_path / "b.tif", channel=1).data, 255 - stack)


def test_of_images_that_are_no_slices_the_largest_is_read_and_two_are_refused(tmp_path, stack):
    append(tmp_path / "a.tif", stack[0, :3], stack, stack[:2])
    np.testing.assert_array_equal(read_volume(tmp_path / "a.tif").data, stack)
    append(tmp_path / "b.tif", stack, stack)
    with pytest.raises(InputError, match=r"b\.tif: holds 2 images \(.* \(5, 7, 6\) uint8\), .*; accepted: one that is"):
        read_volume(tmp_path / "b.tif")
    append(tmp_path / "c.tif", stack[0], stack[0].astype(np.uint16))
    with pytest.raises(InputError, match=r"c\.tif: holds 2 images \(YX \(7, 6\) uint16 and YX \(7, 6\) uint8\)"):
        read_volume(tmp_path / "c.tif")


def test_dots_per_inch_of_a_plain_tiff_are_no_spacing(tmp_path, stack):
    tifffile.imwrite(tmp_path / "a.tif", stack, resolution=(72, 72), resolutionunit="INCH", metadata=None)
    assert read_volume(tmp_path / "a.tif").spacing_um == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("spacing", [{}, {"spacing": 1.0}])
def test_dots_per_inch_that_fiji_saved_are_no_spacing_either(tmp_path, stack, spacing):
    metadata = {"axes": "ZYX", "unit": "inch", **spacing}
    tifffile.imwrite(tmp_path / "a.tif", stack, imagej=True, resolution=(72, 72), metadata=metadata)
    assert read_volume(tmp_path / "a.tif").spacing_um == (1.0, 1.0, 1.0)


def test_an_imagej_stack_with_fewer_slices_than_it_states_is_refused(tmp_path, stack):
    """ImageJ writes 4 GB and more with one page only: nothing but its description tells the length."""
    stated = "ImageJ=1.54f\nimages=5\nslices=5\n"
    tifffile.imwrite(tmp_path / "a.tif", stack[0], description=stated, metadata=None)
    with pytest.raises(InputError, match=r"a\.tif: truncated TIFF"):
        read_volume(tmp_path / "a.tif")


def test_an_ome_stack_with_fewer_slices_than_it_states_is_refused(tmp_path, stack):
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, stack, ome=True, metadata={"axes": "ZYX"})
    content = path.read_bytes()
    assert b'SizeZ="5"' in content
    path.write_bytes(content.replace(b'SizeZ="5"', b'SizeZ="9"').replace(b'PlaneCount="5"', b'PlaneCount="9"'))
    with pytest.raises(InputError, match=r"a\.ome\.tif"):
        read_volume(path)
