"""A whole comparison from run folders: its numbers, its words, its JSON."""

import json

import numpy as np
import pytest
from comparisons import read_runs

from distill3d.errors import InputError
from distill3d.report.build import compare_places, compare_two, write_numbers
from distill3d.report.comparison.columns import DEFAULT, pick
from distill3d.report.comparison.compare import as_json, compare, run_folders
from distill3d.report.comparison.grouping import group_runs
from distill3d.report.comparison.runs import read_run
from distill3d.report.costs import Tubes
from distill3d.storage.run_folder import RunFolder, write_json


@pytest.fixture
def comparison(three_arms):
    return compare(read_runs(three_arms))


def test_a_clear_gain_is_better_and_an_equal_arm_inconclusive(comparison):
    verdicts = {(result.arm, result.score): result.verdict for result in comparison.differences}
    assert verdicts["inflate", "dice"] == "BETTER"
    assert verdicts["inflate", "hd95_um"] == "BETTER"
    assert verdicts["kd", "dice"] == "INCONCLUSIVE"
    assert len(verdicts) == 2 * len(comparison.scores)


def test_means_are_those_of_the_files(comparison, three_arms):
    def mean(name):
        rows = [row["dice"] for path in three_arms if name in str(path) for row in read_run(path).cases.values()]
        return np.mean(rows)

    arms = {arm.name: arm for arm in comparison.arms}
    assert arms["inflate"].scores["dice"].mean == pytest.approx(mean("inflate"))
    (gain,) = [d for d in comparison.differences if (d.arm, d.score) == ("inflate", "dice")]
    assert gain.mean == pytest.approx(mean("inflate") - mean("scratch"))
    assert gain.low < gain.mean < gain.high
    assert (gain.n_cases, gain.n_seeds) == (6, 3)


def test_the_baseline_comes_first_then_the_best(comparison):
    assert [arm.name for arm in comparison.arms] == ["scratch", "inflate", "kd"]
    assert comparison.baseline == "scratch"


def test_random_teachers_and_references_are_shown(comparison):
    arms = {arm.name: arm for arm in comparison.arms}
    assert arms["kd"].random_teacher
    assert not arms["inflate"].random_teacher
    assert "tf_efficientnet_lite0" in arms["inflate"].teacher
    assert arms["scratch"].teacher == ""
    assert any("RANDOM" in line and line.startswith("kd") for line in comparison.remarks)
    assert comparison.references["otsu"]["case_0"]["dice"] == 0.3


def test_cost_and_provenance_are_there(comparison):
    arm = comparison.arms[0]
    assert arm.cost.parameters == 1007665
    assert arm.runs[1].command == "distill3d fit scratch seed=1"
    assert arm.runs[0].machine == "Linux-6.1-x86_64, 2 cores, no GPU"
    assert arm.labelled == 2
    assert all(path.is_dir() for paths in run_folders(comparison).values() for path in paths)


@pytest.mark.parametrize(("train", "labelled"), [(["OP_1", "OP_3"], 2), (["OP_1", "fly_*"], None), ([], None), (4, 4)])
def test_labelled_volumes_are_counted_where_names_or_a_number_tell_them(write_run, train, labelled):
    (arm,) = compare(read_runs([write_run(settings={"data.train": train})])).arms
    assert arm.labelled == labelled


def test_what_an_arm_keeps_of_its_teacher_is_the_mean_over_its_runs_and_little_is_remarked_on(write_run):
    runs = [write_run("scratch", seed) for seed in range(3)]
    runs += [write_run("wiped", seed, kept=value) for seed, value in enumerate((0.2, 0.4, None))]
    runs += [write_run("frozen", 0, kept=1.0)]
    comparison = compare(read_runs(runs), baseline="scratch")
    assert {arm.name: arm.kept for arm in comparison.arms} == {
        "scratch": None,
        "wiped": pytest.approx(0.3),
        "frozen": 1.0,
    }
    (remark,) = [line for line in comparison.remarks if " kept " in line]
    assert remark.startswith("wiped: kept 0.30 of its likeness to the teacher")


def test_how_nonlinear_an_arms_neurons_are_is_the_mean_over_its_runs_and_nearly_linear_is_remarked_on(write_run):
    runs = [write_run("scratch", seed) for seed in range(2)]
    runs += [write_run("dead", seed, nonlinear_share=value) for seed, value in enumerate((0.004, 0.006))]
    runs += [write_run("alive", seed, nonlinear_share=0.2) for seed in range(2)]
    comparison = compare(read_runs(runs), baseline="scratch")
    assert {arm.name: arm.nonlinear_share for arm in comparison.arms} == {
        "scratch": None,
        "dead": pytest.approx(0.005),
        "alive": pytest.approx(0.2),
    }
    (remark,) = [line for line in comparison.remarks if "nonlinear" in line]
    assert remark.startswith("dead: the nonlinear part of its neurons is 0.005 of the linear one")


BENT = {"on_neurite": 0.08, "on_neurite_straight": 0.02, "saturated": 0.01, "bend_vox": 2.0}


def test_how_closely_tubes_follow_is_the_mean_over_runs_and_bending_in_vain_is_remarked_on(write_run):
    vain = BENT | {"on_neurite": 0.02}
    runs = [write_run("scratch"), write_run("follows", 0, tubes=BENT), write_run("vain", tubes=vain)]
    runs += [write_run("follows", 1, tubes=BENT | {"on_neurite": 0.04, "saturated": None})]
    runs += [write_run("static", tubes=vain | {"saturated": None, "bend_vox": 0.0})]
    comparison = compare(read_runs(runs), baseline="scratch")
    arms = {arm.name: arm.tubes for arm in comparison.arms}
    assert arms["scratch"] == Tubes()
    assert arms["follows"] == Tubes(
        on_neurite=pytest.approx(0.06), on_neurite_straight=pytest.approx(0.02), saturated=0.01, bend_vox=2.0
    )
    assert [line for line in comparison.remarks if "bent tubes" in line] == [
        "vain: its bent tubes lie on neurites no more often than straight ones would"
    ]
    assert as_json(comparison)["arms"][0]["tubes"]["on_neurite"] is None


def test_the_json_has_no_nan_and_is_the_comparison(comparison, tmp_path):
    write_numbers(comparison, tmp_path / "out")
    read = json.loads((tmp_path / "out" / "report.json").read_text())
    assert read == json.loads(json.dumps(as_json(comparison), allow_nan=False))
    assert read["arms"][0]["runs"][0]["cases"]["case_0"]["dice"] == comparison.arms[0].runs[0].cases["case_0"]["dice"]


def test_cases_without_a_score_are_missing_pairs(write_run):
    runs = []
    for seed in range(3):
        rows = {f"c{k}": {"dice": 0.5 + 0.01 * k, "hd95_um": float(k)} for k in range(6)}
        del rows["c2"]["hd95_um"]
        runs.append(write_run(seed=seed, dice=rows))
    result = compare(read_runs(runs)).arms[0].scores["hd95_um"]
    assert (result.n_cases, result.n_missing, result.mean) == (5, 3, pytest.approx((0 + 1 + 3 + 4 + 5) / 5))


def test_cases_that_were_too_dense_to_trace_are_told_once_for_a_baseline_and_once_per_run(write_run):
    runs = [write_run("a", seed=seed) for seed in range(2)] + [write_run("b", settings={"strategy.name": "inflate"})]
    for run in runs:
        metrics = json.loads((run / "metrics.json").read_text())
        share = "40" if run is runs[0] else "40.2"  # as another version words it
        metrics["baselines"]["otsu"]["untraced"] = {"case_0": f"{share} % of the volume"}
        metrics["untraced"] = {"case_1": "12 % of the volume"} if run.parent.name == "b" else {}
        (run / "metrics.json").write_text(json.dumps(metrics))
    lines = [line for line in compare(read_runs(runs)).remarks if "not traced" in line]
    assert lines == [
        "otsu: case_0 was not traced and has no tree: 40 % of the volume",
        "b, seed 0: case_1 was not traced and has no tree: 12 % of the volume",
    ]


def test_many_cases_that_were_too_dense_to_trace_share_a_line(write_run):
    run = write_run("a")
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["baselines"]["otsu"]["untraced"] = {f"case_{k}": f"4{k} % of the volume" for k in range(6)}
    (run / "metrics.json").write_text(json.dumps(metrics))
    (line,) = [line for line in compare(read_runs([run])).remarks if "traced" in line]
    assert line == "otsu: 6 cases were not traced and have no tree, such as case_0: 40 % of the volume"


def test_only_shared_seeds_and_cases_are_paired(write_run):
    runs = [write_run(seed=k, dice={"a": 0.5, "b": 0.6}) for k in (0, 1)]
    runs += [write_run("arm", k, dice={"b": 0.7, "c": 0.1}, settings={"strategy.name": "x"}) for k in (1, 2)]
    (result,) = compare(read_runs(runs), scores=["dice"]).differences
    assert (result.n_cases, result.n_seeds, result.mean) == (1, 1, pytest.approx(0.1))
    assert result.low is None
    assert "1 seed and 1 case" in result.why


@pytest.mark.parametrize("recorded", [True, False])
def test_runs_of_an_arm_on_machines_with_other_folders_and_batches_are_one_arm(write_run, monkeypatch, recorded):
    monkeypatch.setenv("DISTILL3D_DATA", "/work/data/")
    runs = []
    for seed, root in enumerate(("/work/data", "/scratch/me" if recorded else "/work/data")):
        places = {"data.folder": f"{root}/pairs", "patches.hard_backgrounds": [f"{root}/unlabelled"]}
        run = RunFolder(write_run(seed=seed, settings=places | {"inference.batch_size": 2 + seed}))
        fitted = json.loads(run.fit.read_text())
        write_json(run.fit, fitted | ({"data_root": root} if recorded else {}))
        runs.append(run.path)
    others = {"data.folder": "/work/data/others", "patches.hard_backgrounds": ["/work/data/unlabelled"]}
    groups, _ = group_runs(read_runs([*runs, write_run(seed=2, settings=others)]))
    assert [[run.seed for run in group.runs] for group in groups] == [[0, 1], [2]]


def test_arms_that_share_nothing_are_compared_in_nothing(write_run):
    runs = [write_run(dice={"a": 0.5}), write_run("arm", 1, dice={"b": 0.5}, settings={"strategy.name": "x"})]
    (result,) = compare(read_runs(runs), scores=["dice"]).differences
    assert (result.mean, result.verdict) == (None, "INCONCLUSIVE")


def test_scores_can_be_chosen_and_a_wrong_one_lists_the_known(three_arms):
    result = compare(read_runs(three_arms), scores=["tree_f1", "dice"])
    assert [(score.key, score.higher_is_better) for score in result.scores] == [("tree_f1", True), ("dice", True)]
    with pytest.raises(InputError, match="did you mean 'cldice'"):
        compare(read_runs(three_arms), scores=["clDise"])


def test_the_usual_scores_are_those_that_are_there():
    assert [score.key for score in pick((), ["dice", "hd95_um", "n_pred"])] == ["dice", "hd95_um"]
    assert len(pick((), DEFAULT)) == len(DEFAULT)
    with pytest.raises(InputError, match="no run has any"):
        pick((), ["n_pred"])


def test_nothing_given_and_nothing_there_are_errors():
    with pytest.raises(InputError, match="nothing to report on"):
        compare_places([])
    with pytest.raises(InputError, match="no finished run"):
        compare([])


def test_compare_two_takes_the_first_as_baseline(three_arms, tmp_path):
    result = compare_two("inflate", "scratch", runs=tmp_path / "runs")
    assert result.baseline == "inflate"
    assert next(d for d in result.differences if d.score == "dice").verdict == "WORSE"


def test_compare_two_refuses_one_arm_and_many(three_arms, tmp_path):
    with pytest.raises(InputError, match="runs of one arm"):
        compare_two("kd/seed0", "kd/seed1", runs=tmp_path / "runs")
    with pytest.raises(InputError, match="holds 3 arms"):
        compare_two(str(tmp_path / "runs"), "kd", runs=tmp_path / "runs")


def test_one_case_names_no_winner(write_run, tmp_path):
    """Differences of 0.2 from one neuron are what gets published elsewhere."""
    runs = [write_run("a", k, dice={"OP_5": 0.4}, root=tmp_path / "one") for k in range(3)]
    runs += [
        write_run("b", k, dice={"OP_5": 0.6}, root=tmp_path / "one", settings={"strategy.name": "x"}) for k in range(3)
    ]
    result = compare(read_runs(runs), baseline="a")
    assert {d.verdict for d in result.differences} == {"INCONCLUSIVE"}
    assert "all 2 arms: 3 seeds and 1 case; no verdict below 3 seeds and 4 cases" in result.remarks
