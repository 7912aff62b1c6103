"""What each neuron type costs: `make bench` prints a row per type, measured side by side. Not part of the suite."""

import statistics
import sys
import time

import pytest
import torch

from distill3d.config.registry import NEURONS
from distill3d.experiment import load_experiment
from distill3d.neurons.conversion import neuron_costs
from distill3d.training.module import fresh_module

SIZE, ROUNDS = (16, 48, 48), 6
TYPES = [name for name in NEURONS.names() if NEURONS[name].module.startswith("distill3d.")]


def _module(name, match):
    settings = f"neurons={{name: {name}, where: ['encoder.*'], match: {match}}}"
    experiment = load_experiment("scratch", (settings, f"patches.size_zyx=[{','.join(map(str, SIZE))}]"))
    torch.manual_seed(0)
    return fresh_module(experiment)[0]


def _step(module, optimizer, image):
    started = time.perf_counter()
    optimizer.zero_grad()
    module.student(image).logits.square().mean().backward()
    optimizer.step()
    return time.perf_counter() - started


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("match", ["width", "parameters"])
def test_neuron_types_in_half_of_the_encoders_layers(match):
    modules = {name: _module(name, match) for name in TYPES}
    optimizers = {name: module.configure_optimizers()["optimizer"] for name, module in modules.items()}
    image, seconds = torch.rand(2, 1, *SIZE), {name: [] for name in TYPES}
    for _ in range(ROUNDS):  # in turns, so that whatever else the machine does falls on all
        for name in TYPES:
            seconds[name].append(_step(modules[name], optimizers[name], image))
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    sys.stdout.write(f"\nscratch's student, patch {SIZE}, batch 2, match: {match}\n")
    for name in sorted(TYPES, key=medians.__getitem__):
        cost = neuron_costs(modules[name].student, size_zyx=SIZE)
        sys.stdout.write(
            f"{name:18} {cost['parameters'] / 1e6:6.2f} M parameters {cost['flops_per_patch'] / 1e9:6.2f} GFLOP a patch"
            f" {medians[name]:6.3f} s a step ({medians[name] / medians['linear']:.2f} x linear)\n"
        )
    assert medians["quadratic"] < 10 * medians["linear"]
