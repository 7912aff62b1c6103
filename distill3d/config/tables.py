"""Lays out experiments, their differences and what they can name, for the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.table import Table
from rich.text import Text

from distill3d.config.catalog import GROUNDS, ExperimentFile
from distill3d.errors import printable
from distill3d.terminal import WIDTH

OWN, COMPOSED = "\N{BLACK CIRCLE}", "\N{WHITE CIRCLE}"


def difference_table(name_a: str, name_b: str, rows: Sequence[tuple[str, object, object]]) -> Table:
    """Show only the keys that differ between two experiments."""
    table = Table(width=WIDTH)
    table.add_column("key", overflow="fold")
    table.add_column(name_a, overflow="fold")
    table.add_column(name_b, overflow="fold")
    for key, a, b in rows:
        table.add_row(key, _shown(a), _shown(b))
    return table


def catalog_table(questions: Mapping[str, str], experiments: Mapping[str, ExperimentFile]) -> Table:
    """Lay out arms by grounds, with the question of each arm.

    Args:
        questions: arm -> its question.
        experiments: name -> where it is read from, of every arm on every ground.
    """
    table = Table(
        title="experiments: put the ground before the arm, as in op_tubular", title_justify="left", width=WIDTH
    )
    table.add_column("arm", overflow="fold")
    grounds = list(reversed(GROUNDS))
    for ground in grounds:
        table.add_column(ground.rstrip("_") or "simulated", justify="center", overflow="fold")
    table.add_column("question", overflow="fold")
    for arm, question in questions.items():
        files = [experiments.get(ground + arm) for ground in grounds]
        table.add_row(arm, *(_mark(file) for file in files), Text(question))
    table.caption, table.caption_justify = f"{OWN} a file of its own  {COMPOSED} the arm's file on that ground", "left"
    return table


def _mark(file: ExperimentFile | None) -> str:
    return "" if file is None else OWN if file.path.stem == file.name else COMPOSED


def with_origins(settings: Mapping[str, Any], origins: Mapping[str, str], prefix: str = "") -> str:
    """Write settings as YAML, each followed by the file that says it; those without one have their default.

    Args:
        settings: plain containers.
        origins: dotted key -> file, or ``command line``.
        prefix: dotted key of the settings, for a part of them.

    Example:
        >>> print(with_origins({"seed": 1, "trainer": {"steps": 9}}, {"trainer.steps": "a/unet.yaml"}), end="")
        seed: 1
        trainer:
          steps: 9  # unet.yaml
    """
    lines = []
    for key, value in settings.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            lines += [f"{printable(key)}:\n", textwrap.indent(with_origins(value, origins, f"{path}."), "  ")]
        else:
            text = yaml.safe_dump([value], default_flow_style=True, width=10_000, allow_unicode=True).strip()[1:-1]
            origin = f"  # {printable(Path(origins[path]).name)}" if path in origins else ""
            lines.append(f"{printable(key)}: {printable(text)}{origin}\n")
    return "".join(lines)


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
