"""A sweep as a SLURM array job, run by a bash script that plays srun and scontrol."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from launched import run as launch
from rich.console import Console
from typer.testing import CliRunner

from distill3d.errors import ConfigError, InputError
from distill3d.sweep import control
from distill3d.sweep.verbs import sweep_app

GRID = """
method: grid
metric: {name: test/dice, goal: maximize}
parameters:
  optimizer.lr: {values: [0.01, 0.1]}
"""


@pytest.fixture
def script(sweep_file, tmp_path):
    def write(body=GRID):
        path = sweep_file(body)
        return control.export_slurm(path, runs=tmp_path / "runs", out=None, at_once=2, time="01:00:00", cpus=4)

    return write


@pytest.fixture
def submit(tmp_path):
    """Run one task of the array; returns the exit code and what was asked of scontrol."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, text in {
        "srun": '#!/bin/bash\n[ "$1" = --kill-on-bad-exit=1 ] || exit 9\nshift\n"$@"',
        "scontrol": f'#!/bin/bash\necho "$@" >> {tmp_path}/asked',
    }.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)

    def run(path, task, **environment):
        (tmp_path / "asked").unlink(missing_ok=True)
        env = {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_JOB_ID": "77"} | environment
        env["PATH"] = os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ["PATH"]])
        code, _ = launch("bash", path, folder=tmp_path, **env)
        arguments = tmp_path / "asked"
        return code, arguments.read_text().strip() if arguments.is_file() else ""

    return run


def states(tmp_path):
    return [row.state for row in control.state_of("fakes", runs=tmp_path / "runs", storage=None)[1]]


def test_each_task_runs_its_trial_and_the_folders_tell_the_report(script, submit, tmp_path):
    path = script()
    assert states(tmp_path) == ["waiting", "waiting"]
    assert submit(path, 1) == (0, "")
    assert states(tmp_path) == ["waiting", "finished"]
    assert submit(path, 0) == (0, "")
    rows = control.state_of("fakes", runs=tmp_path / "runs", storage=None)[1]
    assert [row.value for row in rows] == [0.51, 0.6]
    assert submit(path, 2)[0] == 2  # there is no third


def test_a_trial_that_was_sent_sigterm_puts_itself_back_in_line_and_a_failed_one_does_not(script, submit):
    path = script()
    path.write_text(path.read_text().replace("set -u", "set -u\nsrun() { return $CODE; }"))
    assert submit(path, 1, CODE="143") == (143, "requeue 77_1")
    assert submit(path, 1, CODE="1") == (1, "")


def test_a_requeued_task_resumes(script, submit, tmp_path):
    path = script()
    submit(path, 0)
    submit(path, 0)
    calls = tmp_path / "runs/sweeps/fakes/trials/0000/tiny/seed0/calls.txt"
    assert all(line.endswith(" --resume") for line in calls.read_text().splitlines())


def test_the_script_asks_for_what_a_trial_needs(script, tmp_path):
    lines = script(GRID + "  trainer.devices: {value: 2}\n  trainer.num_nodes: {value: 3}\n").read_text().splitlines()
    for wanted in ("--array=0-1%2", "--nodes=3", "--ntasks-per-node=2", "--time=01:00:00", "--requeue"):
        assert f"#SBATCH {wanted}" in lines
    assert not [line for line in lines if "gpus" in line]  # the tiny experiment runs on the CPU
    gpu = script(GRID + "  trainer.accelerator: {value: gpu}\n  trainer.devices: {value: 4}\n").read_text()
    assert "#SBATCH --gpus-per-node=4\n" in gpu
    assert subprocess.run(["bash", "-n"], input=gpu, text=True, check=False).returncode == 0


def test_names_with_spaces_are_one_word_to_bash_and_to_sbatch(sweep_file, submit, tmp_path):
    runs, out = tmp_path / "exp #2", tmp_path / "my jobs" / "array.sh"
    path = control.export_slurm(
        sweep_file(GRID, name="my sweep"), runs=runs, out=out, at_once=2, time="01:00:00", cpus=4
    )
    lines = path.read_text().splitlines()
    asked = [shlex.split(line.removeprefix("#SBATCH"), comments=True) for line in lines if line.startswith("#SBATCH")]
    assert ["--job-name=my sweep"] in asked
    assert [f"--output={runs}/sweeps/my sweep/slurm-%a.log"] in asked
    assert all(len(words) == 1 for words in asked)
    assert f"#   sbatch '{out}'" in lines
    (exported,) = (line for line in lines if line.startswith("export "))
    assert shlex.split(exported) == ["export", "WANDB_RUN_GROUP=my sweep", "WANDB_TAGS=sweep:my sweep"]
    assert submit(path, 1) == (0, "")
    assert [row.state for row in control.state_of("my sweep", runs=runs, storage=None)[1]] == ["waiting", "finished"]


def test_what_to_paste_is_in_quotes(sweep_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sweep_file(GRID, name="my sweep")
    done = CliRunner().invoke(sweep_app, ["export-slurm", "my sweep.yaml", "--runs", "exp #2"])
    assert done.output.splitlines() == [
        "submit    sbatch 'exp #2/sweeps/my sweep/array.sh'",
        "then      distill3d sweep report 'my sweep.yaml' --runs 'exp #2'",
    ]


def test_what_ends_trials_early_elsewhere_and_not_on_slurm_is_said(script, caplog):
    script()
    assert "to their end" not in caplog.text
    script(GRID.replace("goal: maximize", "goal: maximize, target: 0.9"))
    assert "sweep fakes: SLURM runs all 2 trials to their end, whatever metric.target says" in caplog.text


def test_a_place_that_cannot_be_written_is_one_line(script, sweep_file, tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(InputError, match=r"runs/sweeps/fakes: cannot be written .*; accepted: another --runs"):
        script()
    with pytest.raises(InputError, match="cannot be written"):
        control.begin(
            sweep_file(GRID), runs=tmp_path / "runs", workers=1, storage=None, retries=1, console=Console(quiet=True)
        )


def test_trials_of_different_size_and_bayes_are_no_array_job(script):
    with pytest.raises(ConfigError, match="an array job gives the same to all"):
        script(GRID + "  trainer.devices: {values: [1, 2]}\n")
    with pytest.raises(ConfigError, match="bayes needs results"):
        script(GRID.replace("method: grid", "method: bayes\nrun_cap: 3"))


def test_a_random_sweep_draws_the_same_values_for_the_script_and_the_report(script, tmp_path):
    path = script(
        GRID.replace("method: grid", "method: random\nrun_cap: 3").replace(
            "{values: [0.01, 0.1]}", "{min: 0.0, max: 1.0}"
        )
    )
    rows = control.state_of("fakes", runs=tmp_path / "runs", storage=None)[1]
    assert len({row.values["optimizer.lr"] for row in rows}) == 3
    assert all(f"--optimizer.lr={row.values['optimizer.lr']}" in path.read_text() for row in rows)
