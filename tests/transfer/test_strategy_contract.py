"""What every registered strategy promises, with its default settings."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from distill3d.config.paths import ConfigPath
from distill3d.config.plain import as_plain
from distill3d.config.registry import STRATEGIES, Component
from distill3d.config.schema import AugmentConfig, PatchConfig
from distill3d.experiment import experiment_from_plain
from distill3d.storage.checkpoint import CHECKPOINT_KEY, write_model
from distill3d.students.vit3d import Vit3d, Vit3dConfig
from distill3d.teachers.base import Teacher, TeacherIdentity, hash_weights
from distill3d.teachers.timm2d import Timm2d, Timm2dConfig
from distill3d.transfer.base import TransferStrategy
from distill3d.transfer.combine import CombineConfig
from distill3d.transfer.features import FeaturesConfig
from distill3d.transfer.inflate import InflateConfig
from distill3d.transfer.view import TeacherView
from distill3d.transfer.warm_start import WarmStart, WarmStartConfig
from distill3d.types import Batch, LossTerm, Prediction

NAMES = [name for name in STRATEGIES.names() if STRATEGIES[name].module.startswith("distill3d.")]


# Defaults for all, but for strategies that are nothing without settings of their own.
SETTINGS = {
    "combine": CombineConfig(
        parts={"start": Component("inflate", InflateConfig()), "match": Component("features", FeaturesConfig())}
    )
}


class Segmenting(Teacher):
    """A teacher that says something of every pixel."""

    segments = True

    def __init__(self):
        identity = TeacherIdentity(architecture="toy", weights="random", sha256="", random=True)
        super().__init__(nn.Conv2d(3, 1, 3, padding=1), identity=identity, input_mean=(0.5,) * 3, input_std=(0.5,) * 3)


@pytest.fixture
def teacher(strategy):
    if strategy.name == "logits":
        return Segmenting()
    return Timm2d(Timm2dConfig(architecture="test_vit", weights="random"))


@pytest.fixture
def student():
    return _student()


def _student():
    torch.manual_seed(0)
    return Vit3d(Vit3dConfig(encoder="test_vit", block_zyx=(4, 16, 16), input_zyx=(8, 32, 32)))


@pytest.fixture(params=NAMES)
def strategy(request, tmp_path) -> TransferStrategy:
    if request.param == "warm_start":
        state = {f"student.{name}": value + 1 for name, value in _student().state_dict().items()}
        write_model(tmp_path / "m.safetensors", {"state_dict": state, CHECKPOINT_KEY: {"seen": []}})
        return WarmStart(WarmStartConfig(model=ConfigPath(str(tmp_path / "m.safetensors"))))
    return STRATEGIES.build(Component(request.param, SETTINGS.get(request.param) or STRATEGIES[request.param].config()))


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


def _terms(strategy, student, teacher, batch):
    strategy.adapt(student)
    strategy.transfer(student=student, teacher=teacher)
    strategy.begin_step(0, 10)
    prediction = student.observe(batch.image, strategy.student_layers())
    seen = Prediction.nothing()
    if strategy.wants_teacher:
        patches = PatchConfig(augment=AugmentConfig())
        view = TeacherView(teacher, strategy.requests(), stacks={}, cache=Path("unused"), patches=patches)
        seen = view(strategy.requests_now(), student=prediction, batch=batch, stride_zyx=student.stride_zyx, step=0)
    return strategy(student=prediction, teacher=seen, batch=batch)


def test_the_strategies_of_this_package_are_here():
    assert {"none", "inflate", "tubular", "features", "logits", "combine"} <= set(NAMES)


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
    assert (audit.copy_rate > 0) == (strategy.name in {"combine", "inflate", "tubular", "warm_start"})


def test_teacher_is_not_changed(strategy, student, teacher):
    before = hash_weights(dict(teacher.named_parameters()))
    strategy.adapt(student)
    strategy.transfer(student=student, teacher=teacher)
    assert hash_weights(dict(teacher.named_parameters())) == before
    assert not any(p.requires_grad for p in teacher.parameters())


def test_student_stays_trainable_and_shares_no_memory_with_the_teacher(strategy, student, teacher):
    strategy.adapt(student)
    strategy.transfer(student=student, teacher=teacher)
    teacher_pointers = {p.data_ptr() for p in teacher.parameters()}
    for name, parameter in student.named_parameters():
        assert parameter.requires_grad, name
        assert parameter.is_leaf, name
        assert parameter.data_ptr() not in teacher_pointers, name


def test_transfer_is_the_same_every_time(strategy, student, teacher):
    other = copy.deepcopy(student)
    for each in (student, other):
        torch.manual_seed(1)  # what a strategy adds is drawn
        strategy.adapt(each)
        strategy.transfer(student=each, teacher=teacher)
    own = student.state_dict()
    assert all(torch.equal(own[name], value) for name, value in other.state_dict().items())


def test_terms_are_finite_scalars_and_gradient_reaches_the_student_only(strategy, student, teacher):
    terms = _terms(strategy, student, teacher, _batch())
    assert bool(terms) == strategy.wants_teacher
    for term in terms.values():
        assert isinstance(term, LossTerm)
        assert term.value.shape == ()
        assert torch.isfinite(term.value)
        term.value.backward(retain_graph=True)
    assert all(p.grad is None for p in teacher.parameters())
    assert not terms or any(p.grad is not None for p in student.parameters())


def test_bf16_autocast_gives_finite_terms_near_the_full_ones(strategy, student, teacher):
    batch = _batch()
    torch.manual_seed(3)
    exact = _terms(strategy, copy.deepcopy(student), teacher, batch)
    torch.manual_seed(3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = _terms(strategy, student, teacher, batch)
    assert exact.keys() == mixed.keys()
    for name, term in mixed.items():
        assert term.value.item() == pytest.approx(exact[name].value.item(), rel=0.1, abs=0.05)


def test_a_saved_strategy_loads_into_a_fresh_one_without_a_teacher(strategy, student, teacher):
    other, other_student = copy.deepcopy(strategy), copy.deepcopy(student)
    strategy.adapt(student)
    strategy.transfer(student=student, teacher=teacher)
    other.adapt(other_student)
    other.load_state_dict(strategy.state_dict(), strict=True)
    own = strategy.state_dict()
    assert all(torch.equal(own[name], value) for name, value in other.state_dict().items())
    assert own.keys() == other.state_dict().keys()


def test_settings_survive_the_way_through_a_checkpoint(strategy, tmp_path):
    config = strategy.config
    plain = as_plain(Component(strategy.name, config))
    settings = {
        "name": "x",
        "data": {"name": "simulated"},
        "student": {"name": "vit3d"},
        "teacher": {"name": "timm2d"},
        "strategy": plain,
    }
    assert experiment_from_plain(settings, source=tmp_path).strategy == Component(strategy.name, config)
