"""Fair tuning: what every arm won with on validation cases, written to a file that experiments read."""

import dataclasses
import io

import pytest
import yaml
from rich.console import Console

from distill3d.config.files import parse_overrides
from distill3d.config.plain import as_plain
from distill3d.errors import ConfigError, InputError
from distill3d.experiment import load_experiment
from distill3d.storage.run_folder import RunFolder, write_json, write_text, write_yaml
from distill3d.sweep import control, winners
from distill3d.sweep.files import parse_sweep, read_sweep, sweep_files
from distill3d.sweep.plan import grid, make_trial, setting_of
from distill3d.sweep.search import Attempt
from distill3d.sweep.tables import report_table

COMMAND = '["${env}", "${interpreter}", -m, "${program}", fit, op_hard_vit_scratch, "data.test=[]", "${args}"]'
HEAD = f"program: distill3d\ncommand: {COMMAND}\nmethod: grid\n"
TUNE = """metric: {name: val/dice, goal: maximize}
parameters:
  experiment: {values: [op_hard_vit_scratch, op_hard_vit_center]}
  optimizer: {values: ["{lr: 0.004, layer_decay: 0.75}", "{lr: 0.001, layer_decay: 1}"]}
  data:
    values:
      - "{train: [OP_1, OP_3], val: [OP_6]}"
      - "{train: [OP_1, OP_6], val: [OP_3]}"
  seed: {values: [0]}
"""
# By arm, then rates, then fold. The best single trial of `center` is at 0.004, the best mean (0.5) at 0.001
DICE = (0.30, 0.50, 0.20, 0.40, 0.60, 0.20, 0.45, 0.55)


def tuning(body=TUNE):
    return parse_sweep(HEAD + body, "tune", origin="tune.yaml")


def rows_of(sweep, values=DICE, **more):
    return [
        Attempt(
            number=number,
            attempt=1,
            optuna_number=number,
            state="finished",
            values=point,
            value=value,
            reason="",
            before="",
            resumes=False,
            failures=0,
            seconds=1.0,
            **more,
        )
        for number, (point, value) in enumerate(zip(grid(sweep), values, strict=True))
    ]


@pytest.fixture
def written(tmp_path):
    """Return a file of winners of the tuning above."""
    sweep = tuning()
    out = tmp_path / "winners.yaml"
    winners.write_winners([(sweep, rows_of(sweep), tmp_path)], out)
    return out


def test_an_arm_wins_with_the_best_mean_over_folds_and_seeds(written):
    content = yaml.safe_load(written.read_text())
    shared = {"trials": 4, "failed": 0, "sweep": "tune", "metric": "val/dice"}
    assert content["arms"] == {
        "op_hard_vit_scratch": {"settings": {"optimizer": {"lr": 0.004, "layer_decay": 0.75}}, "value": 0.4, **shared},
        "op_hard_vit_center": {"settings": {"optimizer": {"lr": 0.001, "layer_decay": 1}}, "value": 0.5, **shared},
    }
    assert {"commit", "packages", "machine", "command", "created"} <= set(content["provenance"])


def test_a_setting_that_failed_once_cannot_win_and_its_trials_count(tmp_path):
    sweep = tuning()
    rows = rows_of(sweep)
    rows[0] = dataclasses.replace(rows[0], state="failed", value=None)
    won = winners.winners(sweep, rows, tmp_path)["op_hard_vit_scratch"]
    assert (won["settings"]["optimizer"]["lr"], won["trials"], won["failed"]) == (0.001, 4, 1)
    rows[2] = dataclasses.replace(rows[2], state="pruned")
    with pytest.raises(InputError, match="no setting of op_hard_vit_scratch finished in all of its trials"):
        winners.winners(sweep, rows, tmp_path)


@pytest.mark.parametrize(
    ("body", "more", "stated"),
    [
        (TUNE.replace("val/dice", "test/dice"), {}, "chooses by test/dice; accepted: metric.name val/dice"),
        (TUNE, {"scores": {"dice": 0.5}}, r"looked at test cases; accepted: data.test=\[\]"),
        (TUNE.replace("[OP_1, OP_6]", "[OP_6]"), {}, "varies data.train, data.val; accepted: folds of the same sizes"),
    ],
)
def test_what_is_no_fair_tuning_has_no_winners(tmp_path, body, more, stated):
    sweep = tuning(body)
    rows = rows_of(sweep, **more)
    assert not winners.is_tuning(sweep, rows)
    with pytest.raises(InputError, match=stated):
        winners.winners(sweep, rows, tmp_path)


def test_a_tuning_that_goes_on_has_no_winners_yet(tmp_path):
    sweep = tuning()
    assert winners.is_tuning(sweep, rows_of(sweep))
    rows = [*rows_of(sweep)[:-1], dataclasses.replace(rows_of(sweep)[-1], state="waiting", values={}, value=None)]
    with pytest.raises(InputError, match="1 of 8 trials have not ended"):
        winners.winners(sweep, rows, tmp_path)


def test_two_tunings_go_to_one_file_and_unequal_ones_are_told(tmp_path):
    sweep = tuning()
    body = "metric: {name: val/dice, goal: maximize}\nparameters:\n  experiment: {value: op_hard_vit_frozen}\n"
    other = parse_sweep(f"{HEAD}{body}  optimizer.lr: {{values: [0.001]}}\n", "frozen", origin="frozen.yaml")
    both = [(sweep, rows_of(sweep), tmp_path), (other, rows_of(other, [0.1]), tmp_path)]
    lines = winners.write_winners(both, tmp_path / "out.yaml")
    assert len(yaml.safe_load((tmp_path / "out.yaml").read_text())["arms"]) == 3
    assert lines[-1] == "UNEQUAL: arms had 1 to 4 trials; a report will say so"
    with pytest.raises(InputError, match="is an arm of tune and of tune"):
        winners.write_winners([both[0], both[0]], tmp_path / "out.yaml")


def test_an_experiment_takes_its_winner_over_its_files_and_under_overrides(written):
    file = f"tuned.file={written}"
    center = load_experiment("op_hard_vit_scratch", [file, "experiment=op_hard_vit_center"])
    assert (center.name, center.optimizer.lr, center.optimizer.transferred_lr_ratio) == (
        "op_hard_vit_center",
        0.001,
        0.01,
    )
    assert as_plain(center.tuned) == {
        "file": str(written),
        "sweep": "tune",
        "metric": "val/dice",
        "trials": 4,
        "keys": ["optimizer.lr", "optimizer.layer_decay"],
    }
    by_hand = load_experiment("op_hard_vit_scratch", [file, "optimizer.lr=0.5"])
    assert (by_hand.optimizer.lr, by_hand.optimizer.layer_decay) == (0.5, 0.75)
    assert by_hand.tuned.keys == ("optimizer.layer_decay",)  # nothing tuned the other
    assert load_experiment("op_hard_vit_scratch", [file, "optimizer={lr: 0.5}"]).tuned.keys == by_hand.tuned.keys


def test_the_file_may_be_named_by_a_sweep_and_each_arm_takes_its_own(written, tmp_path):
    body = "metric: {name: test/dice}\nparameters:\n  experiment: {values: [op_hard_vit_scratch, op_hard_vit_center]}\n"
    head = HEAD.replace('"data.test=[]"', f'"tuned.file={written}"')
    sweep = parse_sweep(head + body, "evidence", origin="evidence.yaml")
    trials = [make_trial(sweep, number, point, tmp_path) for number, point in enumerate(grid(sweep))]
    assert [trial.experiment.optimizer.lr for trial in trials] == [0.004, 0.001]


@pytest.mark.parametrize(
    ("text", "name", "stated"),
    [
        (None, "op_hard_vit_scratch", "tuned.file: .*: No such file or directory; accepted: a file of distill3d sweep"),
        ("arms: [", "op_hard_vit_scratch", "tuned.file: .*accepted: a file of"),
        ("{a: 1}", "op_hard_vit_scratch", "has no arms"),
        ("arms: {op_hard_vit_scratch: {trials: 1}}", "op_hard_vit_scratch", "lacks settings or trials"),
        (
            "arms: {op_hard_vit_center: {trials: 1, settings: {}}}",
            "op_vit_center",
            r"no winner for op_vit_center \(did you mean 'op_hard_vit_center'\?\); accepted: op_hard_vit_center",
        ),
        ("arms: {op_hard_vit_scratch: {trials: 1, settings: {optimizer: {lrr: 1}}}}", "op_hard_vit_scratch", "'lrr'"),
    ],
)
def test_a_file_of_winners_that_does_not_fit_is_one_line(tmp_path, text, name, stated):
    file = tmp_path / "w.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=stated) as caught:
        load_experiment(name, [f"tuned.file={file}"])
    assert len(caught.value.lines) == 1


def test_what_agents_of_wandb_ran_here_has_winners_too(tmp_path, monkeypatch):
    sweep = tuning()
    monkeypatch.chdir(tmp_path)
    write_text(tmp_path / "sweeps" / "tune.yaml", sweep.text)
    for number, (point, dice) in enumerate(zip(grid(sweep), DICE, strict=True)):
        name, *given = point["experiment"], *(f"{key}={point[key]}" for key in ("optimizer", "data", "seed"))
        folder = RunFolder(tmp_path / "runs/wandb/tune" / f"id{number}" / name / "seed0")
        write_yaml(folder.config, {"name": name, **parse_overrides(given)})
        write_text(folder.path / "curves/from_step0/metrics.csv", f"step,val/dice\n1,{dice}\n")
        write_json(folder.done, {"cases": 0})
    crashed = RunFolder(tmp_path / "runs/wandb/tune" / "a" / name / "seed0")  # it comes first, and is no answer
    write_yaml(crashed.config, {"name": name, **parse_overrides(given)})
    out = io.StringIO()
    options = {"runs": tmp_path / "runs", "storage": None, "out": None}
    control.show_winners(["tune"], **options, console=Console(file=out, width=100))
    arms = yaml.safe_load((tmp_path / "runs/sweeps/tune/winners.yaml").read_text())["arms"]
    assert [won["value"] for won in arms.values()] == [0.4, 0.5]
    assert "tuned.file=" in out.getvalue()


def test_folds_and_seeds_repeat_a_setting_in_a_sweeps_table():
    folds = {"data.folds": 4, "data.fold": 2, "seed": 1, "optimizer.lr": 0.1}
    assert setting_of(folds) == {"data.folds": 4, "optimizer.lr": 0.1}
    sizes = [setting_of({"data.train": text}) for text in ("[OP_1]", "[OP_3]", "[OP_1, OP_3]", 2)]
    assert [each["data.train"] for each in sizes] == ["1 case", "1 case", "2 cases", 2]
    sweep = tuning()
    table = report_table(sweep, rows_of(sweep))
    settings, counts, means = (list(table.columns[place].cells) for place in range(3))
    assert settings[0].plain == "experiment=op_hard_vit_center\noptimizer={lr: 0.001, layer_decay: 1}"
    assert counts == ["2"] * 4
    assert means[0] == "0.500 +- 0.071"


def test_shipped_tunings_give_every_arm_the_same_trials_on_validation_neurons_alone(tmp_path):
    sweeps = [read_sweep(path) for name, path in sweep_files().items() if name.startswith("tune")]
    assert sweeps
    trials = {}
    for sweep in sweeps:
        points = grid(sweep)
        assert winners.is_tuning(sweep, rows_of(sweep, [0.0] * len(points)))
        for point in points:
            trials.setdefault(point["experiment"], []).append(point)
        assert not make_trial(sweep, 0, points[0], tmp_path).experiment.data.config.test
    assert len(trials) >= 22
    for ground in ("op_hard_", "twin_"):
        assert len({len(points) for arm, points in trials.items() if arm.startswith(ground)}) == 1
