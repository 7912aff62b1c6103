"""The console: what is printed is text as it is, how wide a table is, and the bar of long work."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.segment import Segment

from distill3d.errors import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import ConsoleOptions, RenderableType
    from rich.progress import Progress

WIDTH = 100  # columns of a table
AllowPlugins = Annotated[
    bool, typer.Option("--allow-plugins", help="run the code that a file outside of this project names under plugins")
]


class _TextConsole(Console):
    """Prints brackets and colons as they are, for paths and names hold them, and what steers a terminal escaped."""

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401 - rich's own
        super().__init__(markup=False, emoji=False, **settings)

    def print(self, *objects: Any, **how: Any) -> None:  # noqa: ANN401 - rich's own
        """Print strings in one line each, and whatever rich lays out."""
        super().print(*(printable(item) if isinstance(item, str) else item for item in objects), **how)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Escape what is laid out; line breaks of the layout stay."""
        for segment in super().render(renderable, options):
            text, style, control = segment
            if not control and not text.isprintable():
                text = "\n".join(map(printable, text.split("\n")))
            yield Segment(text, style, control)


class _LogLine(logging.Formatter):
    """Writes a message in one line; a traceback keeps its lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - of the base class
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802, ANN401 - of the base class
        return "\n".join(map(printable, super().formatException(ei).split("\n")))


def stdout() -> Console:
    """Print to stdout, at a width that tables fit also where there is no terminal."""
    console = _TextConsole()
    return console if console.is_terminal else _TextConsole(width=WIDTH)


def stderr(*, quiet: bool = False) -> Console:
    """Print to stderr, or nothing if ``quiet``."""
    return _TextConsole(stderr=True, quiet=quiet)


def log_text() -> None:
    """Let warnings that nobody else handles be lines of text."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_LogLine())


@contextlib.contextmanager
def warnings_of(logger: str, show: Callable[[str], object] = lambda _: None) -> Iterator[list[str]]:
    """Collect what is warned of meanwhile by loggers of a name, and show it."""
    collected: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            collected.append(record.getMessage())
            show(record.getMessage())

    handler = Collector(logging.WARNING)
    logging.getLogger(logger).addHandler(handler)
    try:
        yield collected
    finally:
        logging.getLogger(logger).removeHandler(handler)


def echo(text: str) -> None:
    """Print lines as they are, whatever a file put between them escaped."""
    typer.echo("\n".join(map(printable, text.removesuffix("\n").split("\n"))))


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


def parsed_spacing(text: str | None) -> tuple[float, float, float] | None:
    """Return the value of ``--spacing``."""
    if text is None:
        return None
    try:
        z, y, x = (float(part) for part in text.split(","))
    except ValueError as err:
        raise typer.BadParameter(f"{text!r} is not three numbers; accepted: z,y,x such as 3.03,1,1") from err
    return z, y, x
