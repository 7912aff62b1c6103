"""One table of a whole comparison, written between two markers of a Markdown file such as README."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distill3d.evaluation.scores import SCORES
from distill3d.report.numerals import NONE, heading, interval, number
from distill3d.report.text.between import Between
from distill3d.report.text.markdown import CONTRASTS, escape, markdown_table

BETWEEN = Between(
    option="--markdown",
    begin="<!-- written by distill3d report --markdown: begin -->",
    end="<!-- end -->",
    required=True,
)
FEWER = "(9/12): the mean of so few of all pairs of case and seed, not to be compared with others. "
LEGEND = (
    "kept: likeness to the teacher after training over before. min: training of a run. "
    "gain / h: the difference by the hours of one training, where it is a gain or a loss."
)
MAIN, BESIDE = "dice", ("dice_tol", "hd95_um", "tree_f1")


def summary(report: Mapping[str, Any]) -> str:
    """Return a row per arm: the main score, its difference from the baseline with interval and verdict, and cost.

    Below it stands what a reader must know: the remarks of the report, and which means are of fewer pairs than others.

    Args:
        report: the content of ``report.json``.
    """
    arms, baseline = report["arms"], report["baseline"]
    differences = {each["arm"]: each for each in report["differences"] if each["score"] == MAIN}
    head = [
        "arm",
        heading(SCORES[MAIN]),
        f"minus `{baseline}` (95 %)",
        "verdict",
        *(heading(SCORES[key]) for key in BESIDE),
        "kept",
        "min",
        "gain / h",
    ]
    cases = sorted({case for arm in arms for run in arm["runs"] for case in run["cases"]})
    seeds = sorted({run["seed"] for arm in arms for run in arm["runs"]})
    rows = [_row(arm, differences.get(arm["name"]), len(cases) * len(seeds)) for arm in arms]
    rows += [_reference(name, of_case, len(cases)) for name, of_case in report["references"].items()]
    hours = sum(len(arm["runs"]) * _hours(arm) for arm in arms)
    commits = sorted({(run["commit"] or "unknown")[:7] for arm in arms for run in arm["runs"]})
    told = (
        f"Means over {len(cases)} held-out cases ({escape(', '.join(cases))}) "
        f"and {len(seeds)} seed{'s' * (len(seeds) != 1)}; "
        f"{number(hours, 1)} h of training, without tuning; commit {', '.join(commits)}. "
        f"{FEWER if any('/' in cell for row in rows for cell in row) else ''}{LEGEND} {escape(report['test'])}"
    )
    tables = [*markdown_table(head, rows), *_contrasts(report["contrasts"]), "", told]
    return "\n".join([*tables, "", *(f"- {escape(line)}" for line in report["remarks"])])


def _contrasts(contrasts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lay out the pairs of arms that were asked for: the main score, and whether the others agree."""
    if not contrasts:
        return []
    head = ["arm", "minus", f"{SCORES[MAIN].label} (95 %)", "verdict", *(SCORES[key].label for key in BESIDE)]
    rows = []
    for contrast in contrasts:
        of_score = {each["score"]: each for each in contrast["differences"]}
        unequal = "" if contrast["budget"]["equal"] else " (unequal budget)"
        beside = (_difference(of_score.get(key), key) for key in BESIDE)
        names = (f"`{contrast['arm']}`{unequal}", f"`{contrast['baseline']}`")
        rows.append([*names, _difference(of_score[MAIN], MAIN), _verdict(of_score[MAIN]), *beside])
    return ["", CONTRASTS, "", *markdown_table(head, rows, left=2)]


def _difference(difference: Mapping[str, Any] | None, key: str) -> str:
    """Write a difference, with its interval where there is one."""
    if difference is None:
        return NONE
    digits = SCORES[key].digits
    ends = interval(difference["low"], difference["high"], digits, signed=True)
    return f"{number(difference['mean'], digits, signed=True)}{f' ({ends})' if ends else ''}"


def _verdict(difference: Mapping[str, Any]) -> str:
    verdict = difference["verdict"]
    return verdict if verdict == "INCONCLUSIVE" else f"**{verdict}**"


def write_summary(path: Path, report: Mapping[str, Any]) -> None:
    """Replace what stands between the markers of a file.

    Raises:
        InputError: the file cannot be read, or lacks the markers.
    """
    BETWEEN.write(path, lambda _: summary(report))


def _row(arm: Mapping[str, Any], difference: Mapping[str, Any] | None, n_pairs: int) -> list[str]:
    """Lay out an arm; the baseline has no difference, and what is no gain has none per hour."""
    gain = None if difference is None else difference["mean"]
    decided = difference is not None and difference["verdict"] != "INCONCLUSIVE"
    hours = _hours(arm)
    per_hour = gain / hours if decided and gain is not None and hours else None
    return [
        f"`{arm['name']}`",
        _mean(arm, MAIN, n_pairs),
        _difference(difference, MAIN),
        NONE if difference is None else _verdict(difference),
        *(_mean(arm, key, n_pairs) for key in BESIDE),
        number(arm["kept"], 2),
        number(60 * hours, 1),
        number(per_hour, 1, signed=True),
    ]


def _reference(name: str, cases: Mapping[str, Mapping[str, float | None]], n_cases: int) -> list[str]:
    """Lay out a classical method, which is not trained: the mean over cases."""
    means: dict[str, str] = {}
    for key in (MAIN, *BESIDE):
        values = [value for row in cases.values() if (value := row.get(key)) is not None]
        mean = sum(values) / len(values) if values else None
        means[key] = number(mean, SCORES[key].digits) + _of(len(values), n_cases)
    return [escape(name), means[MAIN], NONE, NONE, *(means[key] for key in BESIDE), NONE, NONE, NONE]


def _mean(arm: Mapping[str, Any], key: str, n_pairs: int) -> str:
    """Write a mean, and of how many pairs where a few lack: other means are of harder or easier cases."""
    known = {
        (case, run["seed"]) for run in arm["runs"] for case, row in run["cases"].items() if row.get(key) is not None
    }
    return number(arm["scores"].get(key, {}).get("mean"), SCORES[key].digits) + _of(len(known), n_pairs)


def _of(known: int, wanted: int) -> str:
    return f" ({known}/{wanted})" if 0 < known < wanted else ""


def _hours(arm: Mapping[str, Any]) -> float:
    return (arm["cost"]["fit_seconds"] or 0.0) / 3600
