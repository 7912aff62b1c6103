"""The paragraph that answers "which is better, by how much, can I believe it". It words verdicts; it makes none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import final

from markupsafe import Markup

from distill3d.evaluation.scores import Score
from distill3d.report.comparison.budget import is_claimed
from distill3d.report.comparison.statistics import LEVEL
from distill3d.report.content import Comparison, Difference, Verdict
from distill3d.report.numerals import interval, number, probability, unit_name

NAMED = 4  # arms that are named one by one in a sentence


@final
@dataclass(frozen=True, slots=True)
class Answer:
    """What the page says first.

    Args:
        verdict: of the main score: BETTER if any arm is, else WORSE if any is.
        headline: one sentence.
        found: sentences: by how much, and what stays open.
        trust: sentences: what it stands on.
    """

    verdict: Verdict
    headline: Markup
    found: tuple[Markup, ...]
    trust: tuple[Markup, ...]


def listed(parts: Iterable[str]) -> Markup:
    """Join as in a sentence, each part escaped.

    >>> str(listed(["a", "b", "<c>"]))
    'a, b and &lt;c&gt;'
    """
    escaped = [Markup.escape(part) for part in parts]
    if len(escaped) < 2:
        return escaped[0] if escaped else Markup()
    return Markup("{} and {}").format(Markup(", ").join(escaped[:-1]), escaped[-1])


def answer(comparison: Comparison) -> Answer:
    """Say which arm is better than the baseline in the main score, by how much, and what it stands on."""
    if not comparison.differences:
        return Answer("INCONCLUSIVE", Markup("There is nothing to compare: the report holds one arm."), (), ())
    main = comparison.scores[0]
    rows = [row for row in comparison.differences if row.score == main.key]
    verdict = _verdict(rows)
    sentences = [*_by_how_much(main, rows), *_undecided(main, rows, verdict), *_other_scores(comparison)]
    trust = [*_power(comparison, main, rows), *_trust(comparison)]
    return Answer(verdict, _headline(comparison, main, rows, verdict), tuple(sentences), tuple(trust))


def _verdict(rows: Sequence[Difference]) -> Verdict:
    verdicts = {row.verdict for row in rows}
    return "BETTER" if "BETTER" in verdicts else "WORSE" if "WORSE" in verdicts else "INCONCLUSIVE"


def _headline(comparison: Comparison, main: Score, rows: Sequence[Difference], verdict: Verdict) -> Markup:
    base = bold(comparison.baseline)
    if verdict == "INCONCLUSIVE":
        who = "No arm is" if len(rows) > 1 else Markup("{} is not").format(bold(rows[0].arm))
        return Markup("{} shown to differ from {} in {}.").format(who, base, main.label)
    deciding = [row for row in rows if row.verdict == verdict]
    who, verb = _names([row.arm for row in deciding]), "is" if len(deciding) == 1 else "are"
    by = Markup(" by {}").format(_size(deciding[0], main)) if len(deciding) == 1 else ""
    return Markup("{} {} {} than {} in {}{}.").format(who, verb, verdict.lower(), base, main.label, by)


def _by_how_much(main: Score, rows: Sequence[Difference]) -> list[Markup]:
    """Give every named difference its size, interval and p-value, best first."""
    sign = -1 if main.higher_is_better else 1
    named = sorted((row for row in rows if row.verdict != "INCONCLUSIVE"), key=lambda row: sign * (row.mean or 0.0))
    parts = [
        Markup("{} {} {} (95\N{NO-BREAK SPACE}% interval {}, p {})").format(
            bold(row.arm),
            "gains" if row.verdict == "BETTER" else "loses",
            _size(row, main),
            interval(row.low, row.high, main.digits, signed=True) or "unknown",
            probability(row.p_holm, equals=True),
        )
        for row in named[:NAMED]
    ]
    more = f"; {len(named) - NAMED} more stand in the table" if len(named) > NAMED else ""
    return [Markup("{}{}.").format(Markup("; ").join(parts), more)] if parts else []


def _undecided(main: Score, rows: Sequence[Difference], verdict: Verdict) -> list[Markup]:
    """Say which arms stay open and why, once per reason."""
    open_rows = [row for row in rows if row.verdict == "INCONCLUSIVE"]
    if not open_rows:
        return []
    sentences = []
    if verdict != "INCONCLUSIVE":
        verb = "is" if len(open_rows) == 1 else "are"
        sentences.append(Markup("{} {} inconclusive.").format(_names([row.arm for row in open_rows]), verb))
    largest = max((row for row in open_rows if row.mean is not None), key=lambda row: abs(row.mean or 0), default=None)
    if largest is not None and verdict == "INCONCLUSIVE":
        bounds = interval(largest.low, largest.high, main.digits, signed=True)
        inside = Markup(", 95\N{NO-BREAK SPACE}% interval {}").format(bounds) if bounds else ""
        size = number(largest.mean, main.digits, signed=True) + _spaced_unit(main)
        of = Markup("The largest difference seen is that of {}:").format(bold(largest.arm))
        sentences.append(
            Markup("{} {}{}.").format(of if len(open_rows) > 1 else "The difference seen is", size, inside)
        )
    reasons = Counter(_reason(row, alone=len(open_rows) == 1) for row in open_rows if row.why)
    if reasons:
        told = (
            f"{reason} ({_range([count], 'arm')})" if len(reasons) > 1 else reason for reason, count in reasons.items()
        )
        sentences.append(Markup("Why no verdict: {}.").format("; ".join(told)))
    return sentences


def _reason(row: Difference, *, alone: bool) -> str:
    """Say why an arm has no verdict, without its own numbers where others are told too."""
    if alone or row.p_holm is None:
        return row.why.rstrip(".")
    return f"p after correction is above {LEVEL}" if row.p_holm > LEVEL else "cases disagree"


def _power(comparison: Comparison, main: Score, rows: Sequence[Difference]) -> list[Markup]:
    sizes = [row.detectable for row in rows if row.detectable is not None]
    cases, seeds = sorted({row.n_cases for row in rows}), sorted({row.n_seeds for row in rows})
    pairs = Markup("Every arm is paired with {} over {} and {}").format(
        bold(comparison.baseline), _range(cases, "case"), _range(seeds, "seed")
    )
    if not sizes:
        return [Markup("{}.").format(pairs)]
    size = " to ".join(dict.fromkeys(number(size, main.digits) for size in (min(sizes), max(sizes))))
    return [
        Markup("{}; with so many, a true difference smaller than {} would often be missed.").format(
            pairs, size + _spaced_unit(main)
        )
    ]


def _other_scores(comparison: Comparison) -> list[Markup]:
    """Sum the other scores up: which arms are better or worse where, arms of one pattern together."""
    labels = {score.key: score.label for score in comparison.scores[1:]}
    if not labels:
        return []
    where: dict[tuple[str, Verdict], list[str]] = {}
    for row in comparison.differences:
        if row.score in labels and row.verdict != "INCONCLUSIVE":
            where.setdefault((row.arm, row.verdict), []).append(labels[row.score])
    alike: dict[tuple[Verdict, tuple[str, ...]], list[str]] = {}
    for (arm, verdict), shown in where.items():
        alike.setdefault((verdict, tuple(shown)), []).append(arm)
    if not alike:
        return [Markup("The other scores decide nothing either way.")]
    parts = [
        Markup("{} {} {} in {}").format(
            _names(arms), "is" if len(arms) == 1 else "are", verdict.lower(), _told(shown, len(labels))
        )
        for (verdict, shown), arms in alike.items()
    ]
    more = "; more stands in the table" if len(parts) > NAMED else ""
    return [Markup("In the other scores, {}{}.").format(Markup("; ").join(parts[:NAMED]), more)]


def _told(names: Sequence[str], of: int) -> Markup:
    return Markup("all") if len(names) == of and of > 1 else listed(names)


def _trust(comparison: Comparison) -> list[Markup]:
    """Say whether the arms had the same budget, and whose teacher knows nothing."""
    unequal = [check.arm for check in comparison.budget if not check.equal]
    random = [arm.name for arm in comparison.arms if arm.random_teacher]
    sentences = []
    if unequal:
        verb = "was" if len(unequal) == 1 else "were"
        sentences.append(
            Markup(
                "{} {} not run at the budget of {}: what is seen may have another cause than the strategy (see Budget)."
            ).format(_names(unequal), verb, bold(comparison.baseline))
        )
    elif comparison.budget:
        tuned = any(not is_claimed(setting.key) for check in comparison.budget for setting in check.settings)
        learn = "how transferred weights learn"
        or_how = f", {learn} or what equal tunings chose" if tuned else f" or {learn}"
        only = f"they differ only in strategy, teacher, student, neurons{or_how}."
        sentences.append(Markup("All arms had the same budget: {}").format(only))
    sentences += _tuning(comparison)
    if random:
        sentences.append(Markup("The teacher of {} has random weights.").format(_names(random)))
    return sentences


def _tuning(comparison: Comparison) -> list[Markup]:
    """Say how many trials chose the settings of the arms; nothing where no arm was tuned."""
    trials = sorted({arm.tuned_trials for arm in comparison.arms})
    if not trials[-1]:
        return []
    each = f"{trials[-1]} trials each" if len(trials) == 1 else f"{trials[0]} to {trials[-1]} trials"
    return [Markup("Settings were chosen for the arms on validation cases, in {}.").format(each)]


def bold(name: str) -> Markup:
    """Return a name in bold, escaped."""
    return Markup("<b>{}</b>").format(name)


def _names(names: Sequence[str]) -> Markup:
    shown = [bold(name) for name in names[:NAMED]]
    more = len(names) - NAMED
    return listed([*shown, f"{more} other{'s' * (more > 1)}"] if more > 0 else shown)


def _size(row: Difference, score: Score) -> str:
    return number(abs(row.mean or 0), score.digits) + _spaced_unit(score)


def _spaced_unit(score: Score) -> str:
    return f" {unit_name(score)}" if score.unit else ""


def _range(counts: Sequence[int], noun: str) -> str:
    shown = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{shown} {noun}" if shown == "1" else f"{shown} {noun}s"
