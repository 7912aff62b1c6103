"""Stacks that stay on disk are predicted by block: a folder that appears whole, and a killed process's work counts."""

import re

import numpy as np
import pytest

from distill3d.errors import InputError
from distill3d.storage.lock import FolderLock
from distill3d.training import blocks_on_disk, predict_large
from distill3d.training.inference import mean_prob
from distill3d.training.networks import networks_of
from distill3d.training.predict import predict, predict_all
from distill3d.volumes.prob import read_prob, says_prob
from distill3d.volumes.volume import Volume, open_volume, write_volume


@pytest.fixture
def stack(tmp_path, monkeypatch):
    """An OME-Zarr of several blocks."""
    monkeypatch.setattr(predict_large, "CHUNKS", (8, 16, 16))
    monkeypatch.setattr("distill3d.volumes.prob.CHUNKS", (8, 16, 16))
    monkeypatch.setattr("distill3d.training.blocks_on_disk._REACH", 1)
    data = np.random.default_rng(0).integers(1, 200, (20, 40, 70)).astype(np.uint8)
    write_volume(tmp_path / "cell.zarr", Volume(data, (2.0, 1.0, 1.0)))
    return tmp_path / "cell.zarr"


def test_a_nan_in_a_stack_is_the_stack_s_fault(finished_once, tmp_path):
    data = np.random.default_rng(0).random((20, 40, 70)).astype(np.float32)
    data[3, 4, 5] = np.nan
    write_volume(tmp_path / "cell.zarr", Volume(data, (2.0, 1.0, 1.0)))
    with pytest.raises(InputError, match=r"cell\.zarr: holds NaN or infinite voxels"):
        predict(finished_once, tmp_path / "cell.zarr", out=tmp_path / "out")


def test_a_zarr_is_predicted_as_in_memory_also_after_it_was_killed(finished_once, stack, tmp_path, monkeypatch, caplog):
    networks = networks_of([finished_once])
    right = mean_prob(networks.modules(), open_volume(stack).data[:, :, :])
    written = predict(finished_once, stack, out=tmp_path / "once")
    assert written == tmp_path / "once" / "cell_prob.zarr"
    assert np.abs(read_prob(written) - right).max() <= 0.5 / 255 + 1e-6
    assert says_prob(written)
    assert open_volume(written).spacing_um == (2.0, 1.0, 1.0)
    assert [path.name for path in written.parent.iterdir()] == ["cell_prob.zarr"]

    counts, run = [], blocks_on_disk.run_block

    def killed(*args, **how):
        if len(counts) == 4:
            raise KeyboardInterrupt
        counts.append(args[1].number)
        return run(*args, **how)

    monkeypatch.setattr(blocks_on_disk, "run_block", killed)
    with pytest.raises(KeyboardInterrupt):
        predict(finished_once, stack, out=tmp_path / "killed")
    (partial,) = (tmp_path / "killed").iterdir()
    assert partial.name.startswith(".cell_prob.zarr.")
    (partial / "image.zarr" / "0" / "0.25d6.partial").touch()  # as of a chunk that was being written
    counts += [-1]
    again = predict(finished_once, stack, out=tmp_path / "killed")
    assert re.search(r"cell_prob\.zarr: 4 of \d+ blocks were there already", caplog.text)
    assert counts[:5] == [0, 1, 2, 3, -1]
    assert counts[5:] == list(range(4, max(counts) + 1))
    assert np.array_equal(read_prob(again), read_prob(written))
    assert [path.name for path in again.parent.iterdir()] == ["cell_prob.zarr"]
    assert {path.relative_to(again) for path in again.rglob("*")} == {
        path.relative_to(written) for path in written.rglob("*")
    }


def test_a_partial_prediction_of_another_manner_is_deleted_when_one_is_whole(
    finished_once, stack, tmp_path, monkeypatch
):
    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(blocks_on_disk, "run_block", killed)
        with pytest.raises(KeyboardInterrupt):
            predict(finished_once, stack, out=tmp_path / "p", flips=True)
    (left,) = (tmp_path / "p").iterdir()
    with FolderLock(left) as lock:  # as of a process that is at it
        lock.acquire()
        predict(finished_once, stack, out=tmp_path / "p")
        assert left.is_dir()
    (tmp_path / "p" / ".other_prob.zarr.0.partial").mkdir()
    predict(finished_once, stack, out=tmp_path / "p", overwrite=True)
    assert sorted(path.name for path in (tmp_path / "p").iterdir()) == [".other_prob.zarr.0.partial", "cell_prob.zarr"]


def test_a_partial_prediction_of_another_manner_is_not_gone_on_with(finished_once, stack, tmp_path, monkeypatch):
    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(blocks_on_disk, "run_block", killed)
        for flips in (False, True):
            with pytest.raises(KeyboardInterrupt):
                predict(finished_once, stack, out=tmp_path / "p", flips=flips)
    partials = sorted((tmp_path / "p").iterdir())
    assert len(partials) == 2
    with FolderLock(partials[0]) as one, FolderLock(partials[1]) as other:
        one.acquire()
        other.acquire()
        with pytest.raises(InputError, match=r"cell_prob\.zarr: process \d+ predicts it; accepted: wait"):
            predict(finished_once, stack, out=tmp_path / "p")


def test_what_is_there_of_another_stack_stays_and_what_cannot_be_written_is_named(finished_once, stack, tmp_path):
    networks, target = networks_of([finished_once]), tmp_path / "p" / "cell_prob.zarr"
    write_volume(target, Volume(np.ones((3, 4, 5), np.uint8)))
    with pytest.raises(InputError, match=r"cell_prob\.zarr: is there and did not come from .*; accepted: --overwrite"):
        predict_all(networks, [stack], out=target.parent)
    (written,) = predict_all(networks, [stack], out=target.parent, overwrite=True)
    assert open_volume(written).shape == (20, 40, 70)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file: cannot be written \(File exists\); accepted: another --out"):
        list(predict_all(networks, [stack], out=tmp_path / "file"))


def test_who_is_killed_as_it_deletes_what_it_replaced_leaves_nothing_in_the_way(
    finished_once, stack, tmp_path, monkeypatch
):
    networks, target = networks_of([finished_once]), tmp_path / "p" / "cell_prob.zarr"
    write_volume(target, Volume(np.ones((3, 4, 5), np.uint8)))

    def killed(folder, **_):
        if folder.name.startswith(".cell_prob.zarr"):
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(predict_large.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            list(predict_all(networks, [stack], out=target.parent, overwrite=True))
    (partial,) = target.parent.glob(".*.partial")
    assert any((partial / "replaced").iterdir())
    (written,) = predict_all(networks, [stack], out=target.parent, overwrite=True)
    assert [path.name for path in target.parent.iterdir()] == [written.name]
    assert open_volume(written).shape == (20, 40, 70)


@pytest.mark.parametrize(
    ("suffix", "n_whole", "expected"), [("npy", 10, True), ("npy", 1 << 28, False), ("tif", 10, False)]
)
def test_what_is_large_and_can_be_read_by_block_stays_on_disk(tmp_path, monkeypatch, suffix, n_whole, expected):
    monkeypatch.setattr(predict_large, "WHOLE", n_whole)
    path = tmp_path / f"cell.{suffix}"
    data = np.ones((2, 3, 4), np.uint8)
    if suffix == "npy":
        np.save(path, data)
    else:
        write_volume(path, Volume(data))
    assert predict_large.stays_on_disk(path, channel=0) is expected
