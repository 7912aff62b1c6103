"""What whole runs keep of their teacher: frozen, wiped out, resumed, in two processes, and with nothing to keep."""

import json
from dataclasses import replace

import forked
import pytest
import torch
from small_transfers import CNN, close, crash_in_second_epoch, fit_on_two, weights
from undrawn import UNDRAWN, no_figures

from distill3d.config.plain import as_plain
from distill3d.storage.run_folder import RunFolder, write_yaml
from distill3d.training import fit

pytestmark = pytest.mark.usefixtures("undrawn")
FROZEN = "optimizer.transferred_lr_ratio=0"
FAST = "optimizer={lr: 0.1, transferred_lr_ratio: 1, warmup_steps: 0, schedule: constant}"


def results(folder):
    return json.loads(folder.metrics.read_text())


def moved_parameters(folder):
    rows = json.loads(folder.audit.read_text())["rows"]
    return {f"student.{row['name']}" for row in rows if row["fate"] != "new"}


@pytest.fixture(scope="module")
def tiny_cnn(tmp_path_factory, tiny_file_in):
    from distill3d.experiment import load_experiment

    path = tiny_file_in(tmp_path_factory.mktemp("kept"))
    return lambda *overrides, base=CNN: load_experiment(path, [*base, *overrides])


@pytest.fixture(scope="module")
def frozen(tiny_cnn):
    with no_figures():
        return RunFolder(fit.fit(tiny_cnn(FROZEN, "trainer.audit_every=1", "balance={mode: gradient, every: 1}")))


def test_a_frozen_encoder_is_kept_whole_to_the_last_bit(frozen):
    assert results(frozen)["kept"] == pytest.approx(1, abs=1e-6)
    start, end = (json.loads(frozen.similarity.read_text())[when] for when in ("before", "after"))
    row = start["student"].index("encoder.blocks.1")
    assert start["cka"]["z"][row] == end["cka"]["z"][row]
    assert max(start["cka"]["z"][row]) > 0.5
    trained = results(frozen)["cost"]["trainable_parameters"]
    assert 0 < trained < results(frozen)["cost"]["parameters"] - 1000


def test_frozen_entries_are_bit_equal_after_a_run_of_two_processes_too(frozen, tiny_cnn, tmp_path):
    two = fit_on_two(tiny_cnn(FROZEN, "trainer.audit_every=1"), tmp_path)
    one, other = weights(frozen), weights(two)
    names = moved_parameters(frozen) & one.keys()
    assert "student.encoder.bn1.running_mean" in names
    assert all(torch.equal(one[name], other[name]) for name in names)
    assert close(one, other, rtol=1e-3, atol=1e-4)
    assert results(two)["kept"] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("steps", [1, 99])
def test_statistics_stay_as_long_as_the_parameters_beside_them(frozen, tiny_cnn, tmp_path, steps):
    wait = f"optimizer={{transferred_lr_ratio: 0.1, freeze_transferred_steps: {steps}}}"
    run = RunFolder(fit.fit(replace(tiny_cnn(wait), runs=str(tmp_path))))
    one, other = weights(frozen), weights(run)
    for name in moved_parameters(frozen) & one.keys():
        if name.endswith(("running_mean", "running_var", "weight")):
            assert torch.equal(one[name], other[name]) == (steps == 99), name


def test_a_resumed_run_keeps_what_an_uninterrupted_one_does(tiny_cnn, tmp_path, monkeypatch):
    experiment = tiny_cnn("optimizer.layer_decay=0.5", "optimizer.lr=0.1", "optimizer.freeze_transferred_steps=1")
    whole = RunFolder(fit.fit(replace(experiment, runs=str(tmp_path / "whole"))))
    parts = replace(experiment, runs=str(tmp_path / "parts"))
    crash_in_second_epoch(parts, monkeypatch)
    resumed = RunFolder(fit.fit(parts, resume=True))
    assert close(weights(whole), weights(resumed), rtol=0, atol=0)
    assert results(resumed)["kept"] == results(whole)["kept"] != pytest.approx(1, abs=1e-6)


def test_a_run_that_wipes_its_teacher_out_says_so_in_its_last_line(tiny_cnn, tmp_path):
    plain = as_plain(replace(tiny_cnn(FAST, "trainer.steps=30", "trainer.validate_every=30"), runs=str(tmp_path)))
    file = tmp_path / "wiped.yaml"
    write_yaml(file, {key: value for key, value in plain.items() if key != "name"})
    done = forked.run("fit", file, code=UNDRAWN)
    share = results(RunFolder(tmp_path / "wiped" / "seed0"))["kept"]
    assert 0 <= share < 0.5
    assert done.stdout.splitlines()[-1].startswith(f"kept {share:.2f} of its likeness to the teacher")


@pytest.mark.parametrize("strategy", ["strategy={name: features}", "strategy={name: none}"])
def test_a_student_that_took_no_weights_over_has_kept_nothing_and_lost_nothing(tiny_cnn, tmp_path, strategy):
    folder = RunFolder(fit.fit(replace(tiny_cnn(strategy, "trainer.steps=2", base=CNN[:2]), runs=str(tmp_path))))
    assert results(folder)["kept"] is None
    assert "before" in json.loads(folder.similarity.read_text())
