"""Convolutions along tubes give what a slow reference gives, bend as their law says, and keep no map per tap."""

import copy
import itertools
import math
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from forked import Forked
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from distill3d.layers.tubes import op
from distill3d.layers.tubes.conv3d import TubularBlock3d, TubularConv3d
from distill3d.layers.tubes.geometry import snake_tube, tap_distances
from distill3d.layers.tubes.rows import gather, scatter

LAWS, AXES, OUTSIDE = ["snake", "angles"], ["z", "y", "x"], ["border", "zeros"]
STILL = torch.zeros((), dtype=torch.int64)


def build(in_channels=2, out_channels=8, kernel_size=5, *, seed=0, bent=True, **settings):
    """A small layer in double precision whose tubes are bent, with random scales and offsets in its normalizations."""
    torch.manual_seed(seed)
    conv = TubularConv3d(in_channels, out_channels, kernel_size, straight_start=not bent, **settings).double()
    if bent:
        for norm in (conv.bend_norm, conv.norm):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, std=0.5)
    return conv


@pytest.fixture
def image():
    return torch.randn(2, 2, 4, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def few_at_a_time(monkeypatch):
    """Chunks of 7 voxels or fewer, which end within rows of the volume."""
    monkeypatch.setattr("distill3d.layers.tubes.op.CHUNK_ON_CPU", 60)


def normalize(values, groups, norm):
    """Normalize every group of channels of [B, C, ...] and apply the affine parameters."""
    out = np.empty_like(values)
    size = values.shape[1] // groups
    for b, g in itertools.product(range(len(values)), range(groups)):
        part = values[b, g * size : (g + 1) * size]
        out[b, g * size : (g + 1) * size] = (part - part.mean()) / math.sqrt(part.var() + 1e-5)
    return affine(out, norm)


def affine(values, norm):
    scale, offset = norm.weight.numpy(force=True), norm.bias.numpy(force=True)
    return np.stack([values[:, c] * scale[c] + offset[c] for c in range(values.shape[1])], axis=1)


def read(volume, point, outside):
    """Trilinear interpolation of [C, Z, Y, X], one corner at a time; nothing is outside, or the point is moved in."""
    if outside == "border":
        point = [min(max(p, 0), n - 1) for p, n in zip(point, volume.shape[1:], strict=True)]
    value = np.zeros(len(volume))
    for corner in itertools.product(*[(math.floor(p), math.floor(p) + 1) for p in point]):
        if all(0 <= c < n for c, n in zip(corner, volume.shape[1:], strict=True)):
            weight = math.prod(1 - abs(p - c) for p, c in zip(point, corner, strict=True))
            value += weight * volume[:, *corner]
    return value


def snake_tap(axis, k, taps, numbers, extent):
    """Walk from the center to tap k, a step at a time; numbers [2 (K - 1)]: for either component first those before."""
    half = taps // 2
    moved = [0.0, 0.0, 0.0]
    for component, a in enumerate([a for a in range(3) if a != axis]):
        before, after = np.split(numbers[component * (taps - 1) : (component + 1) * (taps - 1)], 2)
        for step in range(abs(k - half)):
            moved[a] += extent * (before if k < half else after)[step]
    moved[axis] = k - half
    return moved


# The three formulas in (x, y, z) of two angles, as the method states them, for a distance of 1.
DIRECTIONS = {
    "x": lambda b, c: (math.cos(b) * math.cos(c), math.cos(b) * math.sin(c), -math.sin(b)),
    "y": lambda a, c: (-math.cos(a) * math.sin(c), math.cos(a) * math.cos(c), math.sin(a)),
    "z": lambda a, b: (math.cos(a) * math.sin(b), -math.sin(a), math.cos(a) * math.cos(b)),
}


def angle_tap(axis, k, taps, numbers, extent):
    """The first two numbers turn the taps before the center, the last two those after it."""
    s = k - taps // 2
    angles = math.pi / 4 * extent * (numbers[:2] if s < 0 else numbers[2:])
    return [s * d for d in reversed(DIRECTIONS["zyx"[axis]](*angles))]


def reference(conv, image, *, axis, law, taps, extent, groups, outside="border"):
    """The layer, voxel by voxel, in training mode. Only the 3x3x3 convolution that bends is torch's."""
    predicted = F.conv3d(image, conv.bend.weight, padding=1).numpy(force=True)
    if law == "snake":
        mean, var = predicted.mean((0, 2, 3, 4), keepdims=True), predicted.var((0, 2, 3, 4), keepdims=True)
        numbers = np.tanh(affine((predicted - mean) / np.sqrt(var + 1e-5), conv.bend_norm))
    else:
        numbers = np.tanh(normalize(predicted, 4, conv.bend_norm))
    volumes, weight = image.numpy(), conv.weight.numpy(force=True)
    out = np.zeros((len(volumes), len(weight), *volumes.shape[2:]))
    displace = snake_tap if law == "snake" else angle_tap
    for n, *voxel in np.ndindex(len(volumes), *volumes.shape[2:]):
        value = conv.bias.numpy(force=True).copy()
        for k in range(taps):
            moved = displace("zyx".index(axis), k, taps, numbers[n, :, *voxel], extent)
            value += weight[:, :, k] @ read(volumes[n], [v + m for v, m in zip(voxel, moved, strict=True)], outside)
        out[n, :, *voxel] = value
    return np.maximum(normalize(out, groups, conv.norm), 0)


@pytest.mark.parametrize(
    ("taps", "outside"),
    [(3, "border"), (5, "border"), (5, "zeros"), (9, "border"), (9, "zeros"), (13, "zeros"), (15, "border")],
)
@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("law", LAWS)
def test_the_layer_gives_what_the_slow_reference_gives(image, few_at_a_time, law, axis, taps, outside):
    # a batch of 2 in a volume of 4 x 5 x 6 voxels: most tubes leave it
    settings = {"axis": axis, "law": law, "extent": 0.9, "outside": outside}
    conv = build(kernel_size=taps, **settings)
    expected = reference(conv, image, **settings, taps=taps, groups=2)
    torch.testing.assert_close(conv(image), torch.from_numpy(expected))


@pytest.mark.parametrize(("out_channels", "groups"), [(16, 4), (10, 2), (6, 1), (3, 1), (1, 1), (13, 1)])
def test_groups_have_four_channels_or_the_next_number_that_divides(image, out_channels, groups):
    conv = build(out_channels=out_channels, kernel_size=3)
    assert conv.norm.num_groups == groups
    expected = reference(conv, image, axis="x", law="snake", taps=3, extent=1, groups=groups)
    torch.testing.assert_close(conv(image), torch.from_numpy(expected))


def test_a_snake_whose_steps_are_diagonal_reads_a_diagonal_line():
    image = torch.zeros(1, 1, 3, 9, 9)
    image[0, 0, 1] = torch.eye(9)
    conv = TubularConv3d(1, 1, kernel_size=9, axis="x", outside="zeros")
    nn.init.ones_(conv.weight)
    nn.init.zeros_(conv.bias)
    steps = torch.zeros(1, 2, 8, 3, 9, 9)
    steps[:, 1, :4], steps[:, 1, 4:] = -1, 1  # of y: down before the center, up after it
    out = conv.convolve(image, snake_tube(2, (STILL,) * 3, tap_distances(9, 1.0), steps))
    # along the diagonal all taps within the volume read 1; half a voxel beside it nothing but half of that
    assert out[0, 0, 1].diagonal().tolist() == [5, 6, 7, 8, 9, 8, 7, 6, 5]
    assert out[0, 0, 1].sum() == out[0, 0, 1].diagonal().sum()
    assert out[0, 0, 0].abs().max() == 0
    conv.outside = "border"
    out = conv.convolve(image, snake_tube(2, (STILL,) * 3, tap_distances(9, 1.0), steps))
    # beyond a corner lies the corner; a tube beside the diagonal ends there too: of the voxel (0, 1) the tap left of it
    # reads (0, 0), as do the three further out, and all others read 0
    assert out[0, 0, 1].diagonal().tolist() == [9] * 9
    assert out[0, 0, 1, 0, 1] == 4
    conv.outside = "zeros"
    steps[:, 0, 0] = 0.5  # of z, right before the center: all taps before it lie half a slice higher
    out = conv.convolve(image, snake_tube(2, (STILL,) * 3, tap_distances(9, 1.0), steps))
    assert out[0, 0, :, 4, 4].tolist() == [2, 5 + 4 / 2, 0]


@pytest.mark.parametrize("outside", OUTSIDE)
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(("axis", "shape"), [("z", (7, 1, 1)), ("y", (1, 7, 1)), ("x", (1, 1, 7))])
def test_at_the_start_it_is_a_straight_convolution_along_its_axis(image, law, axis, shape, outside):
    conv = build(kernel_size=7, axis=axis, law=law, bent=False, outside=outside)
    padding = [n // 2 for n in reversed(shape) for _ in range(2)]
    padded = F.pad(image, padding, mode={"border": "replicate", "zeros": "constant"}[outside])
    straight = F.conv3d(padded, conv.weight.view(8, 2, *shape), conv.bias)
    torch.testing.assert_close(conv.convolve(image, conv.tap_moves(image)), straight)
    torch.testing.assert_close(conv(image), F.group_norm(straight, 2).relu())


def bends_while_training(conv, image, *, steps):
    """Largest distance in voxels of a tap from its place on a straight tube, after each step of Adam."""
    optimizer = torch.optim.Adam(conv.parameters(), lr=1e-3)
    distances = tap_distances(conv.kernel_size, 1.0)
    bends = []
    for _ in range(steps):
        optimizer.zero_grad()
        conv(image).square().mul(torch.linspace(0, 1, 6)).sum().backward()
        optimizer.step()
        straight = [distances if axis == conv.axis else 0 for axis in AXES]
        bends.append(max((m - s).abs().max().item() for m, s in zip(conv.tap_moves(image), straight, strict=True)))
    return bends


@pytest.mark.parametrize("law", LAWS)
def test_straight_tubes_start_to_bend_little_by_little(image, law):
    bends = bends_while_training(build(axis="y", law=law, bent=False), image, steps=20)
    assert 0 < bends[0] < 0.02
    assert bends[-1] > 5 * bends[0]


@pytest.mark.parametrize("law", LAWS)
def test_with_zero_weights_before_the_normalization_they_would_bend_at_once(image, law):
    conv = build(axis="y", law=law, bent=False)
    nn.init.zeros_(conv.bend.weight)
    nn.init.ones_(conv.bend_norm.weight)
    assert bends_while_training(conv, image, steps=1)[0] > 0.5


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("axis", AXES)
def test_the_center_never_moves(image, law, axis):
    conv = build(kernel_size=3, axis=axis, law=law)
    moves = conv.tap_moves(image)
    assert all(move.select(-4, 1).abs().max() == 0 for move in moves)
    assert sum(move.is_floating_point() for move in moves) == (2 if law == "snake" else 3)
    with torch.no_grad():
        conv.weight[:, :, [0, 2]] = 0
    point = F.conv3d(image, conv.weight[:, :, 1].view(8, 2, 1, 1, 1), conv.bias)
    torch.testing.assert_close(conv.convolve(image, moves), point)


def test_it_predicts_no_more_than_it_uses():
    assert [TubularConv3d(4, 4, taps).bend.out_channels for taps in (3, 9, 15)] == [4, 16, 28]
    assert TubularConv3d(4, 4, 9, law="angles").bend.out_channels == 4


def kinkless(image, taps, *, axis, seed=0):
    """Moves whose fractions are 0.1 to 0.9; interpolation has kinks at voxels. ``axis`` None moves taps anywhere."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(image), taps, *image.shape[2:])
    moves = []
    for a in range(3):
        whole = torch.randint(-2, 3, shape, generator=generator)
        part = 0.1 + 0.8 * torch.rand(shape, generator=generator, dtype=torch.float64)
        moves.append(tap_distances(taps, 1.0) if a == axis else (whole + part).requires_grad_())
    return moves


@pytest.mark.parametrize(
    ("axis", "outside"), [(0, "zeros"), (1, "border"), (2, "zeros"), (None, "zeros"), (None, "border")]
)
def test_gradients_are_those_of_finite_differences(few_at_a_time, axis, outside):
    torch.manual_seed(0)
    image = torch.randn(2, 2, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 2, 5, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, dtype=torch.float64, requires_grad=True)
    moves = kinkless(image, 5, axis=axis)

    def conv(image, weight, bias, *moves):
        return op.tube_conv(image, moves, weight, bias, outside=outside)

    # Every entry of the Jacobian once, where all axes move; elsewhere a random projection of it
    whole = axis is None and outside == "zeros"
    assert torch.autograd.gradcheck(conv, (image, weight, bias, *moves), fast_mode=not whole)


@pytest.mark.parametrize("law", LAWS)
def test_gradients_of_the_whole_layer_are_those_of_finite_differences(image, law):
    conv = build(out_channels=2, kernel_size=3, law=law, extent=0.9)
    small = image[:, :, :2, :2, :3].clone().requires_grad_()
    names, values = zip(*conv.named_parameters(), strict=True)
    values = [value.detach().clone().requires_grad_() for value in values]

    def run(image, *values):
        return torch.func.functional_call(conv, dict(zip(names, values, strict=True)), (image,))

    assert torch.autograd.gradcheck(run, (small, *values), atol=1e-4)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 9), st.integers(1, 5), st.sampled_from([1, 2, 4, 8]), st.integers(0, 99))
def test_scatter_is_the_transpose_of_gather(voxels, channels, corners, seed):
    generator = torch.Generator().manual_seed(seed)
    address = torch.randint(voxels, (voxels, 1, corners), dtype=torch.int32, generator=generator)
    share = torch.randn(address.shape, generator=generator, dtype=torch.float64)
    a, b = torch.randn(2, voxels, channels, generator=generator, dtype=torch.float64)
    there = gather(a, address, share).squeeze(1)
    torch.testing.assert_close((there * b).sum(), (a * scatter(b, address, share)).sum())


def test_a_gradient_is_the_same_bit_by_bit_on_every_run(image):
    conv = build(kernel_size=9)
    runs = []
    for _ in range(3):
        given = image.float().requires_grad_()
        copy.deepcopy(conv).float()(given).square().sum().backward()
        runs.append(given.grad)
    assert torch.equal(runs[0], runs[1])
    assert torch.equal(runs[0], runs[2])


def saved_maps(taps, law):
    """What autograd keeps for the backward pass besides parameters, in maps of 32 channels; each storage once."""
    torch.manual_seed(0)
    conv = TubularConv3d(32, 32, taps, law=law, straight_start=False)
    own, seen = {p.untyped_storage().data_ptr() for p in conv.parameters()}, {}

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in own:
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    image = torch.rand(1, 32, 16, 16, 16)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = conv(image)
    return sum(seen.values()) / (out.numel() * 4)


@pytest.mark.parametrize("law", LAWS)
def test_no_map_is_kept_per_tap(law):
    few, many = saved_maps(3, law), saved_maps(15, law)
    # image, output before and after its normalization; the rest is offsets, 2 or 3 numbers per tap of 32 channels
    assert few < 4
    assert many - few < 12 / 3


@pytest.mark.parametrize("law", LAWS)
def test_bfloat16_autocast_stays_close(law):
    conv = build(16, 16, 9, law=law).float()
    image = torch.randn(2, 16, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    exact, moves = conv(image), conv.tap_moves(image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = conv(image)
        rough_moves = conv.tap_moves(image)
        assert conv.convolve(image, moves).dtype == torch.bfloat16
    assert all(m.dtype != torch.bfloat16 for m in rough_moves)
    assert max((a - b).abs().max() for a, b in zip(moves, rough_moves, strict=True)) < 0.1
    assert F.cosine_similarity(rough.float().flatten(), exact.flatten(), dim=0) > 0.999
    rough.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in conv.parameters())
    assert all(p.grad.dtype == torch.float32 and p.grad.abs().max() > 0 for p in conv.parameters())


@pytest.mark.parametrize("law", LAWS)
def test_channels_last_or_not_is_the_same(image, law):
    conv = build(law=law)
    grads = []
    for layout in (torch.contiguous_format, torch.channels_last_3d):
        given = image.clone(memory_format=layout).requires_grad_()
        conv(given).square().sum().backward()
        grads.append(given.grad)
    torch.testing.assert_close(conv(image), conv(image.contiguous(memory_format=torch.channels_last_3d)))
    torch.testing.assert_close(*grads)
    assert conv(image).is_contiguous(memory_format=torch.channels_last_3d)


def test_a_copy_computes_the_same_and_learns_alone(image):
    conv = build()
    twin = copy.deepcopy(conv)
    torch.testing.assert_close(twin(image), conv(image), rtol=0, atol=0)
    twin(image).sum().backward()
    assert conv.weight.grad is None
    assert twin.weight.grad.abs().max() > 0


@pytest.mark.parametrize("law", LAWS)
def test_it_compiles_without_a_break_and_gives_the_same(image, law):
    block = TubularBlock3d(2, 4, 3, axes=("z", "x"), law=law, straight_start=False).double()
    compiled = torch.compile(copy.deepcopy(block), backend="aot_eager", fullgraph=True)
    given, same = image.clone().requires_grad_(), image.clone().requires_grad_()
    out = compiled(given)
    out.square().sum().backward()
    block(same).square().sum().backward()
    torch.testing.assert_close(out, block(image))
    torch.testing.assert_close(given.grad, same.grad)
    for a, b in zip(compiled.parameters(), block.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # within opcheck
@pytest.mark.parametrize("axis", [1, None])
def test_the_operator_keeps_torchs_rules(image, axis):
    weight = torch.randn(3, 2, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, dtype=torch.float64, requires_grad=True)
    given = image.clone().requires_grad_()
    arguments = (given, *kinkless(image, 3, axis=axis), weight, bias, axis is None)
    outcomes = torch.library.opcheck(torch.ops.distill3d.tube_conv.default, arguments)
    assert outcomes
    assert set(outcomes.values()) == {"SUCCESS"}


def test_a_block_starts_at_its_input_plus_what_it_fuses(image):
    torch.manual_seed(0)
    block = TubularBlock3d(2, 2, 3, axes=("y",)).double()
    assert [tube.axis for tube in block.tubes] == ["y"]
    views = torch.cat([block.plain(image), block.tubes[0](image)], dim=1)
    torch.testing.assert_close(block(image), image + block.fuse(views))
    nn.init.zeros_(block.fuse[0].weight)
    assert torch.equal(block(image), image)


def test_a_block_of_other_width_reaches_every_parameter(image):
    block = TubularBlock3d(2, 6, 5, law="angles", straight_start=False).double()
    assert [tube.axis for tube in block.tubes] == ["x", "y", "z"]
    out = block(image)
    assert out.shape == (2, 6, 4, 5, 6)
    out.square().sum().backward()
    assert all(p.grad.abs().max() > 0 for p in block.parameters())


@pytest.mark.parametrize("module", [TubularConv3d, TubularBlock3d])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kernel_size": 4}, "kernel_size=4 has no center or no neighbors; accepted: odd, 3 or more"),
        ({"kernel_size": 1}, "kernel_size=1 has no center or no neighbors; accepted: odd, 3 or more"),
        ({"law": "worm"}, "law=worm is unknown; accepted: snake, angles"),
        ({"outside": "mirror"}, "outside=mirror is unknown; accepted: border, zeros"),
        ({"extent": 0.0}, "extent=0.0 is out of range for snake; accepted: above 0, for angles at most 1"),
        ({"extent": 1.5, "law": "angles"}, "extent=1.5 is out of range for angles; accepted: above 0"),
    ],
)
def test_a_setting_out_of_range_is_refused(module, settings, message):
    with pytest.raises(ValueError, match=message):
        module(2, 4, **settings)


@pytest.mark.parametrize("axes", [(), ("z", "z"), ("z", "w")])
def test_axes_that_name_none_are_refused(axes):
    with pytest.raises(ValueError, match="do not name axes; accepted: one or more of z, y, x, each once"):
        TubularBlock3d(2, 4, axes=axes)
    with pytest.raises(ValueError, match=r"axes=\('w',\) do not name axes"):
        TubularConv3d(2, 4, axis="w")


def two_volumes():
    return torch.randn(2, 2, 4, 5, 6, generator=torch.Generator().manual_seed(3))


def run_rank(rank, folder):
    """What one of two processes does: gradients of its own volume, averaged over both."""
    warnings.simplefilter("error")
    store = torch.distributed.FileStore(f"{folder}/store", 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    net = torch.nn.parallel.DistributedDataParallel(small_block())
    for _ in range(2):  # the second one fails if the first left a parameter without a gradient
        net.zero_grad()
        net(two_volumes()[rank : rank + 1]).square().mean().backward()
    torch.save({name: p.grad for name, p in net.module.named_parameters()}, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def small_block():
    torch.manual_seed(0)
    # no batch statistics, in which two processes would differ from one
    return TubularBlock3d(2, 4, 3, law="angles", straight_start=False)


def test_two_processes_learn_what_one_learns(tmp_path):
    out, test = tmp_path / "out.txt", Path(__file__).stem
    out.touch()
    code = f"import sys; sys.path[:] = {sys.path}; import {test}; {test}.run_rank(int(sys.argv[1]), sys.argv[2])"
    ranks = [Forked(rank, tmp_path, out=out, code=code) for rank in range(2)]
    try:
        assert [rank.wait(240) for rank in ranks] == [0, 0], out.read_text()
    finally:
        for rank in ranks:
            rank.kill()
    alone = small_block()
    alone(two_volumes()).square().mean().backward()
    for rank in range(2):
        grads = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(grads, {name: p.grad for name, p in alone.named_parameters()}, rtol=1e-3, atol=1e-5)
