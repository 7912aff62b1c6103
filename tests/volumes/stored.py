"""Stacks in formats that are read by block, written by hand or by the formats' own libraries, none by distill3d."""

import json
from pathlib import Path

import h5py
import numpy as np
import tensorstore
import zarr

SPACING = (3.0, 0.5, 0.25)  # um, ZYX
STACK = np.random.default_rng(0).integers(1, 60_000, (5, 7, 6)).astype(np.uint16)
CHUNKS = (2, 4, 3)
UM = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "zyx"]


def multiscales(axes=UM, scale=SPACING, **more):
    """Return one entry of multiscales with one level."""
    datasets = [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": list(scale)}]}]
    return {"axes": axes, "datasets": datasets, **more}


def write_04(path: Path, data=STACK, **more):
    """Write OME-Zarr 0.4 as its specification shows, byte by byte: no library of Zarr has a part in it."""
    (path / "0").mkdir(parents=True)
    (path / ".zgroup").write_text('{"zarr_format": 2}')
    (path / ".zattrs").write_text(json.dumps({"multiscales": [multiscales(version="0.4")], **more}))
    about = {
        "zarr_format": 2, "shape": data.shape, "chunks": CHUNKS, "dtype": data.dtype.str, "compressor": None,
        "fill_value": 0, "order": "C", "filters": None, "dimension_separator": "/",
    }  # fmt: skip
    (path / "0" / ".zarray").write_text(json.dumps(about))
    _write_chunks(path / "0", data)


def write_05(path: Path, data=STACK, **more):
    """Write OME-Zarr 0.5, likewise."""
    (path / "0").mkdir(parents=True)
    ome = {"version": "0.5", "multiscales": [multiscales()], **more}
    (path / "zarr.json").write_text(json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {"ome": ome}}))
    about = {
        "zarr_format": 3, "node_type": "array", "shape": data.shape, "data_type": data.dtype.name, "fill_value": 0,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": CHUNKS}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}], "attributes": {},
        "dimension_names": ["z", "y", "x"],
    }  # fmt: skip
    (path / "0" / "zarr.json").write_text(json.dumps(about))
    _write_chunks(path / "0" / "c", data)


def _write_chunks(folder: Path, data):
    for index in np.ndindex(*(-(-n // chunk) for n, chunk in zip(data.shape, CHUNKS, strict=True))):
        part = data[tuple(slice(i * n, (i + 1) * n) for i, n in zip(index, CHUNKS, strict=True))]
        full = np.zeros(CHUNKS, data.dtype)
        full[tuple(map(slice, part.shape))] = part
        path = folder.joinpath(*map(str, index))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(full.tobytes())


def write_zarr_with(path: Path, axes, data, *, scale, version="0.4", attributes=None, **array):
    """Write an image with the library, whatever its axes."""
    group = zarr.create_group(path, zarr_format=2 if version == "0.4" else 3)
    keys = {"chunk_key_encoding": {"name": "v2", "separator": "/"}} if version == "0.4" else {}
    group.create_array("0", shape=data.shape, dtype=data.dtype, **keys, **{"chunks": "auto", **array})[...] = data
    ome = {"multiscales": [multiscales(axes, scale)], **(attributes or {})}
    group.attrs.update(ome if version == "0.4" else {"ome": ome})


def write_h5(path: Path, data=STACK, name="t0/raw", **more):
    """Write an HDF5 file with one array, as Fiji's plugin does."""
    with h5py.File(path, "a") as file:
        array = file.create_dataset(name, data=data, chunks=True, compression="gzip", **more)
        array.attrs["element_size_um"] = SPACING


def write_ims(path: Path, data=STACK, unit="um"):
    """Write an Imaris file of two channels and two levels, each padded to whole chunks."""

    def letters(value):
        return np.frombuffer(str(value).encode(), "S1")

    with h5py.File(path, "w") as file:
        about = file.create_group("DataSetInfo/Image").attrs
        for i, (axis, size) in enumerate(zip("XYZ", SPACING[::-1], strict=True)):
            about[axis] = letters(data.shape[2 - i])
            about[f"ExtMin{i}"], about[f"ExtMax{i}"] = letters(10), letters(10 + size * data.shape[2 - i])
        about["Unit"] = letters(unit)
        for level in (0, 1):
            for channel, full in enumerate((data, ~data)):
                values = full[:, :: 1 + level, :: 1 + level]
                group = file.create_group(f"DataSet/ResolutionLevel {level}/TimePoint 0/Channel {channel}")
                for axis, n in zip("ZYX", values.shape, strict=True):
                    group.attrs[f"ImageSize{axis}"] = letters(n)
                group.create_dataset("Data", data=np.pad(values, [(0, 3), (0, 1), (0, 2)]), chunks=(8, 2, 4))


def write_n5(path: Path, data=STACK, inside="", **attributes):
    """Write an array of N5, whose axes are named from the fastest on."""
    about = {"dimensions": data.shape[::-1], "blockSize": CHUNKS[::-1], "dataType": data.dtype.name}
    spec = {
        "driver": "n5", "kvstore": {"driver": "file", "path": str(path / inside)},
        "metadata": {**about, "compression": {"type": "gzip"}},
    }  # fmt: skip
    tensorstore.open(spec, create=True).result().write(data.T).result()
    attributes = attributes or {"pixelResolution": {"unit": "um", "dimensions": SPACING[::-1]}}
    stored = path / inside / "attributes.json"
    stored.write_text(json.dumps(json.loads(stored.read_text()) | attributes))


WRITERS = {
    "a.zarr": write_04,
    "a5.zarr": write_05,
    "a.ome.zarr": lambda path, data=STACK: write_zarr_with(path, UM, data, scale=SPACING, version="0.5", chunks=CHUNKS),
    "a.h5": write_h5,
    "a.hdf5": write_h5,
    "a.ims": write_ims,
    "a.n5": write_n5,
    "a.npy": lambda path, data=STACK: np.save(path, data),
}
