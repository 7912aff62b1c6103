"""What the framework costs: a step, the wait for data, a checkpoint, the start, two processes."""

import itertools
import json
import subprocess
import sys
import time
from dataclasses import replace

import launched
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


@pytest.mark.rows("fit-step", "checkpoint")
def test_a_step_of_fit_against_a_bare_loop_and_a_checkpoint_against_torchs(bench, tmp_path):
    overrides = (f"trainer.steps={STEPS}", f"trainer.validate_every={STEPS}", "patches.workers=0")
    experiment = replace(load_experiment("scratch", overrides), runs=str(tmp_path))
    data = fit.DistillDataModule(experiment)
    data.prepare_data()
    data.setup("fit")
    batches, numbers, trainers = list(data.train_dataloader()), itertools.count(), []

    def bare():
        torch.manual_seed(0)
        return bare_loop(fit.DistillModule(experiment), batches, experiment.trainer.gradient_clip)

    def fitted():
        module = fit.DistillModule(experiment, val_cases=data.case_names("val"))
        folder, intervals = RunFolder(tmp_path / str(next(numbers))), Intervals()
        loggers = make_loggers(experiment, folder, mode="disabled", first_step=0)
        trainers[:] = [make_trainer(experiment.trainer, folder, loggers, [StepClock(), intervals])]
        with quiet():
            trainers[0].fit(module, DataLoader(batches, batch_size=None), data.val_dataloader())
        return intervals.seconds

    loops = bench.turns({"bare": bare, "fit": fitted}, rounds=ROUNDS, warm_up=False)  # a loop's first step warms up
    steps = {name: list(itertools.chain(*seconds)) for name, seconds in loops.items()}
    what = "scratch's step in fit, against a bare loop"
    assert bench.row("fit-step", what, "2x1x32x96x96", ours=steps["fit"], other=steps["bare"], at_most=1.05) < 2

    module, optimizer = trainers[0].lightning_module, trainers[0].optimizers[0]
    state = {"state_dict": module.state_dict(), "optimizer": optimizer.state_dict()}
    calls = {
        "ours": lambda: trainers[0].save_checkpoint(tmp_path / "ours.ckpt"),
        "torch": lambda: torch.save(state, tmp_path / "torch.ckpt"),
    }
    seconds = bench.seconds(calls, rounds=9)
    saved = (torch.load(tmp_path / name, weights_only=True)["state_dict"] for name in ("ours.ckpt", "torch.ckpt"))
    torch.testing.assert_close(*saved, rtol=0, atol=0)
    parameters = f"{sum(p.numel() for p in module.parameters()) / 1e6:.2f} M parameters"
    what = "a checkpoint of scratch, against torch.save of its states"
    bench.row("checkpoint", what, parameters, ours=seconds["ours"], other=seconds["torch"])


@pytest.mark.rows("data-wait")
def test_the_wait_for_data_on_real_stacks(bench, tmp_path, data_dir):
    overrides = ("trainer.steps=30", "trainer.validate_every=30")
    experiment = replace(load_experiment("op_scratch", overrides), runs=str(tmp_path))
    data = fit.DistillDataModule(experiment)
    data.prepare_data()
    clock = StepClock()
    module = fit.DistillModule(experiment, val_cases=data.case_names("val"))
    with quiet():
        make_trainer(experiment.trainer, RunFolder(tmp_path), [], [clock]).fit(module, datamodule=data)
    cost = clock.cost()
    percent = bench.row(
        "data-wait",
        "share of op_scratch's loop that waits for data, one worker",
        "4x1x24x64x64",
        ours=100 * cost["data_wait_share"],
        unit="%",
        at_most=5,
        note=f"{cost['seconds_per_step']:.2f} s a step",
    )
    assert percent < 50


@pytest.mark.rows("start-up")
def test_help_against_importing_torch(bench):
    commands = {"ours": (*launched.DISTILL3D, "--help"), "torch": (sys.executable, "-c", "import torch")}
    calls = {
        name: lambda command=command: subprocess.run(command, capture_output=True, check=True)
        for name, command in commands.items()
    }
    seconds = bench.seconds(calls, rounds=5)
    sides = {"ours": seconds["ours"], "other": seconds["torch"]}
    assert bench.row("start-up", "--help, against import torch", **sides, at_most=0.2) < 1


@pytest.mark.rows("ddp-2-to-1")
def test_two_processes_of_a_thread_each_against_one(bench, tmp_path):
    """Batches are cut in the process itself: a process has one thread and no worker beside it."""
    settings = (
        "data={name: simulated, train: 2, val: 1, test: 0, shape_zyx: [48, 128, 128]}",
        f"trainer.steps={STEPS}",
        f"trainer.validate_every={STEPS}",
        "trainer.accelerator=cpu",
        "patches.workers=0",
        "logging.wandb=disabled",
        f"cache={tmp_path / 'cache'}",
    )
    numbers = itertools.count()

    def seconds_per_sample(devices):
        runs = tmp_path / str(next(numbers))
        argv = ("fit", "scratch", *settings, f"trainer.devices={devices}", f"runs={runs}")
        code, printed = launched.run(*launched.DISTILL3D, *argv, folder=tmp_path)
        assert code == 0, printed
        cost = json.loads(RunFolder(runs / "scratch" / "seed0").fit.read_text())["cost"]
        assert (cost["devices"], cost["steps"]) == (devices, STEPS)
        return cost["seconds_per_step"] / (1 - cost["data_wait_share"]) / (2 * devices)

    calls = {"two": lambda: seconds_per_sample(2), "one": lambda: seconds_per_sample(1)}
    seconds = bench.turns(calls, rounds=2, warm_up=False)  # the clock of a run leaves its first steps out
    what = "seconds a sample of scratch on two processes of a thread each, against one"
    bench.row("ddp-2-to-1", what, "2x1x32x96x96", ours=seconds["two"], other=seconds["one"], at_least=1.8)
