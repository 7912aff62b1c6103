"""What the runner does with trials, shown with fake ones."""

import io
import json
import re
import signal
import sqlite3

import optuna
import pytest
from launched import wait_for
from optuna.exceptions import StorageInternalError
from rich.console import Console
from sqlalchemy.exc import OperationalError

from distill3d.config.plain import as_plain
from distill3d.errors import ConfigError, InputError, TrainingError
from distill3d.storage.run_folder import write_yaml
from distill3d.sweep import control, search
from distill3d.sweep.machine import survivors

pytestmark = pytest.mark.timeout(900)  # many processes: minutes on a busy machine

ONE = """
method: grid
metric: {name: test/dice, goal: maximize}
parameters:
  optimizer.lr: {values: [0.1]}
"""
LRS = """
method: grid
metric: {name: test/dice, goal: maximize}
parameters:
  optimizer.lr: {values: [0.001, 0.01, 0.1]}
"""


@pytest.fixture
def sweep(sweep_file, tmp_path):
    """Begin or resume a sweep in this process; returns exit code and what was printed."""

    def run(verb="begin", body=LRS, *, workers=1, retries=1, storage=None):
        out = io.StringIO()
        options = {"runs": tmp_path / "runs", "workers": workers, "storage": storage, "retries": retries}
        path = sweep_file(body)
        code = getattr(control, verb)(
            path if verb == "begin" else "fakes", **options, console=Console(file=out, width=100)
        )
        return code, out.getvalue()

    return run


@pytest.fixture
def rows(tmp_path):
    return lambda: control.state_of("fakes", runs=tmp_path / "runs", storage=None)[1]


@pytest.fixture
def calls(tmp_path):
    """Trial number -> what it was called with, every time; a call that is not yet on record is none."""

    def read():
        call_files = sorted((tmp_path / "runs/sweeps/fakes/trials").glob("*/tiny/seed*/calls.txt"))
        return {int(path.parents[2].name): lines for path in call_files if (lines := path.read_text().splitlines())}

    return read


def test_every_trial_of_a_grid_runs_once_and_the_best_setting_comes_first(sweep, rows, calls):
    body = LRS.replace("parameters:", "parameters:\n  seed: {values: [0, 1]}")
    code, out = sweep(body=body, workers=2)
    assert code == 0
    assert [row.state for row in rows()] == ["finished"] * 6
    assert {number: len(times) for number, times in calls().items()} == dict.fromkeys(range(6), 1)
    table = out[out.index("setting") :]
    assert table.index("optimizer.lr=0.1") < table.index("optimizer.lr=0.01") < table.index("optimizer.lr=0.001")
    assert "0.600 +- 0.000" in table
    assert "3.5 +- 0.7" in table  # HD95 of seeds 0 and 1: 3 and 4 um
    assert max(map(len, table.splitlines()[:-2])) <= 100


def test_the_lowest_comes_first_where_the_goal_is_to_minimize(sweep):
    _, out = sweep(body=LRS.replace("maximize", "minimize"))
    table = out[out.index("setting") :]
    assert table.index("optimizer.lr=0.001") < table.index("optimizer.lr=0.1")


def test_a_trial_is_called_with_what_the_sweep_asks_and_a_folder_of_its_own(sweep, calls, tmp_path):
    sweep()
    assert calls()[1] == [f"--optimizer.lr=0.01 runs={tmp_path}/runs/sweeps/fakes/trials/0001"]


def test_a_sweep_that_was_begun_is_not_begun_again(sweep):
    sweep()
    with pytest.raises(InputError, match="accepted: distill3d sweep resume fakes"):
        sweep()


def test_resuming_a_finished_sweep_repeats_nothing(sweep, calls):
    sweep()
    before = calls()
    assert sweep("resume")[0] == 0
    assert calls() == before


def test_a_failed_trial_is_tried_again_up_to_the_limit_and_its_reason_is_kept(sweep, rows, calls, monkeypatch):
    monkeypatch.setenv("FAKE_FAIL", "0.01")
    code, out = sweep(retries=2)
    assert code == 1
    assert len(calls()[1]) == 3
    assert [row.state for row in rows()] == ["finished", "failed", "finished"]
    assert rows()[1].reason == "exit 1: fake: the loss is not finite"
    assert rows()[1].attempt == 3
    assert re.search(r"1 failed; distill3d sweep resume fakes --runs \S+ --retries 3 goes on", out)
    code, _ = sweep("resume", retries=2)
    assert (code, len(calls()[1])) == (1, 3)
    monkeypatch.delenv("FAKE_FAIL")
    assert sweep("resume", retries=3)[0] == 0
    assert len(calls()[1]) == 4


def test_a_trial_that_failed_by_chance_finishes_anew_at_the_second_try(sweep, rows, calls, monkeypatch):
    monkeypatch.setenv("FAKE_ONCE", "0.01")
    assert sweep()[0] == 0
    assert [call.rsplit(" ", 1)[-1] == "--overwrite" for call in calls()[1]] == [False, True]
    assert rows()[1].before == "exit 1: fake: the loss is not finite"


@pytest.mark.parametrize("retries", [1, 0])
def test_a_trial_that_was_killed_goes_on_with_what_it_saved(sweep, rows, calls, monkeypatch, retries):
    monkeypatch.setenv("FAKE_KILL", "0.01")
    assert sweep(retries=retries)[0] == 1 - retries
    if not retries:
        assert rows()[1].state == "failed"
        assert sweep("resume", retries=1)[0] == 0
    assert [call.rsplit(" ", 1)[-1] for call in calls()[1][1:]] == ["--resume"]
    assert (rows()[1].before, rows()[1].failures) == ("killed by SIGKILL", 1)


def test_a_full_disk_ends_the_sweep_instead_of_every_trial_of_it(sweep, rows, calls, monkeypatch):
    monkeypatch.setenv("FAKE_FULL", "0.01")
    code, out = sweep()
    assert code == 1
    assert [row.state for row in rows()] == ["finished", "stopped", "waiting"]
    assert rows()[1].reason == "exit 1: fake: cannot be written (No space left on device); make room"
    assert "no further trial is begun: it would end so too" in out
    assert re.search(r"distill3d sweep resume fakes --runs \S+ goes on", out)
    monkeypatch.delenv("FAKE_FULL")
    assert sweep("resume")[0] == 0
    assert calls()[1][1].endswith(" --resume")
    assert [len(times) for times in calls().values()] == [1, 2, 1]


def test_a_storage_that_cannot_be_written_any_more_ends_the_sweep_in_one_line(sweep, rows, calls, monkeypatch):
    real = optuna.storages.RDBStorage.set_trial_user_attr

    def full(self, trial_id, key, value):
        if key == "scores" and 1 in calls():
            raise StorageInternalError from OperationalError("COMMIT", (), sqlite3.OperationalError("disk is full"))
        real(self, trial_id, key, value)

    with monkeypatch.context() as patch:
        patch.setattr(optuna.storages.RDBStorage, "set_trial_user_attr", full)
        with pytest.raises(TrainingError) as caught:
            sweep()
    assert caught.value.exit_code == 1
    line = r"storage sqlite:///\S*study.db cannot be written \(disk is full\); its trials were ended; mend it, then: "
    assert re.fullmatch(rf"{line}distill3d sweep resume fakes --runs \S+/runs", str(caught.value))
    assert sweep("resume")[0] == 0
    assert [row.state for row in rows()] == ["finished"] * 3
    assert [len(times) for times in calls().values()] == [1, 1, 1]  # it had finished, which its folder says


def trials_of(folder):
    return [process for number in range(3) for process in survivors(str(folder / f"{number:04d}"))]


def test_a_trial_that_got_sigterm_is_stopped_not_finished_and_goes_on_when_resumed(
    sweep_file, call, rows, sweep, calls, tmp_path
):
    folder = tmp_path / "runs/sweeps/fakes/trials"
    with call("run", sweep_file(LRS), FAKE_HANG="0.01") as runner:
        runner.until(lambda: 1 in calls())
        (victim,) = survivors(str(folder / "0001"))
        victim.terminate()
        assert runner.wait() == 1, runner.printed
    assert [row.state for row in rows()] == ["finished", "stopped", "finished"]
    assert rows()[1].reason == "SIGTERM (exit 143)"
    assert sweep("resume")[0] == 0
    assert calls()[1][1].endswith(" --resume")
    assert [len(times) for times in calls().values()] == [1, 2, 1]


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_runner_takes_its_trials_with_it(sweep_file, call, rows, tmp_path, signum, code):
    folder = tmp_path / "runs/sweeps/fakes/trials"
    body = ONE + "  seed: {values: [0, 1, 2]}\n"
    with call("run", sweep_file(body), "--workers", "2", FAKE_HANG="0.1", FAKE_CHILD="1") as runner:
        runner.until(lambda: len(trials_of(folder)) == 4)  # two trials, a child of each
        runner.process.send_signal(signum)
        assert runner.wait() == code, runner.printed
        wait_for(lambda: not trials_of(folder))
    assert "Traceback" not in runner.printed
    assert [row.state for row in rows()] == ["stopped", "stopped", "waiting"]


def test_after_kill_9_of_the_runner_every_trial_is_done_exactly_once(sweep_file, call, sweep, rows, calls, tmp_path):
    folder = tmp_path / "runs/sweeps/fakes/trials"
    # One worker, so that the first trial is on record before the second begins
    with call("run", sweep_file(LRS), "--workers", "1", FAKE_HANG="0.01", FAKE_CHILD="1") as runner:
        runner.until(lambda: 1 in calls() and len(trials_of(folder)) == 2)  # the second trial and its child
        with pytest.raises(InputError, match="another runner has this sweep"):
            sweep("resume")
        runner.process.send_signal(signal.SIGKILL)
        runner.wait()
        assert [row.state for row in rows()] == ["finished", "running", "waiting"]
        left = trials_of(folder)
        assert len(left) == 2
        assert sweep("resume")[0] == 0
        assert not trials_of(folder)
    assert [row.state for row in rows()] == ["finished"] * 3
    assert rows()[1].before == "its runner was killed"
    assert [len(times) for times in calls().values()] == [1, 2, 1]
    study = search.load_study("fakes", search.default_storage(folder.parent))
    assert sorted(attempt.number for attempt in search.attempts(study) if attempt.state == "finished") == [0, 1, 2]


def test_a_trial_that_finished_while_no_runner_was_there_is_not_repeated(sweep, rows, calls, sweep_file, tmp_path):
    folder = tmp_path / "runs/sweeps/fakes"
    study = search.open_study(control.read_sweep(sweep_file(LRS)), search.default_storage(folder))
    study.ask()  # a runner took it, started it, and was killed
    run = folder / "trials/0000/tiny/seed0"
    run.mkdir(parents=True)
    (run / "metrics.json").write_text(json.dumps({"mean": {"dice": 0.9}}))
    (run / "done.json").write_text("{}")
    assert sweep("resume")[0] == 0
    assert rows()[0].value == 0.9
    assert sorted(calls()) == [1, 2]


@pytest.mark.parametrize(("lr", "place"), [(0.5, "unlabelled"), (None, "others")])
def test_runs_that_were_brought_here_without_their_study_are_not_repeated(
    sweep, rows, calls, sweep_file, tmp_path, monkeypatch, lr, place
):
    monkeypatch.setenv("DISTILL3D_DATA", "/here/data")
    folder = tmp_path / "runs/sweeps/fakes"
    body = LRS + "  patches.augment.hard_backgrounds: {value: [/here/data/unlabelled/dim.tif]}\n"
    for trial in control.known_trials(control.read_sweep(sweep_file(body)), folder):
        if trial.number == 1:
            continue
        trial.run.path.mkdir(parents=True)
        settings = as_plain(trial.experiment)  # of a machine whose data lay elsewhere
        settings["patches"]["augment"]["hard_backgrounds"] = ["/elsewhere/unlabelled/dim.tif"]
        if trial.number == 2:  # of other settings: it is in the way
            settings["optimizer"]["lr"] = lr or settings["optimizer"]["lr"]
            settings["patches"]["augment"]["hard_backgrounds"] = [f"/elsewhere/{place}/dim.tif"]
        write_yaml(trial.run.config, settings)
        trial.run.metrics.write_text(json.dumps({"mean": {"dice": 0.9}}))
        trial.run.done.write_text("{}")
    assert sweep(body=body)[0] == 0
    assert rows()[0].value == 0.9
    assert sorted(calls()) == [1, 2]


def test_a_runner_that_was_killed_while_it_put_trials_in_line_loses_none(
    sweep, sweep_file, rows, tmp_path, monkeypatch
):
    address = search.default_storage(tmp_path / "runs/sweeps/fakes")
    with monkeypatch.context() as patch:
        patch.setattr(search, "planned", lambda sweep: [*search.grid(sweep)[:2], 1 / 0])
        with pytest.raises(ZeroDivisionError):
            search.open_study(control.read_sweep(sweep_file(LRS)), address)
    assert sweep("resume")[0] == 0
    assert [row.number for row in rows()] == [0, 1, 2]


def test_what_two_machines_put_in_line_at_once_runs_once(sweep, sweep_file, rows, calls, tmp_path, monkeypatch):
    address, planned = search.default_storage(tmp_path / "runs/sweeps/fakes"), search.planned

    def meanwhile(asked):
        first, *others = planned(asked)
        yield first
        monkeypatch.setattr(search, "planned", planned)
        search.open_study(asked, address)
        yield from others

    monkeypatch.setattr(search, "planned", meanwhile)
    study = search.open_study(control.read_sweep(sweep_file(LRS)), address)
    assert [trial.user_attrs["number"] for trial in study.get_trials()] == [0, 1, 2, 1, 2]
    assert [(row.number, row.state) for row in rows()] == [(0, "waiting"), (1, "waiting"), (2, "waiting")]
    assert sweep("resume")[0] == 0
    assert [row.state for row in rows()] == ["finished"] * 3
    assert {number: len(times) for number, times in calls().items()} == {0: 1, 1: 1, 2: 1}


@pytest.mark.parametrize("state", ["stopped", "running", "failed"])
def test_what_two_machines_resume_at_once_goes_on_once(sweep, sweep_file, calls, tmp_path, monkeypatch, state):
    address = search.default_storage(tmp_path / "runs/sweeps/fakes")
    study = search.open_study(control.read_sweep(sweep_file(LRS)), address)
    attempt = study.ask()
    if state != "running":
        attempt.set_user_attr("stopped", state == "stopped")
        study.tell(attempt, state=optuna.trial.TrialState.FAIL)
    monkeypatch.setattr("distill3d.sweep.machine.SILENCE_SECONDS", -1)
    latest = search.latest

    def meanwhile(study):
        rows = latest(study)
        monkeypatch.setattr(search, "latest", latest)
        assert control.put_in_line_again(study, retries=1, alone=False) == 1
        return rows

    monkeypatch.setattr(search, "latest", meanwhile)
    assert control.put_in_line_again(study, retries=1, alone=False) == 1
    assert [(each.number, each.attempt) for each in search.attempts(study)] == [(0, 1), (1, 1), (2, 1), (0, 2)]
    assert sweep("resume")[0] == 0
    assert {number: len(times) for number, times in calls().items()} == {0: 1, 1: 1, 2: 1}


def test_what_failed_here_is_tried_again_once_though_another_machine_resumes(sweep, rows, calls, monkeypatch):
    monkeypatch.setenv("FAKE_FAIL", "0.01")
    tell = optuna.Study.tell

    def meanwhile(study, *args, **how):
        tell(study, *args, **how)
        control.put_in_line_again(study, retries=1, alone=False)

    monkeypatch.setattr(optuna.Study, "tell", meanwhile)
    assert sweep()[0] == 1
    assert [(row.state, row.attempt) for row in rows()] == [("finished", 1), ("failed", 2), ("finished", 1)]
    assert {number: len(times) for number, times in calls().items()} == {0: 1, 1: 2, 2: 1}


def test_who_looks_at_a_sweep_while_its_trials_are_put_in_line_adds_none(sweep_file, rows, tmp_path, monkeypatch):
    address, planned = search.default_storage(tmp_path / "runs/sweeps/fakes"), search.planned
    seen = []

    def meanwhile(asked):
        for values in planned(asked):
            seen.append(len(rows()))
            yield values

    monkeypatch.setattr(search, "planned", meanwhile)
    study = search.open_study(control.read_sweep(sweep_file(LRS)), address)
    assert seen == [0, 1, 2]
    assert len(study.get_trials()) == 3


def test_exit_0_without_done_json_is_no_success(sweep, rows, sweep_file, tmp_path):
    body = ONE + f'command: ["${{env}}", "true", fit, {tmp_path / "tiny.yaml"}, "${{args}}"]\n'
    text = sweep_file(body).read_text().splitlines()
    (tmp_path / "fakes.yaml").write_text("\n".join(line for line in text if "interpreter" not in line))
    out = io.StringIO()
    options = {"runs": tmp_path / "runs", "workers": 1, "storage": None, "retries": 0}
    assert control.begin(tmp_path / "fakes.yaml", **options, console=Console(file=out)) == 1
    assert rows()[0].reason == "exit 0, but no done.json"


def test_a_done_json_of_an_earlier_run_does_not_make_a_failure_a_success(sweep, rows, monkeypatch, tmp_path):
    monkeypatch.setenv("FAKE_FAIL", "0.1")
    run = tmp_path / "runs/sweeps/fakes/trials/0000/tiny/seed0"
    run.mkdir(parents=True)
    (run / "done.json").write_text("{}")
    assert sweep(body=ONE, retries=0)[0] == 1
    assert rows()[0].state == "failed"


def test_a_finished_run_without_the_metric_ends_the_sweep_in_one_line(sweep):
    with pytest.raises(ConfigError, match=r"metrics\.json has no test/precision") as caught:
        sweep(body=LRS.replace("test/dice", "test/precision"))
    assert len(caught.value.lines) == 1


def test_no_new_trial_starts_once_the_target_is_reached(sweep, rows, calls):
    body = LRS.replace("goal: maximize", "goal: maximize, target: 0.505")
    code, out = sweep(body=body)
    assert [row.state for row in rows()] == ["finished", "finished", "waiting"]
    assert "the target is reached" in out
    assert "goes on" not in out
    assert code == 0
    before = calls()
    assert sweep("resume", body=body)[0] == 0
    assert [row.state for row in rows()] == ["finished", "finished", "waiting"]
    assert calls() == before


def test_random_search_ends_at_its_cap_and_differs_from_trial_to_trial(sweep, rows):
    body = """
method: random
run_cap: 4
metric: {name: test/dice, goal: maximize}
parameters:
  optimizer.lr: {distribution: log_uniform_values, min: 1.0e-4, max: 0.1}
"""
    assert sweep(body=body)[0] == 0
    drawn = [row.values["optimizer.lr"] for row in rows()]
    assert len(set(drawn)) == 4
    assert all(1e-4 <= lr <= 0.1 for lr in drawn)


def test_hyperband_stops_a_laggard_and_keeps_the_best(sweep, rows, monkeypatch):
    monkeypatch.setenv("FAKE_LINGER", "0.001")  # it could only end by being stopped
    body = """
method: grid
metric: {name: val/dice, goal: maximize}
early_terminate: {type: hyperband, min_iter: 2, eta: 3}
parameters:
  optimizer.lr: {values: [0.1, 0.001]}
"""
    monkeypatch.setattr(control, "check", lambda *_: None)  # the tiny experiment validates twice, the fake nine times
    assert sweep(body=body)[0] == 0
    assert [row.state for row in rows()] == ["finished", "pruned"]
    assert rows()[1].reason.startswith("behind at iteration ")
