"""A sweep of a real trial, at tiny size."""

import io
import json

import forked
import pytest
import yaml
from rich.console import Console

from distill3d.sweep import control

LR = 0.01


@pytest.mark.timeout(900)  # a real training: minutes on a busy machine
def test_a_real_trial_leaves_scores_and_one_offline_wandb_run_with_the_right_config(tiny_file, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", key := "0123456789" * 4)
    path, out = tmp_path / "real.yaml", io.StringIO()
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
    content = {"program": "distill3d", "command": command, "method": "grid"}
    content |= {"metric": {"name": "test/dice", "goal": "maximize"}, "parameters": {"optimizer.lr": {"values": [LR]}}}
    path.write_text(yaml.safe_dump(content))
    options = {"runs": tmp_path / "runs", "workers": 1, "storage": None, "retries": 0}
    assert control.begin(path, **options, console=Console(file=out)) == 0, out.getvalue()
    _, (row,) = control.state_of("real", runs=tmp_path / "runs", storage=None)
    folder = tmp_path / "runs/sweeps/real/trials/0000/tiny/seed0"
    assert row.value == json.loads((folder / "metrics.json").read_text())["mean"]["dice"]
    left = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert len(left) > 20
    assert not [path for path in left if key.encode() in path.read_bytes()]
    (offline,) = (folder / "wandb").glob("offline-run-*")
    inspect = "from wandb.cli.cli import cli; cli(prog_name='wandb')"
    inspected = forked.run("leet", "inspect", "--summary", "--json", offline, code=inspect)
    assert inspected.returncode == 0, inspected.stderr
    shown = json.loads(inspected.stdout)
    assert shown["config"]["question"] == "does it run?"
    assert "sim_003" in json.dumps(shown["summary"])
    assert shown["config"]["optimizer"]["lr"] == LR
    assert "sweep:real" in shown["tags"]
    assert shown["summary"]["test/dice"] == pytest.approx(row.value)
