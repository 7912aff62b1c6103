"""The verbs that compare runs: they parse, call and print, and import nothing heavy before use."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from distill3d.terminal import show_next, stdout

if TYPE_CHECKING:
    from distill3d.report.content import Comparison  # which imports numpy; `--help` does without

report_app = typer.Typer(rich_markup_mode=None)

Places = Annotated[list[str] | None, typer.Argument(metavar="[RUN]...", help="run folders, or folders that hold runs")]
Sweeps = Annotated[list[str] | None, typer.Option("--sweep", metavar="NAME", help="all finished trials of a sweep")]
Patterns = Annotated[list[str] | None, typer.Option("--glob", metavar="PATTERN", help="such as 'runs/op_*', in quotes")]
Baseline = Annotated[
    str | None, typer.Option(metavar="ARM", help="what the others are compared with; else the one without strategy")
]
Contrasts = Annotated[
    list[str] | None,
    typer.Option("--contrast", metavar="ARM:BASELINE", help="a pair to compare too, such as an arm and its control"),
]
Scores = Annotated[
    str | None, typer.Option(metavar="KEY,KEY", help="columns, the main one first, by their keys in metrics.json")
]
Test = Annotated[str, typer.Option(metavar="NAME", help="over cases, may object to a verdict: sign-flip or wilcoxon")]
Title = Annotated[str, typer.Option(help="of the report")]
Runs = Annotated[Path, typer.Option(metavar="FOLDER", help="where runs and sweeps are")]


@report_app.command()
def report(
    places: Places = None,
    sweep: Sweeps = None,
    pattern: Patterns = None,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="for index.html, report.md, report.json")] = Path(
        "report"
    ),
    baseline: Baseline = None,
    contrasts: Contrasts = None,
    scores: Scores = None,
    test: Test = "sign-flip",
    title: Title = "",
    runs: Runs = Path("runs"),
    results: Annotated[
        Path | None, typer.Option(metavar="FILE", help="a Markdown table to update too, such as experiments/RESULTS.md")
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option(metavar="FILE", help="such as README.md: a table is written between its markers")
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(metavar="PNG", help="a simulated neuron: image, the baseline, the best other arm, gold"),
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="copy what a report needs of every run, and report.json, to commit them: no data"
        ),
    ] = None,
) -> None:
    """Compare finished runs: statistics, an equal-budget check, and one page; exits 1 if damaged runs are left out."""
    from distill3d.report.build import Outputs
    from distill3d.report.text.terminal import renderables

    console, outputs = stdout(), Outputs(out=out, results=results, markdown=markdown, picture=picture, keep=keep)
    outputs.check()
    comparison = _compared(places, pattern, sweep, runs, baseline, contrasts, scores, title, console, test=test)
    files = outputs.write(comparison)
    for part in renderables(comparison):
        console.print(part)
    console.print(*map(str, files), sep="\n", soft_wrap=True)
    show_next(f"open {out / 'index.html'} in a browser")
    _fail_if_damaged(comparison)


@report_app.command()
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="the baseline: run, experiment under runs/, or pattern")],
    b: Annotated[str, typer.Argument(metavar="B", help="what is compared with it")],
    scores: Annotated[str | None, typer.Option(metavar="KEY,KEY", help="columns, the main one first")] = None,
    test: Test = "sign-flip",
    runs: Annotated[Path, typer.Option(metavar="FOLDER", help="where experiments' runs are")] = Path("runs"),
) -> None:
    """Say whether B is better than A, by how much, and whether that can be believed."""
    from distill3d.report.build import compare_two
    from distill3d.report.text.terminal import renderables

    console = stdout()
    comparison = compare_two(a, b, runs=runs, scores=_keys(scores), test=test, console=console)
    for part in renderables(comparison):
        console.print(part)
    show_next(f"the cases one by one: distill3d report {a} {b}")
    _fail_if_damaged(comparison)


@report_app.command()
def dashboard(
    runs: Annotated[Path, typer.Argument(metavar="RUNS", help="a folder that holds runs")] = Path("runs"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="on this machine; 0 for a free one")] = 8765,
    baseline: Annotated[
        str | None, typer.Option(metavar="ARM", help="what the others are compared with; else the one without strategy")
    ] = None,
) -> None:
    """Show the report of a folder of runs while they go on, at 127.0.0.1 only; it reads files and changes none."""
    from distill3d.report.build import compare_places
    from distill3d.report.comparison.compare import run_folders
    from distill3d.report.live.dashboard import serve

    def build(folders: tuple[Path, ...]) -> tuple[Comparison, dict[str, tuple[Path, ...]]]:
        comparison = compare_places(folders, runs=runs, baseline=baseline, title=f"Runs of {runs}")
        return comparison, run_folders(comparison)

    out = stdout()
    serve(runs, port=port, build=build, on_start=lambda url: out.print(f"{url}  (Ctrl-C ends it)", soft_wrap=True))
    raise typer.Exit(130)


@report_app.command(name="wandb-report")
def wandb_report(
    places: Places = None,
    sweep: Sweeps = None,
    pattern: Patterns = None,
    baseline: Baseline = None,
    contrasts: Contrasts = None,
    scores: Scores = None,
    title: Title = "",
    project: Annotated[str, typer.Option(help="on W&B, where the runs are")] = "distill3d",
    entity: Annotated[str, typer.Option(help="user or team; the key's own where left out")] = "",
    runs: Runs = Path("runs"),
) -> None:
    """Write the comparison as a report on W&B, with live panels over the runs of every arm; wants a key."""
    from distill3d.report.comparison.compare import run_folders
    from distill3d.report.text.markdown import as_markdown
    from distill3d.report.wandb_report import save, wandb_report

    console = stdout()
    comparison = _compared(places, pattern, sweep, runs, baseline, contrasts, scores, title, console)
    text = as_markdown(comparison)
    report = wandb_report(comparison, run_folders(comparison), text=text, project=project, entity=entity)
    console.print(save(report), soft_wrap=True)
    _fail_if_damaged(comparison)


def _compared(
    places: list[str] | None,
    patterns: list[str] | None,
    sweeps: list[str] | None,
    runs: Path,
    baseline: str | None,
    contrasts: list[str] | None,
    scores: str | None,
    title: str,
    console: Console,
    *,
    test: str = "sign-flip",
) -> Comparison:
    from distill3d.report.build import compare_places

    return compare_places(
        places or [],
        patterns=patterns or [],
        sweeps=sweeps or [],
        runs=runs,
        baseline=baseline,
        contrasts=contrasts or [],
        scores=_keys(scores),
        test=test,
        title=title,
        console=console,
    )


def _fail_if_damaged(comparison: Comparison) -> None:
    if comparison.damaged:
        raise typer.Exit(1)


def _keys(text: str | None) -> list[str]:
    return [key.strip() for key in (text or "").split(",") if key.strip()]
