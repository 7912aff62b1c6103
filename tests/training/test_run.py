"""Whole runs at tiny size: what they leave, how they stop, how they go on."""

import json
import os
import signal
import sys
from dataclasses import replace

import forked
import launched
import numpy as np
import pytest
import torch
import yaml
from small_transfers import close, crash_in_second_epoch, weights

from distill3d.errors import InputError, TrainingError
from distill3d.evaluation.figures.case import IS_HIT, IS_LOST
from distill3d.evaluation.projections import read_projections
from distill3d.storage.run_folder import RunFolder
from distill3d.training import fit
from distill3d.training.module import load_module

pytestmark = pytest.mark.usefixtures("undrawn")  # but for the one finished run
TEACHER = ("teacher.name=timm2d", "strategy.name=inflate", "student={name: convnet3d, stages: 2, decoder: [4, 4]}")


def test_a_run_leaves_scores_pictures_and_done(finished):
    folder = finished
    results = json.loads(folder.metrics.read_text())
    assert folder.state == "done"
    assert list(results["cases"]) == ["sim_003"]
    assert results["baselines"]["otsu"]["cases"].keys() == results["cases"].keys()
    assert results["mean"]["dice"] == results["cases"]["sim_003"]["dice"]
    assert "hd95_um_clean" in results["mean"]
    assert results["clean"]["chosen_on"] == results["baselines"]["otsu"]["clean"]["chosen_on"] == ["sim_002"]
    assert (folder.figures / "sim_003.png").stat().st_size > 10_000
    seen = read_projections(folder.projections("sim_003"))
    assert np.isin(seen.errors[seen.gold], (IS_HIT, IS_LOST)).all()
    assert (seen.depth, seen.gold.any(), seen.tree is not None) == (16, True, True)
    assert results["cost"]["steps"] == 4
    assert results["cost"]["trainable_parameters"] == results["cost"]["parameters"] > 0
    assert torch.__version__.startswith(results["provenance"]["packages"]["torch"])
    assert yaml.safe_load(folder.config.read_text())["trainer"]["steps"] == 4
    assert list((folder.path / "curves").glob("*/metrics.csv"))


def test_a_run_without_a_test_case_is_done_when_it_is_trained(tiny_file):
    command = forked.run("fit", str(tiny_file), "data.test=0")
    folder = RunFolder(tiny_file.parent / "runs" / "tiny" / "seed0")
    assert command.returncode == 0
    assert "no test case, so no scores; best validation Dice 0." in command.stdout
    assert folder.read_json(folder.done)["cases"] == 0
    assert not folder.metrics.exists()
    assert not (folder.path / "prob").exists()


def test_validation_cases_need_not_be_predicted_and_then_clean_means_as_traced(tiny):
    folder = RunFolder(fit.fit(tiny("inference.validation=false", "trace.min_voxels=3")))
    assert folder.prob("sim_003").exists()
    assert not folder.prob("sim_002").exists()
    assert folder.read_json(folder.metrics)["clean"] == {"min_voxels": 3, "chosen_on": []}


def test_a_finished_run_is_not_repeated(tiny, finished):
    folder = finished
    before = folder.metrics.stat().st_mtime_ns
    fit.fit(tiny())
    assert folder.metrics.stat().st_mtime_ns == before


def test_a_run_with_other_settings_is_not_overwritten(tiny, finished):
    folder = finished
    with pytest.raises(InputError, match=r"other settings \(optimizer.lr: 0.001 there, 0.1 now\)"):
        fit.fit(tiny("optimizer.lr=0.1"))
    fit.fit(tiny("optimizer.lr=0.1"), overwrite=True)
    assert folder.read_config()["optimizer"]["lr"] == 0.1


def test_a_finished_run_goes_on_to_more_steps_only_when_told_to(tiny):
    folder = RunFolder(fit.fit(tiny()))
    with pytest.raises(InputError, match="finished after 4 steps; accepted: --resume"):
        fit.fit(tiny("trainer.steps=6"))
    fit.fit(tiny("trainer.steps=6"), resume=True)
    assert json.loads(folder.metrics.read_text())["cost"]["steps"] == 6
    assert folder.state == "done"


def test_an_unfinished_run_names_the_two_ways_on(tiny, finished):
    folder = finished
    folder.done.unlink()
    with pytest.raises(InputError, match="--resume or --overwrite"):
        fit.fit(tiny())


def test_a_resumed_run_equals_an_uninterrupted_one(tiny, finished_once, monkeypatch):
    whole = RunFolder(finished_once)
    crash_in_second_epoch(tiny(), monkeypatch)
    resumed = RunFolder(fit.fit(tiny(), resume=True))
    assert close(weights(whole), weights(resumed), rtol=0, atol=0)
    assert len(list((resumed.path / "curves").glob("*/metrics.csv"))) == 2


def test_a_crash_before_the_first_checkpoint_resumes_from_the_start(tiny, finished):
    folder = finished
    folder.done.unlink()
    folder.fit.unlink()
    for path in folder.last.parent.iterdir():
        path.unlink()
    assert RunFolder(fit.fit(tiny(), resume=True)).state == "done"


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tiny, finished_once):
    first, second = RunFolder(finished_once), RunFolder(fit.fit(tiny()))
    other = RunFolder(fit.fit(tiny("seed=1")))
    assert close(weights(first), weights(second), rtol=0, atol=0)
    assert not close(weights(first), weights(other), rtol=1e-3, atol=1e-3)


def test_the_teacher_is_not_in_the_checkpoint_but_its_identity_is(tiny):
    folder = RunFolder(fit.fit(tiny(*TEACHER)))
    checkpoint = torch.load(folder.best, weights_only=True)
    assert not [key for key in checkpoint["state_dict"] if "teacher" in key]
    assert checkpoint["distill3d"]["teacher"]["architecture"] == "tf_efficientnet_lite0"
    assert json.loads(folder.metrics.read_text())["teacher"]["random"] is False
    audit = json.loads(folder.audit.read_text())
    assert audit["copy_rate"] > 0
    assert audit["start"]["levels"]
    assert load_module(folder.best).teacher is None


def test_a_checkpoint_of_another_architecture_is_one_line(tiny, finished):
    folder = finished
    with pytest.raises(InputError, match="of another architecture") as caught:
        load_module(folder.best, tiny("student.channels=[4, 16]"))
    assert len(caught.value.lines) == 1


@pytest.mark.parametrize("content", [b"", b"not a checkpoint"])
def test_a_broken_checkpoint_is_one_line(tmp_path, content):
    path = tmp_path / "x.ckpt"
    path.write_bytes(content)
    with pytest.raises(InputError, match="not a readable checkpoint"):
        load_module(path)
    with pytest.raises(InputError, match="no such checkpoint"):
        load_module(tmp_path / "y.ckpt")


def test_a_loss_that_is_not_finite_stops_with_case_and_place_and_keeps_the_last_checkpoint(tiny, monkeypatch):
    original = fit.DistillModule.terms

    def explode(self, batch):
        terms = original(self, batch)
        if self.global_step < 3:
            return terms
        poisoned = {name: replace(term, value=term.value * float("nan")) for name, term in terms.supervised.items()}
        return replace(terms, supervised=poisoned)

    with monkeypatch.context() as patch:
        patch.setattr(fit.DistillModule, "terms", explode)
        with pytest.raises(TrainingError, match=r"not finite at step 3 .*sim_00\d at zyx \(-?\d+, -?\d+, -?\d+\)"):
            fit.fit(tiny())
    folder = RunFolder(fit.fit(tiny(), resume=True))
    assert folder.state == "done"


def test_smoke_trains_stops_resumes_and_scores(tiny, tmp_path):
    folder = RunFolder(fit.smoke(tiny()))
    assert folder.path == tmp_path / "runs" / "smoke" / "tiny" / "seed0"
    assert json.loads(folder.fit.read_text())["cost"]["steps"] == 2
    assert len(list((folder.path / "curves").glob("*/metrics.csv"))) == 2


@pytest.mark.timeout(900)  # three fresh processes: minutes on a busy machine
def test_two_processes_of_torchrun_give_the_parameters_of_one_and_all_ranks_know_that_a_run_is_finished(
    tiny_file, finished_once, tmp_path
):
    fit = ("fit", tiny_file, "trainer.devices=2", "patches.batch_size=1")  # the same global batch
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "distill3d")
    code, printed = launched.run(*torchrun, *fit, folder=tmp_path)
    assert code == 0, printed
    assert printed.count("held-out cases") == 1
    one, two = RunFolder(finished_once), RunFolder(tmp_path / "runs" / "tiny" / "seed0")
    assert json.loads(two.fit.read_text())["cost"]["devices"] == 2
    assert close(weights(one), weights(two), rtol=1e-4, atol=1e-5)
    means = [json.loads(folder.metrics.read_text())["mean"] for folder in (one, two)]
    assert means[0] == pytest.approx(means[1], abs=1e-3)
    finished, refusal = two.metrics.stat().st_mtime_ns, "is finished; --overwrite runs it again"
    # Each second rank alone: it waits for no other, and leaves talking to the first
    elastic = {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    slurm = {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_NODEID": "0"}
    for environment in (elastic, slurm):
        second = forked.run(*fit, env=os.environ | environment)
        assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    first = forked.run(*fit)
    assert (first.returncode, (first.stdout + first.stderr).count(refusal)) == (0, 1)
    assert two.metrics.stat().st_mtime_ns == finished


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("devices", [1, 2])
def test_a_stopped_run_ends_with_the_shells_code_and_can_be_resumed(tiny_file, tmp_path, signum, code, devices):
    folder = RunFolder(tmp_path / "runs" / "tiny" / "seed0")
    arguments = ("trainer.steps=4000", f"trainer.devices={devices}", "patches.batch_size=1")
    with launched.Command("fit", tiny_file, *arguments, folder=tmp_path) as process:
        process.until(folder.last.is_file)
        process.process.send_signal(signum)
        assert process.wait() == code, process.printed
    assert "Traceback" not in process.printed
    assert process.printed.count("--resume goes on from") == 1
    assert folder.state == "unfinished"
    assert torch.load(folder.last, weights_only=True)["global_step"] >= 2


STOPPED_AT_THE_START = """
import os, sys
from lightning.pytorch.utilities import combined_loader
begin, signum = combined_loader._MaxSizeCycle.__iter__, int(sys.argv.pop())

def stop(self):
    os.kill(os.getpid(), signum)
    return begin(self)

combined_loader._MaxSizeCycle.__iter__ = stop
"""


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_that_is_stopped_while_its_data_workers_begin_ends_as_at_any_moment(tiny_file, tmp_path, signum, code):
    words = ("fit", tiny_file, f"runs={tmp_path / 'runs'}", int(signum))
    ended = forked.run(*words, code=STOPPED_AT_THE_START + forked.MAIN)
    assert ended.returncode == code, ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr
    assert (ended.stdout + ended.stderr).count("--resume goes on from") == 1


def test_overfitting_one_batch_drives_the_loss_down(tiny):
    experiment = tiny("student.channels=[8, 16]", "optimizer.lr=0.03", "optimizer.schedule=constant")
    torch.manual_seed(0)
    data = fit.DistillDataModule(experiment)
    data.prepare_data()
    data.setup("fit")
    module = fit.DistillModule(experiment, val_cases=data.case_names("val"))
    batch = next(iter(data.train_dataloader()))
    optimizer = module.configure_optimizers()["optimizer"]
    values = []
    for _ in range(60):
        loss = torch.stack([term.value for term in module.terms(batch).all.values()]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(float(loss.detach()))
    assert values[-1] < 0.5 * values[0]
    assert np.isfinite(values).all()
