"""A sweep of real trials, at tiny size."""

import json
import subprocess
import sys

import pytest
import yaml

from distill3d.sweep import start

BODY = """
method: grid
metric: {name: test/dice, goal: maximize}
parameters:
  optimizer.lr: {values: [0.001, 0.01]}
"""


@pytest.mark.slow  # two real trainings
@pytest.mark.timeout(600)
def test_real_trials_leave_scores_and_one_offline_wandb_run_each_with_the_right_config(
    tiny_file, tmp_path, finish, monkeypatch
):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    path = tmp_path / "real.yaml"
    command = [
        "${env}",
        "${interpreter}",
        "-m",
        "${program}",
        "fit",
        str(tiny_file),
        "logging.wandb=offline",
        "${args}",
    ]
    path.write_text(yaml.safe_dump({"program": "distill3d", "command": command}) + BODY)
    code, out = finish("run", path, "--workers", "2")
    assert code == 0, out
    _, rows = start.state_of("real", runs=tmp_path / "runs", storage=None)
    for row, lr in zip(rows, (0.001, 0.01), strict=True):
        run = tmp_path / f"runs/sweeps/real/trials/{row.number:04d}/tiny/seed0"
        assert row.value == json.loads((run / "metrics.json").read_text())["mean"]["dice"]
        (offline,) = (run / "wandb").glob("offline-run-*")
        inspect = [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json", str(offline)]
        shown = json.loads(subprocess.run(inspect, capture_output=True, text=True, check=True).stdout)
        assert shown["config"]["optimizer"]["lr"] == lr
        assert "sweep:real" in shown["tags"]
        assert shown["summary"]["test/dice"] == pytest.approx(row.value)
