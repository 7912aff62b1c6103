"""Settings of a trace chosen on validation cases only, and used from then on."""

import contextlib
import errno
import io
import json
import os
import shutil

import numpy as np
import pytest
import yaml
from rich.console import Console
from undrawn import no_figures

from distill3d.data.datamodule import DistillDataModule
from distill3d.data.prepared import PreparedCase
from distill3d.errors import InputError, SomeFailedError
from distill3d.evaluation import run_scores
from distill3d.evaluation.figures.places import case_pictures
from distill3d.evaluation.places import evaluate_all
from distill3d.evaluation.run_scores import evaluate, trace_settings
from distill3d.evaluation.tables import score_table
from distill3d.experiment import experiment_from_plain, load_experiment
from distill3d.storage.lock import FolderLock
from distill3d.storage.run_folder import RunFolder
from distill3d.training import fit
from distill3d.training.trace_tuning import tune_trace
from distill3d.volumes import inputs
from distill3d.volumes.origin import origin_of, stated_notes
from distill3d.volumes.prob import write_prob
from distill3d.volumes.swc import read_swc


@pytest.fixture(scope="module")
def perfect_once(tmp_path_factory, tiny_file_in):
    """A run whose predictions are its gold: of validation dimmed, so that the threshold of 0.5 finds nothing."""
    experiment = load_experiment(tiny_file_in(tmp_path_factory.mktemp("perfect")), ["data.shape_zyx=[24,64,64]"])
    with no_figures():
        folder = RunFolder(fit.fit(experiment))
    data = DistillDataModule(experiment)
    for split, brightness in (("val", 0.4), ("test", 1.0)):
        for case in data.cases(split):
            write_prob(folder.prob(case.name), brightness * case.mask, case.spacing_um)
    return folder


@pytest.fixture
def perfect(perfect_once, tmp_path):
    """A copy of it, to be tuned and scored."""
    return RunFolder(shutil.copytree(perfect_once.path, tmp_path / "perfect"))


def test_a_perfect_probability_becomes_a_perfect_tree(perfect, monkeypatch):
    built = []
    monkeypatch.setattr(
        run_scores,
        "experiment_from_plain",
        lambda plain, **how: built.append(plain) or experiment_from_plain(plain, **how),
    )
    results = evaluate(perfect.path, tolerances_um={"mask_um": 1.5, "tree_um": 5.0})
    assert results["tolerances"] == {"mask_vox": 2, "tree_vox": 4, "surface_um": 2, "mask_um": 1.5, "tree_um": 5}
    assert results["mean"]["nsd"] == results["mean"]["dice_tol_um"] == results["mean"]["dice_tol_um_clean"] == 1
    said = str(score_table(results).caption)
    for words in ("NSD (2 um): tiny 1.000, otsu ", "Dice within um (1.5 um)", "length F1 within um (5 um)"):
        assert words in said
    assert len(built) == 1  # not once per case
    assert results["mean"]["dice"] == 1
    assert results["mean"]["tree_f1"] > 0.95  # side branches within a spur's length are cut
    case = next(iter(results["cases"]))
    assert read_swc(perfect.swc(case)).n_nodes > 5
    drawn = case_pictures(perfect, results)
    assert list(drawn) == [f"{kind}/{name}" for kind in ("mip", "tree", "tree_3d") for name in results["cases"]]
    assert drawn[f"tree/{case}"].stat().st_size > 10_000
    assert 20_000 < drawn[f"tree_3d/{case}"].stat().st_size < 200_000
    assert f"Length F1 {results['cases'][case]['tree_f1']:.3f}, precision " in drawn[f"tree_3d/{case}"].read_text()


@pytest.mark.usefixtures("undrawn")
def test_tuning_looks_at_validation_cases_only_and_is_used_from_then_on(perfect, monkeypatch):
    looked_at = []
    cases = DistillDataModule.cases
    monkeypatch.setattr(DistillDataModule, "cases", lambda self, split: looked_at.append(split) or cases(self, split))
    result = tune_trace(perfect.path, trials=12)
    assert set(looked_at) == {"val"}
    assert result["f1_before"] == 0
    assert result["f1"] > 0.9
    assert result["best"]["threshold"] < 0.4
    assert json.loads(perfect.tuned.read_text()) == result
    experiment = experiment_from_plain(perfect.read_config(), source=perfect.config)
    assert trace_settings(perfect, experiment).threshold == result["best"]["threshold"]
    assert evaluate(perfect.path)["trace"]["threshold"] == result["best"]["threshold"]


def crumbs_in(data, folder, split, size):
    """Write gold as the prediction, with false pieces of so many voxels: above the threshold."""
    for case in data.cases(split):
        prob = case.mask.astype(np.float32)
        corner = prob[:4, :4, :12]
        corner[:] = 0
        corner.flat[:size] = 1
        write_prob(folder.prob(case.name), prob, case.spacing_um)


@pytest.mark.usefixtures("undrawn")
def test_clean_scores_leave_out_the_pieces_that_validation_cases_are_better_without(perfect):
    data = DistillDataModule(experiment_from_plain(perfect.read_config(), source=perfect.config))
    crumbs_in(data, perfect, "val", 90)
    crumbs_in(data, perfect, "test", 70)  # the default of 50 would keep them
    results = evaluate(perfect.path)
    assert results["clean"] == {"min_voxels": 100, "chosen_on": list(data.case_names("val"))}
    assert results["mean"]["hd95_um_clean"] <= results["mean"]["hd95_um"]
    assert results["mean"]["precision"] < results["mean"]["precision_clean"] == 1
    for name in data.case_names("val"):
        perfect.prob(name).unlink()
    assert evaluate(perfect.path)["clean"] == {"min_voxels": 50, "chosen_on": []}


def test_tuning_finds_the_length_below_which_trees_are_false(perfect):
    data = DistillDataModule(experiment_from_plain(perfect.read_config(), source=perfect.config))
    for case in data.cases("val"):
        prob = case.mask.astype(np.float32)
        for corner in (prob[:3, :3], prob[:3, -3:], prob[-3:, :3], prob[-3:, -3:]):
            corner[..., :20] = corner[..., -20:] = 1  # as sure as the neuron, longer than the default
        write_prob(perfect.prob(case.name), prob, case.spacing_um)
    result = tune_trace(perfect.path, trials=12)
    assert result["f1_before"] < 0.9
    assert result["f1"] > 0.95
    assert result["best"]["min_tree_um"] > 15


def test_what_the_run_uses_now_is_tried_first_however_far_out(perfect):
    now = {"threshold": 0.02, "gap_um": 40.0, "spur_um": 31.0, "min_tree_um": 150.0}
    perfect.tuned.write_text(json.dumps({"best": now}))
    assert tune_trace(perfect.path, trials=1)["best"] == now


def test_the_same_seed_tries_the_same_settings(perfect):
    first = tune_trace(perfect.path, trials=6, seed=3)
    perfect.tuned.unlink()
    assert tune_trace(perfect.path, trials=6, seed=3) == first


def test_a_run_without_predictions_of_validation_cases_makes_them(tiny, finished):
    tune_trace(finished.path, trials=1)
    assert all(finished.prob(name).is_file() for name in DistillDataModule(tiny()).case_names("val"))


def test_a_run_that_is_none_is_refused(tmp_path):
    with pytest.raises(InputError, match="not a run folder"):
        tune_trace(tmp_path, trials=1)


def test_a_run_that_still_trains_is_not_tuned(perfect):
    """Its final scores would be of settings that suited a half-trained network."""
    with FolderLock(perfect.path) as lock:
        lock.acquire()
        with pytest.raises(InputError, match=rf"process {os.getpid()} works in it; accepted: wait"):
            tune_trace(perfect.path, trials=1)
    perfect.done.unlink()
    with pytest.raises(InputError, match="is not finished; accepted: a finished run"):
        tune_trace(perfect.path, trials=1)
    assert not perfect.tuned.exists()


@pytest.mark.parametrize(("method", "least"), [("hysteresis", 0.25), ("otsu", None)])
def test_only_settings_that_the_method_accepts_and_uses_are_tried(perfect, method, least):
    config = yaml.safe_load(perfect.config.read_text())
    config["trace"]["method"] = method
    perfect.config.write_text(yaml.safe_dump(config))
    tried = [trial.get("threshold") for trial in tune_trace(perfect.path, trials=12)["trials"]]
    assert tried == [None] * 12 if least is None else least <= min(tried) < 0.5


@pytest.mark.usefixtures("undrawn")
def test_a_run_that_cannot_be_written_is_named_before_the_work_and_stops_no_other(perfect, tmp_path, monkeypatch):
    def refuse(**how):
        if how["dir"] == tmp_path / "locked":
            raise PermissionError(errno.EACCES, "Permission denied")
        return contextlib.nullcontext()

    shutil.copytree(perfect.path, tmp_path / "locked")
    monkeypatch.setattr(inputs.tempfile, "TemporaryFile", refuse)
    results = evaluate_all([str(tmp_path / "locked"), str(perfect.path)], {})
    assert next(results)["experiment"] == "tiny"
    with pytest.raises(
        SomeFailedError, match=r"1 of 2 failed: \S+locked: cannot be written \(Permission denied\); accep"
    ):
        next(results)


@pytest.mark.usefixtures("undrawn")
def test_a_case_that_is_missed_lowers_the_mean_of_trees_too(tiny, finished):
    case = DistillDataModule(tiny()).cases("test")[0]
    write_prob(finished.prob(case.name), 0.0 * case.mask, case.spacing_um)
    results = evaluate(finished.path)
    assert results["n_missed"] == 1
    assert results["cases"][case.name]["tree_f1"] == 0
    assert results["cases"][case.name]["tree_esa"] > 10


def test_a_mask_denser_than_a_neuron_has_a_reason_and_no_tree_and_counts_as_missed(perfect, monkeypatch):
    before = evaluate(perfect.path)
    (name,) = before["cases"]
    assert stated_notes(perfect.swc(name)) == {"made_from": origin_of(perfect.prob(name))}  # so it is nobody's gold
    assert (perfect.swc(name).is_file(), before["untraced"], before["baselines"]["otsu"]["untraced"]) == (True, {}, {})
    case = DistillDataModule(experiment_from_plain(perfect.read_config(), source=perfect.config)).cases("test")[0]
    prob = np.zeros(case.shape, np.float32)
    prob[:, : case.shape[1] // 4] = 1
    write_prob(perfect.prob(name), prob, case.spacing_um)
    noise = np.random.default_rng(0).random(case.shape, np.float32)
    monkeypatch.setattr(PreparedCase, "raw", property(lambda case: noise))
    shutil.rmtree(case.folder.parent.parent / "baselines")  # what is kept of it knows no such change
    results = evaluate(perfect.path)
    reason = "{} % of the volume is foreground; accepted: at most 10 %"
    assert results["untraced"] == {name: reason.format(25)}
    assert results["baselines"]["otsu"]["untraced"] == {name: reason.format(50.1)}
    for scored in (results, results["baselines"]["otsu"]):
        assert 0 < scored["cases"][name]["dice"] < 0.1
        assert scored["cases"][name]["tree_f1"] == scored["mean"]["tree_f1"] == 0
        assert scored["mean"]["tree_esa"] == pytest.approx(np.linalg.norm(case.shape), rel=0.01)
    assert not perfect.swc(name).exists()
    assert not (perfect.figures / f"{name}_tree.png").exists()
    page = (perfect.figures / f"{name}_3d.html").read_text()
    assert "gold (nothing was traced)" in page
    assert "Length F1 0.000" in page
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(score_table(results))
    assert f"otsu: {name} ({reason.format(50.1)})" in " ".join(console.export_text().split())


def test_settings_that_make_a_mask_denser_than_a_neuron_are_never_the_best(perfect):
    case = DistillDataModule(experiment_from_plain(perfect.read_config(), source=perfect.config)).cases("val")[0]
    write_prob(perfect.prob(case.name), 0.6 + 0.4 * case.mask, case.spacing_um)  # all is foreground at the default 0.5
    result = tune_trace(perfect.path, trials=12)
    assert result["f1_before"] == 0
    assert {trial["f1"] for trial in result["trials"] if trial["threshold"] < 0.59} == {0}
    assert result["f1"] > 0.9
    assert result["best"]["threshold"] > 0.6
