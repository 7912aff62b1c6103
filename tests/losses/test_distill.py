"""Losses between feature maps: golden values, order, invariances, gradients, sampling, and the table of settings."""

import inspect
import itertools
import math
import subprocess
import sys
from dataclasses import asdict
from functools import partial
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distill3d.losses import distill, similarity
from distill3d.losses.distill import (
    FeatureKind,
    FeatureLossConfig,
    attention,
    channelwise,
    cosine,
    feature_loss,
    mse,
    needs_same_channels,
    soft_binary_kl,
)
from distill3d.losses.similarity import cka, linear_cka, relational, similarity_preserving

KINDS = get_args(FeatureKind)
MEASURES = {kind: feature_loss(FeatureLossConfig(kind=kind)) for kind in KINDS}
MEASURES["mse, raw"] = feature_loss(FeatureLossConfig(kind="mse", standardize=False))
MEASURES["similarity, batch"] = feature_loss(FeatureLossConfig(kind="similarity", examples="batch"))
by_measure = pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES.keys())
any_channels = pytest.mark.parametrize("kind", [kind for kind in KINDS if not needs_same_channels(kind)])


def features(seed, channels=5, batch=2, grid=(2, 3, 4)):
    generator = torch.Generator().manual_seed(seed)
    # Channels of different scale and mean, as of a real network.
    spread = torch.rand(channels, 1, 1, 1, generator=generator) * 3 + 0.2
    return (torch.randn(batch, channels, *grid, generator=generator) + 0.5) * spread


def rotation(size, seed=0):
    return torch.from_numpy(np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0]).float()


def turned(maps, seed=0):
    return torch.einsum("dc,bczyx->bdzyx", rotation(maps.shape[1], seed), maps)


def as_rows(maps):
    """Places of the whole batch as examples, float64 [B * Z * Y * X, C]."""
    return np.moveaxis(maps.double().numpy(), 1, -1).reshape(-1, maps.shape[1])


def huber(difference):
    return np.where(np.abs(difference) < 1, difference**2 / 2, np.abs(difference) - 0.5)


# ---- golden values: slow versions in float64, written from the formulas


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
        patches.append(sum((a - b) ** 2 for a, b in zip(*(side / np.linalg.norm(side) for side in q), strict=True)))
    return np.mean(patches)


def slow_channelwise(student, teacher, temperature=4.0):
    total = 0.0
    for s, t in itertools.chain.from_iterable(
        zip(a, b, strict=True) for a, b in zip(student.double().numpy(), teacher.double().numpy(), strict=True)
    ):
        p, q = (np.exp(side.ravel() / temperature) / np.exp(side.ravel() / temperature).sum() for side in (t, s))
        total += np.sum(p * np.log(p / q))
    return total * temperature**2 / student.shape[1] / student.shape[0]


def slow_relational(s, t, vertices, distance_weight=1.0, angle_weight=2.0):
    """Of rows in the order in which they were sampled."""
    n = len(s)
    pairs = list(itertools.combinations(range(n), 2))
    apart = [np.array([np.linalg.norm(side[i] - side[j]) for i, j in pairs]) for side in (s, t)]
    distance = huber(apart[0] / apart[0].mean() - apart[1] / apart[1].mean()).mean()

    def cosine_at(side, i, j, k):
        a, b = side[i] - side[j], side[k] - side[j]
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    triplets = [(i, j, k) for i, j, k in itertools.permutations(range(n), 3) if j < vertices]
    angle = np.mean([huber(cosine_at(s, *ijk) - cosine_at(t, *ijk)) for ijk in triplets])
    return distance_weight * distance + angle_weight * angle


def slow_cka(a, b):
    """By its first definition, the Hilbert-Schmidt independence criterion of the kernels, with a centering matrix."""
    n = len(a)
    center = np.eye(n) - np.ones((n, n)) / n

    def hsic(k, m):
        return np.trace(k @ center @ m @ center) / (n - 1) ** 2

    k, m = a @ a.T, b @ b.T
    return hsic(k, m) / math.sqrt(hsic(k, k) * hsic(m, m))


def slow_similarity(s, t):
    total = 0.0
    for i in range(len(s)):
        row_s, row_t = np.array([s[i] @ other for other in s]), np.array([t[i] @ other for other in t])
        total += np.sum((row_s / np.linalg.norm(row_s) - row_t / np.linalg.norm(row_t)) ** 2)
    return total / len(s)


by_seed = pytest.mark.parametrize("seed", [0, 1, 2])


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
def test_relational_over_all_triplets_is_that_of_the_slow_version(seed):
    student, teacher = (features(s, channels=c, grid=(1, 2, 3)) for s, c in ((seed, 4), (seed + 100, 6)))
    golden = slow_relational(as_rows(student), as_rows(teacher), vertices=12, distance_weight=0.5, angle_weight=3.0)
    got = relational(student=student, teacher=teacher, distance_weight=0.5, angle_weight=3.0)
    assert got.item() == pytest.approx(golden, rel=1e-5)


@by_seed
def test_relational_over_many_places_measures_angles_at_the_first_sixteen_drawn(seed):
    student, teacher = (features(s, channels=c) for s, c in ((seed, 4), (seed + 100, 6)))  # 48 places
    index = similarity._sample(student, places=20, seed=seed).numpy()
    golden = slow_relational(as_rows(student)[index], as_rows(teacher)[index], vertices=16)
    assert relational(student=student, teacher=teacher, places=20, seed=seed).item() == pytest.approx(golden, rel=1e-5)


def test_relational_by_hand():
    # Three places on a line at 0, 1, 2 against a right triangle with legs 1. Distances 1, 2, 1 over their mean 4 / 3;
    # 1, 1, sqrt 2. Cosines at the places: 1, -1, 1 against (at the right angle, first) 0, and 1 / sqrt 2 twice.
    line = torch.tensor([[0.0, 1.0, 2.0], [0.0, 0.0, 0.0]]).view(1, 2, 1, 1, 3)
    triangle = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]).view(1, 2, 1, 1, 3)  # right angle at the second place
    root = math.sqrt(2)
    mean = (2 + root) / 3
    distances = [3 / 4 - 1 / mean, 3 / 2 - root / mean, 3 / 4 - 1 / mean]
    angles = [1 - 1 / root, -1.0, 1 - 1 / root]
    golden = sum(d**2 / 2 for d in distances) / 3 + 2 * sum(a**2 / 2 for a in angles) / 3
    assert relational(student=line, teacher=triangle).item() == pytest.approx(golden, rel=1e-5)


@by_seed
@pytest.mark.parametrize(("n", "p", "q"), [(40, 3, 7), (6, 9, 5), (6, 3, 9), (5, 5, 5), (2, 1, 1)])
def test_linear_cka_is_that_of_the_kernels_on_either_side(n, p, q, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(n, p)) + 3, rng.normal(size=(n, q))
    b[:, 0] += a[:, 0]
    got = linear_cka(torch.from_numpy(a), torch.from_numpy(b))
    assert got.dtype == torch.float64
    assert got.item() == pytest.approx(slow_cka(a, b), rel=1e-9)
    assert linear_cka(torch.from_numpy(a).float(), torch.from_numpy(b)).dtype == torch.float64
    assert linear_cka(torch.from_numpy(b).float(), torch.from_numpy(a).float()).item() == pytest.approx(
        got.item(), 1e-4
    )


@by_seed
def test_cka_as_a_loss_is_one_minus_that_of_the_sampled_places(seed):
    student, teacher = (features(s, channels=c) for s, c in ((seed, 4), (seed + 100, 6)))
    assert cka(student=student, teacher=teacher).item() == pytest.approx(
        1 - slow_cka(as_rows(student), as_rows(teacher)), rel=1e-5
    )
    index = similarity._sample(student, places=10, seed=seed).numpy()
    golden = 1 - slow_cka(as_rows(student)[index], as_rows(teacher)[index])
    assert cka(student=student, teacher=teacher, places=10, seed=seed).item() == pytest.approx(golden, rel=1e-4)


@by_seed
def test_similarity_of_places_and_of_patches_are_those_of_the_slow_version(seed):
    student, teacher = (features(s, channels=c, batch=4) for s, c in ((seed, 4), (seed + 100, 6)))
    index = similarity._sample(student, places=30, seed=seed).numpy()
    got = similarity_preserving(student=student, teacher=teacher, places=30, seed=seed).item()
    assert got == pytest.approx(slow_similarity(as_rows(student)[index], as_rows(teacher)[index]), rel=1e-5)
    patches = [maps.double().numpy().reshape(4, -1) for maps in (student, teacher)]
    got = similarity_preserving(student=student, teacher=teacher, examples="batch").item()
    assert got == pytest.approx(slow_similarity(*patches), rel=1e-5)


def test_similarity_of_a_batch_of_one_says_nothing():
    student, teacher = features(0, batch=1).requires_grad_(), features(1, batch=1)
    value = similarity_preserving(student=student, teacher=teacher, examples="batch")
    (gradient,) = torch.autograd.grad(value, student)
    assert (value.item(), gradient.abs().max().item()) == (pytest.approx(0, abs=1e-12), pytest.approx(0, abs=1e-6))


# ---- order and scale


def ideal(kind, teacher):
    """What the student should be."""
    return distill._standardized(teacher) if kind == "mse" else teacher.clone()


@pytest.mark.parametrize("kind", MEASURES)
@by_seed
def test_perfect_is_below_slightly_wrong_is_below_wrong(kind, seed):
    teacher, noise = features(seed, batch=4), features(seed + 100, batch=4)
    perfect = ideal(kind, teacher)
    slightly = perfect + 0.2 * noise * perfect.std() / noise.std()
    scores = [MEASURES[kind](student=s, teacher=teacher, seed=0).item() for s in (perfect, slightly, noise)]
    assert scores[0] == pytest.approx(0, abs=1e-6)
    assert scores[0] + 1e-4 < scores[1] < 0.8 * scores[2]


@by_seed
def test_predicting_the_mean_costs_one_in_standardized_mse(seed):
    teacher = features(seed) * 100 + 7
    assert mse(student=torch.zeros_like(teacher), teacher=teacher).item() == pytest.approx(1, rel=1e-5)


def test_opposite_directions_cost_two_and_activity_elsewhere_costs_two():
    teacher = features(0)
    assert cosine(student=-3 * teacher, teacher=teacher).item() == pytest.approx(2, rel=1e-6)
    left = torch.zeros(1, 2, 2, 2, 2)
    left[..., 0] = 1
    assert attention(student=1 - left, teacher=left).item() == pytest.approx(2, rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_value_for_unrelated_maps_does_not_vanish_on_a_large_grid(kind):
    # One weight then means about the same for every kind and grid.
    student, teacher = features(1, grid=(8, 16, 16)), features(2, grid=(8, 16, 16))
    assert 0.1 < MEASURES[kind](student=student, teacher=teacher, seed=0).item() < 20


# ---- invariances


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


@pytest.mark.parametrize("kind", KINDS)
def test_only_a_move_of_both_maps_together_changes_nothing(kind):
    student, teacher = features(0), features(1)
    both = partial(MEASURES[kind], seed=0)
    before = {"student": student, "teacher": teacher}
    assert close(both, before, {"student": student.flip(2, 4), "teacher": teacher.flip(2, 4)}) or kind == "relational"
    own = both(student=ideal(kind, teacher), teacher=teacher)
    assert both(student=ideal(kind, teacher).flip(4), teacher=teacher) > own + 0.01


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 12), p=st.integers(1, 12), q=st.integers(1, 12))
def test_linear_cka_is_symmetric_in_its_range_and_one_of_a_thing_with_itself(seed, n, p, q):
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(n, size, generator=generator) for size in (p, q))
    value = linear_cka(a, b).item()
    assert 0 <= value <= 1
    assert value == pytest.approx(linear_cka(b, a).item(), abs=1e-5)
    assert linear_cka(a, a @ rotation(p, seed) * 7 + 1).item() == pytest.approx(float(n > 1), abs=1e-4)


@pytest.mark.parametrize("kind", ["cosine", "attention", "channelwise", "mse, raw"])
def test_two_halves_of_a_batch_average_to_the_whole(kind):
    # What DDP does: each rank computes its half, gradients are averaged.
    student, teacher = features(0, batch=4), features(1, batch=4)
    whole, *halves = (
        MEASURES[kind](student=student[part], teacher=teacher[part], seed=0).item()
        for part in (slice(None), slice(0, 2), slice(2, 4))
    )
    assert sum(halves) / 2 == pytest.approx(whole, rel=1e-5)


# ---- gradients, precision, degenerate maps


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


ORDINARY = features(0)
DEGENERATE = {
    "zeros": torch.zeros_like(ORDINARY),
    "constant": torch.full_like(ORDINARY, 3.3),
    "constant per channel": torch.arange(5.0).view(1, 5, 1, 1, 1).expand_as(ORDINARY) / 3,
    "one place active": torch.nn.functional.pad(torch.ones(2, 5, 1, 1, 1), (0, 3, 0, 2, 0, 1)),
    "one channel dead": ORDINARY * torch.tensor([1.0, 0, 1, 1, 1]).view(1, 5, 1, 1, 1),
    "tiny": ORDINARY * 1e-12,
    "huge": ORDINARY * 1e6,
    "a subnormal": torch.full_like(ORDINARY, 1e-40),
}


@by_measure
@pytest.mark.parametrize("student", DEGENERATE)
@pytest.mark.parametrize("teacher", ["ordinary", *DEGENERATE])
def test_degenerate_maps_give_a_finite_value_and_a_bounded_gradient(measure, student, teacher):
    target = (DEGENERATE | {"ordinary": features(1)})[teacher]
    source = DEGENERATE[student].clone().requires_grad_()
    value = measure(student=source, teacher=target, seed=0)
    (gradient,) = torch.autograd.grad(value, source)
    assert 0 <= value.item() + 1e-6 < math.inf
    # 1 / TINY, and what comes with the square of a huge map in a raw error
    assert gradient.abs().max().item() < 5e4 + (1e7 if "huge" in {student, teacher} else 0)


@by_measure
@pytest.mark.parametrize(("batch", "grid"), [(1, (1, 1, 1)), (2, (1, 1, 1)), (1, (1, 1, 3))])
def test_a_few_places_give_a_finite_value_and_gradient(measure, batch, grid):
    student, teacher = (features(seed, batch=batch, grid=grid) for seed in (0, 1))
    student.requires_grad_()
    value = measure(student=student, teacher=teacher, seed=0)
    (gradient,) = torch.autograd.grad(value, student)
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()


def test_a_constant_side_aligns_with_nothing_also_where_its_mean_rounds():
    constant = torch.full((1000, 7), 3.3)
    varied = as_rows(features(1, grid=(5, 10, 10)))
    assert linear_cka(constant, torch.from_numpy(varied).float()).item() < 1e-3
    target = distill._standardized(constant.T.reshape(1, 7, 10, 10, 10))
    assert target.abs().max().item() < 0.1


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


@pytest.mark.parametrize(("a", "b"), [((3, 2), (4, 2)), ((3,), (3, 2)), ((0, 2), (0, 2))])
def test_linear_cka_refuses_what_has_no_examples_in_common(a, b):
    with pytest.raises(ValueError, match="no examples in common"):
        linear_cka(torch.ones(a), torch.ones(b))


# ---- sampling


SAMPLED = {
    "relational": partial(relational, places=8),
    "cka": partial(cka, places=8),
    "similarity": partial(similarity_preserving, places=8),
}
by_sampled = pytest.mark.parametrize("measure", SAMPLED.values(), ids=SAMPLED.keys())


@by_sampled
def test_the_seed_alone_decides_the_sample_and_the_global_generator_is_left_alone(measure):
    student, teacher = features(0), features(1)
    values = []
    for state in (0, 1):
        torch.manual_seed(state)
        before = torch.get_rng_state()
        values.append(measure(student=student, teacher=teacher, seed=5).item())
        assert torch.equal(torch.get_rng_state(), before)
    assert values[0] == values[1]
    assert len({measure(student=student, teacher=teacher, seed=seed).item() for seed in range(4)}) == 4


@by_sampled
def test_both_sides_are_read_at_the_same_places(measure):
    teacher = features(1)
    assert all(measure(student=teacher, teacher=teacher, seed=seed).item() < 1e-6 for seed in range(5))


@by_sampled
def test_only_the_sampled_places_get_a_gradient(measure):
    student, teacher = features(0).requires_grad_(), features(1)
    (gradient,) = torch.autograd.grad(measure(student=student, teacher=teacher, seed=2), student)
    touched = np.flatnonzero(np.abs(as_rows(gradient)).sum(1))
    assert touched.tolist() == sorted(similarity._sample(student, places=8, seed=2).tolist())


def test_a_sample_holds_distinct_places_of_all_patches_and_all_where_there_are_fewer():
    maps = features(0, batch=3)
    places = [similarity._sample(maps, places=20, seed=seed) for seed in range(50)]
    assert all(len(set(index.tolist())) == 20 for index in places)
    assert set(torch.cat(places).tolist()) == set(range(3 * 24))
    assert sorted(similarity._sample(maps, places=1000, seed=0).tolist()) == list(range(3 * 24))
    rows = similarity._rows(maps, places[0])
    assert torch.equal(rows.double(), torch.from_numpy(as_rows(maps)[places[0].numpy()]))


@by_sampled
def test_too_few_places_are_refused(measure):
    with pytest.raises(ValueError, match="places=2"):
        measure(student=ORDINARY, teacher=ORDINARY, places=2)


# ---- settings


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
    for row in distill._TABLE.values():
        defaults = inspect.signature(row.measure).parameters
        assert all(config[name] in {None, defaults[name].default} for name in row.settings)
    used = {name for row in distill._TABLE.values() for name in row.settings}
    assert used | {"kind"} == set(config)


def test_a_weight_of_zero_leaves_the_other_relation():
    student, teacher = features(0), features(1)
    parts = [
        relational(student=student, teacher=teacher, distance_weight=d, angle_weight=a).item()
        for d, a in ((1, 0), (0, 1), (1, 1))
    ]
    assert parts[0] + parts[1] == pytest.approx(parts[2], rel=1e-6)
    assert min(parts) > 0.01


@pytest.mark.parametrize(
    ("chosen", "text"),
    [
        ({"kind": "cosinus"}, "kind=cosinus"),
        ({"examples": "voxels"}, "examples=voxels"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"temperature": math.nan}, "temperature=nan"),
        ({"places": 2}, "places=2"),
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
    with pytest.raises(ValueError, match="temperature=0"):
        channelwise(student=ORDINARY, teacher=ORDINARY, temperature=0)
    with pytest.raises(ValueError, match="examples=voxels"):
        similarity_preserving(student=ORDINARY, teacher=ORDINARY, examples="voxels")


def test_importing_the_losses_does_not_import_monai():
    modules = "distill3d.losses.distill, distill3d.losses.schedule, distill3d.losses.similarity"
    code = f"import sys, {modules}; sys.exit('monai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- logits


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
