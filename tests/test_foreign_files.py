"""Somebody else's experiments, runs, sweeps and checkpoints: nothing in them runs, and nothing leaves its folder."""

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from distill3d import __main__ as program
from distill3d.config.tuned import winner
from distill3d.data.prepared import _open
from distill3d.errors import ConfigError, InputError, UserError
from distill3d.evaluation.projections import read_projections
from distill3d.evaluation.run_scores import evaluate
from distill3d.experiment import load_experiment
from distill3d.storage.checkpoint import CHECKPOINT_KEY, read_checkpoint, step_of
from distill3d.storage.find import find_runs
from distill3d.storage.run_folder import RunFolder
from distill3d.sweep.files import read_sweep
from distill3d.training import claim
from distill3d.training.networks import run_reading
from distill3d.training.numbers import read_failed
from distill3d.training.predict import predict
from distill3d.training.trace_tuning import tune_trace
from distill3d.volumes.volume import read_volume

PLUGIN = "a_foreign_plugin"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """The working directory, with a module on its path that leaves a file when it is imported."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / f"{PLUGIN}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield folder
    sys.modules.pop(PLUGIN, None)


@pytest.fixture
def ran(project, tmp_path):
    return (tmp_path / "ran").exists


@pytest.fixture
def foreign(tmp_path, finished_once):
    """A finished run outside of the project whose settings and checkpoint name a plugin."""
    folder = RunFolder(shutil.copytree(finished_once, tmp_path / "foreign" / "seed0"))
    settings = folder.read_config() | {"plugins": [PLUGIN]}
    folder.config.write_text(yaml.safe_dump(settings))
    checkpoint = torch.load(folder.best, weights_only=True)
    checkpoint[CHECKPOINT_KEY]["experiment"]["plugins"] = [PLUGIN]
    torch.save(checkpoint, folder.best)
    return folder.path


@pytest.fixture
def foreign_file(tiny_file):
    with tiny_file.open("a") as file:
        file.write(f"plugins: [{PLUGIN}]\n")
    return tiny_file


def refused(call):
    with pytest.raises(ConfigError, match=f"outside of this project.*'{PLUGIN}'; accepted: --allow-plugins") as caught:
        call()
    return len(caught.value.lines) == 1


# ------------------------------------------------------------ plugins


def test_an_experiment_from_elsewhere_runs_its_plugins_only_if_it_may(project, ran, foreign_file):
    assert refused(lambda: load_experiment(foreign_file))
    link = project / "linked.yaml"
    link.symlink_to(foreign_file)
    assert refused(lambda: load_experiment(link))
    (project / "child.yaml").write_text(f"base: {foreign_file}\nquestion: is it inherited?\n")
    assert refused(lambda: load_experiment("child.yaml"))
    assert not ran()
    assert load_experiment(foreign_file, allow_plugins=True).plugins == (PLUGIN,)
    assert ran()
    assert load_experiment(foreign_file).plugins == (PLUGIN,)  # what has run can do no more


def test_winners_from_elsewhere_run_no_plugins(project, ran, tiny_file, tmp_path):
    shutil.copy(tiny_file, project)
    won = {"settings": {"plugins": [PLUGIN]}, "trials": 3}
    (tmp_path / "winners.yaml").write_text(yaml.safe_dump({"arms": {"tiny": won}}))
    assert winner(tmp_path / "winners.yaml", "tiny")["plugins"] == [PLUGIN]
    assert refused(lambda: load_experiment("tiny.yaml", [f"tuned.file={tmp_path / 'winners.yaml'}"]))
    assert not ran()


def test_what_the_project_or_the_command_line_names_runs_unasked(project, ran, tiny_file, foreign_file):
    shutil.copy(foreign_file, project)
    assert load_experiment("tiny.yaml").plugins == (PLUGIN,)
    assert ran()
    del sys.modules[PLUGIN]
    assert load_experiment(tiny_file, [f"plugins=[{PLUGIN}]"]).plugins == (PLUGIN,)


@pytest.mark.parametrize("use", [evaluate, tune_trace, run_reading, lambda run: predict(run, "x.tif")])
def test_a_run_from_elsewhere_runs_its_plugins_only_if_it_may(project, ran, foreign, use):
    assert refused(lambda: use(foreign))
    (project / "linked").symlink_to(foreign)
    assert refused(lambda: use(project / "linked"))
    assert not ran()


def test_a_run_from_elsewhere_that_may_is_used(project, ran, foreign):
    assert run_reading(foreign, allow_plugins=True).channel == 0
    assert ran()


@pytest.mark.parametrize(
    "verb", [("predict", "{run}", "x.tif"), ("evaluate", "{run}"), ("show", "{file}"), ("fit", "{file}")]
)
def test_the_command_line_says_so_in_one_line_and_ends_with_2(
    project, ran, foreign, foreign_file, verb, monkeypatch, capsys
):
    words = [word.format(run=foreign, file=foreign_file) for word in verb]
    monkeypatch.setattr(sys, "argv", ["distill3d", *words])
    with pytest.raises(SystemExit) as ended:
        program.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not ran()


SWEEP = """
method: grid
program: distill3d
metric: {name: test/dice, goal: maximize}
parameters: {%s: {values: [0]}}
command: [distill3d, fit, tiny.yaml, %s, '${args}']
"""


@pytest.mark.parametrize("words", [("plugins", "seed=1"), ("seed", "--plugins=x"), ("seed", "plugins=[x]")])
def test_a_sweep_from_elsewhere_names_no_plugins(project, tmp_path, words):
    path = tmp_path / "s.yaml"
    path.write_text(SWEEP % tuple(repr(word) for word in words))
    refusal = r"s\.yaml: is outside of this project and names plugins; accepted: --allow-plugins if you trust it"
    with pytest.raises(ConfigError, match=refusal):
        read_sweep(path)
    assert read_sweep(path, allow_plugins=True).allow_plugins
    assert read_sweep(Path(shutil.copy(path, project))).name == "s"


def test_a_sweep_of_an_experiment_from_elsewhere_and_its_trials_run_plugins_only_if_they_may(
    project, ran, foreign_file, monkeypatch, capsys
):
    (project / "s.yaml").write_text((SWEEP % ("seed", "data.test=1")).replace("tiny.yaml", str(foreign_file)))

    def ended(*words):
        monkeypatch.setattr(sys, "argv", ["distill3d", "sweep", *words])
        with pytest.raises(SystemExit) as end:
            program.main()
        return end.value.code, *capsys.readouterr()

    for verb in (("run", "--dry-run"), ("run",), ("export-slurm",)):
        code, _, err = ended(verb[0], "s.yaml", *verb[1:])
        assert (code, err.count("\n"), "accepted: --allow-plugins" in err, ran()) == (2, 1, True, False)
    code, out, _ = ended("run", "s.yaml", "--dry-run", "--allow-plugins")
    assert (code, out.split()[-1], ran()) == (0, "--allow-plugins", True)
    assert ended("export-slurm", "s.yaml", "--allow-plugins")[0] == 0
    assert "--allow-plugins) ;;" in (project / "runs" / "sweeps" / "s" / "array.sh").read_text()
    for verb in ("status", "report"):  # they build the trials of an exported sweep again
        del sys.modules[PLUGIN]
        assert ended(verb, "s.yaml")[0] == 2
        assert ended(verb, "s.yaml", "--allow-plugins")[0] == 0


# ------------------------------------------------------------ nothing is unpickled, YAML makes nothing


class Bomb:
    """Makes a folder where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def npz(path, bomb):
    names = ("image", "gold", "known", "pred", "errors", "depth", "spacing_um")
    np.savez(path, **dict.fromkeys(names, np.array([bomb], object)))


def npy(path, bomb):
    with path.open("wb") as file:
        np.save(file, np.array([bomb] * 64, object), allow_pickle=True)


@pytest.mark.parametrize(
    ("write", "read"),
    [
        (lambda path, bomb: torch.save({CHECKPOINT_KEY: bomb}, path), read_checkpoint),
        (lambda path, bomb: torch.save({"global_step": bomb}, path), step_of),
        (lambda path, bomb: torch.save({CHECKPOINT_KEY: {}, "step": bomb}, path), read_failed),
        (npz, read_projections),
        (npy, read_volume),
        (npy, _open),
    ],
)
def test_no_file_is_unpickled(tmp_path, write, read):
    path, made = tmp_path / ("x.npz" if write is npz else "x.npy"), tmp_path / "made"
    write(path, Bomb(made))
    with pytest.raises(Exception, match=r".+"):
        read(path)
    assert not made.exists()


YAML = "!!python/object/apply:os.mkdir [%s]"


@pytest.mark.parametrize(
    "read",
    [
        load_experiment,
        read_sweep,
        lambda path: winner(path, "x"),
        lambda path: RunFolder(path.parent).read_config(),
    ],
)
@pytest.mark.parametrize("text", [YAML, f"seed: {YAML}"])
def test_yaml_makes_nothing(tmp_path, read, text):
    path = tmp_path / "config.yaml"
    path.write_text(text % (tmp_path / "made"))
    with pytest.raises((UserError, yaml.YAMLError)):
        read(path)
    assert not (tmp_path / "made").exists()


# ------------------------------------------------------------ links and names


@pytest.fixture
def linking(finished, tmp_path):
    """A run in which a picture is a link to a file of the user's."""
    target = tmp_path / "precious.txt"
    target.write_text("precious")
    picture = finished.figures / "sim_003.png"
    picture.unlink()
    picture.symlink_to(target)
    return finished


def test_a_link_out_of_a_run_is_refused_wherever_the_run_is_used(linking, tiny, tmp_path):
    uses = [
        evaluate,
        tune_trace,
        run_reading,
        lambda run: claim.finished_or_refused(RunFolder(run), RunFolder(run).read_config(), resume=True),
    ]
    for use in uses:
        with pytest.raises(InputError, match=r"sim_003\.png: links to a place outside") as caught:
            use(linking.path)
        assert len(caught.value.lines) == 1
    assert (tmp_path / "precious.txt").read_text() == "precious"


def test_a_report_leaves_a_run_with_a_link_out_of_it_out_and_names_it(linking, finished_once):
    kept, left_out = find_runs([linking.path, finished_once])
    assert [path.resolve() for path in kept] == [finished_once.resolve()]
    assert left_out == [f"{linking.path.as_posix()}: sim_003.png links to a place outside of it, left out"]


def test_links_within_a_run_and_those_of_wandb_are_none_of_ours(finished, tmp_path):
    (finished.figures / "again.png").symlink_to(finished.figures / "sim_003.png")
    logs = finished.path / "wandb" / "run" / "logs"
    logs.mkdir(parents=True)
    (logs / "debug-core.log").symlink_to(tmp_path)  # as W&B does, to the user's cache
    assert find_runs([finished.path]) == ([finished.path.resolve()], [])


@pytest.mark.parametrize("case", ["../x", "../../../x", "/etc/x", "a/../../x", "x\0y"])
def test_a_case_whose_name_is_a_path_out_of_the_run_is_refused(tmp_path, case):
    folder = RunFolder(tmp_path)
    for path in (folder.swc, folder.prob, folder.projections):
        with pytest.raises(InputError, match="would be a file outside of"):
            path(case)
    assert folder.prob("a/b").parent == tmp_path / "prob" / "a"
