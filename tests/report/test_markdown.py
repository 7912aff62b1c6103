"""The Markdown has the numbers of the comparison, and nothing from a name becomes markup."""

import dataclasses

from comparisons import read_runs

from distill3d.report.comparison.compare import compare
from distill3d.report.numerals import NONE
from distill3d.report.text.markdown import as_markdown, escape

NASTY = "a|b<script>`x`[y](z)*_#\n## no"


def test_every_arm_score_verdict_and_folder_is_there(three_arms):
    comparison = compare(read_runs(three_arms))
    text = as_markdown(comparison)
    for arm in comparison.arms:
        assert escape(arm.name) in text
        assert all(escape(run.folder) in text for run in arm.runs)
    for score in comparison.scores:
        assert escape(score.label) in text
    gain = next(d for d in comparison.differences if (d.arm, d.score) == ("inflate", "dice"))
    assert f"{gain.mean:+.3f} \\[{gain.low:+.3f}, {gain.high:+.3f}\\]".replace("+", "\\+") in text
    assert "**BETTER**" in text
    assert "**RANDOM TEACHER**" in text


def test_all_rows_of_a_table_have_as_many_cells(three_arms):
    tables = "\n".join(
        line if line.startswith("|") else "" for line in as_markdown(compare(read_runs(three_arms))).split("\n")
    )
    for block in filter(None, tables.split("\n\n")):
        assert len({line.replace("\\|", "").count("|") for line in block.strip().split("\n")}) == 1


def test_what_is_kept_of_the_teacher_is_among_the_costs(write_run):
    text = as_markdown(compare(read_runs([write_run(), write_run("arm", kept=0.75)]), baseline="scratch"))
    head, rows = text.split("## Cost of a run")[1].split("\n\n")[1].split("\n", 1)
    assert head.split("|")[-3].strip() == "kept"
    assert [row.split("|")[-3].strip() for row in rows.split("\n")[1:]] == [NONE, "0.75"]


def test_how_nonlinear_neurons_are_is_among_the_costs(write_run):
    text = as_markdown(compare(read_runs([write_run(), write_run("arm", nonlinear_share=0.1234)]), baseline="scratch"))
    head, rows = text.split("## Cost of a run")[1].split("\n\n")[1].split("\n", 1)
    assert head.split("|")[-4].strip() == "nonlinear / linear"
    assert [row.split("|")[-4].strip() for row in rows.split("\n")[1:]] == [NONE, "0.123"]


def test_taps_on_neurites_are_among_the_costs_for_bent_tubes_and_straight_ones(write_run):
    bent = {"on_neurite": 0.081, "on_neurite_straight": 0.017, "saturated": 0.02}
    runs = [
        write_run(),
        write_run("bent", tubes=bent),
        write_run("static", tubes=bent | {"on_neurite": 0.017, "saturated": None}),
    ]
    text = as_markdown(compare(read_runs(runs), baseline="scratch"))
    head, rows = text.split("## Cost of a run")[1].split("\n\n")[1].split("\n", 1)
    assert head.endswith("| taps on neurites, bent / straight |")
    cells = {row.split("|")[1].strip(): row.split("|")[-2].strip() for row in rows.split("\n")[1:]}
    assert cells == {"scratch": NONE, "bent": "8.1 / 1.7 %", "static": "1.7 %"}


def test_names_are_escaped(three_arms):
    comparison = compare(read_runs(three_arms))
    arms = tuple(dataclasses.replace(arm, name=arm.name + NASTY) for arm in comparison.arms)
    text = as_markdown(dataclasses.replace(comparison, arms=arms, title=NASTY, remarks=(NASTY,)))
    assert "<script>" not in text
    assert "\n## no" not in text
    assert "a|b" not in text
    assert "[y](z)" not in text


def test_unequal_budgets_are_marked(write_run):
    runs = [write_run(), write_run("arm", settings={"trainer.steps": 600, "strategy.name": "x"})]
    text = as_markdown(compare(read_runs(runs)))
    assert "arm: **NOT EQUAL**" in text
    assert "| trainer.steps | 600 | 300 | **NO** |" in text
