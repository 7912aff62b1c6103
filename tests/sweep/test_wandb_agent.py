"""W&B's own command line runs the sweep files: the real client, against a stand-in for its server."""

import json
import os
import sys
from pathlib import Path

import pytest
import yaml
from launched import Command, marked, wait_for
from wandb_server import ENTITY, PROJECT, StandIn

from distill3d.storage.run_folder import RunFolder

pytestmark = pytest.mark.timeout(1800)  # many processes: minutes on a busy machine
LONG = 900.0  # seconds for an agent on a busy machine
TRIAL = {"optimizer.lr": 0.01, "trainer.devices": 2, "trainer.steps": 2}
ENDLESS = {"optimizer.lr": 0.03, "trainer.devices": 2, "trainer.steps": 40_000}


class Wandb(Command):
    """A running ``wandb ...``, whose agent looks after its trial more often than every 5 seconds."""

    code = """
from wandb.cli.cli import cli
from wandb.wandb_agent import Agent
Agent.POLL_INTERVAL = 0.2
cli(prog_name="wandb")
"""


@pytest.fixture
def sweep_file(tiny_file, tmp_path):
    path = tmp_path / "mine.yaml"
    command = ["${env}", "${interpreter}", "-m", "${program}", "fit", str(tiny_file), "logging.wandb=online"]
    command += ["patches.batch_size=1", f"runs={tmp_path}/runs/${{oc.env:WANDB_RUN_ID}}", "${args}"]
    parameters = {key: {"values": sorted({TRIAL[key], ENDLESS[key]})} for key in TRIAL}
    content = {"program": "distill3d", "command": command, "method": "grid", "parameters": parameters}
    path.write_text(yaml.safe_dump(content | {"metric": {"name": "test/dice", "goal": "maximize"}}))
    return path


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """A user who is logged in at the stand-in, and whose `python` is this one."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)

    def of(server):
        return {
            "WANDB_BASE_URL": server.url,
            "WANDB_API_KEY": "0" * 40,
            "WANDB_ENTITY": ENTITY,
            "WANDB_PROJECT": PROJECT,
            "WANDB_DIR": str(tmp_path),
            "WANDB__SERVICE_WAIT": "300",  # seconds for its helper process to start
            "WANDB__FILE_STREAM_TRANSMIT_INTERVAL": "1",  # seconds between two pieces of history; 15 by default
            "HOME": str(tmp_path),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "OMP_NUM_THREADS": "1",
        }

    return of


@pytest.fixture
def wandb(environment, tmp_path):
    """Start ``wandb ...`` as a user of the stand-in."""

    def start(server, *arguments):
        return Wandb(*arguments, folder=tmp_path, **environment(server))

    return start


def create_sweep(wandb, server, sweep_file):
    with wandb(server, "sweep", sweep_file) as created:
        assert created.wait() == 0, created.printed
    return f"{ENTITY}/{PROJECT}/sweep1"


def run_folder(tmp_path, run_id):
    return RunFolder(tmp_path / "runs" / run_id / "tiny" / "seed0")


def test_the_real_agent_trains_on_two_processes_as_the_sweep_asks_and_a_stop_request_ends_both(
    sweep_file, wandb, tmp_path
):
    with StandIn([TRIAL, ENDLESS]) as server:
        name = create_sweep(wandb, server, sweep_file)
        assert yaml.safe_load(server.sweep)["parameters"]["optimizer.lr"] == {"values": [0.01, 0.03]}
        with wandb(server, "agent", name) as agent:
            agent.until(lambda: server.runs.get("trial1", {}).get("history"), LONG)
            ranks = [process for process in marked("WANDB_RUN_ID", "trial1") if "LOCAL_RANK" in process.environ()]
            assert len(ranks) == 1  # the second of two
            assert ranks[0].is_running()
            server.stop("trial1")
            assert agent.wait(LONG) == 0, agent.printed
            wait_for(lambda: not marked("WANDB_SWEEP_ID", "sweep1"), describe=lambda: "the agent left processes")
    assert server.agents == 1
    assert sorted(server.runs) == ["trial0", "trial1"], agent.printed  # one run per trial, not per process
    whole, stopped = (run_folder(tmp_path, f"trial{number}") for number in range(2))
    assert [folder.state for folder in (whole, stopped)] == ["done", "unfinished"]
    for run, folder, trial in zip(server.runs.values(), (whole, stopped), (TRIAL, ENDLESS), strict=True):
        assert run["sweep"] == "sweep1"
        assert folder.read_config()["optimizer"]["lr"] == trial["optimizer.lr"]
        assert run["config"]["optimizer"]["lr"] == run["config"]["optimizer.lr"] == trial["optimizer.lr"]
        assert [row["val/dice"] for row in run["history"] if "val/dice" in row]
    first, second = server.runs["trial0"], server.runs["trial1"]
    assert (first["exitcode"], second["exitcode"]) == (0, 143), agent.printed
    assert whole.read_json(whole.fit)["cost"]["devices"] == 2
    assert first["summary"]["test/dice"] == pytest.approx(whole.read_json(whole.metrics)["mean"]["dice"])
    assert second["summary"]["stopped"] == "SIGTERM, as a sweep agent or a cluster sends it"
    assert f"stopped; --resume goes on from {stopped.path}" in agent.printed


def test_a_run_whose_settings_are_not_those_of_its_sweep_stops_before_it_trains(tiny_file, environment, tmp_path):
    parameters = tmp_path / "parameters.yaml"
    parameters.write_text(json.dumps({"wandb_version": 1, "optimizer.lr": {"value": 1.0}}))
    with StandIn() as server:
        env = environment(server) | {"WANDB_SWEEP_ID": "sweep1", "WANDB_SWEEP_PARAM_PATH": str(parameters)}
        with Command("fit", tiny_file, "optimizer.lr=0.01", folder=tmp_path, **env) as process:
            assert process.wait() == 2, process.printed
    assert process.printed.strip() == "distill3d: W&B sweep: optimizer.lr=1.0 was asked for, the settings have 0.01"
    assert not server.runs
