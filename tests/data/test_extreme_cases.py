"""Data at the edge: nothing to see, nothing labelled, one voxel thick, 100 times as coarse; trained on or refused."""

import json
import math
import warnings

import numpy as np
import pytest
import torch

from distill3d.errors import InputError
from distill3d.storage.run_folder import RunFolder
from distill3d.training.fit import fit
from distill3d.volumes.intensity import rescale
from distill3d.volumes.volume import Volume, write_volume

SHAPE, SPACING = (8, 32, 32), (2.0, 1.0, 1.0)


def line(shape):
    """Gold along the diagonal of the first plane."""
    gold = np.zeros(shape, np.uint8)
    gold[0, range(shape[1]), range(shape[1])] = 1
    return gold


def noise(shape):
    return np.random.default_rng(0).integers(0, 50, shape).astype(np.uint8)


def run_on(tiny, folder, image, gold, spacing=SPACING, *overrides):
    folder.mkdir()
    for name in ("a", "b", "c"):
        write_volume(folder / f"{name}.tif", Volume(image, spacing))
        write_volume(folder / f"{name}_mask.tif", Volume(gold, spacing))
    data = f"data={{name: neurons, folder: {folder}, train: [a], val: [b], test: [c]}}"
    return fit(tiny(data, "patches.size_zyx=[8, 32, 32]", "trainer.steps=2", "trainer.audit_every=0", *overrides))


@pytest.mark.parametrize(
    ("image", "gold", "spacing"),
    [
        (np.full(SHAPE, 7, np.uint8), np.zeros(SHAPE, np.uint8), (1.0, 100.0, 100.0)),
        (noise((1, 32, 32)) + 180 * line((1, 32, 32)), line((1, 32, 32)), (100.0, 1.0, 1.0)),
    ],
    ids=["constant, no gold, coarse in the plane", "one plane, coarse in z"],
)
def test_it_trains_predicts_and_scores_with_finite_numbers(tiny, tmp_path, image, gold, spacing):
    folder = RunFolder(run_on(tiny, tmp_path / "cases", image, gold, spacing))
    assert folder.state == "done"
    weights = torch.load(folder.last, weights_only=True)["state_dict"]
    assert all(value.isfinite().all() for value in weights.values())
    results = json.loads(folder.metrics.read_text())
    assert all(math.isfinite(value) for value in results["mean"].values())


def test_a_black_image_is_refused_in_a_line(tiny, tmp_path):
    with pytest.raises(InputError) as caught:
        run_on(tiny, tmp_path / "cases", np.zeros(SHAPE, np.uint8), line(SHAPE))
    assert len(caught.value.lines) == 3  # one of each case


@pytest.mark.parametrize(("low", "high"), [(0.0, 1e-42), (5.0, 5.0), (0.0, 0.0), (-1e-45, 1e-45)])
def test_intensities_that_hardly_differ_are_scaled_to_finite_ones(low, high):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scaled = rescale(np.array([low, high], np.float32), low, high)
    assert np.isfinite(scaled).all()
    assert scaled[0] == 0
