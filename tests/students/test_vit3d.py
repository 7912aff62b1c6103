"""The 3D ViT: any size, any block, positions and prefix tokens as chosen, and one line for every wrong setting."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from distill3d.errors import ConfigError
from distill3d.students.base import student_costs
from distill3d.students.vit3d import Vit3d, Vit3dConfig, octave_factors
from distill3d.students.vit_encoder3d import build_vit2d
from distill3d.teachers.timm2d import Timm2d, Timm2dConfig
from distill3d.transfer.inflate import Inflate, InflateConfig

SMALL = {"embed_dim": 48, "depth": 4, "num_heads": 3, "decoder": (4, 4, 8, 8), "input_zyx": (16, 32, 32)}
DINOV3 = {**SMALL, "encoder": "vit_small_patch16_dinov3", "block_zyx": (4, 16, 16)}
DINOV2 = {**SMALL, "encoder": "vit_small_patch14_reg4_dinov2", "block_zyx": (2, 14, 14)}


def build(*, seed=0, **changes):
    torch.manual_seed(seed)
    return Vit3d(Vit3dConfig(**{**SMALL, **changes}))


def restless(student):
    """Give tables and tokens values that are felt; timm starts some near zero."""
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in student.encoder.named_parameters():
            if name in {"cls_token", "reg_token", "pos_embed", "depth_embed"} or "gamma" in name:
                parameter.normal_()
    return student


@pytest.fixture
def image():
    return torch.rand(1, 1, 16, 32, 32, generator=torch.Generator().manual_seed(1))


class TestSizes:
    @pytest.mark.parametrize(
        "settings",
        [
            {},
            {"block_zyx": (4, 16, 16)},
            {"encoder": "vit_small_patch14_dinov2", "block_zyx": (2, 14, 14)},
            {"block_zyx": (2, 8, 4), "depth_position": "full"},
            {"block_zyx": (1, 1, 1), "input_zyx": (2, 4, 4)},
            DINOV2,
            DINOV3,
            {**DINOV3, "depth_position": "rotary", "prefix_tokens": "shared"},
        ],
    )
    def test_logits_have_the_images_size(self, settings):
        student = build(**settings).eval()
        sizes = [(5, 7, 9)] if student.stride_zyx == (1, 1, 1) else [(3, 9, 50), (16, 32, 32), (21, 64, 33)]
        for size in sizes:
            with torch.no_grad():
                logits = student(torch.rand(2, 1, *size)).logits
            assert logits.shape == (2, 1, *size)
            assert torch.isfinite(logits).all()

    def test_padding_is_zeros_at_the_end_of_each_axis(self):
        student = build(block_zyx=(4, 16, 8)).eval()
        odd = torch.rand(1, 1, 6, 20, 31)
        with torch.no_grad():
            by_hand = student.segment(F.pad(odd, (0, 1, 0, 12, 0, 2)))[..., :6, :20, :31]
            assert torch.equal(student(odd).logits, by_hand)

    def test_a_pyramid_adds_convolutions_of_the_image_to_the_tokens_of_every_resolution(self, image):
        plain, pyramid = build().eval(), build(detail="pyramid").eval()
        assert pyramid.load_state_dict(plain.state_dict(), strict=False).unexpected_keys == []
        seen = []
        with torch.no_grad():
            assert not torch.equal(pyramid(image).logits, plain(image).logits)
            for convolutions in pyramid.pyramid:
                convolutions.register_forward_hook(lambda _, __, out: seen.append(out.shape) or torch.zeros_like(out))
            assert torch.equal(pyramid(image).logits, plain(image).logits)
        assert [shape[2:] for shape in seen] == [(8, 16, 16), (4, 8, 8)]

    @pytest.mark.parametrize("settings", [SMALL, DINOV3])
    def test_no_image_of_a_batch_sees_another(self, settings):
        student = restless(build(**settings)).eval()
        batch = torch.rand(2, 1, 8, 32, 32)
        with torch.no_grad():
            alone = torch.cat([student(image).logits for image in batch.split(1)])
            torch.testing.assert_close(student(batch).logits, alone)

    @pytest.mark.parametrize("block", [*itertools.product((1, 2, 6, 16), repeat=3), (2, 14, 14), (3, 15, 10)])
    def test_octaves_multiply_to_the_block(self, block):
        factors = octave_factors(block)
        assert tuple(math.prod(axis) for axis in zip(*factors, strict=True)) == block
        first = next((i for i, each in enumerate(factors) if each[0] > 1), len(factors))
        assert all(each[0] > 1 for each in factors[first:])  # an axis with fewer steps takes the coarse ones

    def test_octaves_of_known_blocks(self):
        assert octave_factors((4, 16, 16)) == ((1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2))
        assert octave_factors((1, 1, 1)) == ((1, 1, 1),)


class TestTransformer:
    @pytest.mark.parametrize("settings", [SMALL, DINOV3])
    def test_checkpointing_changes_no_logit_and_no_gradient(self, settings, image):
        results = []
        for checkpointing in (False, True):
            student = build(**settings, checkpointing=checkpointing).train()
            logits = student(image).logits
            (logits * image).sum().backward()
            results.append([logits, *(parameter.grad for parameter in student.parameters())])
        for one, other in zip(*results, strict=True):
            torch.testing.assert_close(one, other)
        assert len(results[0]) > 50

    def test_checkpointing_computes_blocks_again(self, image):
        runs = []
        for checkpointing in (False, True):
            student, calls = build(checkpointing=checkpointing).train(), []
            student.encoder.blocks[0].register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
            student(image).logits.sum().backward()
            runs.append(len(calls))
        assert runs == [1, 2]

    @pytest.mark.parametrize("settings", [SMALL, DINOV3])
    def test_attention_is_fused_once_per_block(self, settings, image, monkeypatch):
        calls, real = [], F.scaled_dot_product_attention

        def counting(query, *args, **kwargs):
            calls.append(tuple(query.shape))
            return real(query, *args, **kwargs)

        monkeypatch.setattr(F, "scaled_dot_product_attention", counting)
        student = build(**settings)
        student(image)
        per_slice = student.encoder.prefix * image.shape[2] // student.stride_zyx[0]
        tokens = per_slice + image.numel() // math.prod(student.stride_zyx)
        assert calls == [(1, 3, tokens, 16)] * 4

    def test_features_are_those_of_the_chosen_blocks_and_later_ones_are_left_out(self, image):
        whole, part = build(features=(1, 2, 4)).eval(), build(features=(3, 1, 2)).eval()
        assert len(part.encoder.blocks) == 3
        part.encoder.load_state_dict(whole.encoder.state_dict(), strict=False)
        with torch.no_grad():
            one, other = whole.encoder(image), part.encoder(image)
        assert torch.equal(one[0], other[0])  # shallow first, in whatever order they are named
        assert torch.equal(one[1], other[1])
        assert not torch.allclose(one[2], other[2])

    def test_without_a_choice_features_are_spread_and_end_with_the_last_block(self):
        assert build(depth=8).encoder.features == (3, 5, 8)
        assert build(depth=12, block_zyx=(4, 16, 16)).encoder.features == (3, 6, 9, 12)


class TestDepthPosition:
    @pytest.mark.parametrize("mode", ["repeat", "learned", "sinusoid", "full"])
    def test_parameters_are_those_the_mode_needs(self, mode):
        encoder = build(depth_position=mode).encoder
        assert encoder.pos_embed.shape == (1, 1 + 16 * (2 if mode == "full" else 1), 48)
        assert (encoder.depth_embed is not None) == (mode == "learned")
        if mode == "learned":
            assert encoder.depth_embed.shape == (2, 48)
            assert not encoder.depth_embed.any()

    def test_learned_starts_as_repeat_and_then_need_not_be(self, image):
        one, other = build(depth_position="repeat").eval(), build(depth_position="learned").eval()
        other.load_state_dict(one.state_dict(), strict=False)
        with torch.no_grad():
            assert torch.equal(one(image).logits, other(image).logits)
            other.encoder.depth_embed.normal_()
            assert not torch.allclose(one.encoder(image)[-1], other.encoder(image)[-1], atol=1e-2)

    @pytest.mark.parametrize("size", [(16, 32, 32), (8, 32, 32), (40, 32, 32)])
    def test_full_is_repeat_right_after_transfer(self, size):
        image = torch.rand(1, 1, *size)
        teacher = Timm2d(Timm2dConfig(architecture="vit_photo_patch8_96", weights="random"))
        sizes = {"embed_dim": None, "depth": None, "num_heads": None}
        one, other = (build(**sizes, depth_position=mode).eval() for mode in ("repeat", "full"))
        for student in (one, other):
            Inflate(InflateConfig()).transfer(student=student, teacher=teacher)
        with torch.no_grad():
            for tokens, expected in zip(one.encoder(image), other.encoder(image), strict=True):
                torch.testing.assert_close(tokens, expected)

    @pytest.mark.parametrize(
        ("settings", "tells_apart"),
        [
            ({"depth_position": "repeat"}, False),
            ({"depth_position": "learned"}, True),
            ({"depth_position": "sinusoid"}, True),
            ({"depth_position": "full"}, True),
            ({**DINOV3, "depth_position": "repeat"}, False),
            ({**DINOV3, "depth_position": "sinusoid"}, True),
            ({**DINOV3, "depth_position": "rotary"}, None),  # relative: like slices stay alike
        ],
    )
    @torch.no_grad()
    def test_slices_of_a_constant_volume_are_told_apart(self, settings, tells_apart):
        student = restless(build(**settings)).eval()
        plane = torch.rand(1, 1, 1, 32, 32)
        feature = student.encoder(plane.expand(-1, -1, 16, -1, -1))[-1]
        if tells_apart is not None:
            assert torch.allclose(feature[:, :, 0], feature[:, :, 1], atol=1e-4) != tells_apart
        turned = student.encoder(torch.cat([plane.flip(3).expand(-1, -1, 8, -1, -1)] + [plane] * 8, dim=2))[-1]
        swapped = student.encoder(torch.cat([plane] * 8 + [plane.flip(3).expand(-1, -1, 8, -1, -1)], dim=2))[-1]
        blind = settings["depth_position"] == "repeat"  # then the order of slices means nothing at all
        assert torch.allclose(turned.flip(2), swapped, atol=1e-4) == blind


class TestPrefixTokens:
    @pytest.mark.parametrize(("settings", "count"), [(SMALL, 1), (DINOV2, 5), (DINOV3, 5)])
    def test_each_mode_has_as_many_as_it_says(self, settings, count):
        patches = torch.rand(2, 48, 3, 2, 2)
        for mode, expected in (("per_slice", 3 * count), ("shared", count), ("none", 0)):
            encoder = build(**settings, prefix_tokens=mode).encoder
            tokens = encoder.place(patches)
            assert tokens.shape == (2, expected + 12, 48)
            assert (encoder.cls_token is None) == (mode == "none")
            if encoder.pos_embed is not None:  # DINOv2's registers have no entry, a plain ViT's class token has one
                entries = encoder.pos_embed.shape[1] - math.prod(encoder.grid_zyx[1:])
                assert entries == (1 if settings is SMALL and mode != "none" else 0)

    def test_modes_differ_in_what_patches_see(self, image):
        patches = []
        for mode in ("per_slice", "shared", "none"):
            student = restless(build(prefix_tokens=mode)).eval()
            base = restless(build()).state_dict()
            table = base.pop("encoder.pos_embed")
            student.load_state_dict(base, strict=False)
            with torch.no_grad():
                student.encoder.pos_embed.copy_(table[:, 1:] if mode == "none" else table)
                patches.append(student.encoder(image)[-1])
        for one, other in itertools.combinations(patches, 2):
            assert not torch.allclose(one, other, atol=1e-3)


def refused(changes):
    with pytest.raises((ConfigError, ValueError)) as caught:
        build(**changes)(torch.rand(1, 1, 8, 32, 32))
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "reason", "accepted"),
    [
        ({"encoder": "vit_nonsense"}, "student.encoder='vit_nonsense'", "such as 'vit_photo_patch8_96'"),
        ({"encoder": "beit_base_patch16_224"}, "is a Beit", "accepted: a plain ViT or a DINOv3 ViT"),
        (
            {"encoder": "resnet18", "embed_dim": None, "depth": None, "num_heads": None},
            "student.encoder='resnet18' is a ResNet",
            "accepted: a plain ViT",
        ),
        ({"encoder": "eva02_tiny_patch14_224"}, "rotary positions (RotaryEmbeddingCat)", "accepted: DINOv3's"),
        ({"embed_dim": 50}, "student.embed_dim=50, student.depth=4, student.num_heads=3", "divisible by num_heads"),
        ({"features": (1, 2, 5)}, "student.features=[1, 2, 5]: the encoder has 4 blocks", "accepted: 1 to 4"),
        ({"features": (0, 1, 2)}, "features=[0, 1, 2]", "accepted: 3 different block numbers from 1"),
        ({"features": (1, 2)}, "features=[1, 2]", "accepted: 3 different block numbers from 1, or none"),
        ({"decoder": (4, 4)}, "decoder=[4, 4] is too short", "accepted: 3 entries for block_zyx=[8, 8, 8]"),
        ({"decoder": ()}, "decoder=[]", "accepted: 1 or more each"),
        ({"block_zyx": (0, 8, 8)}, "block_zyx=[0, 8, 8]", "accepted: 1 or more each"),
        ({"input_zyx": (8, -1, 8)}, "input_zyx=[8, -1, 8]", "accepted: 1 or more each"),
        ({"depth": 0}, "depth=0", "accepted: 1 or more"),
        ({"depth_position": "rotary"}, "'rotary': 'vit_photo_patch8_96' has a position table", "sinusoid, full"),
        ({**DINOV3, "depth_position": "full"}, "'full': 'vit_small_patch16_dinov3' has rotary", "sinusoid, rotary"),
    ],
)
def test_a_wrong_setting_is_one_line_with_the_value_and_what_is_accepted(changes, reason, accepted):
    message = refused(changes)
    assert reason in message
    assert accepted in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"features": (2, 2, 4)}, id="the same block twice"),
        pytest.param({"depth": 2}, id="fewer blocks than features"),
        pytest.param({"num_heads": 0}, id="no heads"),
        pytest.param({"embed_dim": 0}, id="no channels"),
        pytest.param({**DINOV3, "embed_dim": 50}, id="heads do not divide a DINOv3 embedding"),
        pytest.param({**DINOV3, "embed_dim": 36, "num_heads": 6}, id="rope needs 4 channels and their multiples"),
        pytest.param({"embed_dim": 45, "depth_position": "sinusoid"}, id="sinusoid of odd length"),
    ],
)
def test_a_wrong_setting_is_found_when_the_student_is_built(changes):
    with pytest.raises((ConfigError, ValueError), match="accepted"):
        build(**changes)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("deit_tiny_distilled_patch16_224", id="distillation token"),
        pytest.param("vit_tiny_r_s16_p8_224", id="convnet stem"),
    ],
)
def test_a_network_with_parts_of_no_3d_form_is_refused(name):
    with pytest.raises(ConfigError, match="accepted"):
        build_vit2d(name)


def test_flops_count_attention_on_a_cpu_too():
    student = build()
    size, seen = (16, 32, 32), []
    for block in student.encoder.blocks:
        block.attn.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape))
    cost = student_costs(student, size_zyx=size)["flops_per_patch"]
    by_hand = sum(4 * batch * tokens**2 * width for batch, tokens, width in seen)
    with sdpa_kernel(SDPBackend.MATH):  # plain matrix products, which are counted as such
        assert student_costs(student, size_zyx=size)["flops_per_patch"] == cost
    without = FlopCounterMode(display=False)
    with torch.no_grad(), without:
        student.eval()(torch.zeros(1, 1, *size))
    assert cost - without.get_total_flops() == by_hand > 0
