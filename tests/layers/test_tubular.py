"""Tubes read what a slow reference reads, bend as their law says, and cost little memory."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from distill3d.layers.tubes.embed import TubularEmbed, taps_from_plane

BLOCK = (3, 2, 4)
LAWS = ["snake", "angles"]


def build(embed_dim=4, *, bent=True, seed=0, **settings):
    """A small embedding in double precision; ``bent`` gives the predictor's last layer random weights."""
    torch.manual_seed(seed)
    embed = TubularEmbed(embed_dim, **{"block_zyx": BLOCK, "taps": 5, "hidden": 3, "law": "snake", **settings}).double()
    if bent and embed.offsets is not None:
        torch.nn.init.normal_(embed.offsets[-1].weight, std=3)
        torch.nn.init.normal_(embed.offsets[-1].bias, std=0.5)
    return embed


@pytest.fixture
def image():
    return torch.rand(2, 1, 6, 4, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def read(volume, point, outside):
    """Trilinear interpolation, one corner at a time."""
    value = 0.0
    for corner in itertools.product(*[(math.floor(p), math.floor(p) + 1) for p in point]):
        weight = math.prod(1 - abs(p - c) for p, c in zip(point, corner, strict=True))
        inside = all(0 <= c < n for c, n in zip(corner, volume.shape, strict=True))
        if inside or outside == "border":
            value += weight * volume[tuple(min(max(c, 0), n - 1) for c, n in zip(corner, volume.shape, strict=True))]
    return value


def snake_tap(axis, k, taps, distance, predicted, extent):
    """Displacement of tap k: walk from the center to it, a step at a time."""
    half = taps // 2
    moved = [0.0, 0.0, 0.0]
    for component, a in enumerate([a for a in range(3) if a != axis]):
        for step in range(1, abs(k - half) + 1):
            channel = component * (taps - 1) + (step - 1 if k < half else half + step - 1)
            moved[a] += extent * math.tanh(predicted[channel])
    moved[axis] = distance
    return moved


def angle_tap(axis, k, taps, s, predicted, extent):
    """The three formulas in (x, y, z), as the method states them."""
    first, second = (math.pi / 4 * extent * math.tanh(p) for p in (predicted[:2] if k < taps // 2 else predicted[2:]))
    sin, cos = math.sin, math.cos
    if axis == 2:
        b, c = first, second
        x, y, z = s * cos(b) * cos(c), s * cos(b) * sin(c), -s * sin(b)
    elif axis == 1:
        a, c = first, second
        x, y, z = -s * cos(a) * sin(c), s * cos(a) * cos(c), s * sin(a)
    else:
        a, b = first, second
        x, y, z = s * cos(a) * sin(b), -s * sin(a), s * cos(a) * cos(b)
    return [z, y, x]


def reference(embed, image, *, taps, spacing, axes, law, extent, outside):
    """Responses of every axis [B, A, E, Gz, Gy, Gx] and tap positions [B, A, N, K, 3], voxel by voxel."""
    # a single tap has nothing to bend, and what would bend it must not matter
    predicted = np.ones((2, 12, 2, 2, 2)) if embed.offsets is None else embed.offsets(image).numpy(force=True)
    tubes, volumes = embed.tubes.numpy(force=True), image.numpy()
    grid = [n // b for n, b in zip(volumes.shape[2:], BLOCK, strict=True)]
    per_axis = predicted.shape[1] // len(axes)
    out = np.zeros((len(volumes), len(axes), tubes.shape[1], *grid))
    points = np.zeros((len(volumes), len(axes), math.prod(grid), taps, 3))
    for n, (i, name) in itertools.product(range(len(volumes)), enumerate(axes)):
        for at, block in enumerate(itertools.product(*map(range, grid))):
            numbers = predicted[n, i * per_axis : (i + 1) * per_axis, *block]
            for k in range(taps):
                displace = snake_tap if law == "snake" else angle_tap
                moved = displace("zyx".index(name), k, taps, (k - taps // 2) * spacing, numbers, extent)
                points[n, i, at, k] = [g * b + b // 2 + m for g, b, m in zip(block, BLOCK, moved, strict=True)]
                value = read(volumes[n, 0], points[n, i, at, k], outside)
                out[n, i, :, *block] += tubes[i, :, k] * value
    return out, points


@pytest.mark.parametrize("outside", ["border", "zeros"])
@pytest.mark.parametrize(("taps", "spacing"), [(5, 1.0), (4, 1.0), (5, 0.7), (4, 2.0), (1, 1.0), (2, 1.3)])
@pytest.mark.parametrize("law", LAWS)
def test_a_tube_reads_what_the_slow_reference_reads(image, law, taps, spacing, outside):
    settings = {"taps": taps, "axes": ("x", "z", "y"), "law": law, "extent": 0.9, "outside": outside}
    embed = build(**settings, tap_spacing=spacing)
    views, points = reference(embed, image, **settings, spacing=spacing)
    expected = torch.from_numpy(views).mean(1) + embed.bias.view(-1, 1, 1, 1)
    torch.testing.assert_close(embed.tap_points(image), torch.from_numpy(points))
    torch.testing.assert_close(embed(image), expected)


@pytest.mark.parametrize("settings", [{}, {"tap_spacing": 0.6}, {"taps": 4, "outside": "zeros"}])
@pytest.mark.parametrize("law", LAWS)
def test_a_deformable_tube_starts_as_the_straight_one(image, law, settings):
    bendable, static = build(bent=False, law=law, **settings), build(deformable=False, **settings)
    static.load_state_dict({k: v for k, v in bendable.state_dict().items() if not k.startswith("offsets")})
    torch.testing.assert_close(bendable(image), static(image))
    torch.testing.assert_close(bendable.tap_points(image), static.tap_points(image))


@pytest.mark.parametrize("law", LAWS)
def test_straight_tubes_already_learn_to_bend(image, law):
    embed = build(bent=False, law=law)
    embed(image).square().sum().backward()
    assert embed.offsets[-1].weight.grad.abs().max() > 0
    assert (embed.offsets[-1].bias.grad.abs() > 0).double().mean() > 0.5


def test_taps_of_a_straight_tube_lie_on_the_voxels_of_its_axis():
    embed = build(taps=4, axes=("z", "x"), tap_spacing=2, deformable=False)
    points = embed.tap_points(torch.zeros(2, 1, 3, 4, 8))
    assert points.shape == (2, 2, 4, 4, 3)
    assert points.dtype == torch.float32
    # blocks in ZYX order: (0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1); centers at 1 + 3 i, 1 + 2 i, 2 + 4 i
    assert points[1, 0, 1].tolist() == [[-3, 1, 6], [-1, 1, 6], [1, 1, 6], [3, 1, 6]]
    assert points[0, 1, 2].tolist() == [[1, 3, -2], [1, 3, 0], [1, 3, 2], [1, 3, 4]]


def test_a_snake_keeps_its_place_along_its_axis_and_steps_at_most_extent(image):
    points = build(taps=6, extent=0.5).tap_points(image)
    straight = build(taps=6, deformable=False).tap_points(image)
    for axis in range(3):
        moved = points[:, axis] - straight[:, axis]
        assert torch.equal(moved[..., axis], torch.zeros(2, 8, 6, dtype=torch.float64))
        assert moved[:, :, 3].abs().max() == 0  # the center
        steps = moved.diff(dim=2).abs()
        assert steps.max() <= 0.5
        others = [a for a in range(3) if a != axis]
        assert (steps[..., others] > 0.01).double().mean() > 0.8


def test_each_half_of_a_bent_tube_is_straight_keeps_its_length_and_turns_at_most_extent(image):
    embed = build(taps=7, law="angles", extent=0.5, tap_spacing=1.5)
    points, straight = embed.tap_points(image), build(taps=7, deformable=False, tap_spacing=1.5).tap_points(image)
    arms, rest = points - points[:, :, :, 3:4], straight - straight[:, :, :, 3:4]
    torch.testing.assert_close(arms.norm(dim=-1), rest.norm(dim=-1))
    torch.testing.assert_close(arms[:, :, :, :3], arms[:, :, :, 2:3] * torch.tensor([3.0, 2.0, 1.0]).view(-1, 1))
    cosine = F.cosine_similarity(arms[:, :, :, [2, 4]], rest[:, :, :, [2, 4]], dim=-1)
    assert cosine.min() >= math.cos(math.pi / 8) ** 2 - 1e-9  # two turns of at most extent * pi / 4
    assert cosine.min() < 0.99


@pytest.mark.parametrize("axis", ["z", "y", "x"])
def test_a_snake_does_not_notice_its_bends_where_nothing_changes_across_it(image, axis):
    profile = torch.rand({"z": 6, "y": 4, "x": 8}[axis], dtype=torch.float64)
    shape = {"z": (-1, 1, 1), "y": (-1, 1), "x": (-1,)}[axis]
    layered = profile.view(shape).expand_as(image)
    bent = build(axes=(axis,), extent=2)
    straight = build(axes=(axis,), deformable=False)
    straight.load_state_dict({k: v for k, v in bent.state_dict().items() if not k.startswith("offsets")})
    assert (bent.tap_points(layered) - straight.tap_points(layered)).abs().max() > 0.5
    torch.testing.assert_close(bent(layered), straight(layered))
    assert not torch.allclose(bent(image), straight(image))


@pytest.mark.parametrize("settings", [{}, {"outside": "zeros", "tap_spacing": 0.7}, {"law": "angles"}])
def test_gradients_are_those_of_finite_differences(image, settings):
    # with random weights no tap of the predicted coordinates lies on a voxel, where interpolation has a kink
    embed = build(2, extent=0.9, fusion="concat", keep_block=True, **settings)
    names = ["tubes", "bias", "fuse.weight", "offsets.4.weight", "offsets.4.bias"]
    values = [dict(embed.named_parameters())[name].detach().clone().requires_grad_() for name in names]

    def embed_with(image, *given):
        return torch.func.functional_call(embed, dict(zip(names, given, strict=True)), (image,))

    assert torch.autograd.gradcheck(embed_with, (image[:1], *values))


@pytest.mark.parametrize("outside", ["border", "zeros"])
def test_the_image_gets_its_gradient_too(image, outside):
    embed = build(2, extent=0.9, outside=outside)
    assert torch.autograd.gradcheck(embed, (image[:1].clone().requires_grad_(),))


@pytest.mark.parametrize("taps", [1, 4, 7, 16, 30])
@pytest.mark.parametrize("law", LAWS)
def test_a_constant_volume_gives_the_2d_embedding_of_a_constant_image(law, taps):
    plane = torch.randn(4, 1, 4, 4, dtype=torch.float64)
    embed = build(taps=taps, law=law, tap_spacing=1.5)
    with torch.no_grad():
        embed.tubes.copy_(taps_from_plane(plane, taps).expand_as(embed.tubes))
        embed.bias.zero_()
    expected = F.conv2d(torch.full((1, 1, 4, 4), 0.3, dtype=torch.float64), plane, stride=4)
    response = embed(torch.full((1, 1, 6, 4, 8), 0.3, dtype=torch.float64))
    torch.testing.assert_close(response, expected.unsqueeze(-1).expand_as(response))


def test_a_tube_of_as_many_taps_holds_the_kernel_row_by_row():
    plane = torch.randn(2, 1, 3, 5)
    assert taps_from_plane(plane, 15)[1, 7] == plane[1, 0, 1, 2]
    assert torch.equal(taps_from_plane(plane, 15).view_as(plane), plane)


@pytest.mark.parametrize("keep_block", [False, True])
def test_concat_starts_as_the_mean_which_is_the_sum_over_the_views(image, keep_block):
    mean, total, concat = (build(fusion=fusion, keep_block=keep_block, seed=3) for fusion in ("mean", "sum", "concat"))
    for other in (total, concat):
        other.load_state_dict(mean.state_dict(), strict=False)
    for embed in (mean, total, concat):
        torch.nn.init.zeros_(embed.bias)
    torch.testing.assert_close(concat(image), mean(image))
    torch.testing.assert_close(total(image), mean(image) * (3 + keep_block))


def test_the_kept_block_is_an_ordinary_block_embedding_and_the_bias_is_added_once(image):
    embed = build(keep_block=True)
    torch.nn.init.zeros_(embed.tubes)
    expected = F.conv3d(image, embed.proj.weight / 4, embed.bias, stride=BLOCK)
    torch.testing.assert_close(embed(image), expected)


def test_tubes_start_with_the_spread_of_a_convolution_of_as_many_inputs():
    torch.manual_seed(0)
    embed = TubularEmbed(64, block_zyx=(8, 8, 8), taps=64)
    conv = torch.nn.Conv1d(1, 64, 64)
    assert embed.tubes.abs().max().item() == pytest.approx(conv.weight.abs().max().item(), rel=0.01)
    assert embed.tubes.std().item() == pytest.approx(conv.weight.std().item(), rel=0.05)
    assert embed.bias.abs().max() <= 1 / 8


def saved_volumes(taps, law):
    """What autograd keeps for the backward pass besides parameters, in units of the volume; each storage once."""
    torch.manual_seed(0)
    embed = TubularEmbed(8, block_zyx=(16, 16, 16), taps=taps, law=law, hidden=8)
    own, seen = {p.untyped_storage().data_ptr() for p in embed.parameters()}, {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    image = torch.rand(1, 1, 64, 64, 64)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = embed(image)
    total = sum(seen.values())
    del out
    return total / image.untyped_storage().nbytes()


@pytest.mark.parametrize(("law", "volumes"), [("snake", 5), ("fit", 12)])
def test_memory_is_a_small_multiple_of_the_volume_not_taps_times_it(law, volumes):
    few, many = saved_volumes(64, law), saved_volumes(256, law)
    # 3 axes of 256 taps in blocks of 4096 voxels: a tensor of all taps is 3/16 of the volume, and about 12 are kept
    assert many < volumes
    assert many < 4 * few


@pytest.mark.parametrize("law", LAWS)
def test_bfloat16_autocast_stays_close(law):
    embed = build(8, taps=64, block_zyx=(8, 8, 8), law=law, fusion="concat", keep_block=True).float()
    image = torch.rand(2, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0))
    exact = embed(image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = embed(image)
        points = embed.tap_points(image)
    assert rough.dtype == torch.bfloat16
    assert torch.equal(points, embed.tap_points(image))  # positions never lose precision
    torch.testing.assert_close(rough.float(), exact, rtol=0.02, atol=0.02)
    rough.float().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in embed.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"taps": 0}, "taps=0 is too small; accepted: 1 or more"),
        ({"axes": ()}, r"axes=\(\) do not name axes; accepted: one or more of z, y, x, each once"),
        ({"axes": ("z", "z")}, "each once"),
        ({"axes": ("z", "w")}, "accepted: one or more of z, y, x"),
        ({"tap_spacing": 0.0}, "tap_spacing=0.0 is too small; accepted: above 0"),
        ({"block_zyx": (4, 0, 4)}, r"block_zyx=\(4, 0, 4\) is too small; accepted: edges of 1 or more"),
        ({"extent": -1.0}, "extent=-1.0 is too small; accepted: above 0"),
        ({"extent": 1.5, "law": "angles"}, "extent=1.5 is too large for angles; accepted: above 0, at most 1"),
        ({"law": "worm"}, "law=worm is unknown; accepted: fit, snake, angles"),
        ({"fusion": "max"}, "fusion=max is unknown; accepted: sum, mean, concat"),
        ({"outside": "mirror"}, "outside=mirror is unknown; accepted: border, zeros"),
    ],
)
def test_a_setting_out_of_range_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TubularEmbed(4, **{"block_zyx": BLOCK, "taps": 4, **settings})


def test_a_volume_that_cannot_be_cut_into_blocks_is_refused():
    with pytest.raises(ValueError, match=r"volume \(6, 5, 8\) cannot be cut into blocks; accepted: multiples of"):
        build()(torch.zeros(1, 1, 6, 5, 8, dtype=torch.float64))
