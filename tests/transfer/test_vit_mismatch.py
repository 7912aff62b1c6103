"""A teacher that does not fit a 3D ViT is told in one line, with both values and the option to change."""

import copy

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from distill3d.errors import ConfigError, InputError
from distill3d.students.vit3d import Vit3d, Vit3dConfig
from distill3d.teachers.base import Teacher
from distill3d.teachers.timm2d import Timm2d, Timm2dConfig
from distill3d.transfer.inflate import Inflate, InflateConfig

SUPERVISED, REGISTERS = "vit_small_patch16_224", "vit_small_patch14_reg4_dinov2.lvd142m"


@pytest.fixture(scope="module")
def supervised():
    return Timm2d(Timm2dConfig(architecture=SUPERVISED, weights="random"))


def student_of(encoder, **changes):
    settings = {"block_zyx": (4, 16, 16), "input_zyx": (12, 32, 32), "decoder": (4, 4, 4, 4)}
    return Vit3d(Vit3dConfig(**{"encoder": encoder, **settings, **changes}))


@pytest.mark.parametrize(
    ("encoder", "changes", "option", "has", "wanted", "way_out"),
    [
        (
            SUPERVISED,
            {"embed_dim": 192},
            "student.embed_dim",
            "embedding is 192",
            "is 384",
            "student.embed_dim=384, or student.encoder=vit_small_patch16_224",
        ),
        (
            SUPERVISED,
            {"depth": 13},
            "student.depth",
            "depth is 13",
            "is 12",
            "student.depth=12 or less, or student.encoder=vit_small_patch16_224",
        ),
        (
            SUPERVISED,
            {"num_heads": 12},
            "student.num_heads",
            "number of heads is 12",
            "is 6",
            "student.num_heads=6, or student.encoder=vit_small_patch16_224",
        ),
        (
            SUPERVISED,
            {"block_zyx": (4, 8, 1)},
            "student.block_zyx",
            "patch is (8, 1)",
            "is (16, 16)",
            "student.block_zyx=[Z,Y,X] with Y and X of 2 or more",
        ),
        (
            REGISTERS,
            {"block_zyx": (4, 16, 16)},
            "student.encoder",
            "number of register tokens is 4",
            "is 0",
            "student.encoder=vit_small_patch16_224",
        ),
        (
            "deit3_small_patch16_224",
            {},
            "student.encoder",
            "class token's place is none",
            "is in the table",
            "student.encoder=vit_small_patch16_224",
        ),
    ],
)
def test_sizes_are_named_with_the_option_to_change(supervised, encoder, changes, option, has, wanted, way_out):
    student = student_of(encoder, **changes)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    with pytest.raises(ConfigError) as caught:
        Inflate(InflateConfig()).transfer(student=student, teacher=supervised)
    message = str(caught.value)
    assert message.startswith(f"strategy inflate: {option}: the student's {has}, ")
    assert message.endswith(f"that of the teacher 'vit_small_patch16_224' {wanted}; set {way_out}")
    assert "\n" not in message
    assert all(torch.equal(before[name], value) for name, value in student.state_dict().items())


@pytest.mark.parametrize(
    ("encoder", "teacher", "has", "wanted"),
    [
        (SUPERVISED, "deit3_small_patch16_224", "class token's place is in the table", "none"),
        (
            "vit_base_patch16_clip_224",
            "vit_base_patch16_clip_quickgelu_224",
            "activation is GELU",
            "QuickGELU",
        ),
    ],
)
def test_traits_that_no_weight_shows_are_compared(encoder, teacher, has, wanted):
    student, net = Vit3d(Vit3dConfig(encoder=encoder, depth=3)), timm.create_model(teacher, depth=3)
    message = student.misfit(net, teacher)
    assert message == (
        f"student.encoder: the student's {has}, that of the teacher {teacher!r} is {wanted}; "
        f"set student.encoder={teacher}"
    )


def test_a_student_without_prefix_tokens_needs_no_place_for_one():
    student = Vit3d(Vit3dConfig(encoder=SUPERVISED, depth=3, prefix_tokens="none"))
    assert student.misfit(timm.create_model("deit3_small_patch16_224", depth=3), "deit3_small_patch16_224") is None


def test_a_convnet_is_no_teacher_of_a_vit():
    with pytest.raises(ConfigError, match=r"mirrors 'vit_small_patch16_224', 'tf_\w+' is no ViT; set teacher\.a"):
        Inflate(InflateConfig()).transfer(student=student_of(SUPERVISED), teacher=Timm2d(Timm2dConfig()))


def test_other_names_in_a_file_are_an_error_with_the_first_of_them(tmp_path):
    path = tmp_path / "strange.safetensors"
    save_file({f"backbone.{i}.weight": torch.zeros(2) for i in range(5)}, path)
    with pytest.raises(InputError) as caught:
        Timm2d(Timm2dConfig(architecture=SUPERVISED, weights="file", path=str(path)))
    message = str(caught.value)
    assert "0 of 5 names match vit_small_patch16_224; unmatched: backbone.0.weight, backbone.1.weight" in message
    assert "\n" not in message


@pytest.fixture
def broken(supervised):
    """A teacher around a network of ours."""
    known = supervised

    def build(net):
        return Teacher(net, identity=known.identity, input_mean=known.input_mean, input_std=known.input_std)

    return build


def test_a_missing_matrix_is_an_error_with_the_rate_and_the_name(supervised, broken):
    net = copy.deepcopy(supervised.net)
    net.blocks[3].mlp.fc2 = nn.Identity()
    student = student_of(SUPERVISED)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    with pytest.raises(InputError) as caught:
        Inflate(InflateConfig()).transfer(student=student, teacher=broken(net))
    message = str(caught.value)
    sizes = {name: value.numel() for name, value in student.encoder.named_parameters()}
    lost = sizes["blocks.3.mlp.fc2.weight"] + sizes["blocks.3.mlp.fc2.bias"]
    assert f"the teacher has {1 - lost / sum(sizes.values()):.3%} of the values" in message
    assert "accepted: 100.000% or more" in message
    assert "without counterpart: encoder.blocks.3.mlp.fc2.weight <- blocks.3.mlp.fc2.weight" in message
    assert "\n" not in message
    assert all(torch.equal(before[name], value) for name, value in student.state_dict().items())


@pytest.mark.parametrize(
    ("part", "depth", "lost"),
    [
        ("blocks.3.ls1", 12, "blocks.3.ls1.weight"),
        ("blocks.3.attn.q_norm", 4, "blocks.3.attn.q_norm.weight"),
        ("norm_pre", 4, "norm_pre.weight"),
    ],
)
def test_what_the_student_has_no_place_for_is_an_error_and_not_another_network(broken, part, depth, lost):
    net = timm.create_model(SUPERVISED)
    net.set_submodule(part, nn.LayerNorm(384))
    student = student_of(SUPERVISED, depth=depth)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    with pytest.raises(InputError) as caught:
        Inflate(InflateConfig()).transfer(student=student, teacher=broken(net))
    message = str(caught.value)
    assert message.startswith(f"strategy inflate: the student has no place for {lost} of the teacher '{SUPERVISED}' (")
    assert message.endswith("so the copy would be another network; set student.encoder=vit_small_patch16_224")
    assert all(torch.equal(before[name], value) for name, value in student.state_dict().items())


def test_blocks_beyond_the_students_and_tokens_it_leaves_out_need_no_place(broken):
    net = timm.create_model(SUPERVISED, depth=6)
    net.set_submodule("blocks.5.ls1", nn.LayerNorm(384))
    student = student_of(SUPERVISED, depth=5, prefix_tokens="none")
    audit = Inflate(InflateConfig()).transfer(student=student, teacher=broken(net))
    assert audit.part == "the first 5 of 6 blocks"
    assert torch.equal(student.encoder.blocks[4].attn.qkv.weight, net.blocks[4].attn.qkv.weight)


def test_another_width_inside_a_block_names_both_shapes(broken):
    net = timm.create_model(SUPERVISED, mlp_ratio=2)
    with pytest.raises(InputError, match=r"fc1\.weight is \(1536, 384\), its counterpart \(768, 384\); accepted"):
        Inflate(InflateConfig()).transfer(student=student_of(SUPERVISED), teacher=broken(net))


def test_a_patch_embedding_without_bias_leaves_the_channels_means_to_a_new_one():
    clip = Timm2d(Timm2dConfig(architecture="vit_xsmall_patch16_clip_224", weights="random"))
    clip.input_mean, clip.input_std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    student = student_of("vit_xsmall_patch16_clip_224")
    audit = Inflate(InflateConfig(mode="center")).transfer(student=student, teacher=clip)
    assert next(row for row in audit.rows if row.name == "encoder.patch_embed.proj.bias").fate == "averaged"
    image = torch.rand(1, 1, 4, 16, 16)
    with torch.no_grad():
        embedded = student.encoder.patch_embed(student.normalize(image)).flatten()
        expected = clip.net.patch_embed.proj(clip.normalize(image[:, :, 2])).flatten()
    torch.testing.assert_close(embedded, expected, rtol=1e-4, atol=1e-4)
