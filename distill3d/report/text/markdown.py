"""Writes a comparison as Markdown; names from files and settings are escaped. It computes nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from distill3d.errors import printable
from distill3d.evaluation.scores import Score
from distill3d.report import numerals
from distill3d.report.content import BudgetCheck, Comparison, Difference
from distill3d.report.numerals import NONE, number, probability

RANKS = (
    "Rank 1 is best. Two arms differ if their ranks are at least the critical difference apart and Friedman's test "
    "finds any difference at all. Ranks leave out how seeds scatter: the verdicts above are what decides."
)


CONTRASTS = "Pairs of arms that were asked for, such as an arm and its control; Holm's correction is over these pairs."
_JUDGED = ("verdict", "difference", "p", "p, Holm", "p, cases", "detectable", "cases x seeds", "why")


def as_markdown(comparison: Comparison) -> str:
    """Return ``report.md``: the same numbers as the page has."""
    parts = [
        [f"# {escape(comparison.title)}", "", f"{comparison.created}; baseline: {escape(comparison.baseline)}"],
        _remarks(comparison),
        _headline(comparison),
        _differences(comparison),
        _contrasts(comparison),
        _ranks(comparison),
        _budget(comparison),
        _costs(comparison),
        _provenance(comparison),
    ]
    return "\n\n".join("\n".join(lines) for lines in parts if lines) + "\n"


def escape(text: object) -> str:
    r"""Make text harmless in Markdown, tables and raw HTML included; line breaks become spaces.

    Example:
        >>> print(escape("a|b_<i>"))
        a\|b\_\<i\>
    """
    return re.sub(r"([\\`*_{}\[\]()<>#+!|~&$])", r"\\\1", printable(" ".join(str(text).split())))


def markdown_table(head: Sequence[str], body: Iterable[Sequence[str]], *, left: int = 1) -> list[str]:
    """A table of cells that are escaped already; the first ``left`` columns are text."""
    rule = ["---" if column < left else "---:" for column in range(len(head))]
    return [f"| {' | '.join(row)} |" for row in (head, rule, *body)]


def _remarks(comparison: Comparison) -> list[str]:
    return (
        ["## Before you believe it", "", *(f"- {escape(line)}" for line in comparison.remarks)]
        if comparison.remarks
        else []
    )


def _headline(comparison: Comparison) -> list[str]:
    scores = comparison.scores
    body = [
        [
            escape(arm.name) + (" **RANDOM TEACHER**" if arm.random_teacher else ""),
            numerals.trainings(arm),
            *(escape(numerals.estimate(arm.scores[score.key], score)) for score in scores),
        ]
        for arm in comparison.arms
    ]
    body += [
        [escape(name), NONE, *(escape(text) for text in numerals.reference_means(comparison, name))]
        for name in comparison.references
    ]
    head = ["arm", "seeds", *(escape(numerals.heading(score)) for score in scores)]
    return [
        "## Scores: mean [95 % interval] over cases and seeds; gaps: pairs of them without a value",
        "",
        *markdown_table(head, body),
    ]


def _differences(comparison: Comparison) -> list[str]:
    if not comparison.differences:
        return []
    lines = [f"## Differences from {escape(comparison.baseline)}", "", escape(comparison.test)]
    for score in comparison.scores:
        body = [[escape(row.arm), *_judged(row, score)] for row in comparison.differences if row.score == score.key]
        title = f"### {escape(numerals.heading(score))}"
        lines += ["", title, "", *markdown_table(["arm", *_JUDGED], body, left=2)]
    return lines


def _contrasts(comparison: Comparison) -> list[str]:
    if not comparison.contrasts:
        return []
    lines = ["## Contrasts", "", CONTRASTS]
    for place, score in enumerate(comparison.scores):
        body = [
            [escape(each.arm), escape(each.baseline), *_judged(each.differences[place], score)]
            for each in comparison.contrasts
        ]
        title = f"### {escape(numerals.heading(score))}"
        lines += ["", title, "", *markdown_table(["arm", "minus", *_JUDGED], body, left=3)]
    return lines


def _judged(row: Difference, score: Score) -> list[str]:
    """Lay out the cells of `_JUDGED`."""
    return [
        f"**{row.verdict}**" if row.verdict != "INCONCLUSIVE" else row.verdict,
        escape(numerals.difference(row, score)),
        *(escape(probability(p)) for p in (row.p, row.p_holm, row.p_cases)),
        number(row.detectable, score.digits),
        f"{row.n_cases} x {row.n_seeds}",
        escape(row.why),
    ]


def _ranks(comparison: Comparison) -> list[str]:
    """A row per arm and one per number of the test; a score without ranks says why below."""
    rankings, scores = comparison.rankings, {score.key: score for score in comparison.scores}
    lines = ["## Average ranks over cases", "", RANKS] if rankings else []
    if any(ranking.ranks for ranking in rankings):
        body = [
            [escape(arm.name), *(number(ranking.ranks.get(arm.name), 2) for ranking in rankings)]
            for arm in comparison.arms
        ]
        body += [
            ["*critical difference at 0.05*", *(number(ranking.critical_difference, 2) for ranking in rankings)],
            ["*p, Friedman*", *(escape(probability(ranking.p)) for ranking in rankings)],
            ["*cases x seeds*", *(f"{ranking.n_cases} x {ranking.n_seeds}" for ranking in rankings)],
        ]
        lines += [
            "",
            *markdown_table(["arm", *(escape(numerals.heading(scores[ranking.score])) for ranking in rankings)], body),
        ]
    reasons = dict.fromkeys(ranking.why for ranking in rankings if ranking.why)
    alike = {
        why: [escape(scores[ranking.score].label) for ranking in rankings if ranking.why == why] for why in reasons
    }
    return [*lines, *([""] if alike else []), *(f"- {', '.join(of)}: {escape(why)}" for why, of in alike.items())]


def _budget(comparison: Comparison) -> list[str]:
    lines = ["## Equal budget?"] if comparison.budget else []
    for check in comparison.budget:
        lines += ["", f"### {_budget_title(check)}", *_check(check)]
    for contrast in comparison.contrasts:
        lines += [
            "",
            f"### {_budget_title(contrast.budget)}, against {escape(contrast.baseline)}",
            *_check(contrast.budget),
        ]
    return lines


def _budget_title(check: BudgetCheck) -> str:
    return f"{escape(check.arm)}: {'equal' if check.equal else '**NOT EQUAL**'}"


def _check(check: BudgetCheck) -> list[str]:
    body = [[escape(s.key), escape(s.arm), escape(s.baseline), "yes" if s.fair else "**NO**"] for s in check.settings]
    table = ["", *markdown_table(["key", "arm", "baseline", "may differ"], body, left=4)] if body else []
    return [*table, *(["", *(f"- {escape(line)}" for line in check.remarks)] if check.remarks else [])]


def _costs(comparison: Comparison) -> list[str]:
    body = [[escape(arm.name), *map(escape, numerals.costs(arm))] for arm in comparison.arms]
    legend = [
        "",
        "Nonlinear / linear: what no rescaled linear response explains of neurons' responses, over what one explains.",
        "Kept: mean CKA of the student's blocks with their own teacher blocks, after training over before.",
    ]
    return ["## Cost of a run", "", *markdown_table(["arm", *numerals.COSTS], body), *legend]


def _provenance(comparison: Comparison) -> list[str]:
    body = [
        [
            escape(arm.name),
            escape(f"{run.seed}, {run.fold}" if run.fold else run.seed),
            escape(run.folder),
            escape((run.commit or "unknown")[:12]),
            escape(run.command),
        ]
        for arm in comparison.arms
        for run in arm.runs
    ]
    origins = [f"- {escape(arm.name)}: teacher {escape(arm.teacher)}" for arm in comparison.arms if arm.teacher]
    origins += [f"- {escape(arm.name)}: tuned in {escape(arm.tuned)}" for arm in comparison.arms if arm.tuned]
    table = markdown_table(["arm", "seed", "folder", "commit", "command"], body, left=5)
    return ["## Where it comes from", "", *origins, *([""] if origins else []), *table]
