"""Lays out experiments, their differences and what they can name, for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

from distill3d.terminal import WIDTH


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
