"""Maps of whole volumes on disk: content-addressed, whole or absent, shared by processes, pruned by use."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import Forked
from launched import wait_for

from distill3d.errors import InputError
from distill3d.storage.whole_folder import prune
from distill3d.teachers.cache import VALUES, FeatureCache, Stack
from distill3d.teachers.slices import Zoom
from distill3d.teachers.timm2d import Timm2d, Timm2dConfig

LAYERS = ("blocks.0", "blocks.1")


@pytest.fixture(scope="module")
def teacher():
    return Timm2d(Timm2dConfig())


def stack(seed=0, shape=(5, 40, 36), **changes):
    image = np.random.default_rng(seed).random(shape, dtype=np.float32)
    settings = {"name": f"s{seed}", "image": lambda: image, "sha256": f"{seed}{shape}", "spacing_um": (1.0, 1.0, 1.0)}
    return Stack(**settings | changes)


def test_what_is_read_is_what_the_teacher_says_of_each_slice(tmp_path, teacher):
    cache, one = FeatureCache(tmp_path, teacher, Zoom()), stack()
    cache.fill(one, LAYERS, "z")
    maps = cache.read(one, "blocks.1", "z")
    padded = np.pad(one.image()[2], ((0, 24), (0, 28)), mode="edge")
    wanted = teacher.maps(torch.from_numpy(padded)[None, None], ["blocks.1"])["blocks.1"][0].permute(1, 2, 0)
    assert maps.values.dtype == torch.float16
    torch.testing.assert_close(maps.values[2].float(), wanted, atol=2e-3, rtol=2e-3)
    assert [cells.pitch for cells in maps.cells] == [1.0, 4.0, 4.0]


def test_a_second_time_the_teacher_does_not_run(tmp_path, teacher):
    first = FeatureCache(tmp_path, teacher, Zoom())
    first.fill(stack(), LAYERS, "z")
    assert (first.count.hits, first.count.misses) == (0, 2)
    before = teacher.images_seen
    again = FeatureCache(tmp_path, teacher, Zoom())
    again.fill(stack(), LAYERS, "z")
    assert (again.count.hits, again.count.misses) == (2, 0)
    assert teacher.images_seen == before
    assert again.count.bytes == first.count.bytes > 0


def test_a_cache_that_others_may_only_read_is_read(tmp_path, teacher, monkeypatch):
    FeatureCache(tmp_path, teacher, Zoom()).fill(stack(), LAYERS, "z")

    def refused(path, *_, **__):
        raise PermissionError(1, "Operation not permitted", str(path))

    monkeypatch.setattr(os, "utime", refused)
    cache = FeatureCache(tmp_path, teacher, Zoom())
    cache.fill(stack(), LAYERS, "z")
    assert cache.count.misses == 0
    assert cache.read(stack(), "blocks.1", "z").values.shape == (5, 16, 16, 24)


def test_all_missing_layers_come_from_one_run_over_the_slices(tmp_path, teacher):
    cache, seen = FeatureCache(tmp_path, teacher, Zoom()), []
    before = teacher.images_seen
    cache.fill(stack(), LAYERS, "y", on_slices=seen.append)
    assert teacher.images_seen - before == sum(seen) == 40


def test_everything_a_map_depends_on_is_in_its_address(tmp_path, teacher):
    cache, one = FeatureCache(tmp_path, teacher, Zoom()), stack()
    other = Timm2d(Timm2dConfig(weights="random"))
    folders = [
        cache.folder(one, "blocks.0", "z"),
        cache.folder(one, "blocks.1", "z"),
        cache.folder(one, "blocks.0", "y"),
        cache.folder(stack(1), "blocks.0", "z"),
        FeatureCache(tmp_path, teacher, Zoom(scale=2.0)).folder(one, "blocks.0", "z"),
        FeatureCache(tmp_path, teacher, Zoom(square=True)).folder(one, "blocks.0", "z"),
        FeatureCache(tmp_path, teacher, Zoom(square=True)).folder(stack(spacing_um=(3.0, 1.0, 1.0)), "blocks.0", "z"),
        FeatureCache(tmp_path, other, Zoom()).folder(one, "blocks.0", "z"),
    ]
    assert len(set(folders)) == len(folders)
    assert cache.folder(stack(name="renamed"), "blocks.0", "z") == folders[0]  # a name is not content
    assert cache.folder(stack(spacing_um=(3.0, 1.0, 1.0)), "blocks.0", "z") == folders[0]  # no pixel is resized by it


def test_numbers_beyond_half_precision_stay_finite(tmp_path, teacher):
    class Loud(Timm2d.__mro__[1]):
        def maps(self, images, layers):
            return {layer: torch.full((len(images), 1, 2, 2), 1e9) for layer in layers}

    loud = Loud(teacher.net, identity=teacher.identity, input_mean=(0.5,) * 3, input_std=(0.5,) * 3)
    cache = FeatureCache(tmp_path, loud, Zoom())
    cache.fill(stack(), ("blocks.0",), "z")
    assert torch.isfinite(cache.read(stack(), "blocks.0", "z").values).all()


def test_a_damaged_entry_is_computed_again(tmp_path, teacher):
    cache = FeatureCache(tmp_path, teacher, Zoom())
    cache.fill(stack(), LAYERS, "z")
    path = cache.folder(stack(), "blocks.1", "z") / VALUES
    good = path.read_bytes()
    path.write_bytes(good[: len(good) // 2])
    again = FeatureCache(tmp_path, teacher, Zoom())
    with pytest.raises(InputError, match=r"no maps of 'blocks\.1' for s0"):
        again.read(stack(), "blocks.1", "z")
    again.fill(stack(), LAYERS, "z")
    assert (again.count.hits, again.count.misses) == (1, 1)
    assert path.read_bytes() == good


SHAPE = (12, 40, 36)
CHILD = f"""
import sys
import time
from pathlib import Path
import numpy as np
from distill3d.teachers.timm2d import Timm2d, Timm2dConfig
from distill3d.teachers.cache import FeatureCache, Stack
from distill3d.teachers.slices import Zoom

image = np.random.default_rng(0).random({SHAPE}, dtype=np.float32)
stack = Stack(name="s", image=lambda: image, sha256="child", spacing_um=(1.0, 1.0, 1.0))
cache = FeatureCache(Path(sys.argv[1]), Timm2d(Timm2dConfig()), Zoom())

def on_slices(_):
    if axis in sys.argv:
        print("in the middle", flush=True)
        time.sleep(600)

for axis in "zyx":
    cache.fill(stack, {LAYERS}, axis, on_slices=on_slices)
print("misses", cache.count.misses, flush=True)
"""


class Child:
    """A process that fills the cache in a folder with maps of the three axes of one stack, or stays in one of them."""

    def __init__(self, folder, out, *stay_in):
        out.touch()
        self.out, self.process = out, Forked(folder, *stay_in, out=out, code=CHILD)

    def misses(self):
        assert self.process.wait(240) == 0, self.out.read_text()
        return int(self.out.read_text().split()[-1])


def contents(folder):
    return {path.parent.name: np.load(path) for path in sorted(folder.glob(f"*/{VALUES}"))}


def test_a_kill_in_the_middle_leaves_nothing_half_written_and_a_rerun_completes_it(tmp_path, teacher):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    child = Child(killed, tmp_path / "first.txt", "y")
    wait_for(child.out.read_text)
    child.process.send_signal(signal.SIGKILL)
    assert child.process.wait(60) == -signal.SIGKILL
    assert list(killed.glob(".*.partial"))  # it did die half-way
    early = contents(killed)
    assert len(early) == 2  # of the axis before
    assert Child(killed, tmp_path / "second.txt").misses() == 6 - len(early)
    for axis in "zyx":
        FeatureCache(whole, teacher, Zoom()).fill(stack(shape=SHAPE, sha256="child"), LAYERS, axis)
    resumed, expected = contents(killed), contents(whole)
    assert resumed.keys() == expected.keys()
    assert len(expected) == 6
    assert all(np.array_equal(resumed[name], expected[name]) for name in expected)
    assert all(np.array_equal(early[name], expected[name]) for name in early)


def test_two_processes_at_once_compute_each_entry_once(tmp_path):
    both = [Child(tmp_path / "maps", tmp_path / f"{number}.txt") for number in range(2)]
    assert sum(child.misses() for child in both) == 6
    assert len(contents(tmp_path / "maps")) == 6


def test_prune_deletes_what_nobody_read_for_so_long(tmp_path, teacher):
    cache = FeatureCache(tmp_path, teacher, Zoom())
    cache.fill(stack(0), LAYERS, "z")
    cache.fill(stack(1), LAYERS, "z")
    month = time.time() - 30 * 86_400
    for path in tmp_path.glob("*/"):
        os.utime(path, (month, month))
    cache.read(stack(1), "blocks.0", "z")  # which makes it fresh
    gone, size = prune(tmp_path, unused_days=7)
    assert gone == 3
    assert size > 0
    assert [path.parent for path in tmp_path.glob(f"*/{VALUES}")] == [cache.folder(stack(1), "blocks.0", "z")]
    assert prune(tmp_path / "nowhere", unused_days=0) == (0, 0)


def test_prune_passes_over_what_another_one_deletes_meanwhile(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "glob", lambda folder, _pattern: [folder / "gone"])
    assert prune(tmp_path, unused_days=0) == (0, 0)


def test_a_folder_that_cannot_be_written_is_refused_in_one_line(tmp_path, teacher):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(InputError, match="cannot be written") as caught:
        FeatureCache(blocked / "maps", teacher, Zoom()).fill(stack(), LAYERS, "z")
    assert "\n" not in str(caught.value)
