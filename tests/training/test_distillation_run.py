"""Whole runs with the teacher in the loop: in two processes, resumed, and without any teacher afterwards."""

import csv
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from small_transfers import close, crash_in_second_epoch, fit_on_two, weights
from undrawn import UNDRAWN

from distill3d.data.datamodule import DistillDataModule
from distill3d.errors import ConfigError
from distill3d.storage.run_folder import RunFolder
from distill3d.training import fit
from distill3d.training.module import load_module
from distill3d.training.teacher_maps import fill

FEATURES = (
    "student={name: convnet3d, encoder: test_efficientnet, stages: 2, decoder: [4, 4]}",
    "teacher={name: timm2d, architecture: test_efficientnet, weights: random}",
    "strategy={name: features, view: {axes: [z]}}",
)
STOP = "strategy.schedule.stop_step=2"
CACHED = ("strategy.view.source=volume", "strategy.view.augment_after=true")


def cost(folder):
    return json.loads(folder.fit.read_text())["cost"]


def curve(folder, name):
    with next((folder.path / "curves").glob("*/metrics.csv")).open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


@pytest.mark.usefixtures("undrawn")
def test_two_processes_match_features_as_one_does_and_go_on_when_the_schedule_stops(tiny, tmp_path):
    experiment = tiny(*FEATURES, STOP, "trainer.log_every=1")
    one = RunFolder(fit.fit(experiment))
    two = fit_on_two(experiment, tmp_path)
    assert close(weights(one), weights(two), rtol=1e-4, atol=1e-5)
    assert cost(two)["devices"] == 2
    values = curve(two, "train/features_deepest")
    assert len(values) == 4
    assert all(value > 0 for value in values[:2])
    assert values[2:] == [0, 0]
    # two steps of 16 slices for each patch; afterwards nobody asks the teacher
    assert cost(one)["teacher_images"] == 2 * 2 * 16
    assert cost(two)["teacher_images"] == 2 * 1 * 16


@pytest.mark.usefixtures("undrawn")
def test_a_resumed_run_goes_on_with_its_projection_its_slices_and_its_balance(tiny, tmp_path, monkeypatch):
    more = ("strategy.view.slices=3", "strategy.projection=mlp", "balance={mode: gradient, every: 3}")
    experiment = tiny(*FEATURES, *more, "strategy.schedule={kind: cosine, warmup_steps: 2}")
    whole = RunFolder(fit.fit(replace(experiment, runs=str(tmp_path / "whole"))))
    crash_in_second_epoch(experiment, monkeypatch)
    resumed = RunFolder(fit.fit(experiment, resume=True))
    assert close(weights(whole), weights(resumed), rtol=0, atol=0)
    scales = [torch.load(each.last, weights_only=True)["distill3d"]["balance"] for each in (whole, resumed)]
    assert scales[0] == scales[1]
    assert scales[0].keys() == {"features_deepest"}
    module = load_module(whole.best)
    assert module.teacher is None
    assert module.strategy.projections["deepest"].is_built
    assert module(torch.rand(1, 1, 8, 16, 16)).shape == (1, 1, 8, 16, 16)


# Two processes, of which the second has other weights of the teacher; each says what it saw.
OTHER_TEACHER = """
import json
from pathlib import Path
from lightning.fabric.utilities.rank_zero import rank_zero_only
from distill3d.teachers.cache import FeatureCache
from distill3d.training.module import DistillModule

computed, compute = [], FeatureCache._compute

def setup(self, stage):
    with torch.no_grad():
        for value in tensors(self.teacher):
            value += rank_zero_only.rank

def on_train_end(self):
    wrapper, own = self.trainer.strategy.model, {id(p) for p in self.teacher.parameters()}
    note = {
        "computed": len(computed),
        "sums": [float(value.double().sum()) for value in tensors(self.teacher)],
        "sizes": [value.numel() for value in tensors(self.teacher)],
        "wrapper": type(wrapper).__name__,
        "in buckets": any(id(p) in own for p in wrapper._module_parameters),
    }
    Path(FOLDER, str(rank_zero_only.rank)).write_text(json.dumps(note))

def tensors(teacher):
    return [value for value in [*teacher.parameters(), *teacher.buffers()] if value.is_floating_point()]

def counted(self, stack, missing, axis, on_slices):
    computed.extend(missing)
    compute(self, stack, missing, axis, on_slices)

import torch
DistillModule.setup, DistillModule.on_train_end, FeatureCache._compute = setup, on_train_end, counted
"""


def test_two_processes_send_no_teacher_around_and_fill_its_cache_once(tiny, tmp_path):
    experiment = tiny(*FEATURES, *CACHED, "trainer.steps=2", f"cache={tmp_path / 'cache'}")
    code = OTHER_TEACHER.replace("FOLDER", repr(str(tmp_path))) + UNDRAWN
    two = fit_on_two(experiment, tmp_path, code=code)
    first, second = (json.loads((tmp_path / rank).read_text()) for rank in "01")
    assert first["computed"] + second["computed"] == 2  # training volumes, with one layer and one axis
    assert first["wrapper"] == second["wrapper"] == "DistributedDataParallel"
    assert not first["in buckets"]
    sizes = first["sizes"]
    assert second["sums"] == pytest.approx([a + size for a, size in zip(first["sums"], sizes, strict=True)], rel=1e-4)
    assert len(sizes) > 10
    assert not any(key.startswith("teacher") for key in weights(two))


def test_with_the_cache_training_runs_no_teacher(tiny, cache):
    folder = RunFolder(fit.fit(tiny(*FEATURES, *CACHED, "trainer.audit_every=1")))
    assert cost(folder)["teacher_images"] == 0
    (before, after) = (json.loads(folder.similarity.read_text())[when]["cka"] for when in ("before", "after"))
    assert before != after
    assert (folder.figures / "similarity.png").stat().st_size > 10_000
    assert (folder.figures / "gradients.png").stat().st_size > 10_000


def test_a_wrong_layer_stops_before_anything_is_written(tiny, tmp_path):
    pair = "strategy.pairs={mid: {student: encoder.blocks.1, teacher: block.1}}"
    with pytest.raises(ConfigError, match=r"the teacher has no layer 'block\.1'; did you mean 'blocks\.1'\?"):
        fit.fit(tiny(*FEATURES, pair))
    assert not (tmp_path / "runs").exists()


def test_maps_of_whole_volumes_are_computed_where_training_will_run(tiny, monkeypatch):
    """Lightning moves a teacher when training begins: on a GPU's machine the CPU ran a ViT over whole stacks before."""
    seen = []
    teacher = SimpleNamespace(to=lambda device: seen.append(str(device)))
    data = DistillDataModule(tiny())
    data.prepare_data()
    case = data.case_names("train")[0]
    view = SimpleNamespace(teacher=teacher, cached=[(case, None, "z", ())], fill=lambda on_slices: seen.append("fill"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    fill(view, data, Console(quiet=True))
    assert seen == ["cpu", "fill", "cpu"]  # trainer.accelerator=cpu
    data.experiment = tiny("trainer.accelerator=auto")
    seen.clear()
    fill(view, data, Console(quiet=True))
    assert seen == ["cuda", "fill", "cpu"]
    view.cached = ()
    seen.clear()
    fill(view, data, Console(quiet=True))
    assert "cuda" not in seen  # there is nothing to compute
