"""The audit of gradients in training: what stops a run, what it keeps, what it draws."""

import csv
import json
from dataclasses import dataclass, replace

import matplotlib.image
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from small_transfers import Crash, crash_in_second_epoch
from undrawn import apply

from distill3d.config.registry import STRATEGIES
from distill3d.errors import TrainingError
from distill3d.evaluation.figures.gradients import gradient_figure
from distill3d.storage.run_folder import RunFolder
from distill3d.training import fit
from distill3d.training.gradient_audit import GradientAudit
from distill3d.training.trainer import make_trainer, quiet, train
from distill3d.transfer.base import TransferStrategy
from distill3d.types import LossTerm

TERMS = {
    "useful": lambda logits: logits.square().mean(),
    "detached": lambda logits: logits.detach().square().mean(),
    "zero": lambda logits: logits.sum() * 0,
    "idle": lambda logits: logits.sum() * 0,  # with weight 0
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ToyConfig:
    terms: tuple[str, ...] = ("useful",)


class Toy(TransferStrategy):
    """Adds terms whose gradient is known."""

    def forward(self, *, student, teacher, batch):
        terms = TERMS | {"late": TERMS["useful" if self.step >= 2 else "zero"]}
        return {name: LossTerm(terms[name](student.logits), float(name != "idle")) for name in self.config.terms}


@pytest.fixture
def toy(tiny, monkeypatch):
    """Return the tiny experiment with terms of this strategy; all its patches hold gold."""
    monkeypatch.setattr(STRATEGIES, "_entries", dict(STRATEGIES._entries))
    STRATEGIES.register("toy", config=ToyConfig)(Toy)
    return lambda terms, *more: tiny(f"strategy={{name: toy, terms: [{terms}]}}", "patches.foreground=1", *more)


class Blank(Callback):
    """Take the gold out of the first batches, before any other callback sees them; count the steps done."""

    def __init__(self, count):
        self.count, self.done = count, 0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step < self.count:
            batch.target.zero_()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.done = trainer.global_step


@pytest.fixture
def trained(tmp_path):
    """Train without what comes after; returns the audit's history."""

    def training(experiment, *callbacks, checkpoint=None):
        torch.manual_seed(0)
        data = fit.DistillDataModule(experiment)
        data.prepare_data()
        module = fit.DistillModule(experiment, val_cases=data.case_names("val"))
        folder, audit = RunFolder(tmp_path / "trained"), GradientAudit(every=experiment.trainer.audit_every)
        trainer = make_trainer(experiment.trainer, folder, [], [*callbacks, audit])
        with quiet():
            train(trainer, module, data, folder=folder, checkpoint=checkpoint)
        return audit.history

    return training


def test_a_term_that_is_cut_off_stops_the_run_at_its_first_step(toy, tmp_path):
    with pytest.raises(TrainingError) as caught:
        fit.fit(toy("useful, detached"))
    message = str(caught.value)
    assert message.startswith("loss term detached: no gradient reaches the student at step 0; accepted: ")
    assert "\n" not in message
    assert caught.value.exit_code == 1
    folder = RunFolder(tmp_path / "runs" / "tiny" / "seed0")
    assert folder.state == "unfinished"
    assert not folder.last.is_file()


@pytest.mark.parametrize("every", [0, 1, 50])
def test_a_gradient_of_0_stops_the_run_after_some_batches_with_gold_whatever_the_interval(toy, trained, every):
    blank = Blank(2)  # that say nothing
    settings = (f"trainer.audit_every={every}", "trainer.steps=30", "trainer.validate_every=30")
    line = "loss term zero: no gradient reaches the student at step 21, nor in any of 20 batches with gold; accepted"
    with pytest.raises(TrainingError, match=line):
        trained(toy("useful, zero", *settings), blank)
    assert blank.done == 21


def test_a_term_for_which_the_first_batches_hold_nothing_is_not_taken_for_a_broken_one(toy, trained, caplog):
    history = trained(toy("late", "trainer.audit_every=0"))
    assert [row["terms"]["late"]["norm"] > 0 for row in history] == [False, False, True]
    assert not caplog.messages


def test_a_training_too_short_to_judge_a_gradient_of_0_ends_with_a_warning(toy, trained, caplog):
    trained(toy("useful, zero"))
    assert caplog.messages == ["loss term zero: its gradient at the student was 0 in all of 4 batches with gold"]


def test_a_batch_without_gold_does_not_excuse_a_term_that_is_cut_off(toy, trained):
    blank = Blank(2)
    with pytest.raises(TrainingError, match="loss term detached: no gradient reaches the student at step 0;"):
        trained(toy("detached"), blank)
    assert blank.done == 0


def test_a_term_whose_weight_is_0_is_not_asked_for_a_gradient(toy, trained):
    history = trained(toy("useful, idle", "trainer.audit_every=1"))
    assert [row["terms"]["idle"]["norm"] for row in history] == [0] * 4


@pytest.mark.parametrize(("every", "steps"), [(0, [0]), (1, [0, 1, 2, 3]), (3, [0, 3]), (50, [0])])
def test_it_measures_at_the_first_step_and_every_so_many(toy, trained, every, steps):
    history = trained(toy("useful", f"trainer.audit_every={every}"))
    assert [row["step"] for row in history] == steps


def test_what_it_measures_is_the_gradient_that_the_optimizer_gets(toy, trained):
    class Compare(Callback):
        def on_after_backward(self, trainer, pl_module):
            seen.append(torch.cat([p.grad.reshape(-1) for p in pl_module.student.parameters()]).norm().item())

    seen = []
    experiment = toy("useful", "trainer.audit_every=1", "losses.overlap.dice=0", "losses.overlap.cross_entropy=2")
    history = trained(experiment, Compare())
    assert len(seen) == len(history) == 4
    for row, total in zip(history, seen, strict=True):
        labels, added = (row["terms"][name] for name in ("cross_entropy", "useful"))
        assert labels["cosine"] == pytest.approx(1)
        assert (labels["weight"], added["weight"]) == (2, 1)
        # The law of cosines: two lengths and the angle between them give the length of the sum.
        a, b = 2 * labels["norm"], added["norm"]
        assert total == pytest.approx((a * a + b * b + 2 * a * b * added["cosine"]) ** 0.5, rel=1e-3)


def test_a_resumed_run_does_not_ask_again_what_is_proven(toy, trained, tmp_path):
    experiment = toy("useful", "trainer.audit_every=0")
    with pytest.raises(RuntimeError, match="power cut"):
        trained(experiment, Crash())
    assert [row["step"] for row in trained(experiment, checkpoint=RunFolder(tmp_path / "trained").last)] == [0]


def test_the_curves_of_a_resumed_run_are_those_of_an_uninterrupted_one(toy, tmp_path, monkeypatch):
    experiment = toy("useful", "trainer.audit_every=1", "trainer.log_every=1")
    whole = RunFolder(fit.fit(replace(experiment, runs=str(tmp_path / "whole"))))
    apply(monkeypatch.setattr)
    crash_in_second_epoch(experiment, monkeypatch)
    resumed = RunFolder(fit.fit(experiment, resume=True))
    history = json.loads(resumed.gradients.read_text())["history"]
    assert [row["step"] for row in history] == [0, 1, 2, 3]
    assert history == json.loads(whole.gradients.read_text())["history"]
    # the same curves are in the CSV, and drawn
    with next((whole.path / "curves").glob("*/metrics.csv")).open() as file:
        rows = list(csv.DictReader(file))
    for name in history[0]["terms"]:
        for key in ("norm", "cosine", "share"):
            curve = [float(row[f"gradient/{name}/{key}"]) for row in rows if row[f"gradient/{name}/{key}"]]
            assert curve == pytest.approx([row["terms"][name][key] for row in history], rel=1e-4)
    assert len(colors(whole.figures / "gradients.png")) > 50


def row_of(step, **terms):
    keys = ("norm", "cosine", "share")
    return {"step": step, "terms": {name: dict(zip(keys, values, strict=True)) for name, values in terms.items()}}


def colors(path):
    image = matplotlib.image.imread(path)[..., :3]
    return {tuple(color) for color in np.unique((image * 255).round().astype(int).reshape(-1, 3), axis=0).tolist()}


def test_the_picture_has_a_line_per_term(tmp_path):
    history = [
        row_of(0, labels=(1.0, 1.0, 0.9), features=(0.1, -0.5, 0.1)),
        row_of(50, labels=(0.5, 1.0, 0.4), features=(0.2, 0.5, 0.6)),
    ]
    both = colors(gradient_figure(tmp_path / "new" / "both.png", "title", history))
    one = colors(gradient_figure(tmp_path / "one.png", "title", [row_of(0, labels=(1.0, 1.0, 1.0))] * 2))
    blue, orange = (31, 119, 180), (255, 127, 14)
    assert {blue, orange} <= both
    assert blue in one
    assert orange not in one


def test_terms_that_come_late_and_norms_of_zero_are_drawn_too(tmp_path):
    history = [row_of(0, labels=(0.0, 0.0, 0.0)), row_of(1, labels=(1.0, 1.0, 0.5), late=(1.0, 0.0, 0.5))]
    assert (255, 127, 14) in colors(gradient_figure(tmp_path / "late.png", "title", history))


def test_a_module_of_another_kind_is_let_pass():
    audit = GradientAudit(every=1)
    audit.on_before_backward(None, torch.nn.Linear(1, 1), torch.zeros(()))
    assert audit.history == []
