"""A trained 2D segmenter as a teacher: the run's weights come back, and only a finished run of one will do."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from undrawn import no_figures

from distill3d.config.registry import Component
from distill3d.errors import ConfigError, InputError
from distill3d.experiment import load_experiment
from distill3d.storage.run_folder import RunFolder
from distill3d.teachers.base import LOGITS, hash_weights
from distill3d.teachers.several import Several, SeveralConfig
from distill3d.teachers.slices import cut_slices
from distill3d.teachers.trained2d import Segmenter, Segmenter2dConfig
from distill3d.training import fit
from distill3d.training.module import load_module

SETTINGS = (
    "data={name: simulated, train: 2, val: 1, test: 1, shape_zyx: [16, 48, 48]}",
    "student={name: slices2d, encoder: test_efficientnet, stages: 3, width: 4}",
    "teacher={name: timm2d, architecture: test_efficientnet, weights: random}",
    "patches={size_zyx: [4, 32, 32], batch_size: 2, val_patches: 1, workers: 0}",
    "trainer={steps: 2, validate_every: 2, accelerator: cpu}",
    "logging.wandb=disabled",
)
VOLUME = torch.rand(1, 1, 5, 32, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def trained(tmp_path_factory, cache) -> Path:
    """Finish a run of the experiment that trains such teachers, at tiny size."""
    experiment = load_experiment("teacher2d", SETTINGS)
    with no_figures():
        return fit.fit(replace(experiment, runs=str(tmp_path_factory.mktemp("runs")), cache=str(cache)))


@pytest.fixture(scope="module")
def teacher(trained):
    return Segmenter(Segmenter2dConfig(run=str(trained)))


@pytest.fixture
def copy(trained, tmp_path) -> Path:
    """Return a copy of the run's folder that may be spoilt."""
    return Path(shutil.copytree(trained, tmp_path / "other" / "seed0"))


def refusal(folder, error):
    with pytest.raises(error) as caught:
        Segmenter(Segmenter2dConfig(run=str(folder)))
    (line,) = caught.value.lines
    assert "\n" not in line
    assert str(folder) in line
    return line


def test_it_says_of_every_slice_what_the_trained_student_said(trained, teacher):
    student = load_module(RunFolder(trained).best).student.eval()
    with torch.no_grad():
        expected = student.observe(VOLUME, ["net.encoder.blocks.1"])
    maps = teacher.maps(cut_slices(VOLUME, "z", range(5)), [LOGITS, "encoder.blocks.1"])
    assert torch.equal(maps[LOGITS], expected.logits[0].movedim(1, 0))
    assert torch.equal(maps["encoder.blocks.1"], expected.features["net.encoder.blocks.1"][0].movedim(1, 0))


def test_it_is_the_trained_network_and_not_what_training_started_from(trained, teacher):
    start = load_module(RunFolder(trained).best).student.net
    assert teacher.identity.sha256 == hash_weights(start.state_dict())
    assert teacher.identity.weights == f"run {trained}"
    assert teacher.identity.architecture == "segmenter2d/test_efficientnet"
    assert not teacher.identity.random


def test_it_says_which_cases_trained_and_chose_it(trained, teacher):
    (seen,) = teacher.seen
    assert seen.cases == ("sim_000", "sim_001", "sim_002")
    assert (seen.where, seen.data["name"]) == (str(RunFolder(trained).best), "simulated")
    other = Several(SeveralConfig(members={"a": Component("segmenter2d", Segmenter2dConfig(run=str(trained)))}))
    assert other.seen == teacher.seen


def test_it_normalizes_as_the_student_did(trained, teacher):
    student = load_module(RunFolder(trained).best).student
    assert teacher.input_mean == pytest.approx(student.input_mean.tolist())
    assert teacher.input_std == pytest.approx(student.input_std.tolist())


def test_it_segments_and_has_the_layers_of_its_encoder(teacher):
    teacher.check_layers([LOGITS, "encoder.blocks.2", "smooth.0"])
    assert {"encoder.blocks.0", "encoder.blocks.2"} <= set(teacher.map_layers())
    with pytest.raises(ConfigError, match=r"the teacher has no layer 'blocks\.2'; did you mean"):
        teacher.check_layers(["blocks.2"])


def test_it_is_frozen(teacher):
    parent = nn.Module()
    parent.teacher = teacher
    parent.train()
    assert not any(module.training for module in teacher.modules())
    assert not any(p.requires_grad for p in teacher.parameters())
    assert not parent.state_dict()


def test_maps_share_the_sides_of_an_image_out_evenly(teacher):
    assert teacher.multiple == 8
    maps = teacher.maps(torch.rand(1, 1, 24, 40), [LOGITS, "encoder.blocks.2"])
    assert [tuple(each.shape[2:]) for each in maps.values()] == [(24, 40), (3, 5)]


def test_an_unfinished_run_is_refused(copy):
    (copy / "done.json").unlink()
    assert "no finished run" in refusal(copy, InputError)
    assert "`make experiment NAME=other`" in refusal(copy, InputError)


def test_a_missing_run_is_refused_with_the_command_that_makes_it(tmp_path):
    assert "`make experiment NAME=teacher2d`" in refusal(tmp_path / "teacher2d" / "seed0", InputError)


def test_a_run_of_another_student_is_refused(copy):
    best = RunFolder(copy).best
    checkpoint = torch.load(best, weights_only=True)
    checkpoint["distill3d"]["experiment"]["student"] = {"name": "unet3d"}
    torch.save(checkpoint, best)
    assert "its student is 'unet3d'; accepted: 'slices2d'" in refusal(copy, ConfigError)
