"""Losses place by place, the table of settings, and the KL divergence of logits."""

import inspect
import itertools
import math
from dataclasses import asdict
from functools import partial

import numpy as np
import pytest
import torch
from feature_maps import KINDS, as_rows, by_seed, features
from hypothesis import given, settings
from hypothesis import strategies as st

from distill3d.transfer.matching import places
from distill3d.transfer.matching.alignment import cka
from distill3d.transfer.matching.places import (
    FeatureLossConfig,
    attention,
    channelwise,
    cosine,
    feature_loss,
    mse,
    needs_same_channels,
    soft_binary_kl,
)
from distill3d.transfer.matching.relations import relational, similarity_preserving


def slow_cosine(student, teacher):
    pairs = zip(as_rows(student), as_rows(teacher), strict=True)
    return 1 - np.mean([s @ t / math.sqrt((s @ s) * (t @ t)) for s, t in pairs])


def slow_mse(student, teacher):
    s, t = as_rows(student), as_rows(teacher)
    return np.mean(
        [np.mean((s[:, c] - (t[:, c] - np.mean(t[:, c])) / np.std(t[:, c])) ** 2) for c in range(s.shape[1])]
    )


def slow_attention(student, teacher):
    patches = []
    for s, t in zip(student.double().numpy(), teacher.double().numpy(), strict=True):
        q = [np.mean(side**2, axis=0).ravel() for side in (s, t)]
        patches.append([(a - b) ** 2 for a, b in zip(*(side / np.linalg.norm(side) for side in q), strict=True)])
    return np.mean(patches) / 2


def slow_channelwise(student, teacher, temperature=4.0):
    total = 0.0
    for s, t in itertools.chain.from_iterable(
        zip(a, b, strict=True) for a, b in zip(student.double().numpy(), teacher.double().numpy(), strict=True)
    ):
        p, q = (np.exp(side.ravel() / temperature) / np.exp(side.ravel() / temperature).sum() for side in (t, s))
        total += np.sum(p * np.log(p / q))
    return total * temperature**2 / student.shape[1] / student.shape[0]


@by_seed
@pytest.mark.parametrize(
    ("fast", "slow"),
    [(cosine, slow_cosine), (mse, slow_mse), (attention, slow_attention), (channelwise, slow_channelwise)],
)
def test_place_by_place_losses_are_those_of_the_slow_version(fast, slow, seed):
    student, teacher = features(seed), features(seed + 100)
    assert fast(student=student, teacher=teacher).item() == pytest.approx(slow(student, teacher), rel=1e-5)


@by_seed
def test_channelwise_at_another_temperature_is_that_of_the_slow_version(seed):
    student, teacher = features(seed), features(seed + 100)
    got = channelwise(student=student, teacher=teacher, temperature=0.7).item()
    assert got == pytest.approx(slow_channelwise(student, teacher, 0.7), rel=1e-5)


@by_seed
def test_raw_mse_compares_the_maps_as_they_are(seed):
    student, teacher = features(seed), features(seed + 100)
    golden = np.mean((student.double().numpy() - teacher.double().numpy()) ** 2)
    assert mse(student=student, teacher=teacher, standardize=False).item() == pytest.approx(golden, rel=1e-5)


@by_seed
def test_predicting_the_mean_costs_one_in_standardized_mse(seed):
    teacher = features(seed) * 100 + 7
    assert mse(student=torch.zeros_like(teacher), teacher=teacher).item() == pytest.approx(1, rel=1e-5)


def test_a_constant_channel_is_no_target_in_standardized_mse_also_where_its_mean_rounds():
    constant = torch.full((1, 2, 10, 10, 10), 3.3)
    assert mse(student=torch.zeros_like(constant), teacher=constant).item() < 1e-3


def test_opposite_directions_cost_two_and_activity_elsewhere_costs_one_in_all_places():
    teacher = features(0)
    assert cosine(student=-3 * teacher, teacher=teacher).item() == pytest.approx(2, rel=1e-6)
    left = torch.zeros(1, 2, 2, 2, 2)
    left[..., 0] = 1
    assert attention(student=1 - left, teacher=left).item() == pytest.approx(1 / 8, rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_exactly_the_kinds_that_compare_channels_refuse_other_channels(kind):
    loss, maps = (
        feature_loss(FeatureLossConfig(kind=kind)),
        {"student": features(0), "teacher": features(1, channels=3)},
    )
    assert needs_same_channels(kind) == (kind in {"cosine", "mse", "channelwise"})
    if needs_same_channels(kind):
        with pytest.raises(ValueError, match="differ in channels"):
            loss(**maps, seed=0)
    else:
        assert torch.isfinite(loss(**maps, seed=0))


@pytest.mark.parametrize(
    ("chosen", "direct"),
    [
        ({"kind": "cosine"}, cosine),
        ({"kind": "mse", "standardize": False}, partial(mse, standardize=False)),
        ({"kind": "attention"}, attention),
        ({"kind": "channelwise", "temperature": 2.0}, partial(channelwise, temperature=2.0)),
        (
            {"kind": "relational", "places": 9, "distance_weight": 3.0, "angle_weight": 0.0},
            partial(relational, places=9, distance_weight=3.0, angle_weight=0.0, seed=4),
        ),
        ({"kind": "cka", "places": 9}, partial(cka, places=9, seed=4)),
        ({"kind": "similarity", "places": 9}, partial(similarity_preserving, places=9, seed=4)),
        ({"kind": "similarity", "examples": "batch"}, partial(similarity_preserving, examples="batch")),
    ],
)
def test_settings_reach_the_function_they_name(chosen, direct):
    student, teacher = features(0), features(1)
    got = feature_loss(FeatureLossConfig(**chosen))(student=student, teacher=teacher, seed=4)
    assert torch.equal(got, direct(student=student, teacher=teacher))


def test_defaults_of_the_settings_are_those_of_the_functions():
    config = asdict(FeatureLossConfig())
    for row in places._TABLE.values():
        defaults = inspect.signature(row.measure).parameters
        assert all(config[name] in {None, defaults[name].default} for name in row.settings)
    used = {name for row in places._TABLE.values() for name in row.settings}
    assert used | {"kind"} == set(config)


@pytest.mark.parametrize(
    ("chosen", "text"),
    [
        ({"kind": "cosinus"}, "kind=cosinus"),
        ({"examples": "voxels"}, "examples=voxels"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"temperature": math.nan}, "temperature=nan"),
        ({"places": 2}, "places=2"),
        ({"kind": "cka", "places": 3}, "places=3 is too small; accepted: 4 or more"),
        ({"angle_weight": -1.0}, "angle_weight=-1.0"),
        ({"distance_weight": math.inf}, "distance_weight=inf"),
        ({"distance_weight": 0.0, "angle_weight": 0.0}, "leave nothing"),
    ],
)
def test_settings_that_mean_nothing_are_refused_in_one_line(chosen, text):
    with pytest.raises(ValueError, match=text) as caught:
        FeatureLossConfig(**chosen)
    assert "\n" not in str(caught.value)


def test_functions_refuse_a_temperature_and_examples_that_mean_nothing():
    maps = {"student": features(0), "teacher": features(1)}
    with pytest.raises(ValueError, match="temperature=0"):
        channelwise(**maps, temperature=0)
    with pytest.raises(ValueError, match="examples=voxels"):
        similarity_preserving(**maps, examples="voxels")


def logits_case(seed, batch=2):
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, 1, 2, 3, 4)
    student, teacher = (torch.randn(shape, generator=generator) * 3 for _ in range(2))
    known = torch.rand(shape, generator=generator) < 0.6
    known[:, :, 0, 0, 0] = True
    return {"student_logits": student, "teacher_logits": teacher, "known": known}


@by_seed
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_soft_binary_kl_is_that_of_the_slow_version(seed, temperature):
    case = logits_case(seed)
    patches = []
    for s, t, known in zip(*(case[name].double().numpy() for name in case), strict=True):
        q, p = (1 / (1 + np.exp(-side[known > 0] / temperature)) for side in (s, t))
        patches.append(np.mean(p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))))
    golden = temperature**2 * np.mean(patches)
    assert soft_binary_kl(**case, temperature=temperature).item() == pytest.approx(golden, rel=1e-4)


def test_soft_binary_kl_orders_perfect_slightly_wrong_inverted_and_approaches_half_the_squared_error():
    case = logits_case(0)
    teacher = case["teacher_logits"]
    scores = [
        soft_binary_kl(**case | {"student_logits": student}, temperature=2.0).item()
        for student in (teacher, teacher * 0.9, -teacher)
    ]
    assert scores[0] == 0.0
    assert 0 < scores[1] < scores[2] / 10
    # At a high temperature sigmoid(x / T) is 1 / 2 + x / 4T, so T ** 2 * KL tends to (s - t) ** 2 / 8.
    every = case | {"known": torch.ones_like(case["known"])}
    hot = soft_binary_kl(**every, temperature=100.0).item()
    assert hot == pytest.approx((case["student_logits"] - teacher).square().mean().item() / 8, rel=1e-2)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), junk=st.sampled_from([0.0, -50.0, 1e30, math.inf, -math.inf]))
def test_unknown_voxels_change_nothing_and_get_no_gradient(seed, junk):
    case = logits_case(seed)
    before = soft_binary_kl(**case, temperature=2.0)
    for name in ("student_logits", "teacher_logits"):
        case[name] = case[name].masked_fill(~case["known"], junk)
    case["student_logits"].requires_grad_()
    value = soft_binary_kl(**case, temperature=2.0)
    assert torch.equal(value, before)
    (gradient,) = torch.autograd.grad(value, case["student_logits"])
    assert (gradient[~case["known"]] == 0).all()
    assert (gradient[case["known"]] != 0).all()


@pytest.mark.parametrize("student", [-1e30, -1e4, 0.0, 1e4, 1e30])
@pytest.mark.parametrize("teacher", [-1e30, -1e4, 0.0, 1e4, 1e30])
def test_large_logits_give_a_finite_value_and_a_gradient_of_at_most_the_temperature(student, teacher):
    shape, temperature = (1, 1, 1, 1, 1), 3.0
    logits = torch.full(shape, student, requires_grad=True)
    value = soft_binary_kl(
        student_logits=logits,
        teacher_logits=torch.full(shape, teacher),
        temperature=temperature,
        known=torch.ones(shape, dtype=torch.bool),
    )
    (gradient,) = torch.autograd.grad(value, logits)
    assert 0 <= value.item() < math.inf
    # T times the difference of both probabilities
    share = {True: 1.0, False: 0.0}
    wanted = (0.5 if student == 0 else share[student > 0]) - (0.5 if teacher == 0 else share[teacher > 0])
    assert gradient.item() == pytest.approx(temperature * wanted)


def test_soft_binary_kl_teaches_the_student_only_and_a_patch_without_known_voxels_adds_zero():
    case = logits_case(1)
    case["known"][0] = False
    for name in ("student_logits", "teacher_logits"):
        case[name].requires_grad_()
    value = soft_binary_kl(**case, temperature=2.0)
    value.backward()
    assert case["teacher_logits"].grad is None
    assert (case["student_logits"].grad[0] == 0).all()
    alone = soft_binary_kl(**{name: side[1:] for name, side in case.items()}, temperature=2.0)
    assert value.item() == pytest.approx(alone.item() / 2, rel=1e-6)


def test_soft_binary_kl_of_bf16_logits_under_autocast_is_float32():
    case = logits_case(2)
    case |= {name: case[name].bfloat16() for name in ("student_logits", "teacher_logits")}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = soft_binary_kl(**case, temperature=2.0)
    wide = case | {name: case[name].float() for name in ("student_logits", "teacher_logits")}
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, soft_binary_kl(**wide, temperature=2.0))


def test_soft_binary_kl_refuses_a_mask_of_another_shape_and_a_temperature_of_zero():
    case = logits_case(0)
    with pytest.raises(ValueError, match="known"):
        soft_binary_kl(**case | {"known": case["known"][:1]}, temperature=2.0)
    with pytest.raises(ValueError, match="temperature=0"):
        soft_binary_kl(**case, temperature=0)
