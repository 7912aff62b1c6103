"""The cases of a run's end, dealt out to two processes: each one once, and the same result as one process has."""

import json
import shutil
from itertools import pairwise

import forked
import numpy as np
import pytest

from distill3d.storage.run_folder import RunFolder
from distill3d.training import fit
from distill3d.training.shares import deal
from distill3d.volumes.prob import read_prob

# Two processes that write down which of them predicted, scored and drew a case; RANK fails at its first prediction.
WATCHED = """
from pathlib import Path
from lightning.fabric.utilities.rank_zero import rank_zero_only
import distill3d.__main__ as program
from distill3d.errors import TrainingError
from distill3d.evaluation import run_scores
from distill3d.training import figures, finish

predict = finish.write_prob

def write_prob(path, *rest, **settings):
    if rank_zero_only.rank == RANK:
        raise TrainingError("of its own")
    predict(path, *rest, **settings)
    note("predict", path.name.split(".")[0])

def note(what, case):
    with Path("notes").open("a") as file:
        file.write(f"{what} {case} {rank_zero_only.rank}\\n")

finish.write_prob = write_prob
run_scores._draw = lambda folder, experiment, case, *_: note("draw", case.name)
figures._teaching_figures = figures._input_figures = lambda *_: {}
program.main()
"""
TWO = ("trainer.devices=2", "patches.batch_size=1", "data.test=3")


@pytest.mark.parametrize(
    ("sizes", "world"), [([], 2), ([5], 3), ([1, 1, 1], 2), ([7, 1, 1, 1, 1, 1, 1, 1], 2), ([3, 9, 2, 4, 8], 3)]
)
def test_every_case_is_in_one_share_and_no_share_is_longer_than_another_by_more_than_a_case(sizes, world):
    shares = deal(sizes, world)
    totals = sorted(sum(sizes[i] for i in share) for share in shares)
    assert len(shares) == world
    assert sorted(i for share in shares for i in share) == list(range(len(sizes)))
    assert all(share == sorted(share) for share in shares)
    assert all(larger - smaller <= max(sizes, default=0) for smaller, larger in pairwise(totals))


def test_two_processes_share_predictions_and_scores_and_the_result_is_that_of_one(
    tiny, tiny_file, tmp_path, undrawn, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    done = forked.run("fit", tiny_file, *TWO, code=WATCHED.replace("RANK", "None"))
    assert done.returncode == 0, done.stderr
    notes = sorted(tuple(line.split()) for line in (tmp_path / "notes").read_text().splitlines())
    tests = ["sim_003", "sim_004", "sim_005"]
    assert [note[:2] for note in notes] == [("draw", case) for case in tests] + [
        ("predict", case) for case in ["sim_002", *tests]
    ]
    ranks = {(what, case): rank for what, case, rank in notes}
    assert [ranks["draw", case] for case in tests] == [ranks["predict", case] for case in tests] == ["0", "1", "0"]
    two = RunFolder(tmp_path / "runs" / "tiny" / "seed0")
    one = RunFolder(shutil.copytree(two.path, tmp_path / "alone" / "tiny" / "seed0"))
    for path in (one.done, one.metrics):
        path.unlink()
    for folder in {one.prob("a").parent, one.swc("a").parent, one.projections("a").parent}:
        shutil.rmtree(folder)
    fit.fit(tiny(*TWO, f"runs={tmp_path / 'alone'}"), resume=True)
    assert result(one) == result(two)
    assert list(result(one)["cases"]) == tests
    for case in ["sim_002", *tests]:
        assert np.array_equal(read_prob(one.prob(case)), read_prob(two.prob(case)))
    trees = [{path.name: path.read_text() for path in run.swc("a").parent.iterdir()} for run in (one, two)]
    assert trees[0] == trees[1]


def result(run):
    metrics = json.loads(run.metrics.read_text())
    del metrics["cost"]["predict_seconds"]
    return metrics


def test_a_process_that_fails_at_its_share_ends_the_run_with_its_error_once(tiny_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = forked.run("fit", tiny_file, *TWO, "trainer.steps=2", code=WATCHED.replace("RANK", "1"), seconds=60)
    lines = done.stderr.splitlines()
    assert done.returncode == 1
    assert len(lines) == 2, done.stderr
    assert "of its own" in lines[0]
    assert "process 2 of 2 ended with exit code 1; its own error is above" in lines[1]
    run = RunFolder(tmp_path / "runs" / "tiny" / "seed0")
    assert (run.state, run.metrics.exists()) == ("unfinished", False)
