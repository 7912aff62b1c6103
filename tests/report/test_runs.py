"""Which runs are found, what is read of them, and what is said of those that cannot be used."""

import json
import shutil
from pathlib import Path

import pytest
from comparisons import read_runs
from typer.testing import CliRunner

from distill3d.errors import InputError
from distill3d.report.build import compare_places
from distill3d.report.comparison.compare import as_json
from distill3d.report.comparison.grouping import choose_baseline, group_runs
from distill3d.report.comparison.runs import read_run
from distill3d.report.keep import keep_runs
from distill3d.report.verbs import report_app
from distill3d.storage.find import find_runs
from distill3d.storage.run_folder import RunFolder


def names(paths, root):
    return [path.relative_to(root).as_posix() for path in paths]


def groups_of(paths):
    return group_runs(read_runs(paths))[0]


def test_a_run_an_experiment_a_folder_of_experiments_a_name_and_a_pattern_find_the_same(
    three_arms, tmp_path, monkeypatch
):
    runs = tmp_path / "runs"
    one, _ = find_runs([runs / "kd" / "seed1"])
    assert names(one, runs) == ["kd/seed1"]
    seeds = [f"kd/seed{k}" for k in range(3)]
    assert names(find_runs([runs / "kd"])[0], runs) == seeds
    assert names(find_runs(["kd"], runs=runs)[0], runs) == seeds
    assert names(find_runs([], patterns=[f"{runs}/k*"])[0], runs) == seeds
    assert len(find_runs([runs, runs / "kd"])[0]) == 9


def test_the_trials_of_a_sweep_are_found_by_its_name(write_run, tmp_path):
    for trial in ("0000", "0001"):
        write_run(root=tmp_path / "runs" / "sweeps" / "lr" / "trials" / trial)
    assert len(find_runs([], sweeps=["lr"], runs=tmp_path / "runs")[0]) == 2
    with pytest.raises(InputError, match="no such sweep"):
        find_runs([], sweeps=["lrr"], runs=tmp_path / "runs")


def test_what_is_kept_of_a_sweep_makes_the_same_report(write_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for trial, (arm, seed) in enumerate((arm, seed) for arm in ("scratch", "kd") for seed in range(3)):
        settings = {"strategy": {"name": "features"}} if arm == "kd" else {}
        folder = write_run(arm, seed, settings=settings, root=Path("runs/sweeps/lr/trials") / f"{trial:04}")
        (folder / "prob").mkdir()
        (folder / "prob" / "case_0.tif").write_bytes(b"data")
    said = as_json(compare_places([], sweeps=["lr"]))
    kept = Path("experiments/results/lr")
    assert CliRunner().invoke(report_app, ["report", "--sweep", "lr", "--keep", str(kept)]).exit_code == 0
    assert not list(kept.rglob("*.tif"))
    assert json.loads((kept / "report.json").read_text())["arms"] == json.loads(json.dumps(said["arms"]))
    shutil.rmtree("runs")
    again = as_json(compare_places([], sweeps=["lr"]))
    assert json.dumps(again["arms"]) == json.dumps(said["arms"]).replace("runs/sweeps/lr/trials", str(kept))
    keep_runs(find_runs([kept])[0], kept)  # of what is kept already
    assert as_json(compare_places([], sweeps=["lr"]))["arms"] == again["arms"]


def test_curves_of_a_former_run_are_not_kept_beside_those_of_the_present_one(write_run, tmp_path):
    run, kept = RunFolder(write_run(root=tmp_path / "runs")), tmp_path / "kept"
    further = run.path / "curves" / "from_step9" / "metrics.csv"
    further.parent.mkdir(parents=True)
    further.write_text("step,val/dice\n19,0.1\n")
    keep_runs([run.path], kept)
    (copy,) = kept.rglob("from_step9/metrics.csv")
    further.unlink()
    keep_runs([run.path], kept)
    assert not copy.exists()


def test_unfinished_runs_are_left_out_and_named(write_run, tmp_path):
    write_run(seed=0)
    write_run(seed=1, done=False)
    folders, left_out = find_runs([tmp_path / "runs"])
    assert len(folders) == 1
    assert left_out == [f"{(tmp_path / 'runs/scratch/seed1').as_posix()}: unfinished, left out"]


def test_runs_without_a_test_case_are_left_out_and_named(write_run, tmp_path):
    write_run(seed=0)
    unscored = tmp_path / "runs/scratch/seed1"
    write_run(seed=1)
    (unscored / "metrics.json").unlink()
    (unscored / "done.json").write_text('{"cases": 0}')
    folders, left_out = find_runs([tmp_path / "runs"])
    assert len(folders) == 1
    assert left_out == [f"{unscored.as_posix()}: no test case, left out"]
    (unscored / "done.json").write_text('{"cases": []}')  # damaged, which whoever reads it says
    assert find_runs([tmp_path / "runs"]) == ([tmp_path / "runs/scratch/seed0", unscored], [])


def test_smoke_runs_are_not_results(write_run, tmp_path):
    write_run()
    write_run(root=tmp_path / "runs" / "smoke")
    assert len(find_runs([tmp_path / "runs"])[0]) == 1


@pytest.mark.parametrize("place", ["nowhere", "runs/none*"])
def test_a_place_that_holds_nothing_is_an_error_in_one_line(place, tmp_path):
    with pytest.raises(InputError, match="no such folder") as err:
        find_runs([str(tmp_path / place)])
    assert len(err.value.lines) == 1


def test_only_unfinished_runs_is_an_error(write_run):
    with pytest.raises(InputError, match="no finished run"):
        find_runs([write_run(done=False)])


@pytest.mark.parametrize("file", ["metrics.json", "config.yaml", "fit.json"])
@pytest.mark.parametrize("text", ["{not", "[1]", '"x"', ""])
def test_a_malformed_file_is_an_error_that_names_it_in_one_line(write_run, file, text):
    path = write_run()
    (path / file).write_text(text)
    with pytest.raises(InputError, match=file) as err:
        read_run(path)
    assert "\n" not in str(err.value)


def test_a_missing_file_of_scores_is_an_error(write_run):
    path = write_run()
    (path / "metrics.json").unlink()
    with pytest.raises(InputError, match=r"metrics\.json: missing"):
        read_run(path)


def test_scores_that_are_null_are_missing_and_those_that_are_no_numbers_refused(write_run):
    path = write_run(dice={"a": 0.5})
    metrics = json.loads((path / "metrics.json").read_text())
    metrics["cases"]["a"] |= {"cldice": None}
    (path / "metrics.json").write_text(json.dumps(metrics))
    row = read_run(path).cases["a"]
    assert (row["cldice"], row["dice"]) == (None, 0.5)
    for wrong in (float("nan"), "high"):
        metrics["cases"]["a"]["recall"] = wrong
        (path / "metrics.json").write_text(json.dumps(metrics))
        with pytest.raises(InputError, match=r"cases\.a\.recall is "):
            read_run(path)


def test_the_tolerances_of_a_later_evaluation_are_settings_of_the_run(write_run):
    path = write_run()
    metrics = json.loads((path / "metrics.json").read_text())
    metrics["tolerances"] = {"mask_vox": 2.0, "surface_um": 3.0, "mask_um": None}
    (path / "metrics.json").write_text(json.dumps(metrics))
    settings = read_run(path).settings
    taken = {key: value for key, value in settings.items() if key.startswith("evaluation.")}
    assert taken == {"evaluation.surface_um": 3.0, "evaluation.mask_um": None, "evaluation.tree_um": None}


def test_what_an_older_run_lacks_is_said(write_run):
    path = write_run()
    metrics = json.loads((path / "metrics.json").read_text())
    for key in ("cost", "teacher", "provenance", "baselines"):
        del metrics[key]
    (path / "metrics.json").write_text(json.dumps(metrics))
    (path / "fit.json").unlink()
    assert read_run(path).lacks == ("cost", "teacher", "provenance")


def test_seeds_folders_logging_and_machines_make_no_new_arm(write_run, tmp_path):
    changed = {"runs": "elsewhere", "cache": "/c", "logging.wandb": "offline", "trainer.accelerator": "cpu"}
    changed["patches.workers"] = 4
    arms = groups_of([write_run(seed=0), write_run(seed=1, settings=changed, root=tmp_path / "b")])
    assert [(arm.name, len(arm.runs)) for arm in arms] == [("scratch", 2)]


def test_arms_of_one_experiment_are_named_by_what_differs(write_run, tmp_path):
    arms = groups_of([write_run(root=tmp_path / str(lr), settings={"optimizer.lr": lr}) for lr in (0.1, 0.01)])
    assert [arm.name for arm in arms] == ["scratch [optimizer.lr=0.1]", "scratch [optimizer.lr=0.01]"]


def test_names_stay_unique_where_very_much_differs(write_run, tmp_path):
    many = [{f"strategy.k{k}": 0 for k in range(9)} | {"strategy.k8": last} for last in (1, 2)]
    many.append({f"strategy.k{k}": 5 for k in range(9)})
    arms = groups_of([write_run(root=tmp_path / str(k), settings=each) for k, each in enumerate(many)])
    assert len({arm.name for arm in arms}) == 3
    assert all(len(arm.name) < 100 for arm in arms)


NEURONS = {
    "[neurons=linear]": {"name": "linear"},
    "[neurons=quadratic, neurons.match=width]": {"name": "quadratic", "match": "width", "ratio": 0.5},
    "[neurons=quadratic, neurons.match=parameters]": {"name": "quadratic", "match": "parameters", "ratio": 0.5},
    "[neurons=spiking]": {"name": "spiking", "steps": 4, "match": "width", "ratio": 60.0},
    "[neurons=[quadratic, spiking]]": [{"name": "quadratic", "ratio": 0.5}, {"name": "spiking"}],
}


def test_arms_of_different_components_are_named_by_these_and_by_what_alike_ones_differ_in(write_run, tmp_path):
    arms = groups_of(
        [write_run(root=tmp_path / str(n), settings={"neurons": each}) for n, each in enumerate(NEURONS.values())]
    )
    assert [arm.name for arm in arms] == [f"scratch {name}" for name in NEURONS]
    assert choose_baseline(arms, None) is arms[0]  # of those without a strategy the one of linear neurons


def test_the_same_seed_twice_counts_once_and_is_said(write_run, tmp_path):
    groups, remarks = group_runs(read_runs([write_run(), write_run(root=tmp_path / "again")]))
    assert len(groups[0].runs) == 1
    assert "again" in remarks[0]


def test_the_baseline_is_the_one_without_strategy_or_the_one_named(three_arms):
    arms = groups_of(three_arms)
    assert choose_baseline(arms, None).name == "scratch"
    assert choose_baseline(arms, "kd").name == "kd"
    with pytest.raises(InputError, match="accepted: one of scratch, inflate, kd"):
        choose_baseline(arms, "kdd")


def test_two_arms_without_strategy_need_a_name(write_run, tmp_path):
    arms = groups_of([write_run(), write_run("other")])
    with pytest.raises(InputError, match="--baseline with one of scratch, other"):
        choose_baseline(arms, None)
    many = groups_of([write_run(f"arm{k}") for k in range(12)])
    with pytest.raises(InputError, match=r"one of arm0, .*arm7 and 4 more$"):
        choose_baseline(many, None)
