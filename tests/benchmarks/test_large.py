"""Volumes that stay on disk: what prediction by block takes of time and memory."""

import numpy as np
import pytest
from rows import peak_gib

from distill3d.experiment import load_experiment
from distill3d.training.fit import fit
from distill3d.training.predict import predict
from distill3d.volumes.volume import open_volume, read_volume
from distill3d.volumes.zarr_writing import create_zarr

SHAPE, PLACES = (256, 1024, 1024), {"OP_1": (0, 0, 0), "OP_2": (60, 512, 512), "OP_6": (150, 500, 300)}
GIB = 3.0  # asked of the process's whole memory


def prepare(run, stack, out):
    """Return what takes memory, for `peak_gib`."""
    return lambda: predict(run, stack, out=out)


@pytest.mark.rows("blocks-seconds", "blocks-memory")
def test_prediction_by_block(bench, tmp_path, data_dir):
    few = ["data.train=1", "data.val=1", "data.test=1", "trainer={steps: 1, validate_every: 1, log_every: 1}"]
    run = fit(load_experiment("unet", [*few, f"runs={tmp_path}/runs"]))
    image = create_zarr(tmp_path / "large.zarr", shape=SHAPE, dtype=np.uint8, spacing_um=(3.0, 1.0, 1.0))
    for name, (z, y, x) in PLACES.items():
        data = read_volume(data_dir / "pairs" / f"{name}.tif").data
        depth, height, width = (min(n, room - at) for n, room, at in zip(data.shape, SHAPE, (z, y, x), strict=True))
        image[z : z + depth, y : y + height, x : x + width] = data[:depth, :height, :width]
    _, gib, seconds = peak_gib(prepare, run, tmp_path / "large.zarr", tmp_path / "prob")
    assert open_volume(tmp_path / "prob" / "large_prob.zarr").shape == SHAPE
    what, shape = "predict an OME-Zarr by block, three OP stacks in the dark", "x".join(map(str, SHAPE))
    per = seconds * 2**30 / np.prod(SHAPE)
    bench.row("blocks-seconds", f"{what}: per gigavoxel", shape, ours=float(per))
    assert bench.row("blocks-memory", f"{what}: all memory", shape, ours=gib, unit="GiB", at_most=GIB) < GIB
