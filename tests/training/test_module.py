"""The LightningModule: its sum of terms, its learning rates, its teacher."""

import json
from dataclasses import dataclass

import pytest
import torch
from small_transfers import make_batch
from torch import nn

from distill3d.config.registry import STRATEGIES
from distill3d.config.schema import OptimizerConfig
from distill3d.errors import ConfigError, TrainingError
from distill3d.teachers.base import Teacher, TeacherIdentity
from distill3d.training.module import DistillModule, fresh_module
from distill3d.training.optimizer import learning_rate
from distill3d.transfer.base import TransferStrategy
from distill3d.transfer.requests import TeacherRequest, ViewConfig
from distill3d.types import LossTerm


@dataclass(frozen=True, kw_only=True, slots=True)
class HalfConfig:
    weight: float = 0.5


class Half(TransferStrategy):
    """A strategy with one term of a known value and a projection of its own."""

    def __init__(self, config):
        super().__init__(config)
        self.projection = nn.Parameter(torch.tensor(3.0))

    def requests(self):
        return (TeacherRequest(layer="", axis="z", grid_of="", view=ViewConfig()),)

    def requests_now(self):
        return ()

    def forward(self, *, student, teacher, batch):
        return {"half": LossTerm(self.projection * 2, self.config.weight)}


@pytest.fixture
def with_half(tiny, monkeypatch):
    monkeypatch.setattr(STRATEGIES, "_entries", dict(STRATEGIES._entries))
    STRATEGIES.register("half", config=HalfConfig)(Half)
    return DistillModule(tiny("strategy={name: half, weight: 0.25}"))


def tiny_teacher():
    identity = TeacherIdentity(architecture="toy", weights="random", sha256="", random=True)
    return Teacher(nn.Conv2d(3, 2, 3), identity=identity, input_mean=(0.5,) * 3, input_std=(0.5,) * 3)


def test_the_loss_is_the_weighted_sum_of_raw_terms(with_half):
    batch = make_batch()
    terms = with_half.terms(batch).all
    supervised = sum(t.weight * t.value.item() for name, t in terms.items() if name != "half")
    with_half.log = with_half.log_dict = lambda *_args, **_kwargs: None
    total = with_half.training_step(batch, 0)
    assert terms["half"].value.item() == 6
    assert total.item() == pytest.approx(supervised + 0.25 * 6)


def test_a_strategys_projection_trains_with_the_student(with_half):
    groups = with_half.configure_optimizers()["optimizer"].param_groups
    assert any(p is with_half.strategy.projection for group in groups for p in group["params"])


def test_a_wanted_teacher_is_kept_but_neither_saved_nor_trained(with_half):
    teacher = tiny_teacher()
    with_half.attach(teacher)
    with_half.train()
    assert not teacher.training
    assert not [key for key in with_half.state_dict() if key.startswith("teacher")]
    with_half.load_state_dict(with_half.state_dict(), strict=True)
    trained = {p for group in with_half.configure_optimizers()["optimizer"].param_groups for p in group["params"]}
    assert not trained & set(teacher.parameters())


def test_a_strategy_that_runs_no_teacher_does_not_keep_it(tiny):
    module = DistillModule(tiny())
    module.attach(tiny_teacher())
    assert module.teacher is None
    assert module.teacher_identity.architecture == "toy"


def test_transferred_and_new_parameters_have_their_own_rates(tiny):
    module = DistillModule(tiny("optimizer.transferred_lr_ratio=0.1", "optimizer.freeze_transferred_steps=3"))
    name, moved = next(iter(module.student.named_parameters()))
    module.transferred = frozenset({name})
    chosen = module.configure_optimizers()
    group = next(g for g in chosen["optimizer"].param_groups if any(p is moved for p in g["params"]))
    other = next(g for g in chosen["optimizer"].param_groups if g is not group)
    assert group["initial_lr"] == pytest.approx(0.1 * other["initial_lr"])
    assert group["lr"] == 0
    assert other["lr"] > 0
    before = moved.detach().clone()
    for step in range(4):
        assert torch.equal(moved, before) == (step <= 3)
        loss = sum(t.value for t in module.terms(make_batch()).all.values())
        chosen["optimizer"].zero_grad()
        loss.backward()
        chosen["optimizer"].step()
        chosen["lr_scheduler"]["scheduler"].step()
    assert not torch.equal(moved, before)


def test_the_rate_warms_up_and_falls_to_zero():
    rate = learning_rate(OptimizerConfig(warmup_steps=9), steps=100)
    assert rate(0) == pytest.approx(0.1)
    assert rate(9) == pytest.approx(0.5 * (1 + torch.cos(torch.tensor(torch.pi * 0.09))).item())
    assert rate(100) == pytest.approx(0, abs=1e-12)
    assert all(rate(k) >= rate(k + 1) for k in range(9, 100))
    assert learning_rate(OptimizerConfig(schedule="constant", warmup_steps=0), steps=100)(77) == 1


def test_a_loss_that_is_not_finite_names_cases(tiny):
    module = DistillModule(tiny())
    batch = make_batch()
    batch.image[0, 0, 0, 0, 0] = float("nan")
    with pytest.raises(TrainingError, match=r"case0 at zyx \(0, 0, 0\); case1"):
        module.training_step(batch, 0)


def test_a_student_without_the_head_that_a_loss_reads_is_refused_before_training(tiny):
    with pytest.raises(ConfigError, match=r"losses\.lines: .*student\.skeleton_head=shared or own_decoder") as caught:
        DistillModule(tiny("losses={overlap: {}, lines: {name: skeleton_head}}"))
    assert len(caught.value.lines) == 1


@pytest.mark.parametrize("strategy", ["none", "inflate", "combine"])
def test_without_a_loss_and_a_term_of_the_strategy_there_is_nothing_to_train_with(tiny, strategy):
    settings = "{name: combine, parts: {a: {name: none}}}" if strategy == "combine" else f"{{name: {strategy}}}"
    experiment = tiny("losses={}", f"strategy={settings}")
    with pytest.raises(ConfigError, match=rf"^losses=\{{\}} and the strategy {strategy} adds no term") as caught:
        # what the one only knows when it is asked, the other knows before anything is read or written
        DistillModule(experiment).loss(make_batch()) if strategy == "combine" else fresh_module(experiment)
    assert len(caught.value.lines) == 1
    with pytest.raises(ConfigError, match=r"balance\.mode='gradient' with losses=\{\}"):
        tiny("losses={}", "balance.mode=gradient")


def test_two_losses_of_one_kind_keep_their_terms_apart(tiny):
    kept = {
        "overlap": {"dice": 1.0, "cross_entropy": 0.0},
        "second": {"name": "overlap", "dice": 2.0, "cross_entropy": 0},
    }
    module = DistillModule(tiny(f"losses={json.dumps(kept)}"))
    terms = module.terms(make_batch()).all
    assert set(terms) == {"dice", "second_dice"}
    assert (terms["dice"].weight, terms["second_dice"].weight) == (1.0, 2.0)
