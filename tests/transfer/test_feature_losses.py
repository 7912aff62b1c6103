"""What every loss between feature maps keeps: order, invariances, gradients, precision, sense on degenerate maps."""

import math
from functools import partial

import pytest
import torch
from feature_maps import KINDS, MEASURES, any_channels, by_measure, by_seed, features, ideal, turned
from hypothesis import given, settings
from hypothesis import strategies as st

from distill3d.transfer.matching.places import attention, channelwise, cosine

ORDINARY = features(0)
DEGENERATE = {
    "zeros": torch.zeros_like(ORDINARY),
    "constant": torch.full_like(ORDINARY, 3.3),
    "constant per channel": torch.arange(5.0).view(1, 5, 1, 1, 1).expand_as(ORDINARY) / 3,
    "one place active": torch.nn.functional.pad(torch.ones(2, 5, 1, 1, 1), (0, 3, 0, 2, 0, 1)),
    "one channel dead": ORDINARY * torch.tensor([1.0, 0, 1, 1, 1]).view(1, 5, 1, 1, 1),
    "half the places zero": ORDINARY * (torch.arange(4) % 2),
    "at the bound on small vectors": ORDINARY * 1e-4,
    "tiny": ORDINARY * 1e-12,
    "huge": ORDINARY * 1e6,
    "a subnormal": torch.full_like(ORDINARY, 1e-40),
}


@pytest.mark.parametrize("kind", MEASURES)
@by_seed
def test_perfect_is_below_slightly_wrong_is_below_wrong(kind, seed):
    teacher, noise = features(seed, batch=4), features(seed + 100, batch=4)
    perfect = ideal(kind, teacher)
    slightly = perfect + 0.2 * noise * perfect.std() / noise.std()
    scores = [MEASURES[kind](student=s, teacher=teacher, seed=0).item() for s in (perfect, slightly, noise)]
    assert scores[0] == pytest.approx(0, abs=1e-6)
    assert scores[0] + 1e-4 < scores[1] < 0.8 * scores[2]


@pytest.mark.parametrize("kind", KINDS)
def test_the_value_for_unrelated_maps_does_not_vanish_on_a_large_grid(kind):
    # One weight then means about the same for every kind and grid; attention has the authors' scale and weight.
    student, teacher = features(1, grid=(8, 16, 16)), features(2, grid=(8, 16, 16))
    weight = 1000 if kind == "attention" else 1
    assert 0.1 < weight * MEASURES[kind](student=student, teacher=teacher, seed=0).item() < 20


def close(measure, first, second):
    return measure(**first).item() == pytest.approx(measure(**second).item(), rel=1e-4, abs=1e-5)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.sampled_from([0.01, 1.0, 300.0]))
def test_cosine_and_attention_are_blind_to_scale_and_attention_to_order_and_sign_of_channels(seed, scale):
    student, teacher = features(seed), features(seed + 1)
    before = {"student": student, "teacher": teacher}
    assert close(cosine, before, {"student": student * scale, "teacher": teacher / scale})
    assert close(attention, before, {"student": student * -scale, "teacher": teacher / scale})
    generator = torch.Generator().manual_seed(seed)
    shuffled = student[:, torch.randperm(5, generator=generator)]
    assert close(attention, before, {"student": shuffled, "teacher": teacher.flip(1)})


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), shift=st.floats(-30, 30))
def test_channelwise_is_blind_to_a_constant_per_channel_and_not_to_a_scale(seed, shift):
    student, teacher = features(seed), features(seed + 1)
    moved = student + shift * torch.arange(5).view(1, 5, 1, 1, 1)
    assert close(channelwise, {"student": student, "teacher": teacher}, {"student": moved, "teacher": teacher})
    assert channelwise(student=2 * teacher, teacher=teacher) > 0.01


@any_channels
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.sampled_from([0.1, 1.0, 30.0]))
def test_relations_are_blind_to_a_rotation_and_scale_of_either_feature_space(kind, seed, scale):
    if kind == "attention":
        scale = -scale
    student, teacher = features(seed), features(seed + 1, channels=7)
    turn = turned if kind != "attention" else lambda maps, seed: maps.flip(1)
    measure = partial(MEASURES[kind], seed=seed)
    before = {"student": student, "teacher": teacher}
    assert close(measure, before, {"student": scale * turn(student, seed), "teacher": teacher})
    assert close(measure, before, {"student": student, "teacher": turn(teacher, seed + 1) / scale})
    assert measure(student=scale * turn(teacher, seed), teacher=teacher).item() == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("kind", ["relational", "cka"])
def test_clouds_are_blind_to_a_shift(kind):
    student, teacher = features(0), features(1)
    before = {"student": student, "teacher": teacher}
    assert close(partial(MEASURES[kind], seed=0), before, {"student": student + 5, "teacher": teacher - 2})


# relational: the angles are measured at the places drawn first, which lie elsewhere after a flip
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "relational"])
def test_a_flip_of_both_maps_together_changes_nothing(kind):
    student, teacher = features(0), features(1)
    before = {"student": student, "teacher": teacher}
    after = {"student": student.flip(2, 4), "teacher": teacher.flip(2, 4)}
    assert close(partial(MEASURES[kind], seed=0), before, after)


@pytest.mark.parametrize("kind", KINDS)
def test_a_perfect_map_that_is_flipped_is_wrong(kind):
    teacher = features(1)
    flipped = MEASURES[kind](student=ideal(kind, teacher).flip(4), teacher=teacher, seed=0)
    assert flipped.item() > 0.01


@pytest.mark.parametrize("kind", ["cosine", "attention", "channelwise", "mse, raw"])
def test_two_halves_of_a_batch_average_to_the_whole(kind):
    # What DDP does: each rank computes its half, gradients are averaged.
    student, teacher = features(0, batch=4), features(1, batch=4)
    whole, *halves = (
        MEASURES[kind](student=student[part], teacher=teacher[part], seed=0).item()
        for part in (slice(None), slice(0, 2), slice(2, 4))
    )
    assert sum(halves) / 2 == pytest.approx(whole, rel=1e-5)


@by_measure
def test_gradient_reaches_the_student_and_never_the_teacher(measure):
    student, teacher = features(0, batch=4).requires_grad_(), features(1, batch=4).requires_grad_()
    measure(student=student, teacher=teacher, seed=0).backward()
    assert teacher.grad is None
    assert torch.isfinite(student.grad).all()
    assert (student.grad.flatten(1).abs().sum(1) > 0).all()


@by_measure
def test_a_network_that_makes_both_maps_learns_through_the_student_only(measure):
    # The teacher is not detached by the caller here.
    scale = torch.tensor(1.5, requires_grad=True)
    student, teacher = features(0, batch=4), features(1, batch=4)
    shared = student * scale
    value = measure(student=shared, teacher=teacher * scale + shared, seed=0)
    (both,) = torch.autograd.grad(value, scale, retain_graph=True)
    again = measure(student=shared, teacher=(teacher * scale + shared).detach(), seed=0)
    (student_only,) = torch.autograd.grad(again, scale)
    assert both.item() == student_only.item()


@by_measure
def test_a_step_down_the_gradient_lowers_the_loss(measure):
    student, teacher = features(0, batch=4).requires_grad_(), features(1, batch=4)
    value = measure(student=student, teacher=teacher, seed=3)
    (gradient,) = torch.autograd.grad(value, student)
    # First order: the drop of a small step is its length times the squared norm.
    length = 1e-2 * value.item() / gradient.square().sum().item()
    lower = measure(student=student.detach() - length * gradient, teacher=teacher, seed=3)
    assert (value - lower).item() == pytest.approx(1e-2 * value.item(), rel=0.15)


@by_measure
def test_bf16_maps_under_autocast_give_the_float32_value_of_the_same_numbers(measure):
    student, teacher = features(0, batch=4).bfloat16().requires_grad_(), features(1, batch=4).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = measure(student=student, teacher=teacher, seed=0)
    assert (mixed.dtype, mixed.shape) == (torch.float32, ())
    assert torch.equal(mixed, measure(student=student.float(), teacher=teacher.float(), seed=0))
    (gradient,) = torch.autograd.grad(mixed, student)
    assert gradient.dtype == torch.bfloat16
    assert torch.isfinite(gradient).all()


@by_measure
@pytest.mark.parametrize("student", DEGENERATE)
@pytest.mark.parametrize("teacher", ["ordinary", *DEGENERATE])
def test_degenerate_maps_give_a_finite_value_and_a_bounded_gradient(measure, student, teacher):
    target = (DEGENERATE | {"ordinary": features(1)})[teacher]
    source = DEGENERATE[student].clone().requires_grad_()
    value = measure(student=source, teacher=target, seed=0)
    (gradient,) = torch.autograd.grad(value, source)
    assert 0 <= value.item() + 1e-6 < math.inf
    # A scale that the loss does not see must not make the gradient explode. An error of 1e6 has its own large gradient.
    assert gradient.abs().max().item() < (1e5 if "huge" in {student, teacher} else 1e3)


@by_measure
@pytest.mark.parametrize(("batch", "grid"), [(1, (1, 1, 1)), (2, (1, 1, 1)), (1, (1, 1, 3))])
def test_a_few_places_give_a_finite_value_and_gradient(measure, batch, grid):
    student, teacher = (features(seed, batch=batch, grid=grid) for seed in (0, 1))
    student.requires_grad_()
    value = measure(student=student, teacher=teacher, seed=0)
    (gradient,) = torch.autograd.grad(value, student)
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()


@by_measure
@pytest.mark.parametrize(
    ("other", "text"),
    [
        (torch.ones(2, 5, 2, 3, 5), "batch or grid"),
        (torch.ones(1, 5, 2, 3, 4), "batch or grid"),
        (torch.ones(2, 5, 3, 4), "no feature maps"),
        (torch.ones(2, 0, 2, 3, 4), "no feature maps"),
    ],
)
def test_maps_of_different_grids_are_refused_instead_of_broadcast(measure, other, text):
    for maps in ({"student": ORDINARY, "teacher": other}, {"student": other, "teacher": ORDINARY}):
        with pytest.raises(ValueError, match=text) as caught:
            measure(**maps, seed=0)
        assert "\n" not in str(caught.value)
