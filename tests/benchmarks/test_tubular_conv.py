"""What a convolution along tubes costs, beside the straightforward formulation. Ratios, measured in one run.

All arms share the layer: what bends its tubes, and what follows. They differ in how taps are read and summed.
"""

import itertools

import pytest
import torch
import torch.nn.functional as F
from rows import peak_gib, pinned
from torch import nn

from distill3d.layers.blocks3d import segmentation_head
from distill3d.layers.tubes.conv3d import TubularBlock3d, TubularConv3d

CHANNELS, SIZE, ROUNDS = 32, (48, 48, 48), 3
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


def prepare(build, arguments, channels, shape):
    """Return what takes memory, for `peak_gib`."""
    net = build(*arguments)
    step(net, torch.rand(1, channels, 8, 8, 8))  # loads code, which is no memory of a method's
    image = torch.rand(1, channels, *shape)
    return lambda: step(net, image)


@pytest.mark.rows("tubes-{law}-k{taps}-t{threads}", "tubes-{law}-k{taps}-t{threads}-g")
@pytest.mark.parametrize("taps", [3, 9])
@pytest.mark.parametrize("law", ["snake", "angles"])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_tubular_convolution_against_the_straightforward_one(bench, law, taps, threads):
    nets = {arm: build(arm, taps, law) for arm in ARMS}
    image = torch.rand(1, CHANNELS, *SIZE)
    expected = nets["tube_conv"](image)
    for arm in ARMS[1:]:
        torch.testing.assert_close(nets[arm](image), expected, rtol=1e-3, atol=1e-3)
    what, shape = f"tube convolution ({law}, K = {taps})", "1x32x48x48x48"
    with pinned(threads):
        seconds = bench.seconds({arm: lambda net=net: step(net, image) for arm, net in nets.items()}, rounds=ROUNDS)
        for row, other, asked in zip(bench.names, ARMS[1:], (4, None), strict=True):
            against = f"{what}, threads: {threads}, against {other}"
            ratio = bench.row(row, against, shape, ours=seconds["tube_conv"], other=seconds[other], at_least=asked)
            assert asked is None or ratio > 1


@pytest.mark.rows("tubes-{law}-k{taps}-memory", "tubes-{law}-k{taps}-memory-g")
@pytest.mark.parametrize("taps", [3, 9])
@pytest.mark.parametrize("law", ["snake", "angles"])
def test_the_memory_of_a_tubular_convolution_against_the_straightforward_one(bench, law, taps):
    peak = {arm: peak_gib(prepare, build, (arm, taps, law), CHANNELS, SIZE)[0] for arm in ARMS}
    what = f"tube convolution ({law}, K = {taps}): peak"
    for row, other, asked in zip(bench.names, ARMS[1:], (4, None), strict=True):
        against, shape = f"{what}, against {other}", "1x32x48x48x48"
        sides = {"ours": peak["tube_conv"], "other": peak[other], "unit": "GiB"}
        ratio = bench.row(row, against, shape, **sides, at_least=asked)
        assert asked is None or ratio > 1


@pytest.mark.rows("tubes-{law}-blocks")
@pytest.mark.parametrize("law", ["snake", "angles"])
def test_two_blocks_of_width_16_fit_into_8_gib(bench, law):
    extra, whole, _ = peak_gib(prepare, small_net, (law,), 16, (128, 96, 96))
    gib = bench.row(
        f"tubes-{law}-blocks",
        f"two tubular blocks ({law}, K = 9, three axes): peak in all",
        "1x16x128x96x96",
        ours=whole,
        unit="GiB",
        at_most=8,
        note=f"{extra:.2f} GiB beside network and input",
    )
    assert gib < 8
