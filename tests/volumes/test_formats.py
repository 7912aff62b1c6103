"""Formats that are read by block: what is read, what is stated, and what is refused, in one line."""

import json
import os
import pickle
import shutil

import h5py
import numpy as np
import pytest
import stored
import zarr
from stored import CHUNKS, SPACING, STACK, UM, WRITERS, multiscales, write_zarr_with

from distill3d.data.case_files import find_case_files
from distill3d.data.neurons import Neurons, NeuronsConfig
from distill3d.errors import InputError
from distill3d.volumes import origin
from distill3d.volumes.geometry import Grid
from distill3d.volumes.inputs import expand
from distill3d.volumes.origin import as_notes, is_taken, origin_of, stated_notes
from distill3d.volumes.prob import read_prob, says_prob, write_prob
from distill3d.volumes.stack_files import is_stack, stem_of
from distill3d.volumes.volume import Volume, open_volume, read_volume, write_volume
from distill3d.volumes.zarr_writing import add_levels, create_zarr, written_level

PART = (slice(1, 4), slice(3, 7), slice(0, 5))


def refused(path, **how):
    """Return the one line a stack is refused with; it names the stack."""
    with pytest.raises(InputError) as caught:
        _ = open_volume(path, **how).data[:, :, :]
    text = str(caught.value)
    assert "\n" not in text
    assert str(path).split(":/")[0] in text
    return text


@pytest.mark.parametrize("name", WRITERS)
def test_a_stack_and_its_parts_are_read_as_they_were_written(tmp_path, name, caplog):
    path = tmp_path / name
    WRITERS[name](path)
    volume, lazy = read_volume(path), open_volume(path)
    np.testing.assert_array_equal(volume.data, STACK)
    np.testing.assert_array_equal(lazy.data[:, :, :], STACK)
    np.testing.assert_array_equal(lazy.data[PART], STACK[PART])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(lazy.data))[PART], STACK[PART])  # noqa: S301 - our own
    assert lazy.shape == STACK.shape
    assert lazy.data.dtype == STACK.dtype
    assert volume.data.flags.writeable
    stated = None if name == "a.npy" else pytest.approx(SPACING)
    assert (volume.stated_um, lazy.stated.spacing_um) == (stated, stated)
    assert lazy.spacing_um == volume.spacing_um == ((1.0, 1.0, 1.0) if stated is None else stated)
    assert open_volume(path, spacing_um=(9, 2, 1)).spacing_um == (9.0, 2.0, 1.0)
    assert expand([path]) == expand([tmp_path]) == expand([str(tmp_path / "*")]) == [path]
    assert is_stack(path)


def test_a_stack_of_another_format_is_opened_too(tmp_path):
    write_volume(tmp_path / "a.tif", Volume(STACK, SPACING))
    lazy = open_volume(tmp_path / "a.tif")
    np.testing.assert_array_equal(lazy.data[PART], STACK[PART])
    assert lazy.spacing_um == pytest.approx(SPACING)


# ---------------------------------------------------------------- OME-Zarr


def axes_of(letters, unit=None):
    types = {"t": "time", "c": "channel"}
    units = {} if unit is None else {"unit": unit}
    return [{"name": axis, "type": types.get(axis, "space"), **({} if axis in types else units)} for axis in letters]


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("letters", ["tczyx", "xyzct", "zcyx", "yxz"])
def test_axes_come_in_any_order(tmp_path, letters, version):
    path, both = tmp_path / "a.zarr", np.stack([STACK, STACK[::-1]])[None]
    scale = dict(zip("tczyx", (1.0, 1.0, *SPACING), strict=True))
    data = both if "c" in letters else both[:, 1:]
    left = [axis for axis in "tczyx" if axis in letters]
    data = data.reshape([n for axis, n in zip("tczyx", data.shape, strict=True) if axis in letters])
    data = data.transpose([left.index(axis) for axis in letters])
    write_zarr_with(path, axes_of(letters, "micrometer"), data, scale=[scale[a] for a in letters], version=version)
    lazy = open_volume(path, channel=1 if "c" in letters else 0)
    np.testing.assert_array_equal(lazy.data[:, :, :], STACK[::-1])
    np.testing.assert_array_equal(lazy.data[PART], STACK[::-1][PART])
    assert lazy.spacing_um == pytest.approx(SPACING)


def test_a_plane_is_one_slice(tmp_path):
    write_zarr_with(tmp_path / "a.zarr", axes_of("yx", "um"), STACK[0], scale=SPACING[1:])
    np.testing.assert_array_equal(open_volume(tmp_path / "a.zarr").data[0:1, 2:4, :], STACK[:1, 2:4])


@pytest.mark.parametrize(
    ("unit", "um"), [("nanometer", 1e-3), ("millimeter", 1e3), ("angstrom", 1e-4), ("micrometer", 1.0), (None, None)]
)
def test_scales_of_image_and_level_are_multiplied_and_have_units(tmp_path, unit, um, caplog):
    path = tmp_path / "a.zarr"
    write_zarr_with(path, axes_of("zyx", unit), STACK, scale=SPACING)
    group = zarr.open_group(path)
    (scales,) = group.attrs["multiscales"]
    scales["coordinateTransformations"] = [{"type": "scale", "scale": [2, 4, 8]}]
    group.attrs["multiscales"] = [scales]
    lazy = open_volume(path)
    assert lazy.spacing_um == pytest.approx([(um or 1.0) * a * b for a, b in zip(SPACING, (2, 4, 8), strict=True)])
    assert lazy.stated.has_unit == (um is not None)
    assert ("states no spacing in a unit of length" in caplog.text) == (um is None)


def test_scales_of_one_without_unit_state_nothing(tmp_path):
    write_zarr_with(tmp_path / "a.zarr", axes_of("zyx"), STACK, scale=(1, 1, 1))
    assert open_volume(tmp_path / "a.zarr").stated.spacing_um is None


def test_a_channel_that_is_not_there_is_refused_with_the_names_of_those_that_are(tmp_path):
    names = {"omero": {"channels": [{"label": "DAPI"}, {"label": "GFP"}]}}
    write_zarr_with(tmp_path / "a.zarr", axes_of("czyx"), np.stack([STACK] * 2), scale=(1, *SPACING), attributes=names)
    assert "channel 2 asked for; this file has channels 0..1 (DAPI, GFP)" in refused(tmp_path / "a.zarr", channel=2)


def write_plain(path):
    zarr.create_array(path, shape=STACK.shape, dtype=STACK.dtype)


def write_empty_folder(path):
    path.mkdir()


def write_times(path):
    write_zarr_with(path, axes_of("tzyx"), np.stack([STACK] * 2), scale=(1, *SPACING))


def changed(**scales):
    return lambda path: stored.write_04(path, multiscales=[multiscales() | scales])


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (write_plain, "an array without multiscales; accepted: OME-Zarr 0.4 or 0.5"),
        (write_empty_folder, "no Zarr group; accepted: OME-Zarr"),
        (zarr.create_group, "no multiscales; accepted: OME-Zarr"),
        (lambda path: path.touch(), "is a file; a folder .zarr is expected"),
        (write_times, "2 time points found; one 3D volume is accepted"),
        (changed(axes=axes_of("zyw")), "unknown axis 'w'; accepted: z y x"),
        (changed(axes=axes_of("yx")), "axes y x; accepted: one 3D volume"),
        (changed(axes=axes_of("zzx")), "axes z z x; accepted: one 3D volume"),
        (changed(datasets=[{"path": "7"}]), "no array '7', which its multiscales name"),
        (changed(datasets=[{"path": "../../b.zarr/0"}]), "metadata that cannot be used"),
        (changed(datasets=[]), "its multiscales name no array"),
        (changed(datasets=multiscales(scale=(1, 1))["datasets"]), "scale of 2 numbers for 3 axes"),
        (lambda path: write_zarr_with(path, UM, STACK.astype("complex64"), scale=SPACING), "values of type complex64"),
    ],
)
def test_what_is_no_image_is_refused_in_one_line(tmp_path, write, reason):
    stored.write_04(tmp_path / "b.zarr")
    write(tmp_path / "a.zarr")
    assert reason in refused(tmp_path / "a.zarr")


def test_one_image_of_a_series_is_taken_and_of_several_one_is_named(tmp_path):
    path = tmp_path / "a.zarr"
    path.mkdir()
    (path / ".zgroup").write_text('{"zarr_format": 2}')
    stored.write_04(path / "1", STACK[::-1])
    np.testing.assert_array_equal(read_volume(path).data, STACK[::-1])
    stored.write_04(path / "0")
    assert f"holds 2 images; accepted: one, such as {path}:/0" in refused(path)
    np.testing.assert_array_equal(read_volume(f"{path}:/1").data, STACK[::-1])


def test_a_series_deep_in_a_store_names_its_first_image_whatever_order_the_disk_lists_them_in(tmp_path, monkeypatch):
    path = tmp_path / "plate.zarr"
    for folder in (path, path / "A", path / "A" / "1"):
        folder.mkdir()
        (folder / ".zgroup").write_text('{"zarr_format": 2}')
    for name in ("1", "0"):
        stored.write_04(path / "A" / "1" / name)
    listed = zarr.Group.groups
    for turned in (False, True):
        monkeypatch.setattr(zarr.Group, "groups", lambda group, turned=turned: sorted(listed(group), reverse=turned))
        assert f"accepted: one, such as {path}:/A/1/0" in refused(f"{path}:/A/1")


@pytest.mark.parametrize("codec", ["raw", "blosc", "zstd"])
@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_chunk_that_is_damaged_is_named_and_one_that_is_missing_is_empty(tmp_path, version, codec):
    from numcodecs import Blosc, Zstd
    from zarr.codecs import BloscCodec, ZstdCodec

    known = {"0.4": {"blosc": Blosc(), "zstd": Zstd()}, "0.5": {"blosc": BloscCodec(), "zstd": ZstdCodec()}}
    path, compressor = tmp_path / "a.zarr", known[version].get(codec)
    write_zarr_with(path, UM, STACK, scale=SPACING, version=version, chunks=CHUNKS, compressors=compressor)
    chunk = path / "0" / ("1/0/1" if version == "0.4" else "c/1/0/1")
    content = chunk.read_bytes()
    for size in (0, 1, len(content) // 2, len(content) - 1):
        chunk.write_bytes(content[:size])
        lazy = open_volume(path)
        np.testing.assert_array_equal(lazy.data[0:2, :, :], STACK[:2])
        with pytest.raises(InputError, match=rf"{chunk}: damaged or truncated \(") as caught:
            _ = lazy.data[:, 1:3, :]
        assert "\n" not in str(caught.value)
        with pytest.raises(InputError, match=str(chunk)):
            read_volume(path)
    chunk.unlink()
    expected = STACK.copy()
    expected[2:4, :4, 3:6] = 0
    np.testing.assert_array_equal(read_volume(path).data, expected)


def test_terabytes_are_opened_but_not_read_whole(tmp_path):
    path = tmp_path / "a.zarr"
    create_zarr(path, shape=(1 << 14,) * 3, dtype=np.uint8, spacing_um=SPACING)
    lazy = open_volume(path)
    assert lazy.shape == (1 << 14,) * 3
    assert not lazy.data[9000:9010, 0:10, 0:10].any()
    with pytest.raises(InputError, match="claims 4096 GiB; accepted: at most"):
        read_volume(path)
    about = json.loads((path / "0" / ".zarray").read_text())
    (path / "0" / ".zarray").write_text(json.dumps(about | {"chunks": [1 << 14] * 3}))
    assert "a chunk of it claims 4096 GiB" in refused(path)


def test_levels_are_the_means_of_the_finer_ones_at_their_place(tmp_path, monkeypatch):
    monkeypatch.setattr("distill3d.volumes.zarr_writing._COARSEST", 4)
    path, data = tmp_path / "a.zarr", np.random.default_rng(1).integers(0, 200, (3, 9, 12)).astype(np.uint8)
    create_zarr(path, shape=data.shape, dtype=data.dtype, spacing_um=SPACING, chunks=(2, 2, 4))
    written_level(path)[:] = data
    add_levels(path)
    add_levels(path)
    padded = np.pad(data.astype(float), [(0, 1), (0, 1), (0, 0)], mode="edge").reshape(2, 2, 5, 2, 6, 2)
    group = zarr.open_group(path, mode="r")
    np.testing.assert_array_equal(group["1"][...], np.rint(padded.mean((1, 3, 5))))
    assert group["2"].shape == (1, 3, 3)
    (scales,) = group.attrs["multiscales"]
    assert [each["path"] for each in scales["datasets"]] == ["0", "1", "2"]
    assert scales["datasets"][1]["coordinateTransformations"] == [
        {"type": "scale", "scale": [2 * size for size in SPACING]},
        {"type": "translation", "translation": [size / 2 for size in SPACING]},
    ]
    np.testing.assert_array_equal(read_volume(path).data, data)


def test_a_zarr_is_written_whole_or_not_at_all_with_its_notes(tmp_path, monkeypatch):
    path, notes = tmp_path / "out" / "a.zarr", as_notes(made_from="sha256:1", holds="probability")
    write_volume(path, Volume(STACK, SPACING), notes=notes)
    assert stated_notes(path) == {"made_from": "sha256:1", "holds": "probability"}
    assert says_prob(path)
    assert is_taken(path, "sha256:2")
    assert not is_taken(path, "sha256:1")
    monkeypatch.setattr("distill3d.volumes.zarr_writing.add_levels", lambda path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_volume(path, Volume(STACK[::-1], SPACING))
    np.testing.assert_array_equal(read_volume(path).data, STACK)
    monkeypatch.undo()
    write_volume(path, Volume(STACK[::-1], SPACING))
    np.testing.assert_array_equal(read_volume(path).data, STACK[::-1])
    assert list(path.parent.iterdir()) == [path]
    other = tmp_path / "b.zarr"
    other.mkdir()
    (other / "thesis.txt").touch()
    with pytest.raises(InputError, match="is there and is no Zarr"):
        write_volume(other, Volume(STACK, SPACING))
    assert [file.name for file in other.iterdir()] == ["thesis.txt"]
    with pytest.raises(InputError, match="no OME-Zarr to write to"):
        written_level(tmp_path / "c.zarr")


def test_a_probability_and_the_place_of_a_stack_pass_through_a_zarr(tmp_path):
    prob = np.linspace(0, 1, 60).reshape(3, 4, 5)
    grid = Grid(np.diag([3.0, -0.5, 0.25]), np.array([1.0, 2.0, 3.0]), "right-anterior-superior")
    write_prob(tmp_path / "a_prob.zarr", prob, SPACING, grid=grid)
    assert np.abs(read_prob(tmp_path / "a_prob.zarr") - prob).max() <= 0.5 / 255 + 1e-6
    placed = read_volume(tmp_path / "a_prob.zarr").stated.grid
    assert placed is not None
    np.testing.assert_array_equal(placed.axes, grid.axes)
    np.testing.assert_array_equal(placed.origin, grid.origin)


# ---------------------------------------------------------------- HDF5, Imaris, N5


def test_one_array_of_several_in_a_file_is_named(tmp_path, caplog):
    path = tmp_path / "a.h5"
    stored.write_h5(path)
    stored.write_h5(path, STACK[::-1], "mask")
    with h5py.File(path, "a") as file:
        file["table"] = np.zeros((4, 2))
        file["both"] = np.stack([STACK, STACK + 1])
        file["last"] = np.stack([STACK, STACK + 1], -1)
        file["last"].attrs["axistags"] = json.dumps({"axes": [{"key": key} for key in "zyxc"]})
    assert f"holds 2 arrays (/mask, /t0/raw); accepted: a file with one 3D array, or {path}:/NAME" in refused(path)
    assert "no array /t0 in it" in refused(f"{path}:/t0")
    assert "channel 2 asked for" in refused(f"{path}:/both", channel=2)
    for name, channel, expected in (("t0/raw", 0, STACK), ("mask", 0, STACK[::-1]), ("both", 1, STACK + 1)):
        np.testing.assert_array_equal(read_volume(f"{path}:/{name}", channel=channel).data, expected)
    np.testing.assert_array_equal(open_volume(f"{path}:/last", channel=1).data[PART], (STACK + 1)[PART])
    names = [f"{path}:/t0/raw", f"{path}:/mask"]
    assert [str(each) for each in expand([*names, f"{tmp_path}/*.h5:/mask"])] == names
    assert [stem_of(name) for name in names] == ["a_t0_raw", "a_mask"]
    assert len({origin_of(each) for each in expand(names)}) == 2
    assert is_stack(names[0])
    assert not is_stack(f"{tmp_path}/b.h5:/x")


def test_a_channel_of_imaris_without_its_padding(tmp_path, caplog):
    stored.write_ims(tmp_path / "a.ims", unit="mm")
    lazy = open_volume(tmp_path / "a.ims", channel=1)
    np.testing.assert_array_equal(lazy.data[:, :, :], ~STACK)
    assert lazy.spacing_um == pytest.approx((3000.0, 500.0, 250.0))
    assert "channel 2 asked for; this file has channels 0..1" in refused(tmp_path / "a.ims", channel=2)
    with h5py.File(tmp_path / "a.ims", "a") as file:
        file.create_group("DataSet/ResolutionLevel 0/TimePoint 1")
    assert "2 time points found" in refused(tmp_path / "a.ims")
    stored.write_h5(tmp_path / "b.ims")
    assert "no image of Imaris in it" in refused(tmp_path / "b.ims")


def test_the_finest_level_of_n5_and_what_the_groups_around_them_state(tmp_path):
    path = tmp_path / "a.n5"
    stored.write_n5(path, inside="c0/s0", downsamplingFactors=[1, 1, 1])
    stored.write_n5(path, STACK[:, ::2], inside="c0/s1", downsamplingFactors=[1, 2, 1])
    (path / "c0" / "attributes.json").write_text(
        json.dumps({"resolution": [250, 500, 3000], "units": ["nm", "nm", "nm"]})
    )
    for name in (path, f"{path}:/c0"):
        np.testing.assert_array_equal(open_volume(name).data[PART], STACK[PART])
    coarse = read_volume(f"{path}:/c0/s1")
    np.testing.assert_array_equal(coarse.data, STACK[:, ::2])
    assert coarse.spacing_um == pytest.approx((3.0, 1.0, 0.25))
    stored.write_n5(path, inside="c1")
    assert f"holds 2 arrays (/c0, /c1); accepted: N5 with one, or {path}:/NAME" in refused(path)
    assert "holds no array in nope" in refused(f"{path}:/nope")
    assert "leads out of its container" in refused(f"{path}:/../a.n5")
    chunk = path / "c1" / "1" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:20])
    assert "damaged or truncated" in refused(f"{path}:/c1")


@pytest.mark.parametrize("name", ["a.npy", "a.h5:/raw"])
def test_channels_that_come_last_are_refused_and_first_are_read(tmp_path, name):
    def write(data):
        if name == "a.npy":
            np.save(tmp_path / name, data)
        else:
            with h5py.File(tmp_path / "a.h5", "w") as file:
                file["raw"] = data

    write(np.stack([STACK, STACK + 1], axis=-1))
    assert "where channels seem to come last; accepted: c, z, y, x" in refused(f"{tmp_path}/{name}")
    write(np.stack([STACK, STACK + 1]))
    np.testing.assert_array_equal(read_volume(f"{tmp_path}/{name}", channel=1).data, STACK + 1)


# ---------------------------------------------------------------- files and folders


def test_a_folder_that_is_a_stack_is_one_and_nobody_looks_into_it(tmp_path):
    for name in ("a.zarr", "b.ome.zarr", "c.n5", "a_mask.zarr"):
        WRITERS["a.n5" if name == "c.n5" else "a.zarr"](tmp_path / name)
    np.save(tmp_path / "a.zarr" / "0" / "inner.npy", STACK)
    (tmp_path / ".hidden.zarr").mkdir()
    expected = [tmp_path / name for name in ("a.zarr", "b.ome.zarr", "c.n5")]
    assert expand([tmp_path]) == expected
    assert sorted(expand([f"{tmp_path}/**"])) == sorted([*expected, tmp_path / "a_mask.zarr"])
    assert expand([f"{tmp_path}/*.zarr"], others=True) == [tmp_path / "a.zarr", tmp_path / "a_mask.zarr", expected[1]]
    cases = find_case_files(tmp_path, volume="{stem}", tree="{stem}.swc", masks=("{stem}_mask",), nested=True)
    assert {name: (case.volume.name, case.mask) for name, case in cases.items()} == {
        "a": ("a.zarr", tmp_path / "a_mask.zarr")
    }


def test_the_origin_of_a_zarr_follows_its_metadata_and_its_chunks(tmp_path):
    path = tmp_path / "a.zarr"
    stored.write_04(path)
    origins = [origin_of(path)]
    assert origin_of(path) == origins[0]
    chunk = path / "0" / "1" / "0" / "0"
    times = chunk.stat().st_atime_ns, chunk.stat().st_mtime_ns
    os.utime(chunk, ns=(times[0], times[1] + 10**9))
    origins.append(origin_of(path))
    chunk.unlink()
    origins.append(origin_of(path))
    (path / ".zattrs").write_text((path / ".zattrs").read_text().replace("0.25", "0.26"))
    origins.append(origin_of(path))
    assert len(set(origins)) == 4
    shutil.rmtree(path)
    with pytest.raises(InputError, match=r"a\.zarr: cannot be read"):
        origin_of(path)


def test_a_large_file_that_is_read_by_block_is_not_read_for_its_origin(tmp_path, monkeypatch):
    path = tmp_path / "a.h5"
    stored.write_h5(path)
    whole = origin_of(path)
    monkeypatch.setattr(origin, "_READ", 100)
    by_block = origin_of(path, "again")
    origin._file_hash.cache_clear()
    assert origin_of(path) not in {whole, by_block}


def test_training_data_may_be_zarr_and_hdf5(tmp_path):
    stored.write_04(tmp_path / "n.zarr")
    stored.write_h5(tmp_path / "n_mask.h5", (STACK > 30_000).astype(np.uint8))
    source = Neurons(NeuronsConfig(folder=str(tmp_path)), cache=tmp_path / "cache")
    case = source.load("n")
    np.testing.assert_array_equal(case.volume.data, STACK)
    np.testing.assert_array_equal(case.mask, STACK > 30_000)
    assert case.volume.spacing_um == SPACING
    assert source.key("n") == source.key("n")


def test_changed_metadata_are_read_or_refused_in_one_line(tmp_path):
    """Bytes of the JSON are changed, cut, doubled and swapped for other values: no traceback."""
    rng, refusals = np.random.default_rng(0), list[tuple[str, str, str]]()
    sources = {"0.4": (stored.write_04, (".zattrs", "0/.zarray", ".zgroup"))}
    sources["0.5"] = stored.write_05, ("zarr.json", "0/zarr.json")
    sources["n5"] = stored.write_n5, ("attributes.json",)
    for kind, (write, files) in sources.items():
        path = tmp_path / f"{kind}{'.n5' if kind == 'n5' else '.zarr'}"
        write(path)
        for file in files:
            content = (path / file).read_text()
            for mutated in mutations(content, rng):
                (path / file).write_text(mutated)
                try:
                    _ = open_volume(path).data[PART]
                except InputError as error:
                    refusals.append((mutated, str(path), str(error)))
            (path / file).write_text(content)
    assert len(refusals) > 40
    assert [row for row in refusals if "\n" in row[2] or row[1] not in row[2]] == []


def mutations(content, rng):
    """Yield texts that differ from JSON, or JSON that says something else."""
    for _ in range(3):
        at = int(rng.integers(len(content)))
        yield content[:at]
        yield content[:at] + chr(int(rng.integers(32, 127))) + content[at + 1 :]
    values = [None, -1, 1e30, "x", [], {}, [None], {"a": 1}]
    for _ in range(12):
        tree = json.loads(content)
        nodes = [tree]
        for node in nodes:
            inner = node.values() if isinstance(node, dict) else node
            nodes += [each for each in inner if isinstance(each, dict | list) and each]
        node = nodes[int(rng.integers(len(nodes)))]
        key = list(node if isinstance(node, dict) else range(len(node)))[int(rng.integers(len(node)))]
        if rng.random() < 0.3:
            del node[key]
        else:
            node[key] = values[int(rng.integers(len(values)))]
        yield json.dumps(tree)
