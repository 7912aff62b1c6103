"""What the terminal shows, at 100 columns, and the verbs as a user calls them."""

import inspect
import io
import json
import subprocess
import sys
import time

import forked
import numpy as np
import pytest
from comparisons import SCORES, compared, read_runs
from rich.console import Console

from distill3d.report import verbs
from distill3d.report.build import compare_places, write_numbers
from distill3d.report.comparison.compare import compare
from distill3d.report.comparison.verdict import DEFAULT_TEST
from distill3d.report.text.terminal import renderables


def shown(comparison):
    console = Console(width=100, file=io.StringIO())
    for part in renderables(comparison):
        console.print(part)
    return console.file.getvalue()


def test_scores_verdicts_reasons_and_budget_are_shown(three_arms):
    text = shown(compare(read_runs(three_arms)))
    for word in ("Dice", "HD95", "BETTER", "INCONCLUSIVE", "cases", "RANDOM TEACHER", "otsu", "Equal budget?", "equal"):
        assert word in text
    assert max(map(len, text.splitlines())) <= 100


def test_an_unfair_setting_and_long_names_are_shown_whole(write_run):
    steps = {"trainer.steps": 600, "strategy.name": "[bold]x[/bold]"}
    text = shown(compare(read_runs([write_run(), write_run("n" * 60, settings=steps)])))
    assert "NOT EQUAL" in text
    assert "trainer.steps" in text
    assert "[bold]x[/bold]" in text
    assert max(map(len, text.splitlines())) <= 100


def test_of_many_arms_the_main_score_and_what_is_decided_or_unequal_is_shown():
    gains = {"op_hard_vit_scratch": 0.0, **{f"op_hard_vit_frozen_shuffled_{k:02}": 0.1 * (k == 3) for k in range(18)}}
    comparison = compared(gains)
    text = shown(comparison)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    assert len(lines) < 40 * len(SCORES) + 60
    decided = {score.key: 0 for score in SCORES}
    for row in comparison.differences:
        decided[row.score] += row.verdict != "INCONCLUSIVE"
    for score in SCORES[1:]:
        assert any(line.split()[:3] == [str(18 - decided[score.key]), "other", "arms"] for line in lines), score
    unequal = [check.arm for check in comparison.budget if not check.equal]
    assert text.count("NOT EQUAL") == len(unequal) == 1
    assert any(line.split()[:4] == ["17", "other", "arms", "equal"] for line in lines)


def test_a_mean_that_lacks_pairs_says_so_and_a_long_name_stays_on_its_line():
    comparison = compared({"op_hard_vit_scratch": 0.0, "op_hard_vit_frozen_shuffled": 0.1}, missing=True)
    last = comparison.arms[-1].scores["hd95_um"]
    lines = shown(comparison).splitlines()
    row = next(line for line in lines if f"{last.mean:.1f} [" in line)
    assert row.split()[0] == "op_hard_vit_frozen_shuffled"
    assert f"{last.mean:.1f} [{last.low:.1f}, {last.high:.1f}] (3 gaps)" in row
    assert sum("gaps)" in line for line in lines) == 1


def test_compare_prints_the_verdict_and_a_mistake_is_one_line(three_arms, tmp_path):
    def call(*arguments):
        return forked.run("compare", *arguments, "--runs", tmp_path / "runs")

    done = call("scratch", "inflate", "--scores", "dice")
    assert done.returncode == 0, done.stderr
    assert "BETTER" in done.stdout
    for mistake in (["scratch", "inflat"], ["scratch", "inflate", "--test", "t"]):
        wrong = call(*mistake)
        assert wrong.returncode == 2
        assert len(wrong.stderr.splitlines()) == 1
    assert "accepted: sign-flip, wilcoxon" in wrong.stderr


def test_the_test_over_cases_can_be_chosen_for_report_and_compare(three_arms, tmp_path):
    runs, out = str(tmp_path / "runs"), tmp_path / "out"
    for verb in (["compare", "scratch", "inflate", "--runs", runs], ["report", runs, "--out", str(out)]):
        done = forked.run(*verb, "--scores", "dice", "--test", "wilcoxon")
        assert done.returncode == 0, done.stderr
        assert "Wilcoxon's signed-rank test over cases" in " ".join(done.stdout.split())
    written = json.loads((out / "report.json").read_text())
    assert "Wilcoxon's signed-rank test" in written["test"]
    difference = next(one for one in written["differences"] if one["arm"] == "inflate")
    assert difference["p_cases"] == pytest.approx(2**-5)  # as small as it can be with six cases
    assert "Wilcoxon" in (out / "report.md").read_text()
    assert "Wilcoxon&#39;s signed-rank test" in (out / "index.html").read_text()


@pytest.mark.parametrize("verb", [verbs.report, verbs.compare, verbs._compared])
def test_the_verbs_test_is_that_of_the_verdict(verb):
    """It stands there a second time: help must not import scipy."""
    assert inspect.signature(verb).parameters["test"].default == DEFAULT_TEST


def test_the_terminal_needs_no_torch(three_arms, tmp_path):
    code = (
        "import sys\nfrom distill3d.cli import app\n"
        f"app(['compare', 'scratch', 'kd', '--runs', {str(tmp_path / 'runs')!r}], standalone_mode=False)\n"
        "heavy = {'torch', 'monai', 'lightning'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("verb", ["report", "compare"])
def test_help_says_what_is_accepted(verb):
    done = subprocess.run(
        [sys.executable, "-m", "distill3d", verb, "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert "baseline" in done.stdout


def test_a_hundred_runs_of_twenty_cases_are_compared_in_seconds(write_run, tmp_path):
    rng, cases = np.random.default_rng(0), [f"c{k}" for k in range(20)]
    for arm in range(20):
        settings = {"strategy.name": f"s{arm}" if arm else "none"}
        for seed in range(5):
            write_run(
                f"arm{arm}", seed, dice=dict(zip(cases, rng.uniform(0.4, 0.8, 20), strict=True)), settings=settings
            )
    started = time.process_time()
    comparison = compare_places([tmp_path / "runs"])
    write_numbers(comparison, tmp_path / "report")
    took = time.process_time() - started
    assert len(comparison.differences) == 19 * len(comparison.scores)
    assert took < 20, took
