"""What the teacher in the loop costs a training step on real stacks: cached, live, and on the patches alone."""

from dataclasses import replace

import pytest
import torch
from rich.console import Console

from distill3d.experiment import load_experiment
from distill3d.training import fit
from distill3d.training.module import fresh_module
from distill3d.training.teacher_maps import fill, make_view

ARMS = {
    "none": ("op_scratch", ()),
    "cached": ("op_kd_cosine", ()),
    "patch": ("op_kd_cosine", ("strategy.view.source=patch",)),
    "live": ("op_kd_cosine", ("strategy.view.cache=false",)),
}
WHAT = {"cached": "maps from the cache", "patch": "the patch's slices", "live": "whole slices, no cache"}
ROUNDS, FEW = 10, 2  # whole slices without a cache take seconds: fewer of those


def build(name, overrides, cache):
    """A module ready to train, its optimizer, and its batches."""
    experiment = replace(
        load_experiment(name, (*overrides, f"trainer.steps={ROUNDS + 2}", f"trainer.validate_every={ROUNDS + 2}")),
        cache=str(cache),
    )
    torch.manual_seed(0)
    data = fit.DistillDataModule(experiment)
    data.prepare_data()
    module, teacher, _ = fresh_module(experiment)
    if module.strategy.wants_teacher:
        module.look(make_view(module, teacher, data))
        fill(module.view, data, Console(quiet=True))
    return module.train(), module.configure_optimizers()["optimizer"], iter(list(data.train_dataloader()))


def step(module, optimizer, batches):
    """One optimizer step."""
    optimizer.zero_grad()
    torch.stack([term.weight * term.value for term in module.terms(next(batches)).all.values()]).sum().backward()
    optimizer.step()


@pytest.mark.rows("teacher-cached", "teacher-patch", "teacher-live")
def test_a_step_with_a_teacher_against_one_without(bench, tmp_path, data_dir):
    arms = {arm: build(*chosen, tmp_path) for arm, chosen in ARMS.items()}
    teachers = {arm: module.teacher for arm, (module, *_) in arms.items() if module.teacher is not None}
    before = {arm: teacher.images_seen for arm, teacher in teachers.items()}
    calls = {arm: lambda parts=parts: step(*parts) for arm, parts in arms.items()}
    seconds = bench.seconds(calls, rounds=ROUNDS, fewer={"live": FEW})
    images = {arm: (teacher.images_seen - before[arm]) / (len(seconds[arm]) + 1) for arm, teacher in teachers.items()}
    assert images["cached"] == 0 < min(images["patch"], images["live"])
    for arm, what in WHAT.items():
        ratio = bench.row(
            f"teacher-{arm}",
            f"op_kd_cosine's step, {what}, against op_scratch's",
            "4x24x64x64",
            ours=seconds[arm],
            other=seconds["none"],
            at_most=1.15 if arm == "cached" else None,
            note=f"{images[arm]:.0f} images a step through the teacher",
        )
        assert arm != "cached" or ratio < 2
