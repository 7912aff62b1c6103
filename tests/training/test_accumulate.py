"""Several batches a step: the step is that of one large batch, and all that counts steps counts these."""

import json

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from distill3d.config.schema import BalanceConfig
from distill3d.errors import ConfigError, InputError, NumbersError
from distill3d.storage.run_folder import RunFolder
from distill3d.training import fit
from distill3d.training.gradients import GradientBalance, StepTerms
from distill3d.training.trainer import check_trainer
from distill3d.types import LossTerm

pytestmark = pytest.mark.usefixtures("undrawn")


class Look(Callback):
    """Keeps the first step's gradients, and the step that every batch belongs to."""

    def __init__(self):
        self.steps, self.gradients, self.cases = [], {}, []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.cases += batch.cases

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if not self.gradients:
            self.gradients = {name: p.grad.clone() for name, p in pl_module.named_parameters()}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.steps.append(pl_module.strategy.step)


def looked_at(experiment, monkeypatch, **flags):
    original, look = fit.make_trainer, Look()
    with monkeypatch.context() as patch:
        patch.setattr(fit, "make_trainer", lambda s, f, lo, callbacks: original(s, f, lo, [*callbacks, look]))
        folder = RunFolder(fit.fit(experiment, **flags))
    return folder, look


def test_two_half_batches_a_step_are_one_whole_batch(tiny, finished_once, monkeypatch):
    folder, halves = looked_at(tiny("trainer.accumulate=2", "patches.batch_size=1"), monkeypatch)
    assert halves.steps == [0, 0, 1, 1, 2, 2, 3, 3]  # what schedules and the teacher's view go by
    assert folder.read_json(folder.metrics)["cost"]["steps"] == 4
    last, whole = (torch.load(run.last, weights_only=True) for run in (folder, RunFolder(finished_once)))
    assert (last["global_step"], last["lr_schedulers"]) == (whole["global_step"], whole["lr_schedulers"])
    for name, value in whole["state_dict"].items():
        torch.testing.assert_close(last["state_dict"][name], value, rtol=1e-4, atol=1e-5)
    clock = next(state for key, state in last["callbacks"].items() if key.startswith("StepClock"))
    assert clock["steps"] == 1  # of four, without those that warm up
    lines = [len(path.read_text().splitlines()) for path in folder.path.glob("curves/*/metrics.csv")]
    expected = [
        len(path.read_text().splitlines()) for path in RunFolder(finished_once).path.glob("curves/*/metrics.csv")
    ]
    assert lines == expected
    _, one = looked_at(tiny("trainer.steps=2"), monkeypatch, overwrite=True)
    assert halves.cases[:4] == one.cases  # an epoch has twice as many batches, and no sample comes twice
    for name, gradient in one.gradients.items():
        torch.testing.assert_close(halves.gradients[name], gradient, rtol=0, atol=1e-6)


def test_terms_are_balanced_once_a_step_whatever_its_batches():
    weight, sizes = torch.nn.Parameter(torch.ones(2)), iter((1.0, 9.0, 1.0))
    balance = GradientBalance(BalanceConfig(mode="gradient", every=1, smoothing=0.0))
    scales = []
    for step in (0, 0, 1):
        terms = StepTerms(
            supervised={"a": LossTerm(weight.sum() * next(sizes), 1.0)}, added={"b": LossTerm(weight.sum() * 2, 1.0)}
        )
        balance(terms, parameters=[weight], step=step, reduce=lambda value: value)
        scales.append(balance.scales["b"])
    assert scales == [0.5, 0.5, 0.5]


def test_the_batch_that_gave_a_bad_gradient_is_the_one_that_is_kept(tiny, monkeypatch):
    loss = fit.DistillModule.loss

    def bad_first(self, batch):
        terms, total = loss(self, batch)
        seen.append(batch.origin_zyx_vox.tolist())
        if len(seen) == 1:
            total.register_hook(lambda gradient: gradient * float("nan"))
        return terms, total

    seen = []
    monkeypatch.setattr(fit.DistillModule, "loss", bad_first)
    with pytest.raises(NumbersError, match=r"gradient of .* is not finite at step 0"):
        fit.fit(tiny("trainer.accumulate=2", "trainer.audit_every=0"))
    assert len(seen) == 1


def test_a_run_of_a_version_without_a_setting_is_finished_with_its_default(tiny, finished):
    settings = finished.read_config()
    del settings["trainer"]["accumulate"], settings["trainer"]["sync_batchnorm"]
    finished.config.write_text(json.dumps(settings))
    before = finished.metrics.stat().st_mtime_ns
    fit.fit(tiny())
    assert finished.metrics.stat().st_mtime_ns == before
    with pytest.raises(InputError, match=r"trainer.accumulate: 1 there, 2 now"):
        fit.fit(tiny("trainer.accumulate=2"))


def test_synchronized_batch_norm_is_refused_where_torch_has_none(tiny, tmp_path):
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(
        ConfigError, match=r"trainer.sync_batchnorm=true with 2 processes on the cpu, where torch has no"
    ):
        check_trainer(tiny("trainer.sync_batchnorm=true", "trainer.devices=2").trainer, folder)
    check_trainer(tiny("trainer.sync_batchnorm=true").trainer, folder)  # one process has all statistics
    with pytest.raises(ConfigError, match="accumulate=0 is too small; accepted: 1 or more"):
        tiny("trainer.accumulate=0")
