"""Writes a comparison as Markdown; names from files and settings are escaped. It computes nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from distill3d.report import numerals
from distill3d.report.content import BudgetCheck, Comparison
from distill3d.report.numerals import NONE, number, probability

RANKS = (
    "Rank 1 is best. Two arms differ if their ranks are at least the critical difference apart and Friedman's test "
    "finds any difference at all. Ranks leave out how seeds scatter: the verdicts above are what decides."
)


def as_markdown(comparison: Comparison) -> str:
    """Return ``report.md``: the same numbers as the page has."""
    parts = [
        [f"# {escape(comparison.title)}", "", f"{comparison.created}; baseline: {escape(comparison.baseline)}"],
        _remarks(comparison),
        _headline(comparison),
        _differences(comparison),
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
    return re.sub(r"([\\`*_{}\[\]()<>#+!|~&$])", r"\\\1", " ".join(str(text).split()))


def _rows(head: Sequence[str], body: Iterable[Sequence[str]], *, left: int = 1) -> list[str]:
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
            str(len(arm.runs)),
            *(escape(numerals.estimate(arm.scores[score.key], score)) for score in scores),
        ]
        for arm in comparison.arms
    ]
    body += [
        [escape(name), NONE, *(escape(text) for text in numerals.reference_means(comparison, name))]
        for name in comparison.references
    ]
    head = ["arm", "seeds", *(escape(numerals.heading(score)) for score in scores)]
    return ["## Scores: mean [95 % interval] over cases and seeds", "", *_rows(head, body)]


def _differences(comparison: Comparison) -> list[str]:
    if not comparison.differences:
        return []
    lines = [f"## Differences from {escape(comparison.baseline)}", "", escape(comparison.test)]
    head = ["arm", "verdict", "difference", "p", "p, Holm", "p, cases", "detectable", "cases x seeds", "why"]
    for score in comparison.scores:
        body = [
            [
                escape(found.arm),
                f"**{found.verdict}**" if found.verdict != "INCONCLUSIVE" else found.verdict,
                escape(numerals.difference(found, score)),
                *(escape(probability(p)) for p in (found.p, found.p_holm, found.p_cases)),
                number(found.detectable, score.digits),
                f"{found.n_cases} x {found.n_seeds}",
                escape(found.why),
            ]
            for found in comparison.differences
            if found.score == score.key
        ]
        lines += ["", f"### {escape(numerals.heading(score))}", "", *_rows(head, body, left=2)]
    return lines


def _ranks(comparison: Comparison) -> list[str]:
    """A row per arm and one per number of the test; a score without ranks says why below."""
    rankings, scores = comparison.rankings, {score.key: score for score in comparison.scores}
    lines = ["## Average ranks over cases", "", RANKS] if rankings else []
    if any(found.ranks for found in rankings):
        body = [
            [escape(arm.name), *(number(found.ranks.get(arm.name), 2) for found in rankings)] for arm in comparison.arms
        ]
        body += [
            ["*critical difference at 0.05*", *(number(found.critical_difference, 2) for found in rankings)],
            ["*p, Friedman*", *(escape(probability(found.p)) for found in rankings)],
            ["*cases x seeds*", *(f"{found.n_cases} x {found.n_seeds}" for found in rankings)],
        ]
        lines += ["", *_rows(["arm", *(escape(numerals.heading(scores[found.score])) for found in rankings)], body)]
    reasons = dict.fromkeys(found.why for found in rankings if found.why)
    alike = {why: [escape(scores[found.score].label) for found in rankings if found.why == why] for why in reasons}
    return [*lines, *([""] if alike else []), *(f"- {', '.join(of)}: {escape(why)}" for why, of in alike.items())]


def _budget(comparison: Comparison) -> list[str]:
    lines = ["## Equal budget?"] if comparison.budget else []
    for check in comparison.budget:
        lines += ["", f"### {escape(check.arm)}: {'equal' if check.equal else '**NOT EQUAL**'}", *_check(check)]
    return lines


def _check(check: BudgetCheck) -> list[str]:
    body = [[escape(s.key), escape(s.arm), escape(s.baseline), "yes" if s.fair else "**NO**"] for s in check.settings]
    table = ["", *_rows(["key", "arm", "baseline", "may differ"], body, left=4)] if body else []
    return [*table, *(["", *(f"- {escape(line)}" for line in check.remarks)] if check.remarks else [])]


def _costs(comparison: Comparison) -> list[str]:
    body = [[escape(arm.name), *map(escape, numerals.costs(arm.cost))] for arm in comparison.arms]
    return ["## Cost of a run", "", *_rows(["arm", *numerals.COSTS], body)]


def _provenance(comparison: Comparison) -> list[str]:
    body = [
        [
            escape(arm.name),
            str(run.seed),
            escape(run.folder),
            escape((run.commit or "unknown")[:12]),
            escape(run.command),
        ]
        for arm in comparison.arms
        for run in arm.runs
    ]
    teachers = [f"- {escape(arm.name)}: teacher {escape(arm.teacher)}" for arm in comparison.arms if arm.teacher]
    table = _rows(["arm", "seed", "folder", "commit", "command"], body, left=5)
    return ["## Where it comes from", "", *teachers, *([""] if teachers else []), *table]
