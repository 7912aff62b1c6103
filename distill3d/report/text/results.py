"""The table of results that stands beside the experiments: a row per arm, kept from one report to the next."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from distill3d.evaluation.scores import SCORES
from distill3d.report.content import Arm, Comparison, Estimate
from distill3d.report.numerals import NONE, number, titled, trainings
from distill3d.report.text.between import Between
from distill3d.report.text.markdown import escape

_COLUMN = re.compile(r"(?<!\\)\|")
COLUMNS = ("dice", "dice_tol", "cldice", "hd95_um", "tree_f1")
BETWEEN = Between(
    option="--results",
    begin="<!-- written by distill3d report --results: begin -->",
    end="<!-- end -->",
    required=False,
)


def updated(table: str, comparison: Comparison) -> str:
    """Return a table with the rows of a comparison's arms; rows of other arms stay.

    Args:
        table: the old one, empty for none.
        comparison: its arms replace rows of the same name.
    """
    rows = {_COLUMN.split(row)[1].strip(): row for row in table.splitlines() if row.startswith("| `")}
    rows |= {_code(arm.name): _row(arm) for arm in comparison.arms}
    head = ["arm", "seeds", "cases", *(titled(SCORES[key]) for key in COLUMNS), "commit", "machine"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(rows[name] for name in sorted(rows))]
    return "\n".join(lines)


def write_results(path: Path, comparison: Comparison) -> None:
    """Update the table of a file, which is made where there is none.

    Raises:
        InputError: the file cannot be read, or lacks one of the lines around the table.
    """
    BETWEEN.write(path, lambda table: updated(table, comparison))


def _row(arm: Arm) -> str:
    cases = {name for run in arm.runs for name in run.cases}
    scores = (_mean_and_sd(arm.scores.get(key), SCORES[key].digits) for key in COLUMNS)
    commits = _joined((run.commit or "")[:7] for run in arm.runs)
    machines = _joined(run.machine for run in arm.runs)
    cells = (_code(arm.name), trainings(arm), str(len(cases)), *scores, commits, escape(machines))
    return f"| {' | '.join(cells)} |"


def _code(name: str) -> str:
    """Write a name as code within a table, where a bar alone would end the cell."""
    return f"`{name}`".replace("|", r"\|")


def _mean_and_sd(estimate: Estimate | None, digits: int) -> str:
    if estimate is None or estimate.mean is None:
        return NONE
    spread = "" if estimate.sd_seeds is None else f" ± {number(estimate.sd_seeds, digits)}"
    return number(estimate.mean, digits) + spread


def _joined(words: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(word for word in words if word)) or NONE
