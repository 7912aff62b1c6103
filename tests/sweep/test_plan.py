"""Which trials a sweep has, and that each is called with what was asked."""

import itertools
import json
import shlex
from math import prod
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.main import get_command

from distill3d.config.plain import as_plain, flatten
from distill3d.errors import ConfigError
from distill3d.experiment import load_experiment
from distill3d.report.comparison.grouping import choose_baseline, group_runs
from distill3d.report.comparison.runs import Run
from distill3d.report.text.summary import BETWEEN
from distill3d.report.verbs import report_app
from distill3d.sweep import control
from distill3d.sweep.command import build_argv
from distill3d.sweep.files import parse_sweep, sweep_files
from distill3d.sweep.objective import metric_names
from distill3d.sweep.plan import check, grid, make_trial
from distill3d.sweep.verbs import sweep_app

GRID = "method: grid\nmetric: {name: test/dice, goal: maximize}\nparameters:\n"
RUNS = "method: random\nrun_cap: 4\nmetric: {name: test/dice, goal: maximize}\nparameters:\n"

# Key -> values the tiny experiment accepts, as a sweep file may write them
KEYS = {
    "seed": st.integers(0, 10_000),
    "optimizer.lr": st.floats(1e-6, 1.0),
    "optimizer.weight_decay": st.sampled_from([0, 0.5, 1e-5, 1e-12]),
    "optimizer.schedule": st.sampled_from(["cosine", "constant"]),
    "student.channels": st.lists(st.integers(1, 9), min_size=2, max_size=2).map(str),
    "patches.augment.flip": st.sampled_from([0.0, 0.25, 1.0]),
    "data.shape_zyx": st.sampled_from([[8, 48, 48], [16, 32, 64]]),
    "logging.project": st.sampled_from(["a b", "neurons", "x: y", "it's"]).map(lambda text: f'"{text}"'),
    "strategy": st.sampled_from(["{name: none}", "{name: tubular, axes: [z]}", "{name: inflate, mode: average}"]),
}
FORMS = ("${args}", "${args_no_hyphens}")


@st.composite
def sweeps(draw):
    """A valid grid over some of the keys, dotted or nested, with the values in the order of the file."""
    keys = draw(st.lists(st.sampled_from(sorted(KEYS)), min_size=1, max_size=3, unique=True))
    parameters, choices = {}, {}
    for key in keys:
        values = draw(st.lists(KEYS[key], min_size=1, max_size=3, unique_by=str))
        spec = {"value": values[0]} if len(values) == 1 and draw(st.booleans()) else {"values": values}
        if key.startswith("optimizer.") and draw(st.booleans()):
            inner = parameters.setdefault("optimizer", {"parameters": {}})["parameters"]
            inner[key.removeprefix("optimizer.")] = spec
        else:
            parameters[key] = spec
        choices[key] = values
    form = draw(st.sampled_from(FORMS))
    body = {"method": "grid", "metric": {"name": "test/dice", "goal": "maximize"}, "parameters": parameters}
    return body, choices, form


@given(case=sweeps())
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_grid_is_the_full_product_once_and_each_trial_resolves_to_what_was_asked(case, tiny_file, tmp_path):
    body, choices, form = case
    command = ["${env}", "${interpreter}", "-m", "${program}", "fit", str(tiny_file), form]
    sweep = parse_sweep(yaml.safe_dump({"program": "distill3d", "command": command, **body}), "s", origin="s")
    points = grid(sweep)
    wanted = [
        dict(zip(choices, map(str, combination), strict=True)) for combination in itertools.product(*choices.values())
    ]
    planned = [{key: str(value) for key, value in point.items()} for point in points]
    assert len(points) == prod(map(len, choices.values()))
    assert sorted(map(sorted_items, planned)) == sorted(map(sorted_items, wanted))
    for number, point in enumerate(points):
        trial = make_trial(sweep, number, point, tmp_path)
        # The reference says the same in a file of its own, where no command line could distort it
        file = tmp_path / "tiny.reference.yaml"
        file.write_text(yaml.safe_dump({"base": str(tiny_file), **nested(point)}))
        reference, resolved = as_plain(load_experiment(file)), as_plain(trial.experiment)
        for settings_ in (reference, resolved):
            del settings_["name"], settings_["runs"]
        assert resolved == reference


def test_arms_can_be_the_values_of_a_parameter(tmp_path):
    body = f"{GRID}  experiment: {{values: [op_hard_vit_scratch, op_hard_vit_center]}}"
    command = ["${env}", "${interpreter}", "-m", "${program}", "fit", "op_hard_vit_scratch", "${args}"]
    sweep = parse_sweep(f"program: distill3d\ncommand: {json.dumps(command)}\n{body}", "arms", origin="s")
    trials = [make_trial(sweep, number, point, tmp_path) for number, point in enumerate(grid(sweep))]
    assert [trial.experiment.name for trial in trials] == ["op_hard_vit_scratch", "op_hard_vit_center"]
    assert [trial.experiment.strategy.name for trial in trials] == ["none", "inflate"]
    assert trials[1].run.path == tmp_path / "trials" / "0001" / "op_hard_vit_center" / "seed0"
    with pytest.raises(ConfigError, match=r"unknown experiment 'op_hard_vit_centre' \(did you mean"):
        make_trial(sweep, 0, {"experiment": "op_hard_vit_centre"}, tmp_path)


def sorted_items(point):
    return sorted(point.items())


def nested(point):
    """Write a point as a file would: sections, and text as the YAML it stands for."""
    settings_ = {}
    for key, value in point.items():
        *sections, last = key.split(".")
        inner = settings_
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[last] = yaml.safe_load(value) if isinstance(value, str) else value
    return settings_


def refused(sweep, tmp_path):
    with pytest.raises(ConfigError) as caught:
        check(sweep, tmp_path)
    return caught.value.lines


@pytest.mark.parametrize(
    ("body", "stated"),
    [
        (GRID + "  optimizer.lrr: {values: [1]}\n", "unknown key 'lrr'; did you mean 'lr'?"),
        (GRID + "  optimizer.lr: {values: [0.1, 0.2, -1]}\n", "lr=-1.0 is too small"),  # the last trial alone
        (GRID + "  optimizer.lr: {values: [null]}\n", "optimizer.lr: 'None' is not accepted"),
        (GRID + "  logging.entity: {values: [null]}\n", "write 'null' in quotes"),
        (GRID + "  strategy: {values: [tubular]}\n", "strategy: must be a mapping with a name"),
        (RUNS + "  trainer.steps: {min: 4, max: 7}\n", "steps=7 must be a multiple"),  # a bound that nobody drew yet
        (RUNS + "  optimizer.lr: {distribution: normal}\n", "is too small"),
        (
            RUNS.replace("test/dice", "test/dise") + "  seed: {values: [1]}\n",
            "no run produces 'test/dise'; did you mean 'test/dice'",
        ),
        (
            RUNS.replace("test/dice", "test/dice_tol_um") + "  seed: {values: [1]}\n",
            "test/dice_tol_um is not scored; accepted: evaluation.mask_um=NUMBER",
        ),
        (
            RUNS.replace("run_cap: 4", "run_cap: 4\nearly_terminate: {type: hyperband, min_iter: 1}")
            + "  seed: {values: [1]}\n",
            "test/dice is known only at the end",
        ),
        (
            RUNS.replace("run_cap: 4", "run_cap: 4\nearly_terminate: {type: hyperband, min_iter: 9}").replace(
                "test", "val"
            )
            + "  seed: {values: [1]}\n",
            "after 9 validations, a trial has 2; nothing stops",
        ),
    ],
)
def test_a_trial_that_could_not_run_is_told_before_the_first_starts(sweep_of, tmp_path, body, stated):
    lines = refused(sweep_of(body), tmp_path)
    assert len(lines) == 1
    assert lines[0].startswith("sweep fakes: ")
    assert stated in lines[0]


def test_a_problem_that_all_trials_share_is_told_once(sweep_of, tmp_path):
    body = GRID + "  optimizer.lrr: {values: [1, 2]}\n  seed: {values: [0, 1, 2]}\n"
    assert len(refused(sweep_of(body), tmp_path)) == 1


def test_a_command_that_is_no_fit_is_refused(head, tmp_path):
    text = head.replace("fit, ", "show, ") + GRID + "  seed: {values: [1]}\n"
    assert "does not run 'distill3d fit EXPERIMENT'" in refused(parse_sweep(text, "s", origin="s"), tmp_path)[0]


def test_a_flag_in_the_command_is_refused(head, tmp_path):
    text = head.replace('"${args}"', '"--overwrite", "${args}"') + GRID + "  seed: {values: [1]}\n"
    assert (
        "'--overwrite' is neither an option nor an override" in refused(parse_sweep(text, "s", origin="s"), tmp_path)[0]
    )


def test_project_and_entity_of_the_file_reach_the_trial(sweep_of, tmp_path):
    sweep = sweep_of("project: neurons\nentity: lab\n" + GRID + "  seed: {values: [1]}\n")
    logging = make_trial(sweep, 0, {"seed": 1}, tmp_path).experiment.logging
    assert (logging.project, logging.entity) == ("neurons", "lab")


@pytest.mark.parametrize("folder", ["exp #2", "lab: x", "[a]", "010", "1e3, b", "it's", 'a "b"', "runs"])
def test_a_folder_of_any_name_is_where_each_trial_has_its_own(sweep_of, tmp_path, monkeypatch, folder):
    monkeypatch.chdir(tmp_path)
    sweep = sweep_of(GRID + '  seed: {values: [0, 1]}\nproject: "a: b #1"\n')
    for runs in (Path(folder), tmp_path / folder):
        for number, values in enumerate(grid(sweep)):
            trial = make_trial(sweep, number, values, runs)
            assert trial.run.path == runs / "trials" / f"{number:04d}" / "tiny" / f"seed{number}"
            assert trial.experiment.logging.project == "a: b #1"


def test_a_run_cap_cuts_a_grid_short(sweep_of):
    sweep = sweep_of("run_cap: 3\n" + GRID + "  seed: {values: [0, 1]}\n  optimizer.lr: {values: [1, 2]}\n")
    assert [tuple(point.values()) for point in grid(sweep)] == [(0, 1), (0, 2), (1, 1)]


def test_a_dry_run_says_what_each_trial_is_called_with(sweep_of, tmp_path):
    lines = list(control.dry_run(sweep_of(GRID + "  seed: {values: [0, 1]}\n"), tmp_path))
    assert len(lines) == 2
    assert all(f"--seed={k} runs={tmp_path}/sweeps/fakes/trials/000{k}" in lines[k] for k in range(2))


# Also compared with what the installed client makes of the same arguments
MACROS = {
    "${args}": ["--a.b=1", "--flag=True", "--off=False", "--n={'x': 0.5}"],
    "${args_no_hyphens}": ["a.b=1", "flag=True", "off=False", "n={'x': 0.5}"],
    "${args_no_boolean_flags}": ["--a.b=1", "--flag", "--n={'x': 0.5}"],
    "${args_no_equals}": ["--a.b", "1", "--flag", "True", "--off", "False", "--n", "{'x': 0.5}"],
    "${args_json}": ['{"a.b": 1, "flag": true, "off": false, "n": {"x": 0.5}}'],
    "${args_json_file}": ["/tmp/a.json"],  # noqa: S108 - only a name
    "${args_append_hydra}": ["+a.b=1", "+flag=True", "+off=False", "+n={'x': 0.5}"],
    "${args_override_hydra}": ["++a.b=1", "++flag=True", "++off=False", "++n={'x': 0.5}"],
    "${env}": ["/usr/bin/env"],
    "${interpreter}": ["python"],
    "${program}": ["train.py"],
    "${envvar:SOMEWHERE}": ["here"],
    "x${envvar:SOMEWHERE}y": ["xherey"],
    "runs=${oc.env:WANDB_RUN_ID}": ["runs=${oc.env:WANDB_RUN_ID}"],
}
ARGS = {"a.b": 1, "flag": True, "off": False, "n": {"x": 0.5}}


@pytest.mark.parametrize("macro", MACROS)
def test_a_macro_becomes_what_the_agent_makes_of_it(macro, monkeypatch):
    from wandb.sdk.launch.sweeps import utils  # seconds of import: for these tests alone

    environ = {"SOMEWHERE": "here"}
    argv = build_argv([macro], program="train.py", args=ARGS, json_file="/tmp/a.json", environ=environ)  # noqa: S108
    assert argv == MACROS[macro]
    args = utils.create_sweep_command_args({"args": {key: {"value": value} for key, value in ARGS.items()}})
    if (name := macro.removeprefix("${").removesuffix("}")) in args:
        assert argv == args[name]
    if "envvar" in macro:
        monkeypatch.setenv("SOMEWHERE", "here")
        assert argv == utils.create_sweep_command([macro])


def test_every_shipped_sweep_says_what_it_asks_and_all_its_trials_resolve(tmp_path, data_dir):
    files = sweep_files()
    assert len(files) >= 7
    for name, path in files.items():
        first, *lines = path.read_text().splitlines()[:4]
        assert first.startswith("# ")
        assert [line.split(":")[0] for line in lines] == ["# here", "# W&B", "# takes"]
        assert f"NAME={name} " in lines[0]
        sweep = control.read_sweep(path)
        check(sweep, tmp_path)
        assert sweep.metric.name in metric_names()


def test_what_a_shipped_sweep_says_to_do_next_can_be_done(tmp_path, data_dir):
    files, reports = sweep_files(), 0
    for name, path in files.items():
        line = next((line for line in path.read_text().splitlines() if line.startswith("# then:")), "")
        app, _, said = line.partition("   (")[0].partition("distill3d ")[2].partition(" ")
        if app == "sweep":
            verb, *words = shlex.split(said)
            tunings = get_command(sweep_app).commands[verb].make_context(verb, words).params["names"]
            assert name in tunings
            assert set(tunings) <= set(files)
        if app != "report":
            continue
        reports += 1
        asked = get_command(report_app).commands["report"].make_context("report", shlex.split(said)).params
        assert asked["sweep"] == [name]
        sweep = control.read_sweep(path)
        points = [values for values in grid(sweep) if not values["seed"] and not values.get("data.fold")]
        trials = [make_trial(sweep, number, values, tmp_path) for number, values in enumerate(points)]
        rest = {"seed": 0, "cases": {}, "references": {}, "cost": {}, "teacher": {}, "provenance": {}}
        settings = [flatten(as_plain(trial.experiment)) for trial in trials]
        groups, _ = group_runs([Run(folder=tmp_path, settings=each, **rest) for each in settings])
        assert choose_baseline(groups, asked["baseline"]).experiment.endswith("vit_scratch")
        if asked["markdown"]:
            assert BETWEEN.read(asked["markdown"])[1]
    assert reports >= 6
