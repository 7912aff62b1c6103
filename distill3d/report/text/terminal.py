"""Lays a comparison out for the terminal, 100 columns. It computes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from distill3d.evaluation.scores import Score
from distill3d.report import numerals
from distill3d.report.comparison.budget import FAIR_SECTIONS
from distill3d.report.content import Comparison, Difference
from distill3d.report.numerals import NONE
from distill3d.terminal import WIDTH

STYLES = {"BETTER": "bold green", "WORSE": "bold red", "INCONCLUSIVE": "dim"}
AT_ONCE = 2  # scores beside each other
MOST_ROWS = 6  # arms of which all is shown; of more, report.md has what decides nothing


def renderables(comparison: Comparison) -> Iterator[RenderableType]:
    """Yield what to print: scores, differences with their verdicts, budget, remarks."""
    for at in range(0, len(comparison.scores), AT_ONCE):
        yield headline(comparison, comparison.scores[at : at + AT_ONCE])
    if comparison.differences:
        yield differences(comparison)
        if comparison.contrasts:
            yield contrasts(comparison)
        yield budget(comparison)
    for line in comparison.remarks:
        yield Text(f"! {line}", style="yellow")
    yield Text(comparison.test, style="dim")


def _table(title: str) -> Table:
    return Table(title=Text(title, style="bold"), title_justify="left", width=WIDTH, box=SIMPLE_HEAD)


def headline(comparison: Comparison, scores: Sequence[Score]) -> Table:
    """A row per arm and classical method: mean and interval of a few scores."""
    table = _table(
        f"{comparison.title}: mean [95 % interval], or ± sd over seeds\ngap: a pair of case and seed without a value"
    )
    table.add_column("arm", overflow="fold")
    table.add_column("seeds", justify="right")
    for score in scores:
        table.add_column(Text(numerals.heading(score)), justify="right")
    for arm in comparison.arms:
        name = Text(arm.name)
        if arm.random_teacher:
            name.append(" RANDOM TEACHER", style="bold red")
        cells = [Text(numerals.estimate(arm.scores[score.key], score)) for score in scores]
        table.add_row(name, numerals.trainings(arm), *cells)
    shown = [comparison.scores.index(score) for score in scores]
    for name in comparison.references:
        means = numerals.reference_means(comparison, name)
        table.add_row(Text(name, style="dim"), NONE, *(Text(means[at], style="dim") for at in shown))
    return table


def differences(comparison: Comparison) -> Table:
    """A part per score, in it a row per arm: difference, verdict and why; of many arms in other scores the decided."""
    table = _judged_table(f"Arm minus {comparison.baseline}", "arm")
    for score in comparison.scores:
        table.add_section()
        table.add_row(Text(numerals.heading(score), style="bold"))
        rows = [row for row in comparison.differences if row.score == score.key]
        whole = len(rows) <= MOST_ROWS or score is comparison.scores[0]
        told = [row for row in rows if whole or row.verdict != "INCONCLUSIVE"]
        for row in told:
            table.add_row(Text(row.arm), *_judged(row, score))
        _add_others(table, len(rows) - len(told), "", Text("INCONCLUSIVE", style=STYLES["INCONCLUSIVE"]))
    return table


def contrasts(comparison: Comparison) -> Table:
    """A row per pair that was asked for, in the main score."""
    score = comparison.scores[0]
    table = _judged_table(f"Contrasts, {numerals.heading(score)} (the other scores: report.md)", "arm\nminus")
    for contrast in comparison.contrasts:
        name = Text(f"{contrast.arm}\n{contrast.baseline}")
        if not contrast.budget.equal:
            name.append("\nNOT EQUAL", style="bold red")
        table.add_row(name, *_judged(contrast.differences[0], score))
    return table


def _judged_table(title: str, arm: str) -> Table:
    table = _table(title)
    table.add_column(arm, overflow="fold", ratio=2)
    table.add_column("difference", justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("why", overflow="fold", ratio=3)
    return table


def _judged(row: Difference, score: Score) -> tuple[Text, Text, Text]:
    return Text(numerals.difference(row, score)), Text(row.verdict, style=STYLES[row.verdict]), Text(row.why)


def _add_others(table: Table, count: int, *cells: str | Text) -> None:
    """Count the arms that are not shown."""
    if count:
        table.add_row(Text(f"{count} other arm{'s' * (count != 1)}", style="dim"), *cells, Text("see report.md", "dim"))


def budget(comparison: Comparison) -> Table:
    """A row per setting in which an arm may not differ but does, and the number of those in which it may.

    Of many arms only those with another budget.
    """
    table = _table(f"Equal budget? What differs from {comparison.baseline}")
    for name in ("arm", "key", "arm's", "baseline's"):
        table.add_column(name, overflow="fold", ratio=1)
    shown = [check for check in comparison.budget if len(comparison.budget) <= MOST_ROWS or not check.equal]
    for check in shown:
        table.add_section()
        name = Text(f"{check.arm}\n")
        name.append("equal" if check.equal else "NOT EQUAL", style="green" if check.equal else "bold red")
        rows = [
            (setting.key, setting.arm, setting.baseline, "bold red") for setting in check.settings if not setting.fair
        ]
        fair = [setting for setting in check.settings if setting.fair]
        rows += [(s.key, s.arm, s.baseline, "") for s in fair if s.key.count(".") == 1 and s.key.endswith(".name")]
        where = f"of {', '.join(FAIR_SECTIONS)}, transferred weights"
        rows += [(f"{len(fair)} keys in all", where, "", "dim")] if fair else []
        rows += [("remark", remark, "", "yellow") for remark in check.remarks]
        for key, here, there, style in rows or [("nothing", "", "", "dim")]:
            table.add_row(name, *(Text(text, style=style) for text in (key, here, there)))
            name = Text("")
    table.add_section()
    _add_others(table, len(comparison.budget) - len(shown), "equal", "")
    return table
