"""Voxel sizes as headers state them: each axis in its own unit, none that is not said."""

import logging
import struct

import nibabel
import nrrd
import numpy as np
import pytest
import tifffile

from distill3d.volumes import volume
from distill3d.volumes.volume import read_volume

STACK = np.arange(1, 1 + 5 * 7 * 6, dtype=np.uint8).reshape(5, 7, 6)
RIGHT = (1.5, 0.5, 0.25)
NOTHING = (1.0, 1.0, 1.0)
SAID_NOTHING = "states no spacing; 1 um"
NO_Z = "states no spacing along z;"
NO_LENGTH = "states no spacing in a unit of length"


def imagej(path, resolution=(4.0, 2.0), **metadata):
    tifffile.imwrite(path, STACK, imagej=True, resolution=resolution, metadata={"axes": "ZYX", **metadata})


def ome(path, sizes, unit=None, **further):
    metadata = {f"PhysicalSize{axis}": size for axis, size in zip("ZYX", sizes, strict=True) if size is not None}
    units = {} if unit is None else {f"{key}Unit": unit for key in metadata}
    tifffile.imwrite(path, STACK, ome=True, metadata={"axes": "ZYX", **metadata, **units, **further})


def nrrd_of(path, **header):
    nrrd.write(str(path), STACK, {key.replace("_", " "): value for key, value in header.items()}, index_order="C")


def directions(*sizes, units=None):
    return {
        "space_dimension": 3,
        "space_directions": np.diag(sizes),
        **({} if units is None else {"space_units": units}),
    }


def nifti(path, sizes, *, unit=0, pixdim=None, placed=True):
    image = nibabel.Nifti1Image(STACK.T, np.diag([*sizes, 1.0]))
    image.set_sform(image.affine, int(placed))
    image.set_qform(image.affine, int(placed))
    nibabel.save(image, path)
    content = bytearray(path.read_bytes())
    content[76 + 4 : 76 + 16] = struct.pack("<3f", *(pixdim or np.abs(sizes)))
    content[123] = unit
    path.write_bytes(content)


TIFF = {
    "ImageJ, z in its own unit": (lambda p: imagej(p, spacing=1500, unit="um", zunit="nm"), RIGHT, ""),
    "ImageJ, y and z in nm": (
        lambda p: imagej(p, (4.0, 0.002), spacing=1500, unit="um", yunit="nm", zunit="nm"),
        RIGHT,
        "",
    ),
    "ImageJ, British": (lambda p: imagej(p, (4e-3, 2e-3), spacing=1500, unit="nanometre"), RIGHT, ""),
    "ImageJ, British plural": (lambda p: imagej(p, spacing=1.5, unit="micrometres"), RIGHT, ""),
    "ImageJ, angstrom": (lambda p: imagej(p, (4e-4, 2e-4), spacing=15000, unit="\\u00C5"), RIGHT, ""),
    "ImageJ, decimal comma": (lambda p: imagej(p, spacing="1,5", unit="um"), RIGHT, ""),
    "ImageJ, z not said": (lambda p: imagej(p, (4e-3, 2e-3), unit="nm"), (1.0, 0.5, 0.25), NO_Z),
    "ImageJ, z in pixels": (lambda p: imagej(p, spacing=3.0, unit="um", zunit="pixel"), (1.0, 0.5, 0.25), NO_Z),
    "ImageJ, pixels": (lambda p: imagej(p, (1.0, 1.0), spacing=1.0, unit="pixel"), NOTHING, NO_LENGTH),
    "OME, nm": (lambda p: ome(p, (1500, 500, 250), "nm"), RIGHT, ""),
    "OME, mm": (lambda p: ome(p, (0.0015, 0.0005, 0.00025), "mm"), RIGHT, ""),
    "OME, angstrom": (lambda p: ome(p, (15000, 5000, 2500), "\u00c5"), RIGHT, ""),
    "OME, angstrom sign": (lambda p: ome(p, (15000, 5000, 2500), "\u212b"), RIGHT, ""),
    "OME, no unit is um": (lambda p: ome(p, RIGHT), RIGHT, ""),
    "OME, one axis in nm": (lambda p: ome(p, (1500, 0.5, 0.25), PhysicalSizeZUnit="nm"), RIGHT, ""),
    "OME, pixel": (lambda p: ome(p, (1, 1, 1), "pixel"), NOTHING, SAID_NOTHING),
    "OME, reference frame": (lambda p: ome(p, (9, 9, 9), "reference frame"), NOTHING, SAID_NOTHING),
    "OME, no Z": (lambda p: ome(p, (None, 0.5, 0.25)), (1.0, 0.5, 0.25), NO_Z),
    "OME, Z of 0": (lambda p: ome(p, (0, 0.5, 0.25)), (1.0, 0.5, 0.25), NO_Z),
    "OME, none": (lambda p: ome(p, (None, None, None)), NOTHING, SAID_NOTHING),
}
NRRD = {
    "spacings in nm": (lambda p: nrrd_of(p, spacings=[250, 500, 1500], units=["nm"] * 3), RIGHT, ""),
    "spacings, z in nm": (lambda p: nrrd_of(p, spacings=[0.25, 0.5, 1500], units=["um", "micron", "nm"]), RIGHT, ""),
    "spacings in pixels": (lambda p: nrrd_of(p, spacings=[2, 2, 2], units=["pixel"] * 3), NOTHING, SAID_NOTHING),
    "spacings without unit": (lambda p: nrrd_of(p, spacings=[0.25, 0.5, 1.5]), RIGHT, NO_LENGTH),
    "directions, z in nm": (lambda p: nrrd_of(p, **directions(0.25, 0.5, 1500, units=["um", "um", "nm"])), RIGHT, ""),
    "directions, mm": (lambda p: nrrd_of(p, **directions(-0.00025, 0.0005, 0.0015, units=["mm"] * 3)), RIGHT, ""),
    "directions without unit": (lambda p: nrrd_of(p, **directions(0.25, 0.5, 1.5)), RIGHT, NO_LENGTH),
    "directions, unit of z is no length": (
        lambda p: nrrd_of(p, **directions(0.25, 0.5, 9, units=["um", "um", "s"])),
        (1.0, 0.5, 0.25),
        NO_Z,
    ),
}
NIFTI = {
    "um": (lambda p: nifti(p, (0.25, 0.5, 1.5), unit=3), RIGHT, ""),
    "mm": (lambda p: nifti(p, (0.00025, 0.0005, 0.0015), unit=2), RIGHT, ""),
    "m": (lambda p: nifti(p, (2.5e-7, 5e-7, 1.5e-6), unit=1), RIGHT, ""),
    "um beside seconds": (lambda p: nifti(p, (0.25, 0.5, 1.5), unit=3 + 8), RIGHT, ""),
    "no unit": (lambda p: nifti(p, (0.25, 0.5, 1.5)), RIGHT, NO_LENGTH),
    "unit of no meaning": (lambda p: nifti(p, (0.25, 0.5, 1.5), unit=5), RIGHT, NO_LENGTH),
    "negative sizes": (lambda p: nifti(p, (0.25, 0.5, 1.5), unit=3, pixdim=(-0.25, 0.5, -1.5)), RIGHT, ""),
    "size of 0, placed": (lambda p: nifti(p, (0.25, 0.5, 1.5), unit=3, pixdim=(0.25, 0.5, 0.0)), RIGHT, ""),
    "size of 0": (
        lambda p: nifti(p, (0.25, 0.5, 1.5), unit=3, pixdim=(0.25, 0.5, 0.0), placed=False),
        (1.0, 0.5, 0.25),
        NO_Z,
    ),
    "nothing": (lambda p: nifti(p, (1.0, 1.0, 1.0)), NOTHING, SAID_NOTHING),
}
KINDS = [
    pytest.param(name, *kind, id=f"{name}: {label}")
    for name, kinds in (("a.tif", TIFF), ("a.nrrd", NRRD), ("a.nii", NIFTI))
    for label, kind in kinds.items()
]


@pytest.mark.parametrize(("name", "write", "spacing", "warning"), KINDS)
def test_every_axis_counts_in_its_own_unit_and_what_is_not_said_is_warned_of(
    tmp_path, caplog, monkeypatch, name, write, spacing, warning
):
    monkeypatch.setattr(volume, "_SPACING_WARNED", [])
    write(tmp_path / name)
    with caplog.at_level(logging.WARNING, logger="distill3d"):
        read = read_volume(tmp_path / name)
    assert read.spacing_um == pytest.approx(spacing, rel=1e-6)
    np.testing.assert_array_equal(read.data, STACK)
    warnings = [record.getMessage() for record in caplog.records if record.name.startswith("distill3d")]
    assert [warning in text for text in warnings] == [True] * bool(warning), warnings
