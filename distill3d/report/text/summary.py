"""One table of a whole comparison, written between two markers of a Markdown file such as README."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distill3d.evaluation.scores import SCORES, Score
from distill3d.report.numerals import NONE, gain_per_hour, heading, interval, number, reference_mean
from distill3d.report.text.between import Between
from distill3d.report.text.markdown import CONTRASTS, escape, markdown_table

BETWEEN = Between(
    option="--markdown",
    begin="<!-- written by distill3d report --markdown: begin -->",
    end="<!-- end -->",
    required=True,
)
FEWER = "(n/N): the mean of n of all N pairs of case and seed, not to be compared with others. "
LEGEND = (
    "kept: likeness to the teacher after training over before. min: training of a run. "
    "gain / h: the difference by the hours of one training, where it is a gain or a loss."
)
USUAL = ("dice_tol", "hd95_um", "tree_f1")  # of more scores than fit beside the main one, these


def summary(report: Mapping[str, Any]) -> str:
    """Return a row per arm: the main score, its difference from the baseline with interval and verdict, and cost.

    Below it stands what a reader must know: the remarks of the report, and which means are of fewer pairs than others.

    Args:
        report: the content of ``report.json``.
    """
    arms, baseline = report["arms"], report["baseline"]
    main, *beside = scores = _scores(report)
    differences = {each["arm"]: each for each in report["differences"] if each["score"] == main.key}
    head = [
        "arm",
        heading(main),
        f"minus `{baseline}` (95 %)",
        "verdict",
        *(heading(score) for score in beside),
        "kept",
        "min",
        "gain / h",
    ]
    cases = sorted({case for arm in arms for run in arm["runs"] for case in run["cases"]})
    seeds = sorted({run["seed"] for arm in arms for run in arm["runs"]})
    rows = [_row(arm, differences.get(arm["name"]), scores, len(cases) * len(seeds)) for arm in arms]
    rows += [_reference(name, of_case, scores, len(cases)) for name, of_case in report["references"].items()]
    seconds = [arm["cost"]["fit_seconds"] for arm in arms]
    hours = None if None in seconds else sum(len(arm["runs"]) * s for arm, s in zip(arms, seconds, strict=True)) / 3600
    commits = sorted({(run["commit"] or "unknown")[:7] for arm in arms for run in arm["runs"]})
    told = (
        f"Means over {len(cases)} held-out cases ({escape(', '.join(cases))}) "
        f"and {len(seeds)} seed{'s' * (len(seeds) != 1)}; "
        f"{number(hours, 1)} h of training, without tuning; commit {', '.join(commits)}. "
        f"{FEWER if any('/' in cell for row in rows for cell in row) else ''}{LEGEND} {escape(report['test'])}"
    )
    tables = [*markdown_table(head, rows), *_contrasts(report["contrasts"], scores), "", told]
    return "\n".join([*tables, "", *(f"- {escape(line)}" for line in report["remarks"])])


def _scores(report: Mapping[str, Any]) -> list[Score]:
    """Return the main score and at most three beside it, in the order of the report."""
    main, *others = (each["key"] for each in report["scores"])
    beside = sorted(others, key=lambda key: key not in USUAL)[: len(USUAL)]
    return [SCORES[key] for key in (main, *others) if key == main or key in beside]


def _contrasts(contrasts: Sequence[Mapping[str, Any]], scores: Sequence[Score]) -> list[str]:
    """Lay out the pairs of arms that were asked for: the main score, and whether the others agree."""
    if not contrasts:
        return []
    main, *others = scores
    head = ["arm", "minus", f"{main.label} (95 %)", "verdict", *(score.label for score in others)]
    rows = []
    for contrast in contrasts:
        of_score = {each["score"]: each for each in contrast["differences"]}
        unequal = "" if contrast["budget"]["equal"] else " (unequal budget)"
        beside = (_difference(of_score.get(score.key), score) for score in others)
        names = (f"`{contrast['arm']}`{unequal}", f"`{contrast['baseline']}`")
        rows.append([*names, _difference(of_score[main.key], main), _verdict(of_score[main.key]), *beside])
    return ["", CONTRASTS, "", *markdown_table(head, rows, left=2)]


def _difference(difference: Mapping[str, Any] | None, score: Score) -> str:
    """Write a difference, with its interval where there is one."""
    if difference is None:
        return NONE
    ends = interval(difference["low"], difference["high"], score.digits, signed=True)
    return f"{number(difference['mean'], score.digits, signed=True)}{f' ({ends})' if ends else ''}"


def _verdict(difference: Mapping[str, Any]) -> str:
    verdict = difference["verdict"]
    return verdict if verdict == "INCONCLUSIVE" else f"**{verdict}**"


def write_summary(path: Path, report: Mapping[str, Any]) -> None:
    """Replace what stands between the markers of a file.

    Raises:
        InputError: the file cannot be read, or lacks the markers.
    """
    BETWEEN.write(path, lambda _: summary(report))


def _row(
    arm: Mapping[str, Any], difference: Mapping[str, Any] | None, scores: Sequence[Score], n_pairs: int
) -> list[str]:
    """Lay out an arm; the baseline has no difference, and what is no gain has none per hour."""
    main, *beside = scores
    gain = None if difference is None or difference["verdict"] == "INCONCLUSIVE" else difference["mean"]
    seconds = arm["cost"]["fit_seconds"]
    return [
        f"`{arm['name']}`",
        _mean(arm, main, n_pairs),
        _difference(difference, main),
        NONE if difference is None else _verdict(difference),
        *(_mean(arm, score, n_pairs) for score in beside),
        number(arm["kept"], 2),
        number(None if seconds is None else seconds / 60, 1),
        number(gain_per_hour(gain, main, seconds), 1, signed=True),
    ]


def _reference(
    name: str, cases: Mapping[str, Mapping[str, float | None]], scores: Sequence[Score], n_cases: int
) -> list[str]:
    """Lay out a classical method, which is not trained: the mean over cases."""
    main, *beside = (
        number(reference_mean(cases, score), score.digits)
        + _of(sum(row.get(score.key) is not None for row in cases.values()), n_cases)
        for score in scores
    )
    return [escape(name), main, NONE, NONE, *beside, NONE, NONE, NONE]


def _mean(arm: Mapping[str, Any], score: Score, n_pairs: int) -> str:
    """Write a mean, and of how many pairs where a few lack: other means are of harder or easier cases."""
    known = {
        (case, run["seed"])
        for run in arm["runs"]
        for case, row in run["cases"].items()
        if row.get(score.key) is not None
    }
    return number(arm["scores"].get(score.key, {}).get("mean"), score.digits) + _of(len(known), n_pairs)


def _of(known: int, wanted: int) -> str:
    return f" ({known}/{wanted})" if 0 < known < wanted else ""
