"""Ready-made models: a file in a folder is one, its name stands for it, and it sees voxels as it was trained."""

import copy
import csv
import hashlib
from dataclasses import replace

import numpy as np
import pytest
import tifffile
import torch

from distill3d.cli import app
from distill3d.data.datamodule import DistillDataModule
from distill3d.errors import ConfigError, InputError
from distill3d.experiment import load_experiment
from distill3d.storage import models as models_module
from distill3d.storage.checkpoint import read_checkpoint
from distill3d.storage.models import chosen, find_model, models
from distill3d.training import predict_whole as predict_module
from distill3d.training.export import export
from distill3d.training.module import fresh_module
from distill3d.training.networks import networks_of
from distill3d.training.predict import predict_all
from distill3d.types import Prediction
from distill3d.volumes.prob import read_prob
from distill3d.volumes.resample import nearest_shape, resized
from distill3d.volumes.swc import MICROMETERS, write_swc
from distill3d.volumes.volume import Volume, write_volume


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """Folders of models, the shipped ones and the user's, both empty."""
    shipped, own = tmp_path / "shipped", tmp_path / "own"
    for name, folder in (("SHIPPED", shipped), ("OWN", own)):
        monkeypatch.setattr(models_module, name, folder)
        folder.mkdir()
    return shipped, own


def test_a_file_in_either_folder_is_a_model_and_the_users_own_wins(shelf):
    shipped, own = shelf
    for path in (shipped / "cells.safetensors", shipped / "axons.safetensors", own / "cells.safetensors"):
        path.touch()
    for name in ("README.md", "cells.md", ".part.safetensors"):
        (shipped / name).touch()
    assert models() == {"axons": shipped / "axons.safetensors", "cells": own / "cells.safetensors"}
    with pytest.raises(InputError, match=r"unknown model 'cell' \(did you mean 'cells'\?\); known: axons, cells$"):
        find_model("cell")


def test_runs_or_models_or_the_default_but_never_both(shelf, tmp_path):
    shipped, own = shelf
    (own / "mine.safetensors").touch()
    with pytest.raises(InputError, match=r"no model is shipped; accepted: --model NAME, or --run RUN.*make experiment"):
        chosen([], [])
    for name in ("axons", "cells"):
        (shipped / f"{name}.safetensors").touch()
    assert chosen([], []) == [shipped / "axons.safetensors"]
    (shipped / f"{models_module.DEFAULT}.safetensors").touch()
    assert chosen([], []) == [shipped / f"{models_module.DEFAULT}.safetensors"]
    assert chosen([tmp_path], []) == [tmp_path]
    assert chosen([], ["mine", "cells"]) == [own / "mine.safetensors", shipped / "cells.safetensors"]
    with pytest.raises(InputError, match=r"run .* and model 'cells' are both given") as caught:
        chosen([tmp_path], ["cells"])
    assert (len(caught.value.lines), caught.value.exit_code) == (1, 2)


def test_a_dropped_file_is_listed_and_predicts_by_its_name_as_by_its_path(shelf, finished_once, tmp_path, capsys):
    file = shelf[0] / "cells.safetensors"
    export(finished_once, file, note="Not for vessels.")
    assert "| voxels | 2x1x1 um |" in file.with_suffix(".md").read_text()
    (shelf[1] / "broken.safetensors").write_bytes(b"12345678")
    app(["list", "models"], standalone_mode=False)
    lines = capsys.readouterr().out.splitlines()
    (row,) = (line for line in lines if "│ cells" in line)
    assert all(word in row for word in ("2x1x1", "simulated"))
    assert "cells: Not for vessels." in map(str.strip, lines)
    assert any(line.startswith("broken: cannot be used: ") for line in lines)
    assert max(map(len, lines)) <= 100

    data = np.random.default_rng(0).integers(1, 200, (16, 32, 32)).astype(np.uint8)
    write_volume(tmp_path / "a.tif", Volume(data, (2.0, 1.0, 1.0)))
    stack = str(tmp_path / "a.tif")
    for out, words in (("path", [str(file), stack]), ("name", ["--model", "cells", stack])):
        app(["predict", *words, "--out", str(tmp_path / out)], standalone_mode=False)
    one, other = (read_prob(tmp_path / out / "a_prob.tif") for out in ("path", "name"))
    assert np.array_equal(one, other)
    assert one.std() > 0
    for words in (["--model", "cells", str(finished_once), stack], ["--model", "cells", str(file), stack]):
        with pytest.raises(InputError, match="are both given"):
            app(["predict", *words], standalone_mode=False)


class Brightness(torch.nn.Module):
    """A stand-in student that takes what is bright for neuron."""

    def forward(self, image):
        return Prediction(logits=8 * image - 4)


@pytest.fixture
def bright(finished_once, monkeypatch):
    """Networks of a run that was trained at 2x1x1 um, and the shapes in which they see stacks."""
    networks = networks_of([finished_once])
    (module,) = networks.modules()
    assert module.trained_um == ((2.0, 1.0, 1.0),)
    module.student = Brightness()
    monkeypatch.setattr(type(networks), "modules", lambda _, **__: [module])
    shapes, mean_prob = [], predict_module.mean_prob

    def noted(modules, data, **how):
        shapes.append(data.shape)
        return mean_prob(modules, data, **how)

    monkeypatch.setattr(predict_module, "mean_prob", noted)
    return networks, module, shapes


def _tube(path, spacing):
    """Write a tube along x in two slices, out of the middle on every axis; return its mask."""
    mask = np.zeros((12, 60, 150), bool)
    mask[3:5, 20:28, 30:100] = True
    write_volume(path, Volume(200 * mask.astype(np.uint8), spacing))
    return mask


def test_a_tube_in_a_stack_of_other_voxels_is_where_it_was_in_um(bright, tmp_path, caplog):
    networks, _, shapes = bright
    spacing = (4.0, 0.4, 0.4)
    mask = _tube(tmp_path / "a.tif", spacing)
    (written,) = predict_all(networks, [tmp_path / "a.tif"], out=tmp_path)
    assert shapes == [(16, 36, 90)]  # 3 x 0.667 x 0.667 um
    assert "a.tif: resampled from 12x60x150 to 16x36x90 voxels for the network" in caplog.text
    found = read_prob(written) > 0.5
    assert found.shape == mask.shape
    for axis in range(3):
        right, given = (np.flatnonzero(each.any(tuple({0, 1, 2} - {axis}))) for each in (mask, found))
        assert abs(given[[0, -1]] - right[[0, -1]]).max() * spacing[axis] <= 0.4 * (axis > 0) + 1e-9
        center = [np.argwhere(each)[:, axis].mean() * spacing[axis] for each in (mask, found)]
        assert center[0] == pytest.approx(center[1], abs=0.21)


@pytest.mark.parametrize("spacing", [(2.9, 0.7, 1.4), None], ids=["near", "unknown"])
def test_a_stack_of_tolerable_or_unknown_voxels_is_seen_as_it_is(bright, tmp_path, spacing):
    networks, module, shapes = bright
    module.trained_um = module.trained_um if spacing else ((9.0, 9.0, 9.0),)
    _tube(tmp_path / "a.tif", spacing or (1.0, 1.0, 1.0))
    if spacing is None:
        np.save(tmp_path / "a.npy", np.zeros((12, 20, 20), np.uint8) + np.eye(20, dtype=np.uint8))
    (_,) = predict_all(networks, [tmp_path / ("a.tif" if spacing else "a.npy")], out=tmp_path)
    assert shapes == [(12, 60, 150) if spacing else (12, 20, 20)]


def test_sizes_without_a_unit_are_no_known_voxels(bright, tmp_path):
    networks, _, shapes = bright
    data = np.zeros((12, 20, 20), np.uint8) + np.eye(20, dtype=np.uint8)
    how = {"imagej": True, "resolution": (1, 1)}
    tifffile.imwrite(tmp_path / "a.tif", data, metadata={"axes": "ZYX", "spacing": 9, "unit": "pixel"}, **how)
    tifffile.imwrite(tmp_path / "b.tif", data, metadata={"axes": "ZYX", "spacing": 9, "unit": "um"}, **how)
    for name in "ab":
        list(predict_all(networks, [tmp_path / f"{name}.tif"], out=tmp_path))
    assert shapes[0] == (12, 20, 20)
    assert shapes[1] != (12, 20, 20)


def test_every_network_of_several_sees_its_own_voxels(bright, tmp_path, monkeypatch):
    networks, module, shapes = bright
    other = copy.copy(module)
    other.trained_um = ((4.0, 0.4, 0.4),)
    monkeypatch.setattr(type(networks), "modules", lambda _, **__: [module, other])
    monkeypatch.setattr(predict_module, "mean_prob", lambda group, data, **_: shapes.append(data.shape) or data / 200)
    mask = _tube(tmp_path / "a.tif", (4.0, 0.4, 0.4))
    (written,) = predict_all(networks, [tmp_path / "a.tif"], out=tmp_path)
    assert shapes == [(16, 36, 90), (12, 60, 150)]
    assert read_prob(written)[3, 24, 40:90] == pytest.approx(1, abs=0.2)
    assert read_prob(written)[:, ~mask.any(0)].max() < 0.5


def test_what_is_predicted_by_block_is_refused_where_it_would_be_resampled(bright, tmp_path):
    networks, _, _ = bright
    write_volume(tmp_path / "a.zarr", Volume(np.eye(20, dtype=np.uint8)[None] + np.zeros((4, 20, 20)), (9.0, 1.0, 1.0)))
    with pytest.raises(InputError, match=r"a\.zarr: voxels of 9x1x1 um, the network was trained on 2x1x1 um") as caught:
        list(predict_all(networks, [tmp_path / "a.zarr"], out=tmp_path))
    assert len(caught.value.lines) == 1


def test_a_volume_keeps_its_place_through_any_change_of_voxels():
    ramp = np.linspace(0, 100, 40, dtype=np.float32)[None, None] + np.zeros((4, 6, 1), np.float32)
    there = resized(ramp, (6, 6, 23))
    assert resized(ramp, ramp.shape) is ramp
    assert there[3, 3, 11] == pytest.approx(50, abs=0.1)
    assert np.abs(resized(there, ramp.shape) - ramp)[:, :, 4:-4].max() < 0.1
    assert nearest_shape((4, 10, 10), (1e-3, 1.0, 1.0), [(1.0, 1.0, 1.0)]) == (1, 10, 10)


def test_a_student_starts_as_the_model_or_the_run_it_names(finished_once, tiny, tmp_path, shelf):
    file = shelf[0] / "cells.safetensors"
    export(finished_once, file)
    trained = read_checkpoint(file)["state_dict"]
    for place in ("cells", file, finished_once):
        module, _, audit = fresh_module(tiny("strategy.name=warm_start", f"strategy.model={place}"))
        assert audit.copy_rate == 1
        assert str(file if place != finished_once else finished_once) in audit.part
        for name, value in module.student.state_dict().items():
            assert torch.allclose(value.float(), trained[f"student.{name}"].float(), atol=2e-3)
    other = tiny("strategy.name=warm_start", "strategy.model=cells", "student.channels=[4,16]")
    with pytest.raises(InputError, match=r"cells.* has .* 8x4.*, the student .* 16x4.* entries differ\)") as caught:
        fresh_module(other)
    assert len(caught.value.lines) == 1
    frozen = tiny("strategy.name=warm_start", "strategy.model=cells", "optimizer.transferred_lr_ratio=0")
    with pytest.raises(
        ConfigError, match="transferred_lr_ratio=0: every parameter was transferred, so nothing is left"
    ):
        fresh_module(frozen)
    missing = replace(other.strategy.config, model="cels")
    with pytest.raises(InputError, match=r"unknown model 'cels' \(did you mean 'cells'\?\)"):
        fresh_module(replace(other, strategy=replace(other.strategy, config=missing)))


def test_the_shipped_model_is_what_its_card_says_and_finds_a_neuron_it_never_saw(tmp_path):
    file = models_module.SHIPPED / f"{models_module.DEFAULT}.safetensors"
    assert file.stat().st_size <= 12e6
    assert hashlib.sha256(file.read_bytes()).hexdigest() in file.with_suffix(".md").read_text()
    data = DistillDataModule(load_experiment("scratch", ["data.train=1", "data.val=1", "data.test=1", "data.seed=7"]))
    data.prepare_data()
    (case,) = data.cases("test")
    write_volume(tmp_path / "a.tif", Volume(np.asarray(case.raw), case.spacing_um))
    write_swc(tmp_path / "a.swc", case.tree(), spacing_um=MICROMETERS)
    app(["reconstruct", str(tmp_path / "a.tif"), "--out", str(tmp_path / "out")], standalone_mode=False)
    (row,) = csv.DictReader((tmp_path / "out/summary.csv").read_text().splitlines())
    assert float(row["tree_f1"]) > 0.8
    assert (tmp_path / "out/a_3d.html").is_file()
