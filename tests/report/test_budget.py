"""What makes two arms unequal, and what does not."""

import json

import pytest
from comparisons import read_runs

from distill3d.report.comparison.budget import check_budget
from distill3d.report.comparison.compare import compare
from distill3d.report.comparison.grouping import group_runs
from distill3d.report.page.rows import head_table
from distill3d.report.text.markdown import as_markdown
from distill3d.report.text.wording import answer
from distill3d.storage.run_folder import RunFolder, write_json


@pytest.fixture
def check(write_run, tmp_path):
    """Check a run with some settings against one with the usual ones."""

    def run(settings=None, *, base=None, **kwargs):
        arm = write_run("arm", settings=settings, root=tmp_path / "arm", **kwargs)
        scratch = write_run(settings=base, root=tmp_path / "scratch")
        (one,), _ = group_runs(read_runs([arm]))
        (other,), _ = group_runs(read_runs([scratch]))
        return check_budget(one, other)

    return run


def test_arms_that_differ_in_strategy_teacher_student_and_neurons_are_equal(check):
    several = [{"name": "quadratic", "channels": 0.5}, {"name": "spiking", "channels": 0.5}]
    assert check({"neurons": several}).equal
    diff = check({"strategy.name": "inflate", "teacher.name": "timm2d", "student.stages": 3, "neurons.name": "spiking"})
    assert diff.equal
    assert {setting.key: setting.fair for setting in diff.settings} == {
        "strategy.name": True,
        "teacher.name": True,
        "student.stages": True,
        "neurons.name": True,
    }


def test_a_trace_that_was_tuned_for_one_arm_alone_is_unequal_and_its_seeds_stay_one_arm(write_run):
    def tuned(name, seed, threshold):
        run = RunFolder(write_run(name, seed))
        metrics = json.loads(run.metrics.read_text())
        write_json(run.metrics, metrics | {"trace": {**run.read_config()["trace"], "threshold": threshold}})
        return run.path

    (kd,), _ = group_runs(read_runs([tuned("kd", 0, 0.2), tuned("kd", 1, 0.3)]))
    (scratch,), _ = group_runs(read_runs([write_run(seed=0), write_run(seed=1)]))
    (other,), _ = group_runs(read_runs([tuned("other", 0, 0.4), tuned("other", 1, 0.2)]))

    found = check_budget(kd, scratch)
    assert [(one.key, one.arm, one.fair) for one in found.settings] == [("trace.chosen_by", "tune-trace", False)]
    assert not found.equal
    assert check_budget(kd, other).equal


def test_the_remark_names_what_is_unequal_for_where_the_check_is_not_at_hand(write_run):
    runs = [write_run(), write_run("arm", settings={"patches.size_zyx": [32, 64, 64], "strategy.name": "inflate"})]
    assert compare(read_runs(runs)).remarks[-1] == "unequal budget, see the check: arm (patches.size_zyx)"


def test_how_transferred_weights_learn_belongs_to_the_transfer_and_may_differ(check):
    learning = {
        "optimizer.transferred_lr_ratio": 0.02,
        "optimizer.layer_decay": 0.7,
        "optimizer.freeze_transferred_steps": 50,
    }
    diff = check(learning)
    assert diff.equal
    assert {setting.key: (setting.arm, setting.fair) for setting in diff.settings} == {
        key: (str(value), True) for key, value in learning.items()
    }


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("trainer.steps", 600),
        ("patches.batch_size", 4),
        ("patches.augment.flip", 0.0),
        ("data.train", ["a"]),  # one case fewer
        ("losses.overlap.dice", 2.0),
        ("balance.mode", "gradient"),
        ("optimizer.lr", 0.1),
        ("optimizer.weight_decay", 0.1),
        ("optimizer.warmup_steps", 3),
        ("trainer.strategy", "ddp"),
    ],
)
def test_data_steps_batch_augmentation_and_losses_may_not_differ(check, key, value):
    diff = check({key: value, "strategy.name": "inflate"})
    assert not diff.equal
    assert [(s.key, s.arm, s.fair) for s in diff.settings if not s.fair] == [
        (key, "1 case" if key == "data.train" else str(value), False)
    ]
    assert diff.settings[0].key == key  # what is unfair comes first


TUNED = {"tuned.sweep": "tune", "tuned.metric": "val/dice", "tuned.file": "w.yaml", "tuned.keys": ["optimizer.lr"]}


def test_what_tunings_of_as_many_trials_chose_may_differ_and_what_they_did_not_may_not(check):
    tuned = {**TUNED, "tuned.trials": 5}
    diff = check({**tuned, "optimizer.lr": 0.1, "optimizer.weight_decay": 0.1}, base=tuned)
    assert [(setting.key, setting.fair) for setting in diff.settings] == [
        ("optimizer.weight_decay", False),
        ("optimizer.lr", True),
    ]
    assert check({**tuned, "optimizer.lr": 0.1}, base={**tuned, "tuned.file": "elsewhere.yaml"}).equal


@pytest.mark.parametrize(
    ("key", "last"),
    [
        ("optimizer.lr", ", how transferred weights learn or what equal tunings chose"),
        ("optimizer.transferred_lr_ratio", " or how transferred weights learn"),
    ],
)
def test_the_answer_says_what_may_differ_between_arms_of_one_budget(write_run, key, last):
    tuned = {**TUNED, "tuned.trials": 5}
    runs = [write_run("scratch", seed, settings=tuned) for seed in range(3)]
    runs += [write_run("same", seed, settings={**tuned, "strategy.name": "inflate", key: 0.5}) for seed in range(3)]
    trust = answer(compare(read_runs(runs))).trust
    assert f"All arms had the same budget: they differ only in strategy, teacher, student, neurons{last}." in trust


def test_other_numbers_of_tuning_trials_are_unequal_and_make_no_setting_fair(check):
    diff = check({**TUNED, "tuned.trials": 6, "optimizer.lr": 0.1}, base={**TUNED, "tuned.trials": 5})
    assert diff.remarks == ("tuning: the arm had 6 trials, the baseline 5",)
    assert [(setting.key, setting.fair) for setting in diff.settings] == [("optimizer.lr", False)]
    assert not diff.equal
    assert not check(base={**TUNED, "tuned.trials": 5}).equal


def test_a_report_states_the_tuning_of_every_arm_and_marks_another_one(write_run):
    runs = [write_run("scratch", settings={**TUNED, "tuned.trials": 5})]
    runs += [write_run("same", settings={**TUNED, "tuned.trials": 5, "strategy.name": "inflate"})]
    runs += [write_run("none", settings={"strategy.name": "inflate"})]
    comparison = compare(read_runs(runs), scores=["dice"])
    by_name = {arm.name: arm for arm in comparison.arms}
    assert by_name["same"].tuned == "5 trials of optimizer.lr by val/dice (sweep tune, w.yaml)"
    assert (by_name["none"].tuned_trials, by_name["none"].tuned) == (0, "")
    assert "none: its settings were chosen in 0 trials, the baseline's in 5" in comparison.remarks
    table = head_table(comparison)
    column = [title for title, _ in table.costs].index("Tuning")
    cells = {row.name: row.costs[column] for row in table.rows if not row.reference}
    assert {name: (cell.text, cell.note) for name, cell in cells.items()} == {
        "scratch": ("5", ""),
        "same": ("5", ""),
        "none": ("0", "baseline 5"),
    }
    assert "- same: tuned in 5 trials of optimizer" in as_markdown(comparison)
    assert "Settings were chosen for the arms on validation cases, in 0 to 5 trials." in map(
        str, answer(comparison).trust
    )


def test_where_a_run_is_kept_does_not_count(check):
    diff = check({"runs": "x", "cache": "y", "logging.project": "z"})
    assert (diff.equal, diff.settings) == (True, ())


def test_unequal_seeds_and_cases_are_said(check):
    diff = check(seed=3, dice={"case_0": 0.5, "other": 0.5})
    assert not diff.equal
    assert any("seeds that the arm alone has: 3" in line for line in diff.remarks)
    assert any("cases that the baseline alone has: case_1, case_2, case_3 and 2 more" in line for line in diff.remarks)


def test_other_commits_and_packages_are_a_remark_only(check):
    diff = check(provenance={"commit": "f" * 40, "packages": {"torch": "2.0", "numpy": "2.4.6"}})
    assert diff.equal
    assert any(line.startswith("commit: ffffffff; baseline: 5a6342ce") for line in diff.remarks)
    assert any("torch 2.0, baseline 2.14.1" in line for line in diff.remarks)


def test_a_key_that_an_older_run_lacks_counts_unless_the_other_has_its_default(check):
    diff = check(base={"trainer.audit_every": None, "optimizer.freeze_transferred_steps": None})
    assert diff.equal
    assert any("trainer.audit_every: the baseline was run by a version without it" in line for line in diff.remarks)
    diff = check({"trainer.audit_every": 7, "strategy.made_up": 1}, base={"trainer.audit_every": None})
    assert [s.key for s in diff.settings] == ["trainer.audit_every", "strategy.made_up"]
    assert not diff.equal


def test_the_default_of_a_component_is_known_too(check):
    diff = check({"student.depth_padding": "zeros", "student.norm": "batch"})
    assert any(line.startswith("student.depth_padding: the baseline was run") for line in diff.remarks)
    assert "student.norm" in [setting.key for setting in diff.settings]
