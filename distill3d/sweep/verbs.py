"""The verbs ``distill3d sweep ...``: they parse, call and print, and import nothing heavy before use."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from distill3d.terminal import AllowPlugins, echo, show_next, stdout

sweep_app = typer.Typer(
    name="sweep",
    help="Run W&B sweep files on this machine, without a server. W&B runs the same files: wandb sweep, wandb agent.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Name = Annotated[str, typer.Argument(metavar="SWEEP", help="a name under sweeps/, or a YAML file")]
Runs = Annotated[Path, typer.Option(metavar="FOLDER", help="the sweep is kept in FOLDER/sweeps/<name>")]
Storage = Annotated[
    str | None,
    typer.Option(metavar="URL", help="where its state is: postgresql://... or mysql://... lets machines share it"),
]
Workers = Annotated[
    int | None, typer.Option(help="trials at a time, else as many as GPUs allow, or 2; GPUs or cores are dealt out")
]
Retries = Annotated[int, typer.Option(min=0, help="how often a trial that failed is tried again")]


def _table(name: str, runs: Path) -> str:
    """Return the verb that shows the table of a sweep."""
    return shlex.join(["distill3d", "sweep", "report", name, *_elsewhere(runs)])


def _is_it_true(name: str, runs: Path) -> str:
    """Return the verb that tests what the table of a sweep shows."""
    return shlex.join(["distill3d", "report", "--sweep", name, *_elsewhere(runs)])


def _elsewhere(runs: Path) -> list[str]:
    return [] if runs == Path("runs") else ["--runs", str(runs)]


@sweep_app.command()
def run(
    name: Name,
    workers: Workers = None,
    storage: Storage = None,
    retries: Retries = 1,
    runs: Runs = Path("runs"),
    allow_plugins: AllowPlugins = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only print what each trial would be called with")] = False,
) -> None:
    """Check every trial of a sweep, run them all, and show the table."""
    from distill3d.storage.find import sweep_name
    from distill3d.sweep import control
    from distill3d.sweep.files import find_sweep, read_sweep

    path = find_sweep(name)
    if dry_run:
        for line in control.dry_run(read_sweep(path, allow_plugins=allow_plugins), runs):
            echo(line)
        return
    code = control.begin(
        path,
        runs=runs,
        workers=workers,
        storage=storage,
        retries=retries,
        console=stdout(),
        allow_plugins=allow_plugins,
    )
    show_next(f"is it true? {_table(name, runs)}, {_is_it_true(sweep_name(name), runs)}")
    raise typer.Exit(code)


@sweep_app.command()
def resume(
    name: Name,
    workers: Workers = None,
    storage: Storage = None,
    retries: Retries = 1,
    runs: Runs = Path("runs"),
    allow_plugins: AllowPlugins = False,
) -> None:
    """Go on with a sweep that was begun: what is unfinished continues, what is finished stays."""
    from distill3d.storage.find import sweep_name
    from distill3d.sweep import control

    code = control.resume(
        name,
        runs=runs,
        workers=workers,
        storage=storage,
        retries=retries,
        console=stdout(),
        allow_plugins=allow_plugins,
    )
    show_next(f"is it true? {_table(name, runs)}, {_is_it_true(sweep_name(name), runs)}")
    raise typer.Exit(code)


@sweep_app.command()
def status(name: Name, storage: Storage = None, runs: Runs = Path("runs"), allow_plugins: AllowPlugins = False) -> None:
    """Show the state of every trial, also while the sweep runs."""
    from distill3d.sweep import control
    from distill3d.sweep.tables import counts, status_table

    sweep, rows = control.state_of(name, runs=runs, storage=storage, allow_plugins=allow_plugins)
    stdout().print(status_table(sweep, rows, title=f"{sweep.name}: {counts(rows)}"))


@sweep_app.command()
def report(name: Name, storage: Storage = None, runs: Runs = Path("runs"), allow_plugins: AllowPlugins = False) -> None:
    """Compare the settings of a sweep, best first, over their seeds and folds."""
    from distill3d.sweep import control
    from distill3d.sweep.tables import report_table

    sweep, rows = control.state_of(name, runs=runs, storage=storage, allow_plugins=allow_plugins)
    out = stdout()
    out.print(report_table(sweep, rows))
    if any(row.scores for row in rows):
        out.print(f"is it true? {_is_it_true(sweep.name, runs)}", soft_wrap=True, markup=False, highlight=False)


@sweep_app.command()
def winners(
    names: Annotated[list[str], typer.Argument(metavar="SWEEP...", help="tunings that have ended")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="to write; runs/sweeps/<name>/winners.yaml of one sweep")
    ] = None,
    storage: Storage = None,
    runs: Runs = Path("runs"),
    allow_plugins: AllowPlugins = False,
) -> None:
    """Write what every arm won with on validation cases, for tuned.file=FILE; a sweep of arms does so at its end."""
    from distill3d.sweep import control

    control.show_winners(names, runs=runs, storage=storage, out=out, console=stdout(), allow_plugins=allow_plugins)


@sweep_app.command(name="export-slurm")
def export_slurm(
    name: Name,
    runs: Runs = Path("runs"),
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="the script; runs/sweeps/<name>/array.sh")] = None,
    at_once: Annotated[int, typer.Option(min=1, help="trials that may run at a time")] = 4,
    time: Annotated[str, typer.Option(help="limit of a trial; it goes on afterwards where it was")] = "04:00:00",
    cpus: Annotated[int, typer.Option(min=1, help="cores per process")] = 4,
    allow_plugins: AllowPlugins = False,
) -> None:
    """Write a grid or random sweep as a SLURM array job, a task per trial."""
    from distill3d.sweep import control
    from distill3d.sweep.files import find_sweep

    script = control.export_slurm(
        find_sweep(name),
        runs=runs,
        out=out,
        at_once=at_once,
        time=time,
        cpus=cpus,
        allow_plugins=allow_plugins,
    )
    submit, then = shlex.join(["sbatch", str(script)]), _table(name, runs)
    stdout().print(f"submit    {submit}", f"then      {then}", sep="\n", soft_wrap=True, markup=False, highlight=False)
