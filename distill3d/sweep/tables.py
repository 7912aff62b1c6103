"""Tables of a sweep for the terminal, 100 columns at most."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from distill3d.config.folds import LISTS
from distill3d.evaluation.scores import SCORES
from distill3d.sweep.plan import setting_of, varying
from distill3d.sweep.schema import Sweep
from distill3d.sweep.search import Attempt
from distill3d.terminal import WIDTH

BESIDE = tuple(SCORES[key] for key in ("dice", "dice_tol", "hd95_um"))  # beside the sweep's metric
METRIC_DIGITS = 3
STYLES = {
    "finished": "green",
    "running": "bold",
    "failed": "red",
    "stopped": "yellow",
    "pruned": "dim",
    "waiting": "dim",
}


def counts(rows: Sequence[Attempt]) -> str:
    """Say how many trials are in which state.

    Example:
        >>> counts([])
        '0 trials'
    """
    number = Counter(row.state for row in rows)
    states = [f"{number[state]} {state}" for state in STYLES if number[state]]
    return ", ".join([f"{len(rows)} trials", *states])


def values_text(sweep: Sweep, values: Mapping[str, Any]) -> str:
    """Values of a trial that another trial does not share, on one line."""
    return ", ".join(f"{key}={shown(values[key])}" for key in varying(sweep) if key in values) or "the same as all"


def shown(value: object) -> str:
    """Format a value: a number with four digits, the rest as it is."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def status_table(sweep: Sweep, rows: Sequence[Attempt], *, title: str) -> Table:
    """A row per trial: its state, its values, and what it achieved or why not."""
    table = Table(title=Text(title), title_justify="left", width=WIDTH, box=SIMPLE_HEAD)
    table.add_column("trial", justify="right")
    table.add_column("state")
    table.add_column("values", overflow="fold", ratio=2)
    table.add_column(sweep.metric.name, justify="right")
    table.add_column("time", justify="right")
    table.add_column("note", overflow="fold", ratio=1)
    for row in rows:
        table.add_row(
            str(row.number),
            Text(row.state, style=STYLES[row.state]),
            Text(values_text(sweep, row.values) if row.values else ""),
            "" if row.value is None else f"{row.value:.4f}",
            "" if row.seconds is None else f"{row.seconds:.0f} s",
            Text(_note(row)),
        )
    return table


def _note(row: Attempt) -> str:
    before = f"attempt {row.attempt}; before: {row.before}" if row.attempt > 1 else ""
    return "; ".join(part for part in (row.reason, before) if part)


def report_table(sweep: Sweep, rows: Sequence[Attempt]) -> Table:
    """A row per setting, best first: mean and standard deviation over seeds and folds, of finished trials only."""
    metric, keys = sweep.metric, _shown_keys(sweep, rows)
    others = [score for score in BESIDE if f"test/{score.key}" != metric.name]
    table = Table(title=Text(_report_title(sweep, rows)), title_justify="left", width=WIDTH, box=SIMPLE_HEAD)
    table.add_column("setting", overflow="fold", ratio=1)
    table.add_column("n", justify="right")
    table.add_column(metric.name, justify="right")
    for score in others:
        table.add_column(score.column, justify="right")
    for group in ranked(sweep, rows):
        values = setting_of(group[0].values)
        setting = "\n".join(f"{key}={shown(values[key])}" for key in keys if key in values) or sweep.name
        cells = [
            _mean_and_sd([float(row.scores[score.key]) for row in group if score.key in row.scores], score.digits)
            for score in others
        ]
        table.add_row(
            Text(setting),
            str(len(group)),
            _mean_and_sd([row.value for row in group if row.value is not None], METRIC_DIGITS),
            *cells,
        )
    return table


def _shown_keys(sweep: Sweep, rows: Sequence[Attempt]) -> list[str]:
    """Keys that may tell settings apart; of the cases of a fold only what does."""
    settings = [setting_of(row.values) for row in rows]
    keys = dict.fromkeys(key for setting in settings for key in setting)
    differ = [key for key in keys if len({repr(setting[key]) for setting in settings if key in setting}) > 1]
    return [key for key in keys if key in differ or (key in varying(sweep) and key not in LISTS)]


def _report_title(sweep: Sweep, rows: Sequence[Attempt]) -> str:
    best = "highest" if sweep.metric.goal == "maximize" else "lowest"
    return (
        f"{sweep.name}: {counts(rows)}\n{best} mean {sweep.metric.name} first; n finished trials; mean +- sd over them"
    )


def ranked(sweep: Sweep, rows: Sequence[Attempt]) -> list[list[Attempt]]:
    """Finished trials that differ in seed and fold only, together; the best mean first."""
    groups: dict[str, list[Attempt]] = {}
    for row in rows:
        if row.state == "finished" and row.value is not None:
            groups.setdefault(repr(sorted(setting_of(row.values).items())), []).append(row)
    sign = -1 if sweep.metric.goal == "maximize" else 1
    return sorted(groups.values(), key=lambda group: sign * statistics.fmean(row.value or 0.0 for row in group))


def _mean_and_sd(values: Sequence[float], digits: int) -> str:
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):.{digits}f}"
    return f"{mean} +- {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean
