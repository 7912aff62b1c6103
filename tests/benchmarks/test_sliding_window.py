"""Prediction of whole stacks against MONAI's sliding window, same network and overlap."""

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
ALIKE = 0.999  # asked of Dice between the two masks


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


@pytest.mark.rows("windows-sparse")
def test_sparse_stacks(bench, module, data_dir):
    seconds, alike = {"ours": 0.0, "monai": 0.0}, []
    for path in sorted((data_dir / "pairs").glob("OP_*.tif")):
        image, masks = scale_intensity(read_volume(path).data, *module.experiment.patches.percentiles), {}
        calls = {
            "ours": lambda image=image, masks=masks: masks.update(ours=predict_prob(module, image) >= 0.5),
            "monai": lambda image=image, masks=masks: masks.update(monai=with_monai(module, image) >= 0.5),
        }
        # A minute each, so that no round warms up
        for name, values in bench.seconds(calls, rounds=1, warm_up=False).items():
            seconds[name] += values[0]
        alike.append(2 * (masks["ours"] & masks["monai"]).sum() / sum(map(np.sum, masks.values())))
    assert min(alike) >= ALIKE
    bench.row(
        "windows-sparse",
        "predict the OP stacks, against MONAI's sliding window",
        f"{len(alike)} stacks",
        ours=seconds["ours"],
        other=seconds["monai"],
        at_least=3,
        note=f"least Dice {min(alike):.5f}",
    )


@pytest.mark.rows("windows-dense")
def test_a_dense_stack(bench, module):
    image = np.random.default_rng(0).random((48, 160, 160), dtype=np.float32)
    np.testing.assert_allclose(predict_prob(module, image), with_monai(module, image), rtol=0, atol=1e-6)
    calls = {"ours": lambda: predict_prob(module, image), "monai": lambda: with_monai(module, image)}
    seconds = bench.seconds(calls, rounds=5)
    what = "predict a dense stack, against MONAI's sliding window"
    bench.row("windows-dense", what, "48x160x160", ours=seconds["ours"], other=seconds["monai"], at_most=1.05)
