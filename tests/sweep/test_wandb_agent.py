"""W&B's own command line runs the sweep files: the real client, against a stand-in for its server."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from wandb_server import ENTITY, PROJECT, StandIn

from distill3d.run_folder import RunFolder

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]  # many processes: minutes on a busy machine
TRIALS = [
    {"optimizer.lr": 0.001, "trainer.devices": 1, "trainer.steps": 4},
    {"optimizer.lr": 0.01, "trainer.devices": 2, "trainer.steps": 4},
    {"optimizer.lr": 0.02, "trainer.devices": 1, "trainer.steps": 4},
]
ENDLESS = {"optimizer.lr": 0.03, "trainer.devices": 2, "trainer.steps": 40_000}


@pytest.fixture
def sweep_file(tiny_file, tmp_path):
    path = tmp_path / "mine.yaml"
    command = ["${env}", "${interpreter}", "-m", "${program}", "fit", str(tiny_file), "logging.wandb=online"]
    command += ["patches.batch_size=1", f"runs={tmp_path}/runs/${{oc.env:WANDB_RUN_ID}}", "${args}"]
    keys = TRIALS[0]
    parameters = {key: {"values": sorted({trial[key] for trial in [*TRIALS, ENDLESS]})} for key in keys}
    content = {"program": "distill3d", "command": command, "method": "grid", "parameters": parameters}
    path.write_text(yaml.safe_dump(content | {"metric": {"name": "test/dice", "goal": "maximize"}}))
    return path


@pytest.fixture
def environment(tmp_path):
    """A user who is logged in at the stand-in, and whose `python` is this one."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}

    def of(server):
        return kept | {
            "WANDB_BASE_URL": server.url,
            "WANDB_API_KEY": "0" * 40,
            "WANDB_ENTITY": ENTITY,
            "WANDB_PROJECT": PROJECT,
            "WANDB_DIR": str(tmp_path),
            "HOME": str(tmp_path),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), kept["PATH"]]),
            "OMP_NUM_THREADS": "1",
        }

    return of


def wandb(*arguments, env):
    return subprocess.run(
        [sys.executable, "-m", "wandb", *arguments], capture_output=True, text=True, env=env, check=False, timeout=800
    )


def run_folder(tmp_path, run_id):
    return RunFolder(tmp_path / "runs" / run_id / "tiny" / "seed0")


def test_the_real_agent_trains_every_trial_as_the_sweep_asks_also_on_two_processes(sweep_file, environment, tmp_path):
    with StandIn(TRIALS) as server:
        env = environment(server)
        created = wandb("sweep", str(sweep_file), env=env)
        assert created.returncode == 0, created.stderr
        assert yaml.safe_load(server.sweep)["parameters"]["optimizer.lr"] == {"values": [0.001, 0.01, 0.02, 0.03]}
        agent = wandb("agent", f"{ENTITY}/{PROJECT}/sweep1", env=env)
    assert server.agents == 1, agent.stderr
    assert sorted(server.runs) == ["trial0", "trial1", "trial2"], agent.stderr  # one run per trial, not per process
    for number, trial in enumerate(TRIALS):
        run, folder = server.runs[f"trial{number}"], run_folder(tmp_path, f"trial{number}")
        assert run["exitcode"] == 0, agent.stderr
        assert folder.state == "done"
        assert folder.read_config()["optimizer"]["lr"] == trial["optimizer.lr"]
        assert folder.read_json(folder.fit)["cost"]["devices"] == trial["trainer.devices"]
        assert run["config"]["optimizer"]["lr"] == run["config"]["optimizer.lr"] == trial["optimizer.lr"]
        mean = folder.read_json(folder.metrics)["mean"]
        assert run["summary"]["test/dice"] == pytest.approx(mean["dice"])
        assert [row["val/dice"] for row in run["history"] if "val/dice" in row]


def test_a_stop_request_ends_all_processes_of_the_trial_and_is_reported_as_a_stop(sweep_file, environment, tmp_path):
    with StandIn([ENDLESS]) as server:
        env = environment(server)
        wandb("sweep", str(sweep_file), env=env)
        command = [sys.executable, "-m", "wandb", "agent", f"{ENTITY}/{PROJECT}/sweep1"]
        agent = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            deadline = time.monotonic() + 600
            while not server.runs.get("trial0", {}).get("history"):
                assert agent.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.5)
            ranks = processes_of("trial0")
            server.stop("trial0")
            out, _ = agent.communicate(timeout=120)
        finally:
            agent.kill()
            agent.communicate()
    assert len([rank for rank in ranks if "LOCAL_RANK" in rank]) == 1  # the second of two
    assert server.runs["trial0"]["exitcode"] == 143, out
    assert server.runs["trial0"]["summary"]["stopped"].startswith("SIGTERM")
    assert run_folder(tmp_path, "trial0").state == "unfinished"
    assert not processes_of("trial0")


def processes_of(run_id):
    """Environments of Python processes that an agent started for a run."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("WANDB_RUN_ID") == run_id and "python" in process.name():
                found.append(process.environ())
        except (psutil.Error, OSError):
            continue
    return found


def test_a_run_whose_settings_are_not_those_of_its_sweep_stops_before_it_trains(tiny_file, environment, tmp_path):
    parameters = tmp_path / "parameters.yaml"
    parameters.write_text(json.dumps({"wandb_version": 1, "optimizer.lr": {"value": 1.0}}))
    with StandIn() as server:
        env = environment(server) | {"WANDB_SWEEP_ID": "sweep1", "WANDB_SWEEP_PARAM_PATH": str(parameters)}
        command = [sys.executable, "-m", "distill3d", "fit", str(tiny_file), "optimizer.lr=0.01"]
        done = subprocess.run(command, capture_output=True, text=True, env=env, check=False, timeout=240)
    assert done.returncode == 2
    assert done.stderr.strip() == "distill3d: W&B sweep: optimizer.lr=1.0 was asked for, the settings have 0.01"
    assert not server.runs
