"""The overlap losses: order of predictions, masking, golden values, gradients, and that shards average to the whole."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distill3d.config.registry import LOSSES, Component
from distill3d.losses.overlap import Overlap, OverlapConfig
from distill3d.types import Batch, Prediction

TERMS = ("dice", "cross_entropy", "focal", "tversky")
ALL = OverlapConfig(dice=1.0, cross_entropy=1.0, focal=1.0, tversky=1.0)
SHAPE = (2, 1, 3, 4, 5)


def batch_of(target, known=None):
    return Batch(
        image=torch.zeros_like(target),
        target=target,
        known=torch.ones_like(target, dtype=torch.bool) if known is None else known,
        spacing_um=torch.ones(len(target), 3),
        origin_zyx_vox=torch.zeros(len(target), 3, dtype=torch.int64),
        cases=tuple("abcdefgh"[: len(target)]),
    )


def values(logits, target, known=None, config=ALL):
    terms = Overlap(config)(student=Prediction(logits=logits), batch=batch_of(target, known))
    return {name: term.value for name, term in terms.items()}


def random_case(seed, shape=SHAPE):
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(shape, generator=rng)
    target = (torch.rand(shape, generator=rng) < 0.3).float()
    known = torch.rand(shape, generator=rng) < 0.6
    known[:, :, 0, 0, 0] = True
    return logits, target, known


@pytest.mark.parametrize("term", TERMS)
def test_perfect_is_below_slightly_wrong_is_below_inverted(term):
    target = torch.zeros(SHAPE)
    target[:, :, 1, 1:3, 1:4] = 1
    perfect = (target * 2 - 1) * 8
    slightly = perfect.clone()
    slightly[:, :, 1, 1, 1] *= -1
    scores = [float(values(logits, target)[term]) for logits in (perfect, slightly, -perfect)]
    assert scores[0] < scores[1] - 1e-3
    assert scores[1] < scores[2] - 1e-2
    # dice and tversky are smoothed by one voxel, so a perfect answer is nearly, and never below, 0
    assert 0 <= scores[0] < 0.02


@pytest.mark.parametrize("term", TERMS)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), junk=st.sampled_from([0.0, 3.0, -50.0, 1e4, math.inf, -math.inf]))
def test_unknown_voxels_change_no_term(term, seed, junk):
    logits, target, known = random_case(seed)
    before = values(logits, target, known)[term]
    other_logits, other_target = logits.clone(), target.clone()
    other_logits[~known] = junk
    other_target[~known] = 1 - other_target[~known]
    assert torch.equal(values(other_logits, other_target, known)[term], before)


def test_terms_are_those_of_the_known_voxels_alone():
    # Independent route: cut the known half out and compute without any mask.
    logits, target, _ = random_case(3, (2, 1, 4, 4, 4))
    known = torch.zeros_like(target, dtype=torch.bool)
    known[:, :, :2] = True
    masked, cut = values(logits, target, known), values(logits[:, :, :2], target[:, :, :2])
    for term in TERMS:
        assert float(masked[term]) == pytest.approx(float(cut[term]), rel=1e-6)


def test_golden_values_by_hand():
    # Two known voxels with p = 0.5 (logit 0), the first is gold. smooth = 1.
    # dice is 1 - (2 * 0.5 + 1) / (0.5 + 0.5 + 1 + 1), a third
    # cross-entropy: -log 0.5 on both
    # focal, gamma 2: 0.5 ** 2 * log 2 on both
    # tversky, alpha 0.3, beta 0.7: tp = fp = fn = 0.5, so 1 - 1.5 / (0.5 + 0.15 + 0.35 + 1) = 1 - 0.75
    target = torch.tensor([1.0, 0.0]).reshape(1, 1, 1, 1, 2)
    got = values(torch.zeros(1, 1, 1, 1, 2), target)
    wanted = {"dice": 1 / 3, "cross_entropy": math.log(2), "focal": 0.25 * math.log(2), "tversky": 0.25}
    assert {name: float(value) for name, value in got.items()} == pytest.approx(wanted, rel=1e-6)


def test_positive_weight_multiplies_the_gold_voxels_only():
    target = torch.tensor([1.0, 0.0]).reshape(1, 1, 1, 1, 2)
    config = OverlapConfig(dice=0, positive_weight=3.0)
    assert float(values(torch.zeros(1, 1, 1, 1, 2), target, config=config)["cross_entropy"]) == pytest.approx(
        (3 + 1) * math.log(2) / 2
    )


def test_focal_alpha_balances_the_classes():
    # alpha on the gold voxel, 1 - alpha on the other
    target = torch.tensor([1.0, 0.0]).reshape(1, 1, 1, 1, 2)
    logits = torch.tensor([0.0, 30.0]).reshape(1, 1, 1, 1, 2)
    low, high = (
        float(values(logits, target, config=OverlapConfig(focal=1, focal_alpha=alpha))["focal"]) for alpha in (0.1, 0.9)
    )
    assert high < low  # the error is on background


def test_a_term_of_weight_zero_is_not_computed():
    config = OverlapConfig(dice=0.5, cross_entropy=0, tversky=2.0)
    terms = Overlap(config)(student=Prediction(logits=torch.zeros(SHAPE)), batch=batch_of(torch.zeros(SHAPE)))
    assert {name: term.weight for name, term in terms.items()} == {"dice": 0.5, "tversky": 2.0}


@pytest.mark.parametrize("term", TERMS)
def test_a_patch_without_gold_gives_a_finite_value_that_falls_as_the_prediction_empties(term):
    target = torch.zeros(SHAPE)
    unsure, empty = (float(values(torch.full(SHAPE, logit), target)[term]) for logit in (0.0, -12.0))
    assert 0 <= empty < 0.01 < unsure < math.inf


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("gold", [0.0, 1.0])
def test_every_known_voxel_gets_a_gradient_and_no_unknown_one(term, gold):
    logits, _, known = random_case(5)
    logits.requires_grad_()
    target = torch.full(SHAPE, gold)
    (gradient,) = torch.autograd.grad(values(logits, target, known)[term], logits)
    assert (gradient[known] != 0).all()
    assert (gradient[~known] == 0).all()


@pytest.mark.parametrize("term", TERMS)
def test_a_patch_without_known_voxels_adds_no_gradient_and_no_nan(term):
    logits, target, known = random_case(7)
    known[0] = False
    logits.requires_grad_()
    value = values(logits, target, known)[term]
    (gradient,) = torch.autograd.grad(value, logits)
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()
    assert (gradient[0] == 0).all()
    assert (gradient[1] != 0).any()


@pytest.mark.parametrize("term", TERMS)
def test_two_halves_of_a_batch_average_to_the_whole_though_their_known_voxels_differ(term):
    # What DDP does: each rank computes its half, gradients are averaged.
    logits, target, known = random_case(11, (4, 1, 3, 4, 5))
    known[0] = False
    known[1, :, :, 1:] = False
    whole = values(logits, target, known)[term]
    halves = [values(logits[part], target[part], known[part])[term] for part in (slice(0, 2), slice(2, 4))]
    assert float((halves[0] + halves[1]) / 2) == pytest.approx(float(whole), rel=1e-6)


@pytest.mark.parametrize("term", TERMS)
def test_bf16_autocast_gives_the_float32_value_of_the_same_logits(term):
    logits, target, known = random_case(13)
    logits = logits.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = values(logits, target, known)[term]
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, values(logits.float(), target, known)[term])


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"dice": -1.0}, "dice=-1.0"),
        ({"dice": 0, "cross_entropy": 0}, "at least one weight"),
        ({"smooth": 0.0}, "smooth=0.0"),
        ({"positive_weight": math.inf}, "positive_weight=inf"),
        ({"focal_alpha": 1.5}, "focal_alpha=1.5"),
        ({"tversky": 1, "tversky_alpha": 0, "tversky_beta": 0}, "constant"),
        ({"cross_entropy": math.nan}, "cross_entropy=nan"),
    ],
)
def test_settings_that_mean_nothing_are_refused_in_one_line(settings, text):
    with pytest.raises(ValueError, match=text) as caught:
        OverlapConfig(**settings)
    assert "\n" not in str(caught.value)


def test_overlap_is_registered_and_builds_with_defaults():
    loss = LOSSES.build(Component("overlap", OverlapConfig()))
    terms = loss(student=Prediction(logits=torch.zeros(SHAPE)), batch=batch_of(torch.zeros(SHAPE)))
    assert list(terms) == ["dice", "cross_entropy"]
