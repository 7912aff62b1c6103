"""What each neuron type costs a training step, against linear ones."""

import pytest
import torch

from distill3d.config.registry import NEURONS
from distill3d.experiment import load_experiment
from distill3d.students.base import student_costs
from distill3d.training.module import fresh_module

SIZE, ROUNDS = (16, 48, 48), 5
TYPES = [name for name in NEURONS.names() if NEURONS[name].module.startswith("distill3d.")]
OTHERS = [name for name in TYPES if name != "linear"]


def _module(name, match):
    settings = f"neurons={{name: {name}, where: ['encoder.*'], match: {match}}}"
    experiment = load_experiment("scratch", (settings, f"patches.size_zyx=[{','.join(map(str, SIZE))}]"))
    torch.manual_seed(0)
    return fresh_module(experiment)[0]


def _step(module, optimizer, image):
    optimizer.zero_grad()
    module.student(image).logits.square().mean().backward()
    optimizer.step()


def _cost(module):
    cost = student_costs(module.student, size_zyx=SIZE)
    return f"{cost['parameters'] / 1e6:.2f} M, {cost['flops_per_patch'] / 1e9:.2f} GFLOP a patch"


@pytest.mark.rows(*(f"neuron-{{match[0]}}-{name.replace('_', '-')}" for name in OTHERS))
@pytest.mark.parametrize("match", ["width", "parameters"])
def test_neuron_types_in_half_of_the_encoders_layers(bench, match):
    modules = {name: _module(name, match) for name in TYPES}
    optimizers = {name: module.configure_optimizers()["optimizer"] for name, module in modules.items()}
    image = torch.rand(2, 1, *SIZE)
    before = {name: module.student(image).logits.detach() for name, module in modules.items()}
    calls = {name: lambda name=name: _step(modules[name], optimizers[name], image) for name in TYPES}
    seconds = bench.seconds(calls, rounds=ROUNDS)
    for name, module in modules.items():
        assert not torch.equal(module.student(image).logits, before[name])  # a step is one
    for row, name in zip(bench.names, OTHERS, strict=True):
        ratio = bench.row(
            row,
            f"{name} against linear, the same {match}",
            "2x1x16x48x48",
            ours=seconds[name],
            other=seconds["linear"],
            note=f"{_cost(modules[name])}; linear {_cost(modules['linear'])}",
        )
        assert name != "quadratic" or ratio < 10
