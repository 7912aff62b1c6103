"""The console: how wide it is, and the bar of long work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from rich.progress import Progress

WIDTH = 100  # columns of a table


def stdout() -> Console:
    """Print to stdout, at a width that tables fit also where there is no terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH)


def progress_bar(console: Console) -> Progress:
    """A bar with count, time spent and time left; silent where the console is not a terminal."""
    from rich.progress import (  # noqa: PLC0415 - `--help` does without
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        TextColumn("{task.fields[info]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
