"""Every file under experiments/ loads and takes real steps with its real classes."""

from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from rich.console import Console

from distill3d.config.catalog import experiment_files
from distill3d.config.schema import Experiment
from distill3d.experiment import load_experiment
from distill3d.storage.run_folder import RunFolder
from distill3d.training import fit
from distill3d.training.module import fresh_module
from distill3d.training.teacher_maps import fill, make_view
from distill3d.training.trainer import make_trainer, quiet

ALL = experiment_files()
PRETRAININGS = [name for name in ALL if name.startswith("pretrain_")]
FILES = {name: path for name, path in ALL.items() if name not in PRETRAININGS}
SMALL = (
    "trainer.steps=2",
    "trainer.validate_every=2",
    "trainer.accelerator=cpu",
    "trainer.devices=1",
    "patches.size_zyx=[16,48,48]",
    "patches.batch_size=2",
    "patches.val_patches=1",
    "patches.workers=0",
    "logging.wandb=disabled",
)


def test_every_file_is_here():
    on_disk = list((Path(__file__).parents[1] / "experiments").rglob("*.y*ml"))
    assert len(ALL) == len(on_disk) >= 76
    assert PRETRAININGS


@pytest.mark.parametrize("name", ALL)
def test_it_says_how_to_run_it_and_what_to_expect(name):
    head = ALL[name].read_text().splitlines()[:3]
    command = "distill3d pretrain " if name in PRETRAININGS else "make experiment NAME="
    assert head[0] == f"# run:    {command}{name}"
    assert head[1].startswith("# expect: ")


def _without_network(experiment: Experiment) -> Experiment:
    """Give weights of the hub random values: the network and its shapes stay the true ones."""
    teacher = experiment.teacher.config
    if getattr(teacher, "weights", None) != "hub":
        return experiment
    architecture = teacher.architecture.split(".")[0]
    return replace(
        experiment,
        teacher=replace(experiment.teacher, config=replace(teacher, architecture=architecture, weights="random")),
    )


@pytest.mark.parametrize("name", FILES)
def test_weights_of_the_hub_are_named_as_timm_names_them(name):
    teacher = load_experiment(name).teacher.config
    if getattr(teacher, "weights", None) == "hub":
        assert teacher.architecture in timm.list_pretrained()


def _few_slices(name):
    """Show the teacher less: few simulated stacks, of real ones the patches only."""
    experiment = load_experiment(name)
    if experiment.data.name == "simulated":
        return ("data.train=2", "data.val=1", "data.test=1")
    view = getattr(experiment.strategy.config, "view", None)
    return () if view is None else ("strategy.view.source=patch",)


@pytest.mark.parametrize("name", FILES)
def test_it_takes_real_steps(name, cache, tmp_path, request):
    if name.startswith("op_"):
        request.getfixturevalue("data_dir")
    overrides = (*SMALL, *_few_slices(name))
    if name.endswith("kd_logits"):  # its teacher is a run
        first = name.replace("kd_logits", "teacher2d")
        first = replace(load_experiment(first, (*SMALL, *_few_slices(first))), cache=str(cache))
        overrides += (f"teacher.run={fit.fit(replace(first, runs=str(tmp_path)))}",)
    experiment = replace(_without_network(load_experiment(name, overrides)), cache=str(cache), runs=str(tmp_path))
    torch.manual_seed(0)
    data = fit.DistillDataModule(experiment)
    data.prepare_data()
    module, teacher, audit = fresh_module(experiment, val_cases=data.case_names("val"))
    before = {key: value.clone() for key, value in module.student.state_dict().items()}  # the transfer may rename some
    assert (audit.copy_rate > 0) == module.strategy.needs_weights
    if module.strategy.wants_teacher:
        module.look(make_view(module, teacher, data))
        fill(module.view, data, Console(quiet=True))
    trainer = make_trainer(experiment.trainer, RunFolder(tmp_path / "run"), [], [])
    with quiet():
        trainer.fit(module, datamodule=data)
    assert torch.isfinite(trainer.callback_metrics["train/loss"])
    after = module.student.state_dict()
    moved = [
        key
        for key, p in module.student.named_parameters()
        if p.requires_grad and not torch.equal(before[key], after[key])
    ]
    assert len(moved) > 0.9 * sum(p.requires_grad for p in module.student.parameters())
