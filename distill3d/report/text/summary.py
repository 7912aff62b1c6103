"""One table of a whole comparison, written between two markers of a Markdown file such as README."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill3d.errors import InputError
from distill3d.evaluation.scores import SCORES
from distill3d.report.numerals import NONE, interval, number, titled
from distill3d.report.text.markdown import escape, markdown_table
from distill3d.storage.run_folder import write_text

BEGIN, END = "<!-- written by distill3d report --markdown: begin -->", "<!-- end -->"
MAIN, BESIDE = "dice", ("dice_tol", "hd95_um", "tree_f1")


def summary(report: Mapping[str, Any]) -> str:
    """Return a row per arm: the main score, its difference from the baseline with interval and verdict, and cost.

    Args:
        report: the content of ``report.json``.
    """
    arms, baseline = report["arms"], report["baseline"]
    differences = {each["arm"]: each for each in report["differences"] if each["score"] == MAIN}
    head = [
        "arm",
        titled(SCORES[MAIN]),
        f"minus `{baseline}` (95 %)",
        "verdict",
        *(titled(SCORES[key]) for key in BESIDE),
        "kept",
        "min",
        "gain / h",
    ]
    rows = [_row(arm, differences.get(arm["name"])) for arm in arms]
    rows += [_reference(name, cases) for name, cases in report["references"].items()]
    cases = sorted({case for arm in arms for run in arm["runs"] for case in run["cases"]})
    seeds = sorted({run["seed"] for arm in arms for run in arm["runs"]})
    hours = sum(len(arm["runs"]) * _hours(arm) for arm in arms)
    commits = sorted({(run["commit"] or "")[:7] for arm in arms for run in arm["runs"]})
    told = (
        f"Means over {len(cases)} held-out cases ({escape(', '.join(cases))}) and {len(seeds)} seeds; "
        f"{number(hours, 1)} h of training; commit {', '.join(commits)}. {escape(report['test'])}"
    )
    return "\n".join([*markdown_table(head, rows), "", told])


def write_summary(path: Path, report: Mapping[str, Any]) -> None:
    """Replace what stands between the markers of a file.

    Raises:
        InputError: the file cannot be read, or lacks the markers.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        raise InputError(f"--markdown: {path}: {err}; accepted: a Markdown file") from err
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise InputError(f"--markdown: {path} lacks the lines {BEGIN} and {END}, between which the table is written")
    write_text(path, f"{before}{BEGIN}\n{summary(report)}\n{END}{after}")


def _row(arm: Mapping[str, Any], difference: Mapping[str, Any] | None) -> list[str]:
    """Lay out an arm; the baseline has no difference."""
    digits, gain = SCORES[MAIN].digits, None if difference is None else difference["mean"]
    against = verdict = NONE
    if difference is not None:
        ends = interval(difference["low"], difference["high"], digits, signed=True)
        against = f"{number(gain, digits, signed=True)}{f' ({ends})' if ends else ''}"
        verdict = difference["verdict"] if difference["verdict"] == "INCONCLUSIVE" else f"**{difference['verdict']}**"
    hours = _hours(arm)
    per_hour = gain / hours if gain is not None and hours else None
    return [
        f"`{arm['name']}`",
        _mean(arm, MAIN),
        against,
        verdict,
        *(_mean(arm, key) for key in BESIDE),
        number(arm["kept"], 2),
        number(60 * hours, 1),
        number(per_hour, 1, signed=True),
    ]


def _reference(name: str, cases: Mapping[str, Mapping[str, float | None]]) -> list[str]:
    """Lay out a classical method, which is not trained: the mean over cases."""
    means: dict[str, str] = {}
    for key in (MAIN, *BESIDE):
        values = [value for row in cases.values() if (value := row.get(key)) is not None]
        means[key] = number(sum(values) / len(values) if values else None, SCORES[key].digits)
    return [escape(name), means[MAIN], NONE, NONE, *(means[key] for key in BESIDE), NONE, NONE, NONE]


def _mean(arm: Mapping[str, Any], key: str) -> str:
    return number(arm["scores"].get(key, {}).get("mean"), SCORES[key].digits)


def _hours(arm: Mapping[str, Any]) -> float:
    return (arm["cost"]["fit_seconds"] or 0.0) / 3600
