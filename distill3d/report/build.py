"""What ``distill3d report`` and ``distill3d compare`` call: from places on disk to a comparison and its files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from rich.console import Console
from rich.progress import track
from rich.text import Text

from distill3d.errors import InputError
from distill3d.report.comparison.compare import as_json, compare, run_folders
from distill3d.report.comparison.grouping import group_runs
from distill3d.report.comparison.runs import Run, read_run
from distill3d.report.comparison.statistics import CaseTest
from distill3d.report.comparison.verdict import DEFAULT_TEST, pick_test
from distill3d.report.content import Comparison
from distill3d.report.keep import keep_runs
from distill3d.report.text import results, summary
from distill3d.report.text.markdown import as_markdown
from distill3d.storage.find import find_runs
from distill3d.storage.run_folder import write_json, write_text
from distill3d.volumes.inputs import require_writable


def compare_places(
    places: Sequence[str | Path],
    *,
    patterns: Sequence[str] = (),
    sweeps: Sequence[str] = (),
    runs: Path = Path("runs"),
    baseline: str | None = None,
    contrasts: Sequence[str] = (),
    scores: Sequence[str] = (),
    test: str = DEFAULT_TEST,
    title: str = "",
    console: Console | None = None,
) -> Comparison:
    """Find, read and compare runs; see `find_runs` and `compare`.

    Raises:
        InputError: nothing is found, all that is found is damaged, it is not clear what to compare, or the test is
            unknown.
    """
    case_test = pick_test(test)
    if not [*places, *patterns, *sweeps]:
        raise InputError("nothing to report on; accepted: RUN..., --glob PATTERN or --sweep NAME")
    folders, left_out = find_runs(places, patterns=patterns, sweeps=sweeps, runs=runs)
    read, damaged = _read(folders, console)
    comparison = _compare(
        read,
        baseline=baseline,
        contrasts=contrasts,
        scores=scores,
        test=case_test,
        title=title,
        remarks=left_out,
        console=console,
    )
    return _without(comparison, damaged)


def compare_two(
    a: str,
    b: str,
    *,
    runs: Path = Path("runs"),
    scores: Sequence[str] = (),
    test: str = DEFAULT_TEST,
    console: Console | None = None,
) -> Comparison:
    """Compare what is at ``b`` with what is at ``a``, the baseline.

    Raises:
        InputError: one of them holds no finished run, or several arms, or the test is unknown.
    """
    case_test = pick_test(test)
    sides, left_out, all_damaged = [], [], []
    for place in (a, b):
        folders, unfinished = find_runs([place], runs=runs)
        read, damaged = _read(folders, console)
        groups, _ = group_runs(read)
        if len(groups) > 1:
            names = ", ".join(group.name for group in groups)
            raise InputError(
                f"{place}: holds {len(groups)} arms ({names}); accepted: one arm, or distill3d report {place}"
            )
        sides.append(read)
        left_out += unfinished
        all_damaged += damaged
    groups, _ = group_runs([*sides[0], *sides[1]])
    if len(groups) == 1:
        raise InputError(f"{a} and {b} are runs of one arm, {groups[0].name}; accepted: two arms")
    first = {run.folder for run in sides[0]}
    baseline = next(group.name for group in groups if group.runs[0].folder in first)
    comparison = _compare(
        [*sides[0], *sides[1]],
        baseline=baseline,
        scores=scores,
        test=case_test,
        remarks=left_out,
        console=console,
    )
    return _without(comparison, all_damaged)


def _read(folders: Sequence[Path], console: Console | None) -> tuple[list[Run], list[str]]:
    """Read runs; also return a line about each that is damaged.

    Raises:
        InputError: all of them are.
    """
    quiet = console is None or not console.is_terminal
    runs, damaged = [], []
    for path in track(folders, "reading runs", console=console, transient=True, disable=quiet):
        try:
            runs.append(read_run(path))
        except InputError as err:
            damaged.append(f"{path.as_posix()}: damaged, left out: {err.lines[0].removeprefix(f'{path}/')}")
    if damaged and not runs:
        raise InputError(*damaged)
    return runs, damaged


def _without(comparison: Comparison, damaged: Sequence[str]) -> Comparison:
    """Say in a comparison which runs are not in it for they are damaged."""
    return replace(comparison, remarks=(*damaged, *comparison.remarks), damaged=tuple(damaged))


def _compare(
    read: Sequence[Run],
    *,
    baseline: str | None,
    contrasts: Sequence[str] = (),
    scores: Sequence[str],
    test: CaseTest,
    title: str = "",
    remarks: Sequence[str],
    console: Console | None,
) -> Comparison:
    with nullcontext() if console is None else console.status("statistics") as status:
        return compare(
            read,
            baseline=baseline,
            contrasts=contrasts,
            scores=scores,
            test=test,
            title=title,
            remarks=remarks,
            on_score=lambda label: status.update(Text(f"statistics: {label}")) if status else None,
        )


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Outputs:
    """What a report writes.

    Args:
        out: folder for `write_report`.
        results: a Markdown file whose rows of the same arms are replaced.
        markdown: a Markdown file that gets one table between its markers.
        picture: a PNG.
        keep: folder for what a report needs of every run.
    """

    out: Path
    results: Path | None = None
    markdown: Path | None = None
    picture: Path | None = None
    keep: Path | None = None

    def check(self) -> None:
        """Find out whether all can be written, before the work on it begins; nothing is.

        Raises:
            InputError: something cannot be.
        """
        folders = {"--out": self.out, "--keep": self.keep}
        files = {"--results": self.results, "--markdown": self.markdown, "--picture": self.picture}
        for option, folder in (folders | {option: file and file.parent for option, file in files.items()}).items():
            if folder is not None:
                require_writable(next(each for each in (folder, *folder.parents) if each.exists()), option=option)
        if self.results is not None:
            results.BETWEEN.read(self.results)
        if self.markdown is not None:
            summary.BETWEEN.read(self.markdown)

    def write(self, comparison: Comparison) -> list[Path]:
        """Write all; returns the files, and the folder that is kept.

        Raises:
            InputError: something cannot be written.
        """
        from distill3d.report.picture import write_picture  # noqa: PLC0415 - matplotlib; most reports do without

        files = write_report(comparison, self.out)
        if self.results is not None:
            with _written(self.results, "--results"):
                results.write_results(self.results, comparison)
            files.append(self.results)
        if self.markdown is not None:
            with _written(self.markdown, "--markdown"):
                summary.write_summary(self.markdown, as_json(comparison))
            files.append(self.markdown)
        if self.picture is not None:
            write_picture(self.picture, comparison)
            files.append(self.picture)
        if self.keep is not None:
            with _written(self.keep, "--keep"):
                keep_runs([folder for folders in run_folders(comparison).values() for folder in folders], self.keep)
                write_json(self.keep / "report.json", as_json(comparison))
            files.append(self.keep)
        return files


@contextmanager
def _written(path: Path, option: str) -> Iterator[None]:
    """Say in a line that a file or folder cannot be written."""
    try:
        yield
    except OSError as err:
        raise InputError(f"{path}: cannot be written ({err.strerror}); accepted: another {option}") from err


def write_report(comparison: Comparison, out: Path) -> list[Path]:
    """Write ``report.json``, ``report.md`` and ``index.html``; returns them.

    Raises:
        InputError: the folder cannot be written.
    """
    from distill3d.report.page.html import write_page  # noqa: PLC0415 - plotly; the terminal does without

    files = write_numbers(comparison, out)
    with _written(out, "--out"):
        return [*files, write_page(comparison, run_folders(comparison), out / "index.html")]


def write_numbers(comparison: Comparison, out: Path) -> list[Path]:
    """Write ``report.json`` and ``report.md``; returns them.

    Raises:
        InputError: the folder cannot be written.
    """
    files = [out / "report.json", out / "report.md"]
    with _written(out, "--out"):
        write_json(files[0], as_json(comparison))
        write_text(files[1], as_markdown(comparison))
    return files
