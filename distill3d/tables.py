"""Tables for the terminal, 100 columns at most. They show numbers; they compute none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

WIDTH = 100
COLUMNS = {
    "dice": "Dice",
    "dice_tol": "Dice, 2 vox",
    "precision": "precision",
    "recall": "recall",
    "hd95_um": "HD95 um",
}


def score_table(results: Mapping[str, Any]) -> Table:
    """Lay out a run's ``metrics.json``: a row per case and method, then their means."""
    table = Table(title=_title(results), title_justify="left", width=WIDTH, title_style="bold")
    table.add_column("case", overflow="fold")
    table.add_column("method", overflow="fold")
    for label in COLUMNS.values():
        table.add_column(label, justify="right")
    methods = {results["experiment"]: results, **results["baselines"]}
    for case in results["cases"]:
        for method, scored in methods.items():
            table.add_row(case, method, *_numbers(scored["cases"][case]))
    table.add_section()
    for method, scored in methods.items():
        missed = f", {scored['n_missed']} missed" if scored["n_missed"] else ""
        table.add_row(f"mean of {len(scored['cases'])}{missed}", method, *_numbers(scored["mean"]), style="bold")
    return table


def _title(results: Mapping[str, Any]) -> Text:
    teacher = results.get("teacher") or {"weights": "none", "architecture": "none", "random": False}
    title = Text(f"{results['experiment']}, seed {results['seed']}: held-out cases")
    if teacher["architecture"] != "none":
        title.append(f"\nteacher: {teacher['architecture']}, {teacher['weights']}", style="not bold")
    if teacher["random"]:
        title.append("\nTHE TEACHER'S WEIGHTS ARE RANDOM: nothing was transferred from photographs", style="bold red")
    return title


def _numbers(scores: Mapping[str, float]) -> list[str]:
    return [f"{scores[key]:.1f}" if key.endswith("_um") else f"{scores[key]:.3f}" for key in COLUMNS]


def audit_table(audit: Mapping[str, Any]) -> Table:
    """Sum a transfer audit up: per fate, how many entries and values."""
    table = Table(title=f"transfer: {audit['copy_rate']:.1%} of the student's trainable values come from the teacher")
    table.title_justify = "left"
    table.add_column("fate")
    table.add_column("entries", justify="right")
    table.add_column("values", justify="right")
    for fate, count in audit["counts"].items():
        values = sum(_size(row["shape"]) for row in audit["rows"] if row["fate"] == fate)
        table.add_row(fate, str(count), f"{values:,}")
    return table


def difference_table(name_a: str, name_b: str, rows: Sequence[tuple[str, object, object]]) -> Table:
    """Show only the keys that differ between two experiments."""
    table = Table(width=WIDTH)
    table.add_column("key", overflow="fold")
    table.add_column(name_a, overflow="fold")
    table.add_column(name_b, overflow="fold")
    for key, a, b in rows:
        table.add_row(key, _shown(a), _shown(b))
    return table


def catalog_table(questions: Mapping[str, str]) -> Table:
    """Experiments and the question each answers."""
    table = Table(title="experiments", title_justify="left", width=WIDTH)
    table.add_column("name", overflow="fold")
    table.add_column("question", overflow="fold")
    for name, question in questions.items():
        table.add_row(name, Text(question))
    return table


def component_table(kind: str, rows: Sequence[tuple[str, str, str]]) -> Table:
    """What a YAML file can name under one key."""
    table = Table(title=f"{kind}: what `name` can be", title_justify="left", width=WIDTH)
    for column in ("name", "what it is", "from"):
        table.add_column(column, overflow="fold")
    for name, what, module in rows:
        table.add_row(name, Text(what), module.removeprefix("distill3d."))
    return table


def _shown(value: object) -> Text:
    return Text("-" if value is None else str(value))


def _size(shape: Sequence[int]) -> int:
    product = 1
    for n in shape:
        product *= n
    return product
