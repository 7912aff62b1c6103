"""Prepared cases: scaling to [0, 1], atomic writing, refusal of anything partial, and two processes at once."""

import hashlib
import importlib.util
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from distill3d.config.schema import PatchConfig
from distill3d.data import prepared
from distill3d.data.base import Case, DataSource
from distill3d.data.prepared import PreparedCase, prepare
from distill3d.errors import InputError
from distill3d.storage.whole_folder import write_whole
from distill3d.volumes.geometry import Grid, Stated
from distill3d.volumes.intensity import intensity_range, rescale, scale_intensity
from distill3d.volumes.swc import Tree, read_swc
from distill3d.volumes.volume import Volume, read_volume

CONFIG = PatchConfig()
GRID = Grid(np.diag([2.0, -1.0, 0.5]), np.array([0.0, 7.0, 0.0]), "scanner-xyz")


class Shelf(DataSource):
    """One small case, and a file that counts how often it was loaded."""

    def __init__(self, cache, *, version="1", pause=0.0, known=True, tree=True):
        super().__init__(None, cache=cache)
        self.version, self.pause, self.all_known, self.with_tree = version, pause, known, tree

    def splits(self):
        return {"train": ("a",), "val": (), "test": ()}

    def key(self, name):
        return f"{self.version}{self.all_known}{self.with_tree}"

    def load(self, name):
        with (self.cache / "loads").open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(self.pause)
        rng = np.random.default_rng(0)
        data = rng.integers(0, 4000, (6, 8, 10)).astype(np.uint16)
        mask = np.zeros(data.shape, bool)
        mask[2, 3, 1:9] = True
        known = np.ones(data.shape, bool)
        if not self.all_known:
            known[3:] = False
        tree = Tree(np.array([[2.0, 3, 1], [2, 3, 8]]), np.ones(2), np.array([-1, 0]), np.array([1, 3]))
        return Case(
            name=name,
            volume=Volume(data, (2.0, 1.0, 0.5), Stated(grid=GRID)),
            mask=mask,
            known=known,
            tree=tree if self.with_tree else None,
        )

    @property
    def loads(self):
        path = self.cache / "loads"
        return len(path.read_text().splitlines()) if path.exists() else 0


def folders(cache):
    return sorted(p for p in (cache / "prepared").iterdir() if p.is_dir())


# ---------------------------------------------------------------- scaling


def test_percentiles_become_0_and_1_and_the_rest_is_clipped():
    data = np.arange(1001, dtype=np.uint16).reshape(7, 11, 13)
    config = PatchConfig(low_percentile=10, high_percentile=90)
    assert intensity_range(data, *config.percentiles) == (100.0, 900.0)
    scaled = scale_intensity(data, *config.percentiles)
    assert scaled.dtype == np.float32
    assert scaled.ravel()[[0, 100, 500, 900, 1000]] == pytest.approx([0, 0, 0.5, 1, 1], abs=1e-6)


def test_a_stack_so_black_that_its_percentiles_are_equal_is_scaled_by_its_maximum():
    data = np.zeros((10, 100, 100), np.uint8)
    data[5, 50, 50:54] = (50, 100, 150, 200)
    scaled = scale_intensity(data, *CONFIG.percentiles)
    assert scaled[5, 50, 50:54] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert np.count_nonzero(scaled) == 4


@pytest.mark.parametrize("value", [0, 7])
def test_a_constant_stack_becomes_finite(value):
    assert np.array_equal(
        scale_intensity(np.full((2, 3, 4), value, np.uint8), *CONFIG.percentiles), np.zeros((2, 3, 4), np.float32)
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_scaling_a_part_is_a_part_of_the_scaled_whole(dtype):
    data = np.random.default_rng(1).integers(0, 255, (5, 6, 7)).astype(dtype)
    limits = intensity_range(data, *CONFIG.percentiles)
    assert np.array_equal(rescale(data[1:3], *limits), scale_intensity(data, *CONFIG.percentiles)[1:3])


@pytest.mark.parametrize("name", ["OP_1", "OP_5"])
def test_real_stacks_keep_their_neuron_apart_from_the_background(data_dir, name):
    volume = read_volume(data_dir / "pairs" / f"{name}.tif", spacing_um=(3.03, 1, 1))
    scaled = scale_intensity(volume.data, *CONFIG.percentiles)
    z, y, x = np.rint(read_swc(data_dir / "pairs" / f"{name}.swc").points_zyx_um).astype(int).T
    at_nodes = scaled[z, y, x]
    assert scaled.min() == 0
    assert scaled.max() == 1
    assert np.median(scaled) < 0.05
    assert np.median(at_nodes) > 0.3
    assert (at_nodes < 1).mean() > 0.25  # not all cut off at the ceiling


# ---------------------------------------------------------------- writing and reading


@pytest.mark.parametrize("known", [True, False])
def test_a_prepared_case_holds_what_was_loaded(tmp_path, known):
    source = Shelf(tmp_path, known=known)
    case, raw = prepare(source, "a", CONFIG), source.load("a")
    assert (case.name, case.shape, case.spacing_um) == ("a", (6, 8, 10), (2.0, 1.0, 0.5))
    assert (case.grid.axes.tolist(), case.grid.origin.tolist()) == (GRID.axes.tolist(), GRID.origin.tolist())
    assert np.array_equal(case.raw, raw.volume.data)
    assert np.array_equal(case.image, scale_intensity(raw.volume.data, *CONFIG.percentiles))
    assert np.array_equal(case.mask, raw.mask & raw.known)
    assert np.array_equal(case.known, raw.known)
    assert np.array_equal(np.unravel_index(case.foreground, case.shape), np.nonzero(raw.mask & raw.known))
    assert (case.labelled is None) == known
    tree = case.tree()
    assert tree is not None
    assert raw.tree.points_zyx_um.tolist() == [[2, 3, 1], [2, 3, 8]]
    assert np.allclose(tree.points_zyx_um, [[2, 3, 1], [2, 3, 0.5 * (9.5 + 4)]])  # cut where it is far outside


def test_arrays_are_memory_maps_that_nobody_can_change(tmp_path):
    case = prepare(Shelf(tmp_path), "a", CONFIG)
    assert isinstance(case.raw, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        case.mask[0, 0, 0] = True


def test_a_case_without_gold_and_without_tree_can_be_prepared(tmp_path):
    class Blank(Shelf):
        def load(self, name):
            case = super().load(name)
            return Case(name=name, volume=case.volume, mask=case.mask & False, known=case.known, tree=None)

    case = prepare(Blank(tmp_path), "a", CONFIG)
    assert len(case.foreground) == 0
    assert case.tree() is None


def test_a_case_is_prepared_once_per_key_and_percentiles(tmp_path):
    prepare(Shelf(tmp_path), "a", CONFIG)
    prepare(Shelf(tmp_path), "a", CONFIG)
    assert Shelf(tmp_path).loads == 1
    prepare(Shelf(tmp_path, version="2"), "a", CONFIG)
    prepare(Shelf(tmp_path), "a", PatchConfig(high_percentile=90))
    assert Shelf(tmp_path).loads == 3
    assert len(folders(tmp_path)) == 3


def test_a_case_is_prepared_anew_where_intensities_are_scaled_otherwise(tmp_path, monkeypatch):
    prepare(Shelf(tmp_path), "a", CONFIG)
    real = prepared.code_hash
    scaling = "distill3d.volumes.intensity"
    monkeypatch.setattr(prepared, "code_hash", lambda *names: real(*names) + "changed" * (scaling in names))
    prepare(Shelf(tmp_path), "a", CONFIG)
    assert Shelf(tmp_path).loads == 2


def test_a_case_sent_to_another_process_takes_its_path_along_and_no_arrays(tmp_path):
    case = prepare(Shelf(tmp_path), "a", CONFIG)
    assert case.mask.any()
    sent = pickle.dumps(case)
    assert len(sent) < 500
    assert np.array_equal(pickle.loads(sent).mask, case.mask)  # noqa: S301 - made two lines above


@pytest.mark.parametrize("harm", ["truncate", "remove", "meta", "old"])
def test_a_damaged_folder_is_never_read_but_written_again(tmp_path, harm):
    source = Shelf(tmp_path)
    folder = prepare(source, "a", CONFIG).folder
    meta = folder / "meta.json"
    if harm == "truncate":
        content = (folder / "image.npy").read_bytes()
        (folder / "image.npy").write_bytes(content[:-10])
    elif harm == "remove":
        (folder / "mask.npy").unlink()
    elif harm == "meta":
        meta.write_text(meta.read_text()[:20])
    else:
        meta.write_text(json.dumps(json.loads(meta.read_text()) | {"format": 0}))
    with pytest.raises(InputError, match="not a complete prepared case"):
        PreparedCase(folder)
    again = prepare(source, "a", CONFIG)
    assert again.folder == folder
    assert np.array_equal(again.raw, source.load("a").volume.data)


def test_a_write_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*_):
        raise InputError("no")

    monkeypatch.setattr(prepared, "write_swc", fail)
    with pytest.raises(InputError, match="no"):
        prepare(Shelf(tmp_path), "a", CONFIG)
    assert folders(tmp_path) == []


KILLED = """
import os, signal, sys
sys.path.insert(0, {here!r})
from pathlib import Path
from test_prepared import CONFIG, Shelf
from distill3d.data import prepared
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
prepared.write_swc = die
prepared.prepare(Shelf(Path({cache!r})), "a", CONFIG)
"""


def test_a_process_killed_while_writing_leaves_nothing_that_is_read(tmp_path):
    code = KILLED.format(here=str(Path(__file__).parent), cache=str(tmp_path))
    killed = subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(prepared.__file__).parents[2])
    assert killed.returncode == -signal.SIGKILL
    (leftover,) = folders(tmp_path)
    assert leftover.name.endswith(".partial")
    case = prepare(Shelf(tmp_path), "a", CONFIG)
    assert case.mask.sum() == 8
    old = time.time() - 2 * 86_400
    os.utime(leftover, (old, old))
    prepare(Shelf(tmp_path, version="2"), "a", CONFIG)
    assert not leftover.exists()  # swept a day later


def _prepare_in_child(cache, queue):
    queue.put(str(prepare(Shelf(cache, pause=0.5), "a", CONFIG).folder))


def test_two_processes_at_once_do_the_work_once_and_both_get_the_case(tmp_path):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    children = [context.Process(target=_prepare_in_child, args=(tmp_path, queue)) for _ in range(2)]
    for child in children:
        child.start()
    folders = {queue.get(timeout=30) for _ in children}
    for child in children:
        child.join(timeout=30)
    assert [child.exitcode for child in children] == [0, 0]
    assert len(folders) == 1
    assert Shelf(tmp_path).loads == 1


def test_whoever_comes_second_to_the_rename_takes_what_the_first_wrote(tmp_path):
    source = Shelf(tmp_path)
    folder = prepare(source, "a", CONFIG).folder
    case = source.load("a")
    write_whole(folder, lambda target: prepared._write(target, case, CONFIG), version=prepared.FORMAT)
    assert folders(tmp_path) == [folder]
    assert PreparedCase(folder).mask.sum() == 8


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path):
    file = tmp_path / "file"
    file.touch()
    source = Shelf(tmp_path)
    source.cache = file
    with pytest.raises(InputError, match="cannot be written") as caught:
        prepare(source, "a", CONFIG)
    assert len(caught.value.lines) == 1


def test_gold_of_another_shape_than_the_volume_is_refused(tmp_path):
    class Crooked(Shelf):
        def load(self, name):
            case = super().load(name)
            return Case(name=name, volume=case.volume, mask=case.mask[1:], known=case.known, tree=None)

    with pytest.raises(InputError, match=r"mask \(5, 8, 10\)"):
        prepare(Crooked(tmp_path), "a", CONFIG)


def test_code_is_hashed_whether_it_is_imported_yet_or_not():
    names = ("distill3d.volumes.thinning", "this")  # the second one prints when it is imported
    expected = hashlib.sha256(b"".join(Path(importlib.util.find_spec(name).origin).read_bytes() for name in names))
    assert prepared.code_hash(*names) == expected.hexdigest()
    assert "this" not in sys.modules
    assert prepared.code_hash(names[1], names[0]) != prepared.code_hash(*names)


def test_code_of_a_package_is_that_of_all_its_modules():
    folder = Path(importlib.util.find_spec("distill3d.tracing").origin).parent
    expected = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(folder.rglob("*.py"))))
    assert prepared.code_hash("distill3d.tracing") == expected.hexdigest()
