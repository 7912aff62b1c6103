"""A training whose weights are shared out gives what DDP gives, and a checkpoint that one process reads."""

import json

import pytest
import torch
from small_transfers import VIT, close, fit_on_two, weights
from test_distillation_run import curve
from undrawn import UNDRAWN

from distill3d.errors import ConfigError
from distill3d.storage.run_folder import RunFolder
from distill3d.training import fit
from distill3d.training.module import load_module

FSDP = "trainer.strategy=fsdp"
# Each process says how many of the student's values it holds during the training.
SAYS_SHARES = """
import json
from pathlib import Path
from lightning.fabric.utilities.rank_zero import rank_zero_only
from distill3d.training.module import DistillModule

def on_train_end(self):
    local = [getattr(p, "to_local", lambda p=p: p)().numel() for p in self.student.parameters()]
    whole = [p.numel() for p in self.student.parameters()]
    Path(FOLDER, str(rank_zero_only.rank)).write_text(json.dumps([sum(local), sum(whole)]))

DistillModule.on_train_end = on_train_end
"""


@pytest.mark.slow
def test_shared_out_weights_train_and_resume_as_whole_ones_and_one_process_reads_them(tiny, tmp_path):
    constant = ("optimizer.schedule=constant", "optimizer.warmup_steps=0", "trainer.accumulate=2")
    experiment = tiny(*VIT, *constant, "trainer.log_every=1", "trainer.steps=2", "trainer.validate_every=1")
    whole = fit_on_two(experiment, tmp_path, overrides=("trainer.steps=3",))
    code = SAYS_SHARES.replace("FOLDER", repr(str(tmp_path))) + UNDRAWN
    shared = fit_on_two(experiment, tmp_path / "shared", code=code, overrides=(FSDP,))
    for rank in "01":
        local, all_values = json.loads((tmp_path / rank).read_text())
        assert local < 0.6 * all_values
    losses = curve(whole, "train/loss")
    assert curve(shared, "train/loss") == pytest.approx(losses[:2], rel=1e-5)
    assert len(losses) == 3
    fit_on_two(experiment, tmp_path / "shared", overrides=(FSDP, "trainer.steps=3", "--resume"))
    assert close(weights(whole), weights(shared), rtol=1e-4, atol=1e-5)  # gradients were clipped in both
    assert not any(key.startswith("teacher") for key in weights(shared))
    image = torch.rand(1, 1, 16, 32, 32)
    with torch.no_grad():
        logits = [load_module(run.last).eval()(image) for run in (whole, shared)]
    torch.testing.assert_close(*logits, rtol=1e-3, atol=1e-4)
    costs = [run.read_json(run.metrics)["cost"] for run in (whole, shared)]
    for key in ("trainable_parameters", "parameters", "steps", "devices"):
        assert costs[0][key] == costs[1][key]


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ((FSDP,), r"trainer.strategy=fsdp with 1 process has nothing to share; accepted: trainer.devices=2 or more"),
        ((FSDP, "trainer.devices=2", "balance={mode: gradient}"), "no process has the whole gradients"),
        ((FSDP, "trainer.devices=2", "trainer.precision=16-mixed"), r"does not support .*precision='16-mixed'"),
    ],
)
def test_what_needs_whole_gradients_is_refused_in_a_line(tiny, tmp_path, settings, line):
    experiment = tiny(*settings)
    with pytest.raises(ConfigError, match=line) as refusal:
        fit.fit(experiment)
    assert "\n" not in str(refusal.value)
    assert RunFolder(tmp_path / "runs" / "tiny" / "seed0").state == "absent"
