"""The 3D U-Net's options: where units of reasoning sit, what a skeleton head adds, and what neither changes."""

import pytest
import torch
import torch.nn.functional as F

from distill3d.layers.global_reasoning import GlobalReasoning3d
from distill3d.students.unet3d import UNet3d, UNet3dConfig
from distill3d.types import SKELETON

OPTIONS = [
    {"reasoning": reasoning, "skeleton_head": head}
    for reasoning in ("none", "bottleneck", "skips")
    for head in ("none", "shared", "own_decoder")
]


def unet(seed=0, **options):
    torch.manual_seed(seed)
    return UNet3d(UNet3dConfig(channels=(4, 6, 8), depth_strides=(1, 2), reasoning_nodes=3, **options))


def image_of(*size, seed=1):
    return torch.rand(2, 1, *size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(o.values()))
def test_no_option_changes_the_segmentation_at_the_start(options):
    plain, student, image = unet(), unet(**options), image_of(5, 16, 17)
    shared = plain.state_dict()
    assert all(torch.equal(student.state_dict()[name], value) for name, value in shared.items())
    for mode in (True, False):
        assert torch.equal(student.train(mode)(image).logits, plain.train(mode)(image).logits)


@pytest.mark.parametrize(
    ("reasoning", "widths"), [("none", []), ("bottleneck", [8]), ("skips", [4, 6]), ("both", [4, 6, 8])]
)
def test_units_of_reasoning_sit_where_they_were_asked_for(reasoning, widths):
    units = [m for m in unet(reasoning=reasoning).modules() if isinstance(m, GlobalReasoning3d)]
    assert [unit.extend.out_features for unit in units] == widths
    assert all(unit.to_nodes.out_features == 3 for unit in units)


@pytest.mark.parametrize("reasoning", ["bottleneck", "skips", "both"])
def test_reasoning_changes_the_segmentation_once_it_has_learned(reasoning):
    student, image = unet(reasoning=reasoning).eval(), image_of(4, 16, 16)
    before = student(image).logits
    for unit in student.modules():
        if isinstance(unit, GlobalReasoning3d):
            torch.nn.init.ones_(unit.scale)
    assert not torch.allclose(student(image).logits, before)


@pytest.mark.parametrize("head", ["shared", "own_decoder"])
@pytest.mark.parametrize("size", [(4, 16, 16), (5, 17, 18)])
def test_a_skeleton_head_gives_logits_of_the_images_size_in_training_only(head, size):
    student, image = unet(skeleton_head=head), image_of(*size)
    prediction = student.train()(image)
    assert list(prediction.auxiliary) == [SKELETON]
    assert prediction.auxiliary[SKELETON].shape == prediction.logits.shape == image.shape
    assert not torch.allclose(prediction.auxiliary[SKELETON], prediction.logits)
    assert student.eval()(image).auxiliary == {}


def test_without_a_skeleton_head_there_are_no_further_logits():
    assert unet().train()(image_of(4, 16, 16)).auxiliary == {}


def test_the_skeleton_head_trains_the_decoder_it_hangs_on():
    for head, shared in (("shared", True), ("own_decoder", False)):
        student = unet(skeleton_head=head).train()
        student(image_of(4, 16, 16)).auxiliary[SKELETON].square().mean().backward()
        reached = {name.split(".")[0] for name, p in student.named_parameters() if p.grad is not None and p.grad.any()}
        assert ("decoder" in reached) == shared
        assert ("skeleton_decoder" in reached) == (not shared)
        assert {"encoder", "skeleton_head"} <= reached
        assert "head" not in reached


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(o.values()))
def test_every_parameter_learns_within_two_steps(options):
    student, image = unet(**options).train(), image_of(4, 16, 16)
    before = {name: value.clone() for name, value in student.named_parameters()}
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2, weight_decay=0.0)
    target = (image > 0.7).float()
    for _ in range(2):
        prediction = student(image)
        logits = (prediction.logits, *prediction.auxiliary.values())
        loss = sum(F.binary_cross_entropy_with_logits(each, target) for each in logits)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    still = [name for name, value in student.named_parameters() if torch.equal(before[name], value)]
    assert not still


@pytest.mark.parametrize("options", OPTIONS[-1:], ids=lambda o: "-".join(o.values()))
def test_bf16_autocast_is_close_to_float32(options):
    student, image = unet(**options).train(), image_of(4, 16, 16)
    exact = student(image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = student(image)
    for one, other in ((exact.logits, rough.logits), (exact.auxiliary[SKELETON], rough.auxiliary[SKELETON])):
        assert torch.isfinite(other).all()
        assert (other.float() - one).abs().mean() < 0.05 * one.abs().mean()


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(o.values()))
def test_state_loads_strictly_and_gives_the_same_logits(options):
    one, other = unet(1, **options).eval(), unet(2, **options).eval()
    other.load_state_dict(one.state_dict(), strict=True)
    image = image_of(4, 16, 16)
    assert torch.equal(one(image).logits, other(image).logits)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"reasoning_nodes": 0}, "reasoning_nodes=0 is too small"),
        ({"tubular_kernel": 8}, "tubular_kernel=8 has no center"),
        ({"tubular_kernel": 1}, "tubular_kernel=1 has no center or no neighbors"),
        ({"tubular_axes": ("z", "z")}, r"tubular_axes=\['z', 'z'\]"),
        ({"tubular_axes": ()}, r"tubular_axes=\[\]"),
        ({"tubular_extent": 0.0}, "tubular_extent=0.0 is out of range"),
        ({"tubular_extent": float("nan")}, "tubular_extent=nan is out of range"),
        ({"tubular_law": "angles", "tubular_extent": 2.0}, "tubular_extent=2.0 is out of range"),
        ({"reasoning": "skips", "channels": (8,), "depth_strides": ()}, "reasoning=skips with a single"),
        ({"reasoning": "both", "channels": (8,), "depth_strides": ()}, "reasoning=both with a single"),
    ],
)
def test_wrong_settings_say_what_is_accepted(settings, says):
    with pytest.raises(ValueError, match=says) as caught:
        UNet3dConfig(**settings)
    assert "accepted" in str(caught.value)
