"""A run that goes on: its best checkpoint, its rates, its cost, and nothing of the network that it was."""

import json
import resource
import shutil

import pytest
import timm
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import save_file
from small_transfers import CNN

from distill3d.config.schema import TrainerConfig
from distill3d.errors import InputError
from distill3d.storage.checkpoint import step_of
from distill3d.storage.run_folder import RunFolder
from distill3d.training.callbacks import StepClock
from distill3d.training.checkpoint_io import WholeCheckpoints
from distill3d.training.fit import fit
from distill3d.training.module import DistillModule
from distill3d.training.trace_tuning import tune_trace
from distill3d.training.trainer import Checkpoints, make_trainer

EACH = ("trainer.validate_every=1", "trainer.log_every=1")
pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture
def dice_of_step(monkeypatch):
    """Let validation after a step give a Dice of the test's choice."""
    scores, log = {}, DistillModule.log

    def logged(self, name, value, *args, **how):
        value = torch.tensor(scores[self.global_step]) if name == "val/dice" else value
        return log(self, name, value, *args, **how)

    monkeypatch.setattr(DistillModule, "log", logged)
    return scores


@pytest.fixture
def rates(monkeypatch):
    """Learning rate of every step that is taken, by its number."""
    seen, step = {}, DistillModule.training_step

    def taken(self, *args, **how):
        seen[self.global_step] = self.optimizers().param_groups[-1]["lr"]
        return step(self, *args, **how)

    monkeypatch.setattr(DistillModule, "training_step", taken)
    return seen


def step_of_best(folder):
    return torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["global_step"]


@pytest.mark.parametrize("moved", [False, True], ids=["in its place", "moved"])
def test_the_best_checkpoint_stays_the_best(tiny, tmp_path, dice_of_step, moved):
    dice_of_step |= {1: 0.9, 2: 0.2, 3: 0.1}
    folder = fit(tiny(*EACH, "data.test=0", "trainer.steps=2"))
    assert step_of_best(folder) == 1
    runs = tmp_path / "elsewhere" if moved else tmp_path / "runs"
    if moved:
        shutil.move(tmp_path / "runs", runs)
    again = fit(tiny(*EACH, "data.test=0", "trainer.steps=3", f"runs={runs}"), resume=True)
    assert again == runs / "tiny" / "seed0"
    assert step_of_best(again) == 1
    assert torch.load(again / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 3


def test_its_state_is_found_under_lightnings_name(tmp_path):
    how = {"filename": "best", "monitor": "val/dice", "mode": "max"}
    assert Checkpoints(tmp_path, **how).state_key == ModelCheckpoint(tmp_path, **how).state_key


def test_a_run_that_stopped_early_and_was_killed_then_stays_stopped(tiny, dice_of_step):
    dice_of_step |= {1: 0.5, 2: 0.4, 3: 0.3, 4: 0.9, 5: 0.9, 6: 0.9}
    settings = (*EACH, "data.test=0", "trainer.steps=6", "trainer.early_stopping=2")
    folder = RunFolder(fit(tiny(*settings)))
    folder.done.unlink()
    folder.fit.unlink()

    fit(tiny(*settings), resume=True)

    assert torch.load(folder.last, weights_only=True)["global_step"] == 3
    assert step_of_best(folder.path) == 1
    assert folder.done.is_file()


def test_fewer_steps_than_were_trained_are_refused_before_anything_is_touched(tiny):
    folder = fit(tiny(*EACH, "data.test=0", "trainer.steps=2"))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=r"seed0: has trained 2 steps; accepted: trainer\.steps=2 or more"):
        fit(tiny(*EACH, "data.test=0", "trainer.steps=1"), resume=True)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_to_go_on_with_what_shall_be_deleted_is_refused_before_anything_is_touched(tiny, finished):
    before = {path: path.read_bytes() for path in finished.path.rglob("*") if path.is_file()}
    for last in (False, True):
        with pytest.raises(InputError, match="--resume goes on with what --overwrite deletes; accepted: one of them"):
            fit(tiny(), resume=True, overwrite=True)
        if not last:
            before.pop(finished.done)
            finished.done.unlink()
    assert finished.last in before
    assert {path: path.read_bytes() for path in finished.path.rglob("*") if path.is_file()} == before


def test_the_first_step_of_a_longer_schedule_has_its_rate(tiny, rates):
    settings = (*EACH, "data.test=0", "optimizer.lr=0.01", "optimizer.warmup_steps=1")
    fit(tiny(*settings, "trainer.steps=6", "seed=1"))
    at_once = dict(rates)
    rates.clear()
    fit(tiny(*settings, "trainer.steps=3"))
    rates.clear()
    fit(tiny(*settings, "trainer.steps=6"), resume=True)
    assert list(rates) == [3, 4, 5]
    assert rates == pytest.approx({step: at_once[step] for step in rates})


def test_a_rate_that_the_prediction_would_not_follow_is_refused(tiny):
    fit(tiny(*EACH, "data.test=0", "trainer.steps=1"))
    with pytest.raises(InputError, match=r"other settings \(inference\.threshold: 0\.5 there, 0\.3 now\)"):
        fit(tiny(*EACH, "data.test=0", "trainer.steps=2", "inference.threshold=0.3"), resume=True)


def test_nothing_that_was_chosen_or_predicted_for_the_former_weights_is_left(tiny, dice_of_step):
    dice_of_step |= {1: 0.1, 2: 0.2}
    settings = (*EACH, "inference.validation=false")
    folder = RunFolder(fit(tiny(*settings, "trainer.steps=1")))
    (case,) = tune_trace(folder.path, trials=1)["cases"]
    assert folder.prob(case).is_file()
    fit(tiny(*settings, "trainer.steps=2"), resume=True)
    assert step_of_best(folder.path) == 2
    assert not folder.tuned.exists()
    assert not folder.prob(case).exists()
    assert json.loads(folder.metrics.read_text())["trace"]["threshold"] == 0.5


def test_the_cost_is_that_of_all_processes_it_was_trained_in():
    first, seen = StepClock(lambda: 0), iter([5, 12])
    second = StepClock(lambda: next(seen))
    state = first.state_dict() | {"fit_seconds": 100.0, "peak_memory_gib": 1e3, "teacher_images": 30}
    second.load_state_dict(state)
    cost = second.totals()
    assert 100 < cost["fit_seconds"] < 160
    assert (cost["peak_memory_gib"], cost["teacher_images"]) == (1e3, 37)


def test_a_teacher_whose_weights_changed_meanwhile_is_refused_with_both_hashes(tiny, tmp_path):
    file, weights = tmp_path / "teacher.safetensors", timm.create_model("test_efficientnet").state_dict()
    save_file(weights, file)
    teacher = f"teacher={{name: timm2d, architecture: test_efficientnet, weights: file, path: {file}}}"
    settings = (*CNN, *EACH, teacher, "data.test=0")
    folder = RunFolder(fit(tiny(*settings, "trainer.steps=1")))
    before = folder.read_json(folder.fit)["teacher"]["sha256"]
    save_file({name: value + 1 for name, value in weights.items()}, file)
    both = rf"its teacher was .*, sha256 {before}\), now .*, sha256 \w+\); accepted"
    with pytest.raises(InputError, match=both) as caught:
        fit(tiny(*settings, "trainer.steps=2"), resume=True)
    assert len(caught.value.lines) == 1
    assert folder.state == "done"
    save_file(weights, file)
    fit(tiny(*settings, "trainer.steps=2"), resume=True)
    assert folder.read_json(folder.fit)["teacher"]["sha256"] == before


def test_a_checkpoint_is_written_beside_its_place_and_never_over_the_one_before(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))  # another file system is as bad
    place, usual = tmp_path / "checkpoints" / "last.ckpt", resource.getrlimit(resource.RLIMIT_FSIZE)
    checkpoints = WholeCheckpoints()
    checkpoints.save_checkpoint({"global_step": 3, "weights": torch.ones(1000)}, place)
    before = place.read_bytes()
    resource.setrlimit(resource.RLIMIT_FSIZE, (place.stat().st_size // 2, usual[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            checkpoints.save_checkpoint({"global_step": 4, "weights": torch.ones(1000)}, place)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert place.read_bytes() == before
    assert [path.name for path in place.parent.iterdir()] == ["last.ckpt"]
    assert step_of(place) == 3
    place.write_bytes(before[:100])
    with pytest.raises(InputError, match=r"last\.ckpt: not a readable checkpoint"):
        step_of(place)


def test_every_training_writes_its_checkpoints_so(tmp_path):
    trainer = make_trainer(TrainerConfig(), RunFolder(tmp_path), [], [])
    assert isinstance(trainer.strategy.checkpoint_io, WholeCheckpoints)


def test_a_run_whose_overwriting_was_stopped_is_an_unfinished_one_of_its_settings(tiny, monkeypatch):
    settings = (*EACH, "data.test=0", "trainer.steps=1")
    folder = RunFolder(fit(tiny(*settings)))

    def stopped(path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("distill3d.training.claim.shutil.rmtree", stopped)
        with pytest.raises(KeyboardInterrupt):
            fit(tiny(*settings, "optimizer.lr=0.5"), overwrite=True)
    assert folder.state == "unfinished"
    assert not folder.fit.exists()
    with pytest.raises(InputError, match=r"other settings \(optimizer\.lr: "):
        fit(tiny(*settings, "optimizer.lr=0.5"), resume=True)
    fit(tiny(*settings), resume=True)
    assert folder.state == "done"
