"""Pairs of arms that a question names: judged like arms of a report, and told wherever it is read."""

import dataclasses
import io

import pytest
from comparisons import read_runs
from rich.console import Console

from distill3d.errors import InputError
from distill3d.report.comparison.compare import as_json, compare
from distill3d.report.numerals import MINUS
from distill3d.report.page.html import render
from distill3d.report.text.markdown import as_markdown
from distill3d.report.text.summary import summary
from distill3d.report.text.terminal import renderables

PAIRS = ("inflate:kd", "scratch:inflate")


@pytest.fixture
def comparison(three_arms):
    return compare(read_runs(three_arms), contrasts=PAIRS)


def test_a_contrast_is_what_a_report_with_that_baseline_says(comparison, three_arms):
    runs = [run for run in read_runs(three_arms) if run.settings["name"] in {"kd", "inflate"}]
    alone = {row.score: row for row in compare(runs, baseline="kd").differences}
    contrast = comparison.contrasts[0]
    assert (contrast.arm, contrast.baseline) == ("inflate", "kd")
    for row, score in zip(contrast.differences, comparison.scores, strict=True):
        same = alone[score.key]
        assert row.score == score.key
        assert (row.mean, row.low, row.high, row.p) == (same.mean, same.low, same.high, same.p)
        assert row.detectable > same.detectable  # since two are asked


def test_the_other_way_round_changes_the_sign_and_the_verdict(comparison):
    gain = next(row for row in comparison.differences if (row.arm, row.score) == ("inflate", "dice"))
    loss = comparison.contrasts[1].differences[0]
    assert (loss.mean, loss.low, loss.high) == pytest.approx((-gain.mean, -gain.high, -gain.low), rel=0.02)
    assert (gain.verdict, loss.verdict) == ("BETTER", "WORSE")
    assert "(Holm over 2 contrasts)" in loss.why


def test_the_rest_of_the_report_stays_as_it_is(comparison, three_arms):
    plain, ours = as_json(compare(read_runs(three_arms))), as_json(comparison)
    assert (plain.pop("contrasts"), len(ours.pop("contrasts"))) == ((), 2)
    assert {**plain, "created": ""} == {**ours, "created": ""}


def test_an_unequal_budget_of_a_pair_is_told(write_run):
    runs = [write_run(name, seed) for name in ("scratch", "long", "longer") for seed in range(3)]
    runs += [write_run("more", seed, settings={"trainer.steps": 999}) for seed in range(3)]
    found = compare(read_runs(runs), baseline="scratch", contrasts=["long:longer", "more:long"])
    assert [each.budget.equal for each in found.contrasts] == [True, False]
    rows = [line.split("|")[1:3] for line in summary(as_json(found)).splitlines() if line.startswith("| `")][-2:]
    assert rows == [[" `long` ", " `longer` "], [" `more` (unequal budget) ", " `long` "]]
    assert "### more: **NOT EQUAL**, against long" in as_markdown(found)
    page = render(found)
    assert page.count("unequal budget</span></th>") == len(found.scores)


def test_every_reader_finds_them(comparison):
    dice = comparison.contrasts[1].differences[0]
    size = f"{dice.mean:+.3f}".replace("-", MINUS)
    row = next(line for line in summary(as_json(comparison)).splitlines() if line.startswith("| `scratch` | `inflate`"))
    assert size in row
    assert "**WORSE**" in row
    section = as_markdown(comparison).partition("## Contrasts")[2].partition("\n## ")[0]
    assert section.count("| scratch | inflate | ") == len(comparison.scores)
    assert size in section
    out = io.StringIO()
    for part in renderables(comparison):
        Console(file=out, width=100).print(part)
    table = out.getvalue().partition("Contrasts, Dice")[2].partition("Equal budget?")[0]
    assert size in table
    assert "WORSE" in table
    page = render(comparison)
    table = page.partition('id="t-contrasts"')[2].partition("</table>")[0]
    assert table.count("<tr>") == 1 + 2 * len(comparison.scores)
    assert size in table
    assert 'id="t-contrasts"' not in render(dataclasses.replace(comparison, contrasts=()))


@pytest.mark.parametrize(
    ("pair", "told"),
    [
        ("inflate", "is no pair of arms"),
        ("inflate:", "is no pair of arms"),
        ("a:b:c", "is no pair of arms"),
        ("inflate:nope", "'nope' fits 0 arms; accepted: one of "),
        ("inflate:inflate", "is one arm"),
        ("inflate:kd", "is there twice"),
    ],
)
def test_what_is_no_pair_is_refused(three_arms, pair, told):
    with pytest.raises(InputError, match=told) as caught:
        compare(read_runs(three_arms), contrasts=["inflate:kd", pair])
    assert caught.value.exit_code == 2
    assert str(caught.value).startswith(f"--contrast {pair!r}")
