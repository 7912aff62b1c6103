"""`tubular` swaps the block embedding for tubes, and a straight tube computes the teacher's patch embedding.

The reference is the teacher's own 2D convolution, fed by the teacher's own normalization.
"""

import pytest
import torch
import torch.nn.functional as F

from distill3d.layers.tubes.embed import TubularEmbed
from distill3d.students.vit3d import Vit3d, Vit3dConfig
from distill3d.teachers.base import hash_weights
from distill3d.teachers.timm2d import Timm2d, Timm2dConfig
from distill3d.transfer.tubular import Tubular, TubularConfig

EMBED = "encoder.patch_embed"
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
PIXELS = 64  # of the teacher's patch, 8 x 8


@pytest.fixture(scope="module")
def teacher():
    """The shipped architecture, with statistics that differ per channel, so that a gray image is no easy case."""
    net = Timm2d(Timm2dConfig(architecture="vit_photo_patch8_96", weights="random"))
    net.input_mean, net.input_std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return net


@pytest.fixture(scope="module", params=["random", "shipped"])
def either(request, teacher):
    """The teacher above, and the one that ships with its own weights and statistics."""
    return teacher if request.param == "random" else Timm2d(Timm2dConfig(architecture="vit_photo_patch8_96"))


def _adapted(*, seed=0, **settings):
    torch.manual_seed(seed)
    student = Vit3d(Vit3dConfig(input_zyx=(16, 32, 32), depth=3))
    strategy = Tubular(TubularConfig(**settings))
    strategy.adapt(student)
    return student, strategy


def _transferred(teacher, *, taps=PIXELS, **settings):
    torch.manual_seed(0)
    student = Vit3d(Vit3dConfig(input_zyx=(16, 32, 32)))
    strategy = Tubular(TubularConfig(taps=taps, **settings))
    strategy.adapt(student)
    return student, {row.name: row for row in strategy.transfer(student=student, teacher=teacher).rows}


@torch.no_grad()
def _tokens(student, volume):
    return student.encoder.patch_embed((volume - student.input_mean) / student.input_std)


@torch.no_grad()
def _flat(teacher, plane):
    """Response [E] of the teacher's patch embedding to a gray plane [8, 8]."""
    return teacher.net.patch_embed.proj(teacher.normalize(plane.expand(1, 3, -1, -1))).flatten()


def _expected(teacher, plane, *, views=1, fusion="mean", channels="sum"):
    """What fused views must give if each gives the 2D response without its bias: the bias is counted once."""
    bias = teacher.net.patch_embed.proj.bias
    response = (_flat(teacher, plane) - bias) * (views if fusion == "sum" else 1)
    return response / (1 if channels == "sum" else 3) + bias


# ---------------------------------------------------------------- structure


def test_adapt_replaces_the_embedding_and_nothing_else():
    student, _ = _adapted(seed=3)
    torch.manual_seed(3)
    plain = Vit3d(student.config)
    assert isinstance(student.encoder.patch_embed, TubularEmbed)
    kept = {name: value for name, value in student.state_dict().items() if not name.startswith(EMBED)}
    assert kept.keys() == {name for name in plain.state_dict() if not name.startswith(EMBED)}
    assert all(torch.equal(plain.state_dict()[name], value) for name, value in kept.items())


@pytest.mark.parametrize(
    ("settings", "taps"), [({}, 17), ({"taps": 20}, 20), ({"axes": ("x",), "deformable": False}, 17)]
)
def test_tubes_are_two_blocks_long_unless_taps_are_given(settings, taps):
    student, strategy = _adapted(**settings)
    assert student.encoder.patch_embed.tubes.shape == (len(strategy.config.axes), 192, taps)


@pytest.mark.parametrize(
    "settings",
    [{"law": "snake", "taps": 64}, {"fusion": "concat", "keep_block": True, "law": "angles", "taps": 20}],
)
def test_a_checkpoint_loads_into_a_fresh_student_with_no_teacher(teacher, settings, tmp_path):
    student, _ = _transferred(teacher, **settings)
    torch.nn.init.normal_(student.encoder.patch_embed.offsets[-1].weight, std=0.1)
    torch.save(student.state_dict(), tmp_path / "student.ckpt")
    torch.manual_seed(9)
    fresh = Vit3d(student.config)
    Tubular(TubularConfig(**settings)).adapt(fresh)
    fresh.load_state_dict(torch.load(tmp_path / "student.ckpt", weights_only=True), strict=True)
    volume = torch.rand(1, 1, 16, 32, 32)
    with torch.no_grad():
        assert torch.equal(fresh(volume).logits, student(volume).logits)


@pytest.mark.parametrize(
    "settings", [{}, {"law": "snake"}, {"law": "angles"}, {"taps": 21, "outside": "zeros", "fusion": "concat"}]
)
def test_at_step_0_the_deformable_student_is_the_static_one(either, settings):
    bending, _ = _transferred(either, **settings)
    static, _ = _transferred(either, deformable=False, **settings)
    volume = torch.rand(1, 1, 20, 40, 32)  # one size is not the table's, one is padded
    with torch.no_grad():
        one, other = bending(volume).logits, static(volume).logits
    assert one.std() > 0
    torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


# ---------------------------------------------------------------- identity, token by token


@pytest.mark.parametrize("channels", ["sum", "mean"])
@pytest.mark.parametrize("keep_block", [False, True])
@pytest.mark.parametrize("fusion", ["mean", "concat", "sum"])
def test_on_constant_gray_every_token_is_the_teachers(either, fusion, keep_block, channels):
    for axes in (("z", "y", "x"), ("y",)):
        student, _ = _transferred(either, fusion=fusion, keep_block=keep_block, channels=channels, axes=axes)
        views = len(axes) + keep_block
        for gray in (0.0, 0.3, 1.0):
            tokens = _tokens(student, torch.full((1, 1, 16, 24, 32), gray))
            expected = _expected(either, torch.full((8, 8), gray), views=views, fusion=fusion, channels=channels)
            torch.testing.assert_close(tokens, expected.view(1, -1, 1, 1, 1).expand_as(tokens), **CLOSE)


def test_the_bias_had_to_absorb_something(teacher):
    student, rows = _transferred(teacher)
    own, teacher_bias = student.encoder.patch_embed.bias, teacher.net.patch_embed.proj.bias
    assert (own - teacher_bias).abs().max() > 1e-3
    assert "means of the teacher's input channels" in rows[f"{EMBED}.bias"].note


@pytest.mark.parametrize("taps", [1, 7, 63, 65, 100])
def test_resampled_taps_keep_the_response_to_a_constant(either, taps):
    student, rows = _transferred(either, taps=taps)
    tokens = _tokens(student, torch.full((1, 1, 8, 16, 16), 0.7))
    expected = _flat(either, torch.full((8, 8), 0.7))
    torch.testing.assert_close(tokens, expected.view(1, -1, 1, 1, 1).expand_as(tokens), **CLOSE)
    assert rows[f"{EMBED}.tubes"].fate == "interpolated"


def _lines(plane, axes, *, block=4):
    """A volume of noise with the plane, row by row, along each axis through the center of the block (4, 4, 4)."""
    volume = torch.rand(1, 1, 80, 80, 80, generator=torch.Generator().manual_seed(5))
    center = block * 8 + 4
    taps = slice(center - PIXELS // 2, center + PIXELS // 2)
    for axis in axes:
        index = [center, center, center]
        index["zyx".index(axis)] = taps
        volume[(0, 0, *index)] = plane.flatten()
    return volume


@pytest.mark.parametrize("deformable", [False, True])
@pytest.mark.parametrize(
    ("axes", "fusion"),
    [("z", "mean"), ("y", "mean"), ("x", "mean"), ("x", "sum"), ("zyx", "mean"), ("zyx", "concat"), ("zyx", "sum")],
)
def test_a_tube_over_a_planes_values_row_by_row_is_the_2d_convolution_of_that_plane(either, axes, fusion, deformable):
    plane = torch.rand(8, 8, generator=torch.Generator().manual_seed(4))
    student, _ = _transferred(either, axes=tuple(axes), fusion=fusion, deformable=deformable)
    token = _tokens(student, _lines(plane, axes))[0, :, 4, 4, 4]
    torch.testing.assert_close(token, _expected(either, plane, views=len(axes), fusion=fusion), **CLOSE)


def test_the_planes_values_in_another_order_give_another_token(either):
    plane = torch.rand(8, 8, generator=torch.Generator().manual_seed(4))
    student, _ = _transferred(either, axes=("x",))
    token = _tokens(student, _lines(plane.T, "x"))[0, :, 4, 4, 4]
    assert (token - _flat(either, plane)).abs().mean() > 0.01


@pytest.mark.parametrize("block", ["average", "center"])
def test_the_kept_block_is_one_more_view_the_inflated_one(either, block):
    student, _ = _transferred(either, keep_block=True, block=block, axes=("x",))
    with torch.no_grad():
        student.encoder.patch_embed.tubes.zero_()
        student.encoder.patch_embed.bias.zero_()
    plane = torch.rand(8, 8, generator=torch.Generator().manual_seed(4))
    volume = torch.rand(1, 1, 8, 8, 8) if block == "center" else plane.expand(1, 1, 8, 8, 8).clone()
    volume[0, 0, 4] = plane
    token = _tokens(student, volume).flatten()
    # against black, so that what channels' differing means leave, which is in the bias, drops out
    dark = _tokens(student, torch.zeros(1, 1, 8, 8, 8)).flatten()
    expected = (_flat(either, plane) - _flat(either, torch.zeros(8, 8))) / 2
    torch.testing.assert_close(token - dark, expected, **CLOSE)


# ---------------------------------------------------------------- where the values come from


def test_random_tubes_are_left_as_drawn_and_the_rest_is_transferred(teacher):
    _, rows = _transferred(teacher, init="random")
    tubes = rows[f"{EMBED}.tubes"]
    assert (tubes.fate, tubes.source, tubes.norm_after) == ("new", None, tubes.norm_before)
    assert rows["encoder.blocks.0.attn.qkv.weight"].fate == "copied"
    assert rows[f"{EMBED}.bias"].fate == "copied"


@pytest.mark.parametrize("fusion", ["mean", "concat", "sum"])
def test_beside_random_tubes_the_block_alone_feels_the_channels_means(teacher, fusion):
    student, _ = _transferred(teacher, init="random", keep_block=True, axes=("y", "x"), fusion=fusion)
    torch.nn.init.zeros_(student.encoder.patch_embed.tubes)
    tokens = _tokens(student, torch.full((1, 1, 8, 8, 8), 0.6)).flatten()
    bias = teacher.net.patch_embed.proj.bias
    response = _flat(teacher, torch.full((8, 8), 0.6)) - bias
    torch.testing.assert_close(tokens, (response if fusion == "sum" else response / 3) + bias, **CLOSE)


def test_the_shuffled_control_differs_in_the_order_of_values_only(teacher):
    real, control = (_transferred(teacher, init=init)[0].state_dict() for init in ("teacher", "shuffled"))
    for name in ("encoder.pos_embed", "encoder.blocks.0.attn.qkv.weight", "encoder.blocks.7.mlp.fc2.weight"):
        assert not torch.equal(real[name], control[name])
        if name != "encoder.pos_embed":  # it is interpolated to this grid, which changes values
            assert torch.equal(real[name].flatten().sort().values, control[name].flatten().sort().values)
    tubes, before = control[f"{EMBED}.tubes"], real[f"{EMBED}.tubes"]
    assert tubes.square().mean().item() == pytest.approx(before.square().mean().item(), rel=0.2)
    assert torch.corrcoef(torch.stack([tubes.flatten(), before.flatten()]))[0, 1].abs() < 0.1
    assert torch.equal(real["encoder.norm.weight"], control["encoder.norm.weight"])


def test_the_shuffled_control_is_seeded(teacher):
    one, same, other = (
        _transferred(teacher, init="shuffled", seed=seed)[0].encoder.patch_embed.tubes for seed in (0, 0, 1)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_the_audit_tells_what_became_of_the_embedding(teacher):
    _, rows = _transferred(teacher, keep_block=True, fusion="concat")
    tubes = rows[f"{EMBED}.tubes"]
    assert (tubes.source, tubes.source_shape) == ("patch_embed.proj.weight", (192, 3, 8, 8))
    assert (tubes.fate, tubes.note) == ("inflated", "sum over input channels; plane of 64 unrolled")
    assert rows[f"{EMBED}.bias"].source == "patch_embed.proj.bias"
    assert rows[f"{EMBED}.proj.weight"].fate == "inflated"
    for name in ("fuse.weight", "offsets.net.0.weight", "offsets.net.4.weight"):
        assert (rows[f"{EMBED}.{name}"].fate, rows[f"{EMBED}.{name}"].source) == ("new", None)
    _, rows = _transferred(teacher, keep_block=True, block="average", taps=20, channels="mean", init="shuffled")
    assert rows[f"{EMBED}.proj.weight"].fate == "averaged"
    expected = "values permuted; mean over input channels; plane of 64 unrolled, resampled to 20 taps"
    assert (rows[f"{EMBED}.tubes"].fate, rows[f"{EMBED}.tubes"].note) == ("interpolated", expected)


# ---------------------------------------------------------------- gradients


@pytest.mark.parametrize("law", ["fit", "snake"])
def test_bending_is_learned_from_the_first_step_and_the_teacher_is_never_touched(teacher, law):
    before = hash_weights(teacher.net.state_dict()), hash_weights(dict(teacher.net.named_parameters()))
    student, _ = _transferred(teacher, law=law)
    offsets = student.encoder.patch_embed.offsets
    offsets = offsets.net if law == "fit" else offsets
    volume = torch.rand(1, 1, 16, 32, 32)
    target = (volume > 0.9).float()

    def backward():
        student.zero_grad()
        F.binary_cross_entropy_with_logits(student(volume).logits, target).backward()

    backward()
    assert all(p.grad.abs().max() > 0 for p in offsets[-1].parameters())
    assert all(p.grad.abs().max() == 0 for p in offsets[:-1].parameters())  # behind a layer of zeros
    torch.optim.AdamW(student.parameters(), lr=1e-3).step()
    backward()
    assert all(p.grad.abs().max() > 0 for p in offsets.parameters())
    assert all(p.grad is None for p in teacher.parameters())
    assert (hash_weights(teacher.net.state_dict()), hash_weights(dict(teacher.net.named_parameters()))) == before
