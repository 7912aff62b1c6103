"""The page: one file with everything inside, every number as it was computed, nothing of a name taken for markup."""

import base64
import dataclasses
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest
from comparisons import HOSTILE, SCORES, compared, hostile, write_curves

from distill3d.report.costs import Tubes
from distill3d.report.numerals import NONE, breakable, number
from distill3d.report.page.html import render, write_page
from distill3d.report.page.rows import case_panels, head_table
from distill3d.report.text.wording import answer

SEED_OF_NO_DIFFERENCE = 1
VOID = {"meta", "link", "img", "br", "hr", "input", "wbr"}


class Seen(HTMLParser):
    """Tags with their attributes, text and scripts of a page; fails on a tag that is closed in the wrong order."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.tags, self.text, self.scripts, self.open = [], [], [], []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        else:
            self.text.append(data)

    @property
    def words(self):
        return re.sub(r"\s+", " ", "".join(self.text))


@pytest.fixture(scope="module")
def page(comparison):
    return render(comparison)


@pytest.fixture(scope="module")
def seen(page):
    return Seen(page)


def test_the_page_names_no_address_that_a_browser_would_load(seen):
    loaded = [
        (tag, value)
        for tag, attrs in seen.tags
        for name, value in attrs.items()
        if name in {"src", "href", "srcset", "action", "data", "poster"} and not value.startswith(("#", "data:"))
    ]
    assert loaded == []


def test_the_policy_allows_exactly_the_scripts_of_the_page(page, seen):
    policy = next(attrs["content"] for tag, attrs in seen.tags if tag == "meta" and "http-equiv" in attrs)
    # As they stand in the file: what a parser gives back could differ in ways a browser does not forgive.
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    assert len(scripts) == 2
    assert re.findall(r"'sha256-([^']+)'", policy) == hashes
    assert policy.startswith("default-src 'none'; ")
    assert "connect-src 'none'" in policy
    assert "unsafe" not in policy.split("script-src")[1].split(";")[0]


def test_the_same_comparison_gives_the_same_page(comparison, page):
    assert render(comparison) == page


def test_every_mean_interval_and_difference_is_in_the_page(comparison, seen):
    for score in SCORES:
        for arm in comparison.arms:
            known = arm.scores[score.key]
            assert number(known.mean, score.digits) in seen.words
            assert f"{number(known.low, score.digits)} to {number(known.high, score.digits)}" in seen.words
        for row in comparison.differences:
            if row.score == score.key:
                assert number(row.mean, score.digits, signed=True) in seen.words
                assert number(row.detectable, score.digits) in seen.words


def test_verdicts_are_written_out_not_only_colored(comparison, page):
    table = page[page.index('id="t-summary"') : page.index('id="differences"')]
    for verdict in {row.verdict for row in comparison.differences}:
        assert table.count(f"</span> {verdict.lower()}</span>") == sum(
            row.verdict == verdict for row in comparison.differences
        )


def test_a_case_without_a_value_is_counted_and_shown_as_a_dash(comparison, seen):
    assert "1 without a value" not in seen.words
    assert "3 without a value" in seen.words  # one case in three seeds
    panel = next(panel for panel in case_panels(comparison) if panel.score.key == "hd95_um")
    cells = [cell for row in panel.rows if row.name == "case_0" for cell in row.cells]
    assert [cell.text for cell in cells].count(NONE) == 1
    assert [cell.sort for cell in cells].count(None) == 1


def same_twice():
    """Two arms without a true difference, from scores in which none is seen either."""
    return compared({"op_scratch": 0.0, "op_same": 0.0}, random_seed=SEED_OF_NO_DIFFERENCE)


def test_costs_that_no_run_says_have_no_column(comparison):
    with_all = [title for title, _ in head_table(comparison).costs]
    arms = tuple(
        dataclasses.replace(arm, cost=dataclasses.replace(arm.cost, flops_per_patch=None)) for arm in comparison.arms
    )
    without = [title for title, _ in head_table(dataclasses.replace(comparison, arms=arms)).costs]
    assert with_all == ["Size", "Compute", "Time", "Memory", "Training", "Gain per cost"]
    assert without == ["Size", "Time", "Memory", "Training", "Gain per cost"]


def test_what_is_kept_of_the_teacher_has_a_column_where_a_run_says_it(comparison):
    baseline, *others = comparison.arms
    arms = (baseline, *(dataclasses.replace(arm, kept=0.25 + 0.5 * n) for n, arm in enumerate(others[:2])))
    table = head_table(dataclasses.replace(comparison, arms=arms))
    at = [title for title, _ in table.costs].index("Kept")
    cells = [row.costs[at] for row in table.rows]
    assert [cell.text for cell in cells[:3]] == [NONE, "0.25", "0.75"]
    assert [cell.note for cell in cells[:3]] == ["", "mostly replaced", ""]


def test_taps_on_neurites_have_a_column_where_a_run_has_tubes(comparison):
    baseline, *others = comparison.arms
    shares = Tubes(on_neurite=0.081, on_neurite_straight=0.017, saturated=0.02)
    tubes = [shares, dataclasses.replace(shares, on_neurite=0.017)]
    arms = (baseline, *(dataclasses.replace(arm, tubes=of) for arm, of in zip(others, tubes, strict=False)))
    table = head_table(dataclasses.replace(comparison, arms=arms))
    at = [title for title, _ in table.costs].index("Tubes on neurites")
    cells = [row.costs[at] for row in table.rows]
    assert [(cell.text, cell.sort) for cell in cells[:3]] == [
        (NONE, None),
        ("8.1 / 1.7 %", 0.081),
        ("1.7 / 1.7 %", 0.017),
    ]
    assert [cell.note for cell in cells[:3]] == ["", "", "bent in vain"]


def test_gain_per_cost_is_the_gain_by_the_hours_of_training(comparison):
    rows = {row.name: row.costs[-1] for row in head_table(comparison).rows}
    by_arm = {row.arm: row.mean for row in comparison.differences if row.score == "dice"}
    hours = 370 / 3600
    assert rows["op_kd_inflate"].sort == pytest.approx(by_arm["op_kd_inflate"] / hours)
    assert rows["op_shuffled"].sort == pytest.approx(by_arm["op_shuffled"] / hours)
    assert rows["op_scratch"].text == rows["otsu"].text == NONE


def test_no_gain_per_cost_is_claimed_without_a_verdict():
    open_ = same_twice()
    (row,) = [row for row in open_.differences if row.score == "dice"]
    assert row.verdict == "INCONCLUSIVE"
    assert head_table(open_).rows[1].costs[-1].note == "no gain shown"


def test_the_answer_names_who_is_better_by_how_much_and_on_what_it_stands(comparison):
    sentences = answer(comparison)
    assert sentences.verdict == "BETTER"
    assert "<b>op_kd_inflate</b>" in sentences.headline
    assert "better than <b>op_scratch</b> in Dice" in sentences.headline
    by_arm = {row.arm: row for row in comparison.differences if row.score == "dice"}
    gained = f"<b>op_kd_inflate</b> gains {by_arm['op_kd_inflate'].mean:.3f}"
    lost = f"<b>op_shuffled</b> loses {-by_arm['op_shuffled'].mean:.3f}"
    assert gained in " ".join(sentences.found)
    assert lost in " ".join(sentences.found)
    trust = " ".join(sentences.trust)
    assert "over 8 cases and 3 seeds" in trust
    assert "was not run at the budget" in trust
    assert "The teacher of <b>op_shuffled</b> has random weights." in trust


def test_reasons_for_no_verdict_are_told_by_kind_and_five_names_end_with_one_other():
    comparison = compared({"base": 0.0, **{f"arm_{k}": 0.0 for k in range(6)}})
    rows = [
        dataclasses.replace(
            row,
            verdict="INCONCLUSIVE",
            p_holm=None if row.arm == "arm_5" else 0.5,
            why="only 2 seeds" * (row.arm == "arm_5") or f"p = 0.{k}",
        )
        for k, row in enumerate(comparison.differences)
    ]
    found = " ".join(answer(dataclasses.replace(comparison, differences=tuple(rows))).found)
    order = [row.arm for row in rows if row.score == "dice"]
    kinds = ["only 2 seeds (1 arm)", "p after correction is above 0.05 (5 arms)"]
    kinds = kinds if order[0] == "arm_5" else kinds[::-1]
    assert f"Why no verdict: {'; '.join(kinds)}." in found
    won = [dataclasses.replace(row, verdict="BETTER", p_holm=0.01) if row.arm != "arm_5" else row for row in rows]
    assert "1 other are better" in answer(dataclasses.replace(comparison, differences=tuple(won))).headline


def test_two_differences_that_would_be_missed_and_round_to_one_are_said_once(comparison):
    rows = [dataclasses.replace(row, detectable=0.0049 + 1e-4 * k) for k, row in enumerate(comparison.differences[::9])]
    assert "smaller than 0.005 would" in answer(dataclasses.replace(comparison, differences=tuple(rows))).trust[0]


def test_the_answer_names_no_winner_where_nothing_is_decided():
    sentences = answer(same_twice())
    assert sentences.verdict == "INCONCLUSIVE"
    assert sentences.headline == "<b>op_same</b> is not shown to differ from <b>op_scratch</b> in Dice."
    assert "Why no verdict: the interval holds zero." in " ".join(sentences.found)
    assert not re.search(r"better|gains|wins", " ".join([sentences.headline, *sentences.found, *sentences.trust]))


def test_a_score_where_less_is_better_is_worded_by_its_verdict():
    comparison = compared({"op_scratch": 0.0, "op_good": 0.1})
    first, *rest = comparison.scores
    turned = dataclasses.replace(comparison, scores=(rest[0], first))
    sentences = answer(turned)
    (row,) = [row for row in turned.differences if row.score == "hd95_um"]
    assert row.mean < 0
    assert sentences.headline == f"<b>op_good</b> is better than <b>op_scratch</b> in HD95 by {-row.mean:.1f} µm."


def test_unfair_settings_are_marked_with_a_word_and_come_first(page):
    budget = page[page.index('id="budget"') : page.index('id="provenance"')]
    assert 0 < budget.index("<wbr>steps") < budget.index("may differ", budget.index(">unequal budget<"))
    assert budget.count('<tr class="bad-row">') == 1
    assert ">unfair<" in budget
    assert ">unequal budget<" in budget


def test_provenance_has_commit_packages_teacher_and_a_command_per_run(comparison, seen):
    for arm in comparison.arms:
        for run in arm.runs:
            assert run.command in seen.words
        assert arm.teacher in seen.words
    assert "46e36d6b0c9f" in seen.words
    assert "torch 2.14.1" in seen.words
    assert "Its weights are random" in seen.words
    buttons = [attrs for tag, attrs in seen.tags if tag == "button" and "copy" in attrs.get("class", "")]
    assert len(buttons) == sum(len(arm.runs) for arm in comparison.arms)


def test_names_that_are_markup_stay_text():
    page = render(hostile())
    seen = Seen(page)
    assert [attrs for tag, attrs in seen.tags if tag == "img" and attrs.get("src") == "x"] == []
    assert [name for _, attrs in seen.tags for name in attrs if name.startswith("on")] == []
    assert [tag for tag, _ in seen.tags].count("script") == 4
    assert HOSTILE in "".join(seen.text)
    assert json.loads(seen.scripts[0])["cases-0"]["data"][1]["meta"] == HOSTILE
    assert "javascript:window.hacked" not in [attrs.get("href") for _, attrs in seen.tags]


def test_values_that_are_not_finite_never_reach_the_charts(comparison):
    arms = list(comparison.arms)
    arms[1] = dataclasses.replace(
        arms[1], scores=arms[1].scores | {"dice": dataclasses.replace(arms[1].scores["dice"], mean=None, low=None)}
    )
    script = Seen(render(dataclasses.replace(comparison, arms=tuple(arms)))).scripts[0]
    assert "NaN" not in script
    assert "Infinity" not in script


def test_one_arm_alone_is_a_page_that_compares_nothing():
    alone = compared({"op_scratch": 0.0})
    assert "There is nothing to compare" in Seen(render(alone)).words


def test_a_breakable_name_reads_as_the_name():
    assert Seen(f"<p>{breakable(HOSTILE)}</p>").text == [*Seen(f"<p>{breakable(HOSTILE)}</p>").text]
    assert "".join(Seen(f"<p>{breakable(HOSTILE)}</p>").text) == HOSTILE
    assert "".join(Seen(f"<p>{breakable('op_kd[a.b=-1]')}</p>").text) == "op_kd[a.b=-1]"


def test_twenty_runs_stay_under_two_megabytes(tmp_path):
    gains = {f"arm_{k}": 0.01 * k for k in range(4)}
    comparison = compared(gains, cases=20, seeds=5)
    folders = {}
    for arm in comparison.arms:
        paths = tuple(tmp_path / arm.name / f"seed{run.seed}" for run in arm.runs)
        for seed, path in enumerate(paths):
            write_curves(path, seed=seed, steps=4000)
        folders[arm.name] = paths
    out = write_page(comparison, folders, tmp_path / "new" / "index.html")
    assert out == tmp_path / "new" / "index.html"
    assert 1_200_000 < out.stat().st_size < 2_000_000  # plotting code included; pictures: see test_worst.py
