"""The console: what is printed is text as it is, how wide a table is, and the bar of long work."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rich.console import RenderableType
    from rich.progress import Progress

WIDTH = 100  # columns of a table


def stdout() -> Console:
    """Print to stdout, at a width that tables fit also where there is no terminal.

    Brackets and colons are printed as they are, for paths and names hold them; so of every console here.
    """
    console = Console(markup=False, emoji=False)
    return console if console.is_terminal else Console(markup=False, emoji=False, width=WIDTH)


def stderr(*, quiet: bool = False) -> Console:
    """Print to stderr, or nothing if ``quiet``."""
    return Console(markup=False, emoji=False, stderr=True, quiet=quiet)


def show_result(content: dict[str, Any], *tables: RenderableType, as_json: bool) -> None:
    """Print a verb's result: its tables, or one JSON object."""
    if as_json:
        typer.echo(json.dumps(content, allow_nan=False))
        return
    for table in tables:
        stdout().print(table)


def show_all(
    results: Iterable[dict[str, Any]],
    tables: Callable[[list[dict[str, Any]]], Iterable[RenderableType]],
    *,
    as_json: bool,
) -> None:
    """Print the results of a verb that takes many inputs, also those before a failure.

    Args:
        results: as they come.
        tables: lays them out.
        as_json: print one JSON object: the result, or several as ``results``.
    """
    done: list[dict[str, Any]] = []
    try:
        for result in results:
            done.append(result)  # noqa: PERF402 - they stay when a later one fails
    finally:
        if done:
            content = done[0] if len(done) == 1 else {"results": done}
            show_result(content, *tables(done), as_json=as_json)


def show_next(text: str) -> None:
    """Say what one may do now, where somebody is reading: on stderr, and only if that is a terminal."""
    console = stderr()
    if console.is_terminal:
        console.print(f"next      {text}", soft_wrap=True)


def progress_bar(console: Console) -> Progress:
    """A bar with count, time spent and time left; silent where the console is not a terminal.

    What is printed to stdout meanwhile stands above the bar, or where stdout goes if that is no terminal.
    """
    from rich.progress import (  # noqa: PLC0415 - `--help` does without
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        TextColumn("{task.fields[info]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    return Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal, redirect_stdout=stdout().is_terminal
    )
