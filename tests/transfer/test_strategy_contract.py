"""What every registered strategy promises, with its default settings."""

import copy

import pytest
import torch

from distill3d.registry import STRATEGIES, Component
from distill3d.students import Vit3d, Vit3dConfig
from distill3d.teachers import Timm2d, Timm2dConfig, hash_weights
from distill3d.transfer import TransferStrategy
from distill3d.types import Batch, LossTerm, Prediction

NAMES = [name for name in STRATEGIES.names() if STRATEGIES[name].module.startswith("distill3d.")]


@pytest.fixture(scope="module")
def teacher():
    return Timm2d(Timm2dConfig(architecture="test_vit", weights="random"))


@pytest.fixture
def student():
    torch.manual_seed(0)
    return Vit3d(Vit3dConfig(encoder="test_vit", block_zyx=(4, 16, 16), input_zyx=(8, 32, 32)))


@pytest.fixture(params=NAMES)
def strategy(request) -> TransferStrategy:
    return STRATEGIES.build(Component(request.param, STRATEGIES[request.param].config()))


def _batch():
    image = torch.rand(2, 1, 8, 16, 16)
    return Batch(
        image=image,
        target=(image > 0.5).float(),
        known=torch.ones_like(image, dtype=torch.bool),
        spacing_um=torch.ones(2, 3),
        origin_zyx_vox=torch.zeros(2, 3, dtype=torch.int64),
        cases=("a", "b"),
    )


def test_the_strategies_of_this_package_are_here():
    assert {"none", "inflate", "tubular"} <= set(NAMES)


def test_audit_has_one_row_per_entry_with_true_norms(strategy, student, teacher):
    strategy.adapt(student)
    before = {name: float(value.double().norm()) for name, value in student.state_dict().items()}
    audit = strategy.transfer(student=student, teacher=teacher)
    assert [row.name for row in audit.rows] == list(student.state_dict())
    for row, value in zip(audit.rows, student.state_dict().values(), strict=True):
        assert row.norm_before == pytest.approx(before[row.name])
        assert row.norm_after == pytest.approx(float(value.double().norm()))
        assert row.shape == tuple(value.shape)
        assert (row.fate == "new") <= (row.norm_before == row.norm_after)
    assert (audit.copy_rate > 0) == strategy.needs_weights


def test_teacher_is_not_changed(strategy, student, teacher):
    before = hash_weights(dict(teacher.named_parameters()))
    strategy.adapt(student)
    strategy.transfer(student=student, teacher=teacher)
    assert hash_weights(dict(teacher.named_parameters())) == before
    assert not any(p.requires_grad for p in teacher.parameters())


def test_student_stays_trainable_and_shares_no_memory_with_the_teacher(strategy, student, teacher):
    strategy.adapt(student)
    strategy.transfer(student=student, teacher=teacher)
    theirs = {p.data_ptr() for p in teacher.parameters()}
    for name, parameter in student.named_parameters():
        assert parameter.requires_grad, name
        assert parameter.is_leaf, name
        assert parameter.data_ptr() not in theirs, name


def test_transfer_is_the_same_every_time(strategy, student, teacher):
    other = copy.deepcopy(student)
    for each in (student, other):
        torch.manual_seed(1)  # what a strategy adds is drawn
        strategy.adapt(each)
        strategy.transfer(student=each, teacher=teacher)
    own = student.state_dict()
    assert all(torch.equal(own[name], value) for name, value in other.state_dict().items())


def test_terms_are_finite_scalars_and_gradient_reaches_the_student_only(strategy, student, teacher):
    batch = _batch()
    strategy.adapt(student)
    prediction = student(batch.image)
    seen = teacher(batch.image) if strategy.wants_teacher else Prediction.nothing()
    terms = strategy(student=prediction, teacher=seen, batch=batch)
    for term in terms.values():
        assert isinstance(term, LossTerm)
        assert term.value.shape == ()
        assert torch.isfinite(term.value)
        term.value.backward(retain_graph=True)
    assert all(p.grad is None for p in teacher.parameters())
    assert not terms or any(p.grad is not None for p in student.parameters())
