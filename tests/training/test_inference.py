"""Whole stacks, window by window."""

import numpy as np
import pytest
import torch

from distill3d.training.inference import predict_prob, window_count
from distill3d.training.module import DistillModule
from distill3d.types import Prediction
from distill3d.volumes.prob import read_prob, write_prob


class Brightness(torch.nn.Module):
    """A stand-in student whose probability of a voxel is known: it depends on the voxel alone."""

    def forward(self, image):
        return Prediction(logits=4 * image - 2)


@pytest.fixture
def module(tiny):
    module = DistillModule(tiny())
    module.student = Brightness()
    return module


@pytest.mark.parametrize("shape", [(16, 32, 32), (20, 70, 33), (5, 40, 90)])
def test_windows_blend_to_the_value_of_each_voxel(module, shape):
    image = np.random.default_rng(0).random(shape, dtype=np.float32)
    expected = 1 / (1 + np.exp(-(4 * image - 2)))
    np.testing.assert_allclose(predict_prob(module, image), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(16, 32, 32), (20, 70, 33), (5, 40, 90), (64, 64, 64)])
def test_the_announced_number_of_windows_is_the_real_one(module, shape):
    seen = []
    predict_prob(module, np.zeros(shape, np.float32), on_window=seen.append)
    settings = module.experiment
    assert sum(seen) == window_count(shape, settings.patches.size_zyx, settings.inference.overlap)


def test_probabilities_survive_the_file_to_a_quantum_and_keep_the_threshold(tmp_path):
    prob = np.linspace(0, 1, 24 * 8 * 8, dtype=np.float32).reshape(24, 8, 8)
    write_prob(tmp_path / "p" / "case.tif", prob, (3.0, 1.0, 1.0))
    back = read_prob(tmp_path / "p" / "case.tif")
    assert np.abs(back - prob).max() <= 0.5 / 255 + 1e-6
    assert back.dtype == np.float32


def test_a_prediction_without_any_neuron_can_be_read_back(tmp_path):
    write_prob(tmp_path / "case.tif", np.zeros((4, 8, 8), np.float32), (1.0, 1.0, 1.0))
    assert read_prob(tmp_path / "case.tif").max() == 0
