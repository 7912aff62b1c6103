"""Losses on centerlines: order of predictions, masking, golden values, gradients, shards, and what they ask for."""

import math
from dataclasses import replace

import numpy as np
import pytest
import test_overlap
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distill3d.config.registry import LOSSES, Component
from distill3d.losses.centerline import (
    SkeletonHead,
    SkeletonHeadConfig,
    SkeletonRecall,
    SkeletonRecallConfig,
    SoftClDice,
    SoftClDiceConfig,
)
from distill3d.losses.soft_skeleton import soft_skeleton
from distill3d.types import SKELETON, Prediction, SkeletonTarget

SHAPE = (2, 1, 4, 6, 7)
LOSS_OF = {
    "soft_cldice": SoftClDice(SoftClDiceConfig()),
    "soft_dice": SoftClDice(SoftClDiceConfig()),
    "skeleton_recall": SkeletonRecall(SkeletonRecallConfig(source="mask", dilation_vox=0)),
    "skeleton_cross_entropy": SkeletonHead(SkeletonHeadConfig(source="mask", dilation_vox=0)),
    "skeleton_dice": SkeletonHead(SkeletonHeadConfig(source="mask", dilation_vox=0)),
}
TERMS = tuple(LOSS_OF)
WITH_SKELETON = ("skeleton_recall", "skeleton_cross_entropy", "skeleton_dice")


def batch_of(target, known=None, skeleton=None):
    skeleton = target > 0.5 if skeleton is None else skeleton
    return replace(test_overlap.batch_of(target, known), skeletons={"mask_0": skeleton})


def value_of(term, logits, target, known=None, skeleton=None, loss=None):
    """The head's logits and the segmentation's are the same here, so that every loss is asked alike."""
    student = Prediction(logits=logits, auxiliary={SKELETON: logits})
    return (loss or LOSS_OF[term])(student=student, batch=batch_of(target, known, skeleton))[term].value


def random_case(seed, shape=SHAPE):
    return test_overlap.random_case(seed, shape)


def bar(shape=(1, 1, 9, 9, 24)):
    """A straight neurite with a square cross-section of 3 x 3 voxels."""
    target = torch.zeros(shape)
    target[..., 3:6, 3:6, 2:22] = 1
    return target


def line(shape=(1, 1, 9, 9, 24)):
    skeleton = torch.zeros(shape, dtype=torch.bool)
    skeleton[..., 4, 4, 3:21] = True
    return skeleton


# ---------------------------------------------------------------- values


@pytest.mark.parametrize("term", TERMS)
def test_perfect_is_below_slightly_wrong_is_below_inverted(term):
    target = bar()
    skeleton = target > 0.5
    perfect = (target * 2 - 1) * 8
    slightly = perfect.clone()
    slightly[..., 10:12] = -8  # a gap of two voxels
    scores = [float(value_of(term, logits, target, skeleton=skeleton)) for logits in (perfect, slightly, -perfect)]
    assert 0 <= scores[0] < 0.02
    assert scores[0] < scores[1] - 1e-3
    assert scores[1] < scores[2] - 1e-2


def test_cldice_punishes_a_break_more_than_a_rough_surface_of_as_many_voxels():
    target = bar()
    logits = (target * 2 - 1) * 8
    broken, rough = logits.clone(), logits.clone()
    broken[..., 3:6, 3:6, 11:13] = -8
    rough[..., 3, 3:5, 2:20:2] = -8  # 18 voxels, those of the gap, off the surface
    assert (broken < 0).sum() == (rough < 0).sum()
    dice = [float(value_of("soft_dice", x, target)) for x in (broken, rough)]
    cldice = [float(value_of("soft_cldice", x, target)) for x in (broken, rough)]
    assert dice[0] == pytest.approx(dice[1], rel=1e-3)
    assert cldice[0] > 1.2 * cldice[1]


def test_recall_sees_the_skeleton_only():
    target, skeleton = bar(), line()
    thin = torch.where(skeleton, 8.0, -8.0)
    fat = torch.full_like(target, 8.0)
    assert float(value_of("skeleton_recall", thin, target, skeleton=skeleton)) < 0.01
    assert float(value_of("skeleton_recall", fat, target, skeleton=skeleton)) < 0.01
    missed = torch.where(skeleton, -8.0, 8.0)
    assert float(value_of("skeleton_recall", missed, target, skeleton=skeleton)) > 0.9


def test_cldice_by_hand():
    # Prediction and gold are lines one voxel wide, each its own skeleton, the one shifted along the other. Each has 5
    # voxels, 4 of them common; with e = 1 precision = sensitivity = 5 / 6, and so is their harmonic mean.
    target = torch.zeros(1, 1, 3, 3, 9)
    target[..., 1, 1, 2:7] = 1
    assert torch.equal(soft_skeleton(target, target >= 0, iterations=3), target)
    logits = (target.roll(1, -1) * 2 - 1) * 60
    assert float(value_of("soft_cldice", logits, target)) == pytest.approx(1 / 6, rel=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_cldice_is_the_mean_over_patches_of_the_formula_in_numpy(seed):
    logits, target, _ = random_case(seed)
    known = torch.ones_like(target, dtype=torch.bool)
    prob = logits.sigmoid()
    skeleton_p, skeleton_y = (soft_skeleton(v, known, iterations=3).numpy() for v in (prob, target))
    p, y, losses = prob.numpy(), target.numpy(), []
    for b in range(len(p)):
        precision = ((skeleton_p[b] * y[b]).sum() + 1) / (skeleton_p[b].sum() + 1)
        sensitivity = ((skeleton_y[b] * p[b]).sum() + 1) / (skeleton_y[b].sum() + 1)
        losses.append(1 - 2 * precision * sensitivity / (precision + sensitivity))
    assert float(value_of("soft_cldice", logits, target)) == pytest.approx(np.mean(losses), rel=1e-5)


def test_recall_by_hand():
    # p = 0.5 everywhere, 3 skeleton voxels: recall = (1.5 + 1) / (3 + 1)
    skeleton = torch.zeros(1, 1, 1, 1, 5, dtype=torch.bool)
    skeleton[..., 1:4] = True
    zeros = torch.zeros(1, 1, 1, 1, 5)
    assert float(value_of("skeleton_recall", zeros, zeros, skeleton=skeleton)) == pytest.approx(1 - 2.5 / 4)


def test_the_head_by_hand():
    # p = 0.5 on two voxels, the first of them skeleton; the segmentation's own logits and gold play no part.
    skeleton = torch.tensor([True, False]).reshape(1, 1, 1, 1, 2)
    zeros = torch.zeros(1, 1, 1, 1, 2)
    student = Prediction(logits=torch.full_like(zeros, 5.0), auxiliary={SKELETON: zeros})
    terms = LOSS_OF["skeleton_dice"](student=student, batch=batch_of(zeros, skeleton=skeleton))
    assert {name: float(term.value) for name, term in terms.items()} == pytest.approx(
        {"skeleton_dice": 1 / 3, "skeleton_cross_entropy": math.log(2)}
    )


def test_weights_are_those_of_the_settings():
    logits, target, _ = random_case(0)
    student = Prediction(logits=logits, auxiliary={SKELETON: logits})
    losses = {
        SoftClDice(SoftClDiceConfig(weight=2.0, alpha=0.25)): {"soft_cldice": 0.5, "soft_dice": 1.5},
        SoftClDice(SoftClDiceConfig(weight=2.0, alpha=1.0)): {"soft_cldice": 2.0},
        SkeletonRecall(SkeletonRecallConfig(weight=3.0, dilation_vox=0)): {"skeleton_recall": 3.0},
        SkeletonHead(SkeletonHeadConfig(weight=0.7, dilation_vox=0)): {
            "skeleton_dice": 0.7,
            "skeleton_cross_entropy": 0.7,
        },
    }
    for loss, weights in losses.items():
        terms = loss(student=student, batch=batch_of(target))
        assert {name: term.weight for name, term in terms.items()} == pytest.approx(weights)


# ---------------------------------------------------------------- masking, empty masks, shards, precision


@pytest.mark.parametrize("term", TERMS)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), junk=st.sampled_from([0.0, 3.0, -50.0, 1e4, math.inf, -math.inf, math.nan]))
def test_unknown_voxels_change_no_term(term, seed, junk):
    logits, target, known = random_case(seed)
    before = value_of(term, logits, target, known)
    other_logits, other_target = logits.clone(), target.clone()
    other_logits[~known] = junk
    other_target[~known] = 1 - other_target[~known]
    assert torch.equal(value_of(term, other_logits, other_target, known), before)


@pytest.mark.parametrize("term", TERMS)
def test_terms_are_those_of_the_known_voxels_alone(term):
    # Independent route: cut the known half out and compute without any mask.
    logits, target, _ = random_case(3, (2, 1, 4, 4, 4))
    known = torch.zeros_like(target, dtype=torch.bool)
    known[:, :, :2] = True
    masked, cut = value_of(term, logits, target, known), value_of(term, logits[:, :, :2], target[:, :, :2])
    assert float(masked) == pytest.approx(float(cut), rel=1e-6)


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("logit", [0.0, -60.0, 60.0])
def test_a_patch_without_gold_is_finite_with_a_finite_gradient(term, logit):
    logits = torch.full(SHAPE, logit, requires_grad=True)
    value = value_of(term, logits, torch.zeros(SHAPE))
    (gradient,) = torch.autograd.grad(value, logits)
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()


def test_without_gold_cldice_falls_as_the_predicted_skeleton_vanishes():
    target = torch.zeros(1, 1, 9, 9, 24)
    values = [float(value_of("soft_cldice", torch.where(line(), x, -20.0), target)) for x in (4.0, 0.0, -20.0)]
    assert values[0] > values[1] > values[2]
    assert values[2] == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("term", TERMS)
def test_the_gradient_reaches_the_prediction_but_not_unknown_voxels(term):
    logits, target, known = random_case(5)
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(value_of(term, logits, target, known), logits)
    assert (gradient[~known] == 0).all()
    where = known & (target > 0.5) if term == "skeleton_recall" else known
    # voxels that are nobody's extreme have no part in the soft skeleton, and not all lie on gold's
    assert (gradient[where] != 0).float().mean() > 0.8


@pytest.mark.parametrize("term", TERMS)
def test_following_the_gradient_finds_the_neurite(term):
    target, skeleton = bar(), line()
    logits = torch.full_like(target, -2.0).requires_grad_()
    torch.manual_seed(0)
    optimizer = torch.optim.Adam([logits], lr=0.5)
    for _ in range(60):
        optimizer.zero_grad()
        value_of(term, logits + 1e-2 * torch.randn_like(logits), target, skeleton=skeleton).backward()
        optimizer.step()
    assert (logits[skeleton] > 0).float().mean() > 0.9
    if term != "skeleton_recall":  # which has nothing against a prediction that is too large
        assert target[logits > 3].mean() > 0.9


@pytest.mark.parametrize("term", TERMS)
def test_a_batch_is_the_mean_of_its_patches_also_where_one_has_no_known_voxel(term):
    # So is its gradient: what processes that share a batch compute, DDP averages to the whole.
    patches = [random_case(seed, (1, *SHAPE[1:])) for seed in range(3)]
    patches[1][2][:] = False
    whole = [torch.cat(parts).requires_grad_(parts[0].is_floating_point()) for parts in zip(*patches, strict=True)]
    value = value_of(term, *whole)
    (gradient,) = torch.autograd.grad(value, whole[0])
    values, gradients = [], []
    for logits, target, known in patches:
        logits.requires_grad_()
        values.append(value_of(term, logits, target, known))
        gradients += torch.autograd.grad(values[-1], logits)
    torch.testing.assert_close(value, torch.stack(values).mean())
    torch.testing.assert_close(gradient, torch.cat(gradients) / 3)
    assert values[1] == 0
    assert not gradient[1].any()


@pytest.mark.parametrize("term", TERMS)
def test_half_precision_logits_lose_nothing_but_their_own_digits_and_get_a_gradient(term):
    logits, target, known = random_case(13)
    half = logits.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = value_of(term, half.requires_grad_(), target, known)
    assert value.dtype == torch.float32
    assert value.detach() == value_of(term, half.detach().float(), target, known)
    value.backward()
    assert torch.isfinite(half.grad).all()
    assert half.grad.any()


# ---------------------------------------------------------------- what they ask for


def test_losses_say_which_skeleton_they_want():
    assert SoftClDice.wants(SoftClDiceConfig()) == ()
    for cls, config in ((SkeletonRecall, SkeletonRecallConfig), (SkeletonHead, SkeletonHeadConfig)):
        assert cls.wants(config(source="tree", dilation_vox=1)) == (SkeletonTarget(source="tree", dilation_vox=1),)
    names = {SkeletonTarget(source=s, dilation_vox=d).name for s in ("mask", "tree") for d in (0, 1, 2)}
    assert len(names) == 6


@pytest.mark.parametrize("term", WITH_SKELETON)
def test_each_takes_the_skeleton_it_asked_for(term):
    logits, target, _ = random_case(2)
    loss = LOSS_OF[term]
    student = Prediction(logits=logits, auxiliary={SKELETON: logits})
    batch = batch_of(target)
    other = replace(loss.config, source="tree", dilation_vox=2)
    both = replace(batch, skeletons={"mask_0": target > 0.5, "tree_2": target < 0.5})
    first = loss(student=student, batch=both)[term].value
    second = type(loss)(other)(student=student, batch=both)[term].value
    assert torch.equal(first, loss(student=student, batch=batch)[term].value)
    assert not torch.allclose(first, second)


@pytest.mark.parametrize(
    ("config", "given", "text"),
    [
        (SoftClDiceConfig, {"alpha": 0.0}, "alpha=0.0"),
        (SoftClDiceConfig, {"alpha": 1.5}, "alpha=1.5"),
        (SoftClDiceConfig, {"iterations": -1}, "iterations=-1"),
        (SoftClDiceConfig, {"smooth": 0.0}, "smooth=0.0"),
        (SoftClDiceConfig, {"weight": math.nan}, "weight=nan"),
        (SkeletonRecallConfig, {"dilation_vox": 3}, "dilation_vox=3"),
        (SkeletonRecallConfig, {"weight": 0.0}, "weight=0.0"),
        (SkeletonHeadConfig, {"dilation_vox": -1}, "dilation_vox=-1"),
        (SkeletonHeadConfig, {"positive_weight": math.inf}, "positive_weight=inf"),
    ],
)
def test_settings_that_mean_nothing_are_refused_in_one_line(config, given, text):
    with pytest.raises(ValueError, match=text) as caught:
        config(**given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["soft_cldice", "skeleton_recall", "skeleton_head"])
def test_they_are_registered_and_build_with_defaults(name):
    config = LOSSES[name].config()
    loss = LOSSES.build(Component(name, config))
    logits, target, known = random_case(1)
    batch = batch_of(target, known)
    skeletons = {wanted.name: target > 0.5 for wanted in loss.wants(config)}
    student = Prediction(logits=logits, auxiliary={SKELETON: logits})
    terms = loss(student=student, batch=replace(batch, skeletons=skeletons))
    assert terms
    assert all(term.value.ndim == 0 and torch.isfinite(term.value) for term in terms.values())
