"""What a convolution along tubes costs, beside the straightforward formulation. Ratios, measured in one run.

All arms share the layer: what bends its tubes, and what follows. They differ in how taps are read and summed.
"""

import itertools
import statistics
import subprocess
import sys
import time

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from distill3d.layers.blocks3d import segmentation_head
from distill3d.layers.tubes.conv3d import TubularBlock3d, TubularConv3d

CHANNELS, SIZE, ROUNDS, GIB = 32, 48, 5, 2**20
ARMS = ("tube_conv", "straightforward", "grid_sample")


def long_points(image, moves, axis):
    """Coordinates Z, Y and X of a map K times as long along ``axis``: a voxel's taps lie side by side."""
    shape, taps = list(image.shape), moves[axis].shape[-4]
    places = torch.meshgrid(*(torch.arange(n) for n in shape[2:]), indexing="ij")
    full = (shape[0], taps, *shape[2:])
    points = [(place + move).expand(full).movedim(1, axis + 2) for place, move in zip(places, moves, strict=True)]
    return [point.flatten(axis + 1, axis + 2) for point in points]


def reduce_long(long, weight, bias, axis):
    """A convolution of K voxels and stride K along ``axis``."""
    kernel = [1, 1, 1]
    kernel[axis] = weight.shape[2]
    return F.conv3d(long, weight.view(*weight.shape[:2], *kernel), bias, stride=kernel)


def straightforward(image, moves, weight, bias, axis):
    """Gather eight corners for every tap, build the longer map, convolve it."""
    batch, channels, *sizes = image.shape
    rows = image.movedim(1, -1).reshape(-1, channels)
    points = long_points(image, moves, axis)
    low = [point.detach().floor() for point in points]
    parts = [point - corner for point, corner in zip(points, low, strict=True)]
    first = torch.arange(batch).view(-1, 1, 1, 1) * (sizes[0] * sizes[1] * sizes[2])
    long = 0
    for corner in itertools.product((0, 1), repeat=3):
        at = [index.long() + c for index, c in zip(low, corner, strict=True)]
        share = 1
        for index, part, c, size in zip(at, parts, corner, sizes, strict=True):
            share = share * (part if c else 1 - part) * ((index >= 0) & (index < size))
        z, y, x = (index.clamp(0, size - 1) for index, size in zip(at, sizes, strict=True))
        long = long + rows[first + (z * sizes[1] + y) * sizes[2] + x] * share.unsqueeze(-1)
    return reduce_long(long.movedim(-1, 1), weight, bias, axis)


def with_grid_sample(image, moves, weight, bias, axis):
    """Let torch's fused trilinear interpolation build the longer map, convolve it."""
    points = long_points(image, moves, axis)
    scaled = [2 * point.float() / (n - 1) - 1 for point, n in zip(points, image.shape[2:], strict=True)]
    grid = torch.stack(scaled[::-1], dim=-1)
    return reduce_long(F.grid_sample(image, grid, align_corners=True), weight, bias, axis)


def build(arm, taps, law, axis="x"):
    """A layer whose tubes are bent."""
    torch.manual_seed(0)
    conv = TubularConv3d(CHANNELS, CHANNELS, taps, axis, law, outside="zeros", straight_start=False)
    sums = {"straightforward": straightforward, "grid_sample": with_grid_sample}
    if arm in sums:
        conv.convolve = lambda image, moves: sums[arm](image, moves, conv.weight, conv.bias, "zyx".index(axis))
    return conv


def small_net(law):
    """Two blocks of width 16 and a head."""
    return nn.Sequential(TubularBlock3d(16, 16, law=law), TubularBlock3d(16, 16, law=law), segmentation_head(16))


def step(net, image):
    """Forward and backward, also to the image, as within a network."""
    net(image.requires_grad_()).sum().backward()
    net.zero_grad()
    image.grad = None


def median_seconds(nets, image):
    """Seconds of a step of each; rounds alternate, so that other load meets all, and the first one warms up."""

    def clock(net):
        start = time.perf_counter()
        step(net, image)
        return time.perf_counter() - start

    rounds = [{arm: clock(net) for arm, net in nets.items()} for _ in range(ROUNDS + 1)]
    return {arm: statistics.median(seconds[arm] for seconds in rounds[1:]) for arm in nets}


MEASURE = """
from pathlib import Path
import torch
from tests.benchmarks.test_tubular_conv import build, small_net, step

def kib(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(key)))

torch.set_num_threads({threads})
net = {net}
step(net, torch.rand(1, {channels}, 8, 8, 8))  # loads code, which is no memory of a method's
image = torch.rand(1, {channels}, *{shape})
Path("/proc/self/clear_refs").write_text("5")  # resets the peak, which a child process else takes over from its parent
before = kib("VmRSS")
step(net, image)
print(kib("VmHWM") - before, kib("VmHWM"))
"""


def peak_of(net, *, channels, shape, threads=1):
    """GiB that one step takes beside the network and its input, and in all; in a process of its own, Linux only."""
    command = [sys.executable, "-c", MEASURE.format(net=net, channels=channels, shape=shape, threads=threads)]
    line = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
    return [int(number) / GIB for number in line.split()]


@pytest.fixture(params=[1, 2], ids=lambda threads: f"{threads}_threads")
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("taps", [3, 9])
@pytest.mark.parametrize("law", ["snake", "angles"])
def test_a_tubular_convolution_against_the_straightforward_one(law, taps, threads):
    nets = {arm: build(arm, taps, law) for arm in ARMS}
    image = torch.rand(1, CHANNELS, SIZE, SIZE, SIZE)
    expected = nets["tube_conv"](image)
    for arm in ARMS[1:]:
        torch.testing.assert_close(nets[arm](image), expected, rtol=1e-3, atol=1e-3)
    middle = median_seconds(nets, image)
    peak = {
        arm: peak_of(f"build({arm!r}, {taps}, {law!r})", channels=CHANNELS, shape=(SIZE,) * 3, threads=threads)[0]
        for arm in ARMS
    }
    lines = [f"{arm:15} {middle[arm] * 1e3:6.0f} ms forward + backward, {peak[arm]:.2f} GiB" for arm in ARMS]
    sys.stdout.write(
        f"\n{law}, K = {taps}, (1, {CHANNELS}, {SIZE}^3), threads: {threads}\n" + "\n".join(lines) + "\n"
        f"straightforward / tube_conv: time {middle['straightforward'] / middle['tube_conv']:.2f} (asked: at least 4),"
        f" memory {peak['straightforward'] / peak['tube_conv']:.2f} (asked: at least 4)\n"
        f"grid_sample / tube_conv: time {middle['grid_sample'] / middle['tube_conv']:.2f},"
        f" memory {peak['grid_sample'] / peak['tube_conv']:.2f}\n"
    )
    assert middle["tube_conv"] < middle["straightforward"]
    assert peak["tube_conv"] < peak["straightforward"]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("law", ["snake", "angles"])
def test_two_blocks_of_width_16_fit_into_8_gib(law):
    extra, whole = peak_of(f"small_net({law!r})", channels=16, shape=(128, 96, 96))
    sys.stdout.write(
        f"\ntwo blocks ({law}, K = 9, axes x, y, z), forward + backward at (1, 16, 128, 96, 96): {extra:.2f} GiB beside"
        f" network and input, {whole:.2f} GiB in all (asked: at most 8)\n"
    )
    assert whole < 8
