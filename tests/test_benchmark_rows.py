"""Rows of benchmarks: which ratio is asked, what the table and the file hold."""

import json

import pytest
from benchmarks.rows import Bench, table, write_rows
from rich.console import Console


def rows_of(**settings):
    rows = {}
    Bench(["a-row"], rows, 9).row("a-row", "what", **settings)
    return rows["a-row"]


@pytest.mark.parametrize(
    ("settings", "ratio", "verdict"),
    [
        ({"ours": 2.0, "other": 1.0, "at_most": 1.05}, 2.0, "short"),
        ({"ours": 1.0, "other": 1.0, "at_most": 1.05}, 1.0, "pass"),
        ({"ours": 2.0, "other": 8.0, "at_least": 4}, 4.0, "pass"),
        ({"ours": 2.0, "other": 7.0, "at_least": 4}, 3.5, "short"),
        ({"ours": 2.0, "at_most": 1}, None, "short"),
        ({"ours": 2.0, "other": 4.0}, 0.5, None),
        (
            {"ours": [1.0, 2.0, 30.0], "other": [1.0, 4.0, 10.0], "at_most": 1},
            1.0,
            "pass",
        ),  # of a round, then the median
        ({"ours": [1.0, 2.0, 30.0], "other": [4.0], "at_most": 1}, 0.5, "pass"),
    ],
)
def test_a_target_is_of_ours_over_other_or_where_it_is_a_least_value_of_other_over_ours(settings, ratio, verdict):
    row = rows_of(**settings)
    assert (row["ratio"], row["verdict"]) == (ratio, verdict)


def test_calls_take_turns_and_the_first_round_is_left_out():
    made = []
    calls = {name: lambda name=name: made.append(name) or len(made) for name in ("a", "b")}
    assert Bench([], {}, 9).turns(calls, rounds=3, fewer={"b": 1}) == {"a": [3, 5, 6], "b": [4]}
    assert made == ["a", "b", "a", "b", "a", "a"]
    assert Bench([], {}, 1).turns(calls, rounds=3, warm_up=False) == {"a": [7], "b": [8]}


def test_a_row_that_the_marker_does_not_name_is_refused():
    with pytest.raises(AssertionError, match="'b' is not among"):
        Bench(["a-row"], {}, 9).row("b", "what", ours=1.0)


def test_the_table_has_100_columns_and_all_numbers_whole(capsys):
    row = rows_of(ours=12345.0, other=0.0012345, at_most=1.05, note=40 * "long ")
    Console(width=100).print(table([row | {"name": "neuron-p-compact-quadratic"}]))
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) == 100
    for number in ("neuron-p-compact-quadratic", "12345 s", "1.23 ms", "10000000", "≤ 1.05", "short"):
        assert number in printed


def test_a_run_of_some_rows_leaves_the_others_in_the_file(tmp_path):
    path = tmp_path / "bench.json"
    row = rows_of(ours=2.0, at_most=1)
    write_rows(path, [row | {"name": "b"}, row], missing=[], some=False)
    write_rows(path, [row | {"ours": 0.5, "verdict": "pass"}], missing=["c"], some=True)
    content = json.loads(path.read_text())
    assert [(row["name"], row["ours"]) for row in content["rows"]] == [("b", 2.0), ("a-row", 0.5)]
    assert (content["short"], content["missing"]) == (["b"], ["c"])
    write_rows(path, [row], missing=[], some=False)
    assert [row["name"] for row in json.loads(path.read_text())["rows"]] == ["a-row"]
