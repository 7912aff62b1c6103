"""Gradients of loss terms at the student, against gradients by hand, and the weights that balance them."""

import math

import pytest
import torch
from torch import nn

from distill3d.config.schema import BalanceConfig
from distill3d.errors import ConfigError
from distill3d.training.gradients import GradientBalance, StepTerms, term_gradients
from distill3d.training.module import DistillModule
from distill3d.types import LossTerm


def alone(value):
    """Reduce over one process."""
    return value


def parameters():
    return nn.Parameter(torch.tensor([3.0, 4.0])), nn.Parameter(torch.tensor([[2.0]]))


def grouped(terms, supervised=("labels",)):
    groups = ({name: t for name, t in terms.items() if (name in supervised) == labels} for labels in (True, False))
    return StepTerms(supervised=next(groups), added=next(groups))


def measure(terms, wanted, supervised=("labels",)):
    return term_gradients(grouped({k: LossTerm(*v) for k, v in terms.items()}, supervised), wanted)


def test_norms_cosines_and_shares_are_those_worked_out_by_hand():
    p, q = parameters()
    measured = measure(
        {
            "labels": (p.square().sum() / 2 + 5 * q.sum(), 2.0),  # gradient (3, 4 | 5): norm sqrt(50)
            "features": (p[0] * 6 + q.square().sum() * 2, 0.5),  # gradient (6, 0 | 8): norm 10
        },
        (p, q),
    )
    labels, features = measured["labels"], measured["features"]
    assert (labels.value, labels.weight, features.value, features.weight) == (22.5, 2.0, 26.0, 0.5)
    assert labels.norm == pytest.approx(math.sqrt(50))
    assert features.norm == pytest.approx(10)
    assert labels.cosine == pytest.approx(1)
    assert features.cosine == pytest.approx((3 * 6 + 5 * 8) / (math.sqrt(50) * 10))
    assert labels.share == pytest.approx(2 * math.sqrt(50) / (2 * math.sqrt(50) + 0.5 * 10))
    assert labels.share + features.share == pytest.approx(1)
    assert labels.connected
    assert features.connected


@pytest.mark.parametrize(("value", "cosine"), [("same", 1), ("opposite", -1), ("across", 0)])
def test_the_cosine_tells_same_opposite_and_unrelated_directions(value, cosine):
    p, q = parameters()
    loss = p.square().sum()
    others = {"same": 0.01 * loss, "opposite": -7 * loss, "across": q.sum()}
    measured = measure({"labels": (loss, 1.0), "other": (others[value], 3.0)}, (p, q))
    assert measured["other"].cosine == pytest.approx(cosine)


def test_the_cosine_is_with_the_weighted_sum_of_all_terms_from_labels():
    p, _ = parameters()
    terms = {"a": (p[0] * 1, 3.0), "b": (p[1] * 2, 2.0), "other": (p[1] * 1, 1.0)}  # labels pull towards (3, 4)
    measured = measure(terms, [p], supervised={"a", "b"})
    assert measured["a"].cosine == pytest.approx(3 / 5)
    assert measured["other"].cosine == pytest.approx(4 / 5)


def test_a_term_of_a_strategy_does_not_take_the_place_of_one_from_labels():
    labels, strategy = (LossTerm(torch.tensor(value), 1.0) for value in (1.0, 9.0))
    with pytest.raises(ConfigError, match="strategy: its loss term 'dice' is one of the labels' too; accepted"):
        StepTerms(supervised={"bce": labels, "dice": labels}, added={"logits": strategy, "dice": strategy})
    terms = StepTerms(supervised={"dice": labels}, added={"logits": strategy}).all
    assert {name: term.value.item() for name, term in terms.items()} == {"dice": 1.0, "logits": 9.0}


def test_a_term_without_the_student_in_its_graph_is_said_to_be_disconnected():
    p, q = parameters()
    elsewhere = nn.Parameter(torch.ones(1))
    terms = {
        "labels": (p.sum(), 1.0),
        "detached": (p.detach().sum(), 1.0),
        "elsewhere": (elsewhere.sum(), 1.0),
        "zero": (p.sum() * 0, 1.0),
    }
    measured = measure(terms, (p, q))
    assert [name for name, each in measured.items() if not each.connected] == ["detached", "elsewhere"]
    for name in ("detached", "elsewhere", "zero"):
        assert (measured[name].norm, measured[name].cosine, measured[name].share) == (0, 0, 0)
    assert measured["labels"].share == 1


def test_without_terms_from_labels_or_without_any_gradient_nothing_is_divided_by_zero():
    p, _ = parameters()
    only = measure({"features": (p.sum(), 1.0)}, [p])["features"]
    assert (only.cosine, only.share) == (0, 1)
    zero = measure({"labels": (p.sum() * 0, 1.0), "features": (p.sum() * 0, 1.0)}, [p])
    assert [(each.cosine, each.share) for each in zero.values()] == [(0, 0), (0, 0)]


def test_frozen_parameters_count_for_nothing():
    p, q = parameters()
    q.requires_grad_(requires_grad=False)
    assert measure({"labels": (p.sum() + 100 * (q * p[0]).sum(), 1.0)}, (p, q))["labels"].norm == pytest.approx(
        math.hypot(1 + 200, 1)
    )


def test_measuring_leaves_the_graph_and_the_gradients_as_they_were():
    p, q = parameters()
    loss = (p.square().sum() * q.sum()).exp().log()
    measure({"labels": (loss, 1.0)}, (p, q))
    assert p.grad is None
    loss.backward()
    torch.testing.assert_close(p.grad, 2 * p.detach() * 2.0)


def balance(**settings):
    return GradientBalance(BalanceConfig(mode="gradient", **settings))


def step(balance, p, *, number=0, factors=(1.0, 100.0, 0.01), weights=(1.0, 1.0, 1.0), reduce=alone):
    """One step with a supervised term and two of a strategy, whose gradients have these norms."""
    direction = torch.tensor([0.6, 0.8])
    names = ("labels", "loud", "quiet")
    terms = {
        name: LossTerm((p @ direction) * factor, weight)
        for name, factor, weight in zip(names, factors, weights, strict=True)
    }
    return balance(grouped(terms), parameters=[p], step=number, reduce=reduce).all


@pytest.fixture
def p():
    return parameters()[0]


def test_each_term_of_a_strategy_pulls_as_hard_as_the_labels(p):
    terms = step(balance(), p, weights=(0.5, 1.0, 1.0))
    measured = term_gradients(grouped(terms), [p])
    pulls = {name: each.weight * each.norm for name, each in measured.items()}
    assert pulls == pytest.approx({"labels": 0.5, "loud": 0.5, "quiet": 0.5})


def test_a_weight_is_how_many_times_as_hard(p):
    terms = step(balance(), p, weights=(1.0, 3.0, 0.25))
    measured = term_gradients(grouped(terms), [p])
    assert measured["loud"].weight * measured["loud"].norm == pytest.approx(3)
    assert measured["quiet"].weight * measured["quiet"].norm == pytest.approx(0.25)


def test_terms_keep_their_raw_values_and_those_from_labels_their_weights(p):
    terms = step(balance(), p, weights=(0.7, 1.0, 1.0))
    assert terms["labels"].weight == 0.7
    assert terms["loud"].value.item() == pytest.approx((3 * 0.6 + 4 * 0.8) * 100)
    assert terms["loud"].value.requires_grad


def test_between_measurements_the_weights_stay(p):
    balanced = balance(every=10, smoothing=0.0)
    first = step(balanced, p)["loud"].weight
    assert step(balanced, p, number=9, factors=(1.0, 5.0, 1.0))["loud"].weight == first
    assert step(balanced, p, number=10, factors=(1.0, 5.0, 1.0))["loud"].weight == pytest.approx(1 / 5)


def test_a_new_ratio_is_smoothed_into_the_old_one(p):
    balanced = balance(every=1, smoothing=0.75)
    step(balanced, p, factors=(1.0, 2.0, 1.0))
    weight = step(balanced, p, number=1, factors=(1.0, 0.1, 1.0))["loud"].weight
    assert weight == pytest.approx(0.75 * 0.5 + 0.25 * 10)


def test_the_ratio_has_a_limit(p):
    assert step(balance(limit=50.0), p, factors=(1.0, 1.0, 1e-9))["quiet"].weight == 50


def test_the_first_measurement_comes_at_the_first_step_wherever_a_run_goes_on(p):
    assert step(balance(every=10), p, number=7)["loud"].weight == pytest.approx(0.01)


def test_a_term_that_is_not_on_yet_is_measured_when_it_comes_on(p):
    # As a warm-up begins: at step 0 the weight is 0 and the value a constant; nothing can be learned from it.
    balanced = balance(every=10)
    assert step(balanced, p, factors=(1.0, 0.0, 1.0), weights=(1.0, 0.0, 1.0))["loud"].weight == 0
    late = step(balanced, p, number=3, factors=(1.0, 100.0, 1.0))
    assert late["loud"].weight == pytest.approx(0.01)
    assert late["quiet"].weight == pytest.approx(1)


def test_a_term_that_is_off_is_not_measured_and_keeps_its_scale(p, monkeypatch):
    balanced = balance(every=1)
    step(balanced, p)
    before = dict(balanced.scales)
    step(balanced, p, number=1, factors=(1.0, 0.0, 0.0), weights=(1.0, 0.0, 0.0))
    assert balanced.scales == before
    monkeypatch.setattr(torch.autograd, "grad", refuse)
    assert step(balanced, p, number=2, weights=(1.0, 0.0, 0.0))["loud"].weight == 0


def test_a_step_whose_labels_do_not_pull_switches_no_term_off(p):
    balanced = balance(every=1, smoothing=0.0)
    assert step(balanced, p, factors=(0.0, 100.0, 1.0))["loud"].weight == 1
    assert step(balanced, p, number=1)["loud"].weight == pytest.approx(0.01)
    assert step(balanced, p, number=2, factors=(0.0, 100.0, 1.0))["loud"].weight == pytest.approx(0.01)


def refuse(*_args, **_kwargs):
    raise AssertionError("a gradient was computed")


def test_fixed_weights_cost_nothing(p, monkeypatch):
    fixed = GradientBalance(BalanceConfig(mode="fixed"))
    monkeypatch.setattr(torch.autograd, "grad", refuse)
    terms = step(fixed, p, weights=(1.0, 3.0, 0.25), reduce=refuse)
    assert [term.weight for term in terms.values()] == [1.0, 3.0, 0.25]
    assert not fixed.scales


def test_balanced_weights_cost_nothing_between_measurements_or_without_a_strategys_terms(p, monkeypatch):
    balanced = balance(every=10)
    step(balanced, p)
    monkeypatch.setattr(torch.autograd, "grad", refuse)
    step(balanced, p, number=1, reduce=refuse)
    labels = grouped({"labels": LossTerm(p.sum(), 2.0)})
    assert balanced(labels, parameters=[p], step=10, reduce=refuse) == labels


def test_scales_go_through_a_checkpoint_file(tiny, tmp_path):
    module, resumed = DistillModule(tiny()), DistillModule(tiny())
    module.balance.scales = {"features_mid": 0.25}
    checkpoint = {}
    module.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "state.pt")
    resumed.on_load_checkpoint(torch.load(tmp_path / "state.pt", weights_only=True))
    assert resumed.balance.scales == {"features_mid": 0.25}


def test_two_processes_use_the_mean_of_their_norms(p, monkeypatch):
    # Each sees norms of its own; what `reduce` returns is the same in both.
    norms = [torch.tensor([1.0, 100.0, 0.5]), torch.tensor([3.0, 300.0, 0.1])]
    sent, weights = [], []
    for own in norms:
        scaled = step(balance(), p, factors=own.tolist(), reduce=lambda v: sent.append(v) or sum(norms) / 2)
        weights.append([term.weight for term in scaled.values()])
    torch.testing.assert_close(torch.stack(sent), torch.stack(norms))
    assert weights[0] == weights[1] == pytest.approx([1, 2 / 200, 2 / 0.3])


def test_a_process_whose_batch_gives_no_gradient_takes_part_in_the_mean(p):
    sent = []
    terms = {"labels": LossTerm(p.detach().sum()), "loud": LossTerm(p.sum())}
    balance()(grouped(terms), parameters=[p], step=0, reduce=lambda v: sent.append(v) or v + 1)
    assert sent[0].tolist() == pytest.approx([0, math.sqrt(2)])
