"""NaN, infinity and explosions: where they were, what is kept of them, and the step taken again."""

import math
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_transfers import make_batch
from torch import nn

from distill3d import __main__ as program
from distill3d.config.schema import InferenceConfig, PatchConfig, TrainerConfig
from distill3d.errors import InputError, NumbersError
from distill3d.storage.run_folder import RunFolder
from distill3d.training import fit
from distill3d.training.inference import predict_prob
from distill3d.training.numbers import EXPLODED, NumbersWatch, check_loss, read_batch, read_failed
from distill3d.training.predict import predict
from distill3d.training.replay import replay
from distill3d.types import LossTerm, Turn
from distill3d.volumes.volume import Volume, write_volume

PLACE = r"sim_00\d at zyx \(-?\d+, -?\d+, -?\d+\)"


def call(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["distill3d", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        program.main()
    return ended.value.code, *capsys.readouterr()


def run_of(experiment):
    return RunFolder(Path(experiment.runs) / experiment.name / f"seed{experiment.seed}")


# ------------------------------------------------------------ training


def test_a_training_that_explodes_is_kept_and_its_step_can_be_taken_again(tiny, monkeypatch, capsys):
    experiment = tiny("optimizer.lr=1e25", "optimizer.warmup_steps=0")
    with pytest.raises(NumbersError, match=rf"at step \d.*{PLACE}.*; the last good checkpoint is kept") as caught:
        fit.fit(experiment)
    folder = run_of(experiment)
    again = replay(folder.path)
    assert again.before == str(caught.value)
    assert re.search(r"(output of student|output of|loss term|gradient of|student)", again.wrong)
    assert (again.batch in again.before, f"at step {again.step} " in again.before) == (True, True)
    code, out, _ = call(monkeypatch, capsys, "replay", folder.path)
    assert (code, out.count("\n")) == (0, 3)
    assert f"wrong     {again.wrong}" in out


def poisoned(self, terms):
    """Add 0 with a gradient of infinity times 0."""
    zero = (next(self.student.parameters()) * 0).sum().abs().sqrt()
    name, term = next(iter(terms.supervised.items()))
    return replace(terms, supervised={**terms.supervised, name: LossTerm(term.value + zero, term.weight)})


def test_a_gradient_that_is_not_finite_never_reaches_the_weights(tiny, monkeypatch):
    original = fit.DistillModule.terms

    def terms(self, batch):
        return poisoned(self, original(self, batch)) if self.step == 3 else original(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(fit.DistillModule, "terms", terms)
        with pytest.raises(NumbersError, match=rf"gradient of student\S+ is not finite at step 3; batch: {PLACE}"):
            fit.fit(tiny())
        folder = run_of(tiny())
        assert replay(folder.path).wrong.startswith("gradient of student")
        # of two processes, the second is the one to blame
        folder.failed(0).rename(folder.failed(10))
        sound = torch.load(folder.failed(10), weights_only=True) | {"step": 0}
        torch.save(sound, folder.failed(2))
        assert [path.name for path in folder.all_failed] == ["failed_rank2.ckpt", "failed_rank10.ckpt"]
        assert replay(folder.path).step == 3
    assert replay(folder.path).wrong == ""  # without the poison the same step is sound
    assert torch.load(folder.last, weights_only=True)["global_step"] == 2
    resumed = RunFolder(fit.fit(tiny(), resume=True))
    assert (resumed.state, resumed.all_failed) == ("done", [])


def test_the_step_again_has_the_same_loss(tiny, monkeypatch):
    """Weights, batch, turns and random numbers are those of the step."""
    seen = []

    def refuse(total, terms, batch, step):
        if step == 1:
            seen.append(total.item())
            raise NumbersError("as if")

    with monkeypatch.context() as patch:
        patch.setattr("distill3d.training.module.check_loss", refuse)
        with pytest.raises(NumbersError, match="as if"):
            fit.fit(tiny())
    folder = run_of(tiny())
    assert [replay(folder.path).loss] == seen
    batch = read_batch(read_failed(folder.failed(0)))
    assert all(isinstance(turn, Turn) for turn in batch.turns)


def test_weights_that_are_not_finite_are_not_written_over_good_ones(tmp_path):
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    watch = NumbersWatch(RunFolder(tmp_path))
    watch.on_train_batch_start(None, None, make_batch(), 0)
    run = SimpleNamespace(global_step=7)
    watch.on_validation_start(run, module)
    module[1].running_var[1] = math.inf
    with pytest.raises(NumbersError, match=r"1\.running_var is not finite at step 7; batch: "):
        watch.on_validation_start(run, module)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, EXPLODED, -EXPLODED])
def test_a_loss_that_nothing_can_be_learned_from_is_refused_with_terms_and_places(value):
    total, terms = torch.tensor(value), {"overlap": LossTerm(torch.tensor(value))}
    with pytest.raises(NumbersError, match=r"loss is .* at step 5 \(overlap=.*\); batch: .* at zyx \("):
        check_loss(total, terms, make_batch(), 5)
    check_loss(torch.tensor(EXPLODED / 2), terms, make_batch(), 5)


def test_only_a_run_that_failed_so_can_be_replayed(finished, tmp_path):
    with pytest.raises(InputError, match="no step failed in it"):
        replay(finished.path)
    finished.failed(0).write_bytes(finished.best.read_bytes())
    with pytest.raises(InputError, match="holds no step that failed"):
        replay(finished.path)


# ------------------------------------------------------------ prediction


class Blind(nn.Module):
    """Predicts NaN in a window that has the brightest voxel."""

    def __init__(self, size_zyx):
        super().__init__()
        patches, inference = PatchConfig(size_zyx=size_zyx), InferenceConfig(overlap=0.0)
        self.experiment = SimpleNamespace(inference=inference, patches=patches, trainer=TrainerConfig())
        self.device = torch.device("cpu")

    def forward(self, image):
        return torch.where(image == 1, torch.nan, image)


@pytest.mark.parametrize(
    ("shape", "at", "place"),
    [
        ((8, 32, 32), (1, 17, 30), "0:8, 16:32, 16:32"),
        ((8, 16, 40), (7, 3, 39), "0:8, 0:16, 24:40"),
        ((3, 11, 20), (2, 10, 19), "0:3, 0:11, 4:20"),  # padded to a window
    ],
)
def test_a_prediction_that_is_no_number_is_refused_with_the_place_of_its_window(shape, at, place):
    image = np.zeros(shape, np.float32)
    assert np.isfinite(predict_prob(Blind((8, 16, 16)), image)).all()
    image[at] = 1
    with pytest.raises(NumbersError, match=rf"NaN or infinity at zyx {place} \(1 of 2048 voxels\)"):
        predict_prob(Blind((8, 16, 16)), image)


def test_predict_writes_nothing_of_a_network_that_predicts_nan(finished, tmp_path, monkeypatch, capsys):
    checkpoint = torch.load(finished.best, weights_only=True)
    name = next(name for name in checkpoint["state_dict"] if name.startswith("student") and name.endswith("bias"))
    checkpoint["state_dict"][name] *= math.nan
    torch.save(checkpoint, finished.best)
    image = np.random.default_rng(0).integers(0, 255, (16, 32, 40)).astype(np.uint8)
    write_volume(tmp_path / "x.tif", Volume(image, (2.0, 1.0, 1.0)))
    code, out, err = call(monkeypatch, capsys, "predict", finished.path, tmp_path / "x.tif", "--out", tmp_path / "prob")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert re.search(r"NaN or infinity at zyx 0:16, 0:32, 0:32", err)
    assert not list((tmp_path / "prob").iterdir())
    with pytest.raises(NumbersError):
        predict(finished.path, tmp_path / "x.tif", out=tmp_path / "prob")
