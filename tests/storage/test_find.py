"""One walk finds runs for reports and for the dashboard."""

import os

import pytest

from distill3d.storage.find import find_runs, walk_runs


def make_run(folder):
    folder.mkdir(parents=True)
    for name in ("config.yaml", "done.json"):
        (folder / name).write_text("{}")
    return folder


def test_nothing_below_a_run_is_found(tmp_path):
    run = make_run(tmp_path / "kd" / "seed0")
    make_run(run / "copy")
    for served in (False, True):
        assert list(walk_runs(tmp_path, served=served)) == [run]


def test_smoke_runs_are_no_results_but_are_served(tmp_path):
    run, smoke = make_run(tmp_path / "kd" / "seed0"), make_run(tmp_path / "smoke" / "kd" / "seed0")
    assert list(walk_runs(tmp_path)) == [run]
    assert list(walk_runs(tmp_path / "smoke")) == [smoke]
    assert list(walk_runs(tmp_path, served=True)) == [run, smoke]


def test_runs_are_found_as_deep_as_asked(tmp_path):
    runs = [make_run(tmp_path / "/".join("abc"[:n]) / "run") for n in range(4)]
    assert set(walk_runs(tmp_path)) == set(runs)
    assert set(walk_runs(tmp_path, depth=2)) == set(runs[:2])
    assert set(walk_runs(runs[3], depth=0)) == {runs[3]}


def test_links_are_followed_for_a_report_and_not_where_runs_are_served(tmp_path):
    run = make_run(tmp_path / "elsewhere" / "seed0")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "linked").symlink_to(run.parent)
    assert find_runs([tmp_path / "runs"])[0] == [tmp_path / "runs" / "linked" / "seed0"]
    assert list(walk_runs(tmp_path / "runs", served=True)) == []


def test_a_folder_that_cannot_be_read_is_passed_over_where_runs_are_served(tmp_path, monkeypatch):
    run, closed = make_run(tmp_path / "b" / "seed0"), tmp_path / "a"
    closed.mkdir()
    scandir = os.scandir

    def refuse(folder):
        if folder == closed:
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    assert list(walk_runs(tmp_path, served=True)) == [run]
    with pytest.raises(PermissionError):
        list(walk_runs(tmp_path))


def test_a_sweep_whose_name_has_a_dot_is_not_taken_for_another(tmp_path):
    run = make_run(tmp_path / "sweeps" / "lr_1.5" / "trials" / "0000" / "kd" / "seed0")
    make_run(tmp_path / "sweeps" / "lr_1" / "trials" / "0000" / "other" / "seed0")
    for place in ("lr_1.5", "sweeps/lr_1.5.yaml"):
        assert find_runs([], sweeps=[place], runs=tmp_path)[0] == [run]
