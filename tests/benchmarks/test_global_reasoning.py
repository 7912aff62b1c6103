"""What global reasoning and the soft skeleton cost, beside the U-Net's step and the usual way to write them.

CPU time: other people's work on the machine counts less than on the clock.
"""

import time

import pytest
import torch
import torch.nn.functional as F
from losses.soft_skeletons import through_pooling
from torch import nn

from distill3d.layers.global_reasoning import GlobalReasoning3d
from distill3d.losses.soft_skeleton import soft_skeleton
from distill3d.students.unet3d import UNet3d, UNet3dConfig

ROUNDS, SIZE = 7, (2, 1, 32, 96, 96)


def unet(reasoning):
    """Build the default U-Net; every unit has learned something."""
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


def seconds_of(bench, forwards):
    """CPU seconds of forward and backward."""
    calls = {name: lambda forward=forward: down(forward()) for name, forward in forwards.items()}
    return bench.seconds(calls, rounds=ROUNDS, clock=time.process_time)


@pytest.mark.rows("glore-bottleneck", "glore-skips")
def test_global_reasoning_against_the_unet_without_it(bench):
    image = torch.rand(SIZE)
    nets = {arm: unet(arm) for arm in ("none", "bottleneck", "skips")}
    logits = {arm: net(image).logits for arm, net in nets.items()}
    assert not any(torch.allclose(logits[arm], logits["none"]) for arm in ("bottleneck", "skips"))  # units are at work
    seconds = seconds_of(bench, {arm: lambda net=net: net(image).logits for arm, net in nets.items()})
    ratio = {}
    for arm in ("bottleneck", "skips"):
        what, shape = f"U-Net with GloRe ({arm}) against none", "2x1x32x96x96"
        ratio[arm] = bench.row(f"glore-{arm}", what, shape, ours=seconds[arm], other=seconds["none"], at_most=1.05)
    assert ratio["bottleneck"] < 1.1


@pytest.mark.rows("glore-unit", "glore-unit-memory")
def test_the_unit_against_the_straightforward_one(bench):
    image = torch.rand(2, 8, 32, 96, 96).contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    units = {"ours": GlobalReasoning3d(8, 16), "straight": Straightforward(8, 16)}
    nn.init.ones_(units["ours"].scale)
    forwards = {name: lambda unit=unit: unit(image) for name, unit in units.items()}
    assert (
        forwards["ours"]().shape == forwards["straight"]().shape == image.shape
    )  # values: layers/test_global_reasoning
    time_ratio, _ = _rows_of(bench, "glore-unit", "GloRe unit of 16 nodes", "2x8x32x96x96", forwards, time=1.0)
    assert time_ratio < 1


@pytest.mark.rows("skeleton", "skeleton-memory")
def test_the_soft_skeleton_against_pooling(bench):
    prob, known = torch.rand(SIZE, requires_grad=True), torch.ones(SIZE, dtype=torch.bool)
    forwards = {
        "ours": lambda: soft_skeleton(prob, known, iterations=3),
        "straight": lambda: through_pooling(prob, iterations=3),
    }
    torch.testing.assert_close(forwards["ours"](), forwards["straight"]())
    _, memory_ratio = _rows_of(bench, "skeleton", "soft skeleton, 3 iterations", "2x1x32x96x96", forwards, memory=1.0)
    assert memory_ratio < 1


def _rows_of(bench, name, what, shapes, forwards, *, time=None, memory=None):
    """Leave a row of seconds and one of memory, with what is asked of each; return both ratios."""
    seconds = seconds_of(bench, forwards)
    what = f"{what}, against the straightforward one"
    ratio = bench.row(name, what, shapes, ours=seconds["ours"], other=seconds["straight"], at_most=time)
    mib = {way: kept(forward) for way, forward in forwards.items()}
    what, asked = f"{what}: kept for the backward", {"unit": "MiB", "at_most": memory}
    return ratio, bench.row(f"{name}-memory", what, shapes, ours=mib["ours"], other=mib["straight"], **asked)
