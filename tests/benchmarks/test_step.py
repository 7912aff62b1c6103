"""What the framework costs: `make bench` prints ratios measured side by side in one run. Not part of the suite."""

import itertools
import statistics
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader

from distill3d.experiment import load_experiment
from distill3d.storage.run_folder import RunFolder
from distill3d.training import fit
from distill3d.training.callbacks import StepClock
from distill3d.training.loggers import make_loggers
from distill3d.training.trainer import make_trainer, quiet

STEPS, ROUNDS = 12, 3


class Intervals(Callback):
    """Time from the end of a step to the end of the next: the whole loop, waits included."""

    def __init__(self):
        self.ends = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.ends.append(time.perf_counter())

    @property
    def seconds(self):
        return [b - a for a, b in itertools.pairwise(self.ends[1:])]


def bare_loop(module, batches, clip):
    chosen = module.configure_optimizers()
    optimizer, scheduler = chosen["optimizer"], chosen["lr_scheduler"]["scheduler"]
    ends = []
    module.train()
    for batch in batches:
        optimizer.zero_grad()
        torch.stack([term.weight * term.value for term in module.terms(batch).all.values()]).sum().backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), clip)
        optimizer.step()
        scheduler.step()
        ends.append(time.perf_counter())
    return [b - a for a, b in itertools.pairwise(ends[1:])]


@pytest.mark.timeout(1800)
def test_a_step_of_fit_against_a_bare_loop(tmp_path):
    overrides = (f"trainer.steps={STEPS}", f"trainer.validate_every={STEPS}", "patches.workers=0")
    experiment = replace(load_experiment("scratch", overrides), runs=str(tmp_path))
    data = fit.DistillDataModule(experiment)
    data.prepare_data()
    data.setup("fit")
    batches = list(data.train_dataloader())
    bare, fitted = [], []
    for index in range(ROUNDS):
        torch.manual_seed(0)
        bare += bare_loop(fit.DistillModule(experiment), batches, experiment.trainer.gradient_clip)
        module = fit.DistillModule(experiment, val_cases=data.case_names("val"))
        folder, intervals = RunFolder(tmp_path / str(index)), Intervals()
        loggers = make_loggers(experiment, folder, mode="disabled", first_step=0)
        trainer = make_trainer(experiment.trainer, folder, loggers, [StepClock(), intervals])
        with quiet():
            trainer.fit(module, DataLoader(batches, batch_size=None), data.val_dataloader())
        fitted += intervals.seconds
    a, b = statistics.median(bare), statistics.median(fitted)
    sys.stdout.write(
        f"\nstep: bare loop {a * 1e3:.0f} ms, fit {b * 1e3:.0f} ms, ratio {b / a:.3f} (asked: at most 1.05)\n"
    )
    assert b / a < 2


@pytest.mark.timeout(1800)
def test_the_wait_for_data_on_real_stacks(tmp_path, data_dir):
    experiment = replace(
        load_experiment("op_scratch", ("trainer.steps=30", "trainer.validate_every=30")), runs=str(tmp_path)
    )
    data = fit.DistillDataModule(experiment)
    data.prepare_data()
    clock = StepClock()
    module = fit.DistillModule(experiment, val_cases=data.case_names("val"))
    with quiet():
        make_trainer(experiment.trainer, RunFolder(tmp_path), [], [clock]).fit(module, datamodule=data)
    cost = clock.cost()
    sys.stdout.write(
        f"\nOP data: {cost['seconds_per_step']:.2f} s a step, {cost['data_wait_share']:.2%} of the loop waits for data"
        " (asked: less than 5 %)\n"
    )
    assert cost["data_wait_share"] < 0.5


def test_help_against_importing_torch():
    def best(*command):
        times = []
        for _ in range(5):
            start = time.perf_counter()
            subprocess.run(command, capture_output=True, check=True)
            times.append(time.perf_counter() - start)
        return min(times)

    text, torch_import = best(sys.executable, "-m", "distill3d", "--help"), best(sys.executable, "-c", "import torch")
    sys.stdout.write(
        f"\n--help {text:.2f} s, import torch {torch_import:.2f} s, ratio {text / torch_import:.2f}"
        " (asked: at most 0.2)\n"
    )
    assert text < torch_import
