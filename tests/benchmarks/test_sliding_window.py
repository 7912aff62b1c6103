"""Prediction of whole stacks against MONAI's sliding window, same network and overlap: `make bench` prints it."""

import statistics
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from monai.inferers.utils import sliding_window_inference
from torch import nn
from torch.nn import functional

from distill3d.experiment import load_experiment
from distill3d.training.inference import predict_prob
from distill3d.training.module import DistillModule
from distill3d.types import Prediction
from distill3d.volumes.intensity import scale_intensity
from distill3d.volumes.volume import read_volume

OVERLAP = 0.25
FASTER, SLOWER, ALIKE = 3.0, 1.05, 0.999  # asked for
ROUNDS = 5


class Bright(nn.Module):
    """Takes what is bright in a mean of 3 x 3 x 3 voxels for neuron, at the price of a real network."""

    def __init__(self, student):
        super().__init__()
        self.student = student

    def forward(self, image):
        return Prediction(logits=40 * (functional.avg_pool3d(image, 3, 1, 1) - 0.1) + 0 * self.student(image).logits)


@pytest.fixture(scope="module")
def module():
    torch.manual_seed(0)
    experiment = load_experiment("op_unet")
    module = DistillModule(replace(experiment, inference=replace(experiment.inference, overlap=OVERLAP)))
    module.student = Bright(module.student)
    return module.eval()


def with_monai(module, image):
    settings, inputs = module.experiment, torch.from_numpy(image)[None, None]
    with torch.inference_mode():
        prob = sliding_window_inference(
            inputs,
            settings.patches.size_zyx,
            settings.inference.batch_size,
            lambda windows: module(windows).sigmoid(),
            overlap=OVERLAP,
            mode="gaussian",
        )
    return prob[0, 0].numpy()


def seconds(work, *args):
    start = time.perf_counter()
    result = work(*args)
    return time.perf_counter() - start, result


def row(what, ours, theirs, target, passed, more=""):
    ratio = theirs / ours
    verdict = "pass" if passed else "short"
    sys.stdout.write(
        f"\n{what}: {ours:.1f} s, MONAI {theirs:.1f} s, ratio {ratio:.2f}, asked {target}: {verdict}{more}\n"
    )


@pytest.mark.timeout(3600)
def test_sparse_stacks(module, data_dir):
    ours = theirs = 0.0
    alike = []
    for path in sorted((data_dir / "pairs").glob("OP_*.tif")):
        image = scale_intensity(read_volume(path).data, *module.experiment.patches.percentiles)
        taken, prob = seconds(predict_prob, module, image)
        ours += taken
        taken, right = seconds(with_monai, module, image)
        theirs += taken
        masks = prob >= 0.5, right >= 0.5
        alike.append(2 * (masks[0] & masks[1]).sum() / sum(map(np.sum, masks)))
    passed = theirs / ours >= FASTER and min(alike) >= ALIKE
    row("OP stacks", ours, theirs, f"{FASTER} and Dice {ALIKE}", passed, f"; least Dice {min(alike):.5f}")
    assert min(alike) >= ALIKE


@pytest.mark.timeout(3600)
def test_a_dense_stack(module):
    image = np.random.default_rng(0).random((48, 160, 160), dtype=np.float32)
    rounds = [(seconds(predict_prob, module, image), seconds(with_monai, module, image)) for _ in range(ROUNDS + 1)]
    for (_, prob), (_, right) in rounds:
        np.testing.assert_allclose(prob, right, rtol=0, atol=1e-6)
    ours, theirs = (statistics.median(times) for times in zip(*((o, m) for (o, _), (m, _) in rounds[1:]), strict=True))
    row("a dense stack, 48 x 160 x 160", ours, theirs, f"at least {1 / SLOWER:.2f}", ours <= SLOWER * theirs)
