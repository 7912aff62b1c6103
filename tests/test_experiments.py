"""Every arm loads on every ground, and takes real steps with its real classes."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import tifffile
import timm
import torch
import yaml
from lightning.fabric.plugins import TorchCheckpointIO
from made_gold166 import write_gold166
from rich.console import Console

from distill3d.config.catalog import GROUNDS, experiment_files, experiments, split_name
from distill3d.config.plain import as_plain
from distill3d.config.registry import STRATEGIES, STUDENTS
from distill3d.config.schema import Experiment
from distill3d.config.tables import with_origins
from distill3d.errors import InputError
from distill3d.experiment import load_experiment
from distill3d.storage.checkpoint import CHECKPOINT_KEY, write_model
from distill3d.storage.run_folder import RunFolder
from distill3d.training import fit
from distill3d.training.module import fresh_module
from distill3d.training.teacher_maps import fill, make_view
from distill3d.training.trainer import make_trainer, quiet

FILES = experiment_files()
PRETRAINING = "pretrain_"  # starts the name of a file that trains a 2D network
EVERY = [name for name in experiments() if not name.startswith(PRETRAINING)]
ALONE = {"simulated_only", "op_best"}  # on no ground but their own: they say which data
# Every arm once, on the simplest ground that has it, and every file of a ground's own, but for controls of which each
# half steps under another name.
_SIMPLEST = {
    next(ground + arm for ground in reversed(GROUNDS) if ground + arm in EVERY) for _, arm in map(split_name, EVERY)
}
STEPPED = sorted(
    name for name in {*_SIMPLEST, *FILES} if not name.startswith(PRETRAINING) and not name.endswith("frozen_shuffled")
)
SMALL = (
    "trainer.steps=1",
    "trainer.validate_every=1",
    "trainer.accelerator=cpu",
    "trainer.devices=1",
    "patches.size_zyx=[16,32,32]",
    "patches.batch_size=2",
    "patches.val_patches=1",
    "patches.workers=0",
    "logging.wandb=disabled",
)


def test_every_file_is_here():
    folder = Path(__file__).parents[1] / "experiments"
    on_disk = [path for path in folder.rglob("*.y*ml") if path.relative_to(folder).parts[0] != "results"]
    assert len(FILES) == len(on_disk) >= 60
    assert [name for name in FILES if name.startswith(PRETRAINING)]


def test_every_arm_is_on_every_ground_above_the_one_it_was_written_for():
    alone = {split_name(name)[1] for name in ALONE}
    arms = {split_name(name)[1] for name in EVERY} - alone
    assert len(arms) >= 50
    for arm in arms:
        there = [ground + arm in EVERY for ground in ("", "op_", "op_hard_")]
        assert there[1:] == [f"twin_{arm}" in EVERY] * 2
        assert there == sorted(there), arm
        assert there[-1]
        assert there[0] == (f"bigneuron_{arm}" in EVERY)
    assert sum(not split_name(name)[0] for name in EVERY) >= len(arms) - 1
    assert len(EVERY) >= 3 * len(arms) - 1
    assert {name for name in EVERY if split_name(name)[1] in alone} == ALONE


@pytest.mark.parametrize("name", EVERY)
def test_it_loads_and_what_show_prints_is_what_it_is(name):
    settings = as_plain(load_experiment(name))
    assert settings["name"] == name
    assert yaml.safe_load(with_origins(settings, {"seed": "a.yaml"})) == settings
    ground, _ = split_name(name)
    hard = settings["data"].get("hard", {}).get("enabled", False)
    assert (settings["data"]["name"], hard) == {
        "": ("simulated", False),
        "op_": ("neurons", False),
        "op_hard_": ("neurons", True),
        "bigneuron_": ("neurons", False),
        "twin_": ("simulated", False),
    }[ground]


@pytest.mark.parametrize("name", FILES)
def test_it_says_how_to_run_it_and_nothing_that_no_run_gave(name):
    text = FILES[name].read_text()
    command = "distill3d pretrain " if name.startswith(PRETRAINING) else "make experiment NAME="
    assert text.splitlines()[0] == f"# run:    {command}{name}"
    assert not re.search("not run yet|not measured", text)


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


@pytest.mark.parametrize("name", [name for name in EVERY if not split_name(name)[0]])
def test_weights_of_the_hub_are_named_as_timm_names_them(name):
    teacher = load_experiment(name).teacher.config
    if getattr(teacher, "weights", None) == "hub":
        assert teacher.architecture in timm.list_pretrained()


@pytest.mark.parametrize("ground", ["", "op_"])
def test_arms_named_after_a_paper_have_its_taps_and_channels(ground):
    for name in ("dino_tubular", "dino_tubular_static", "dino_tubular_x", "dinov3_tubular"):
        experiment = load_experiment(ground + name)
        student = STUDENTS.build(replace(experiment.student, config=replace(experiment.student.config, depth=4)))
        STRATEGIES.build(experiment.strategy).adapt(student)
        assert student.encoder.patch_embed.tubes.shape[2] == 256  # DINeuro's, one for each pixel of a patch
    assert load_experiment(f"{ground}dinov3_convnext").strategy.config.channels == "mean"  # NeurINO's


# Gates and terms that start at zero keep what is behind them still for one step.
TWO_STEPS = re.compile("glore|dendritic|mixed|polynomial|t4_linear|dinov3_tubular")
# The first blocks of ViTs and stages of ConvNeXt; a stack of which five halvings leave two voxels to normalize.
FEWER = {
    "vit3d": ("student.depth=4",),
    "monai": ("patches.size_zyx=[32,32,64]", "patches.batch_size=1"),
    "dinov3_convnext": ("student.stages=2",),
    "dinov3_convnext_scratch": ("student.stages=2",),
}


def _less(name):
    """Show the teacher less: few simulated stacks, of two real ones the patches only."""
    experiment = load_experiment(name)
    fewer = (*FEWER.get(experiment.student.name, ()), *FEWER.get(name, ()))
    if TWO_STEPS.search(name):
        fewer = (*fewer, "trainer.steps=2")
    if experiment.data.name == "simulated":
        return (*fewer, "data.train=2", "data.val=1", "data.test=0", "data.shape_zyx=[16,64,64]")
    if name.startswith("op_"):
        fewer = (*fewer, "data.train=[OP_1]", "data.test=[]")
    view = getattr(experiment.strategy.config, "view", None)
    return fewer if view is None else (*fewer, "strategy.view.source=patch")


@pytest.fixture(scope="session")
def gold166(tmp_path_factory):
    """The folder that `bigneuron_` experiments look for, with four small neurons."""
    return write_gold166(tmp_path_factory.mktemp("data") / "gold166")


def test_bigneuron_tests_on_the_subset_that_others_test_on(gold166):
    data = fit.DistillDataModule(load_experiment("bigneuron_vit_center", (f"data.folder={gold166}",)))
    assert [name.split("__")[0] for name in data.case_names("test")] == ["p_checked6_janelia_flylight_part2"]
    assert [len(data.case_names(split)) for split in ("train", "val")] == [2, 1]


def test_without_bigneuron_one_line_says_where_it_is_looked_for_and_where_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL3D_DATA", str(tmp_path))
    with pytest.raises(InputError, match=r"zenodo\.org/records/168168.*DISTILL3D_DATA") as caught:
        fit.DistillDataModule(load_experiment("bigneuron_scratch")).case_names("test")
    assert str(caught.value).startswith(f"{tmp_path}/gold166: no such folder")
    assert (len(caught.value.lines), caught.value.exit_code) == (1, 2)


@pytest.fixture(scope="session")
def background(data_dir, tmp_path_factory):
    """A part of one of the stacks that the hard ground lies on."""
    path = tmp_path_factory.mktemp("background") / "cut.tif"
    tifffile.imwrite(path, tifffile.imread(data_dir / "unlabelled" / "fmost_neuron1_crop.tif")[:64, :96, :96])
    return path


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("name", STEPPED)
def test_it_takes_real_steps(name, cache, tmp_path, request, monkeypatch):
    if name.startswith(("op_", "twin_")):
        request.getfixturevalue("data_dir")
    overrides = (*SMALL, *_less(name))
    if name.startswith("op_hard_"):
        overrides += (f"data.hard.backgrounds=[{request.getfixturevalue('background')}]",)
    if name.startswith("bigneuron_"):
        overrides += (f"data.folder={request.getfixturevalue('gold166')}",)
    if name.endswith("kd_logits"):  # its teacher is a run
        first = name.replace("kd_logits", "teacher2d")
        first = replace(load_experiment(first, (*SMALL, *_less(first))), cache=str(cache))
        overrides += (f"teacher.run={fit.fit(replace(first, runs=str(tmp_path)))}",)
    if name == "simulated":  # starts as a model
        trained, _, _ = fresh_module(load_experiment("simulated_only", SMALL))
        saved = {"state_dict": trained.state_dict(), CHECKPOINT_KEY: {"seen": []}}
        write_model(tmp_path / "m.safetensors", saved)
        overrides += (f"strategy.model={tmp_path / 'm.safetensors'}",)
    experiment = replace(_without_network(load_experiment(name, overrides)), cache=str(cache), runs=str(tmp_path))
    torch.manual_seed(0)
    data = fit.DistillDataModule(experiment)
    data.prepare_data()
    module, teacher, audit = fresh_module(experiment, val_cases=data.case_names("val"))
    before = {key: value.clone() for key, value in module.student.state_dict().items()}  # the transfer may rename some
    parts = getattr(experiment.strategy.config, "parts", {"": experiment.strategy}).values()
    assert (audit.copy_rate > 0) == any(part.name in {"inflate", "tubular", "warm_start"} for part in parts)
    if module.strategy.wants_teacher:
        module.look(make_view(module, teacher, data))
        fill(module.view, data, Console(quiet=True))
    trainer = make_trainer(experiment.trainer, RunFolder(tmp_path / "run"), [], [])
    trainer.callbacks.remove(trainer.checkpoint_callbacks[0])  # the other one gathers the same
    monkeypatch.setattr(TorchCheckpointIO, "save_checkpoint", lambda *_, **__: None)  # up to 300 MB for nobody
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
