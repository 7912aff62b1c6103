"""Both readers of a run's curves go by one rule."""

import math

import pytest

from distill3d.storage.achieved import best
from distill3d.storage.curves import history, read_curves
from distill3d.storage.run_folder import RunFolder


def write(run, first_step, *rows, end="\n"):
    path = run / "curves" / f"from_step{first_step}" / "metrics.csv"
    path.parent.mkdir(parents=True)
    path.write_text("\n".join(["step,train/loss,val/dice", *rows]) + end)


def test_steps_that_were_lost_and_taken_again_come_from_the_newer_file(tmp_path):
    """By number: as text, 100 would come before 20."""
    write(tmp_path, 0, "5,1.0,", "15,2.0,", "25,3.0,", "105,4.0,")
    write(tmp_path, 20, "25,3.5,", "95,5.0,", "105,6.0,", "115,7.0,")
    write(tmp_path, 100, "105,6.5,")
    curve = [(5, 1.0), (15, 2.0), (25, 3.5), (95, 5.0), (105, 6.5)]
    assert read_curves(tmp_path) == {"train/loss": curve}
    assert history(RunFolder(tmp_path), "train/loss") == [value for _, value in curve]


def test_a_line_that_is_being_written_is_left_out(tmp_path):
    write(tmp_path, 0, "5,1.0,0.25", "15,2.0,0.1", end="")  # of 0.125, for all we know
    assert read_curves(tmp_path) == {"train/loss": [(5, 1.0)], "val/dice": [(5, 0.25)]}
    assert history(RunFolder(tmp_path), "val/dice") == [0.25]


def test_a_value_that_is_not_finite_is_an_iteration_but_neither_drawn_nor_the_best(tmp_path):
    write(tmp_path, 0, "5,nan,nan", "15,2.0,", "25,-inf,", "35,oops,")
    assert read_curves(tmp_path) == {"train/loss": [(15, 2.0)]}
    values = history(RunFolder(tmp_path), "train/loss")
    assert values == pytest.approx([math.nan, 2.0, -math.inf], nan_ok=True)
    assert best(values, highest=False) == 2.0


def test_a_run_without_the_term_has_no_history(tmp_path):
    assert history(RunFolder(tmp_path), "val/dice") == []
    write(tmp_path, 0, "5,1.0,")
    assert history(RunFolder(tmp_path), "val/dice") == []


@pytest.mark.parametrize(
    "line",
    [
        "1e999,1.0,",
        "²,1.0,",
        "-5,1.0,",
        "5.5,1.0,",
        f"{'9' * 5000},1.0,",
        "15,1e300,",
        "15,\x00,",
        "15,[1],\u2028",
        ",,,,,",
    ],
)
def test_a_line_that_no_run_writes_is_passed_over(tmp_path, line):
    write(tmp_path, 0, "5,1.0,", line, "25,2.0,")
    assert read_curves(tmp_path) == {"train/loss": [(5, 1.0), (25, 2.0)]}


def test_what_is_behind_a_field_without_end_is_not_read(tmp_path):
    write(tmp_path, 0, "5,1.0,", '15,"' + "x" * 200_000, "25,2.0,")
    assert read_curves(tmp_path) == {"train/loss": [(5, 1.0)]}


def test_a_term_is_named_in_one_line(tmp_path):
    write(tmp_path, 0)
    path = tmp_path / "curves" / "from_step0" / "metrics.csv"
    path.write_text("step,train/\x1b\u2028\n5,1.0\n")
    assert read_curves(tmp_path) == {"train/\\x1b\\u2028": [(5, 1.0)]}
