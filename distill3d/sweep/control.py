"""Begins, continues and shows sweeps: what the verbs of the command line call."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import optuna
from filelock import FileLock, Timeout
from rich.console import Console

from distill3d.errors import ConfigError, InputError
from distill3d.storage.find import sweep_name
from distill3d.storage.run_folder import write_text
from distill3d.storage.secrets import without_secrets
from distill3d.sweep import machine, search, slurm, winners
from distill3d.sweep.files import find_sweep, parse_sweep, read_sweep
from distill3d.sweep.going_on import resume_words, what_goes_on
from distill3d.sweep.plan import Trial, check, corners, grid, make_trial, sweep_folder
from distill3d.sweep.progress import Show
from distill3d.sweep.runner import Runner
from distill3d.sweep.schema import Sweep
from distill3d.sweep.search import Attempt
from distill3d.sweep.tables import report_table
from distill3d.volumes.inputs import require_writable


def dry_run(sweep: Sweep, runs: Path) -> Iterator[str]:
    """Say what every trial would be called with; of a bayes sweep the trials before any result is known.

    Raises:
        ConfigError: a trial could not run.
    """
    folder = sweep_folder(sweep.name, runs)
    check(sweep, folder)
    for trial in known_trials(sweep, folder):
        yield shlex.join(trial.argv)


def known_trials(sweep: Sweep, folder: Path) -> Iterator[Trial]:
    """All trials whose values do not depend on results, in order."""
    if sweep.method == "grid":
        for number, values in enumerate(grid(sweep)):
            yield make_trial(sweep, number, values, folder)
        return
    study = optuna.create_study()
    for number in range(sweep.run_cap or 0):
        if sweep.method == "bayes" and number >= STARTUP_TRIALS:
            return
        study.sampler = search.sampler(sweep, number)
        yield make_trial(sweep, number, search.draw(sweep, study.ask()), folder)


WINNERS = "winners.yaml"  # of a tuning, in its folder
STARTUP_TRIALS = 10  # that Optuna's TPE draws at random before it looks at results


def begin(
    path: Path,
    *,
    runs: Path,
    workers: int | None,
    storage: str | None,
    retries: int,
    console: Console,
    allow_plugins: bool = False,
) -> int:
    """Run a sweep file that has not been run here; returns the exit code.

    Raises:
        ConfigError: the file is wrong, or a trial could not run.
        InputError: there is a sweep of this name already, or the storage cannot be used.
        TrainingError: the storage cannot be used any more.
    """
    sweep = read_sweep(path, allow_plugins=allow_plugins)
    folder = sweep_folder(sweep.name, runs)
    address = storage or search.default_storage(folder)
    if search.stored_text(sweep.name, address) is not None:
        again = shlex.join(resume_words(sweep.name, folder, address))
        raise InputError(f"{folder}: sweep {sweep.name} was begun before; accepted: {again}")
    return _work(sweep, folder, address, workers=workers, retries=retries, console=console)


def resume(
    name: str,
    *,
    runs: Path,
    workers: int | None,
    storage: str | None,
    retries: int,
    console: Console,
    allow_plugins: bool = False,
) -> int:
    """Go on with a sweep as it was begun, on this machine or beside other ones on a shared storage.

    What was stopped goes on where it was, what failed is tried again up to the limit, what finished stays.

    Raises:
        InputError: there is no such sweep, or another runner has it.
        TrainingError: the storage cannot be used any more.
    """
    sweep, folder, address = stored(name, runs=runs, storage=storage, allow_plugins=allow_plugins)
    if _changed(name, sweep):
        console.print(f"the file of sweep {sweep.name} has changed since it was begun; it goes on as it was begun")
    return _work(sweep, folder, address, workers=workers, retries=retries, console=console)


def _work(sweep: Sweep, folder: Path, address: str, *, workers: int | None, retries: int, console: Console) -> int:
    check(sweep, folder)
    slots = _slots(sweep, folder, workers)
    shared = not address.startswith("sqlite:")
    require_writable(folder, option="--runs")
    with _alone(folder, shared=shared):
        write_text(folder / "sweep.yaml", sweep.text)
        study = search.open_study(sweep, address)
        with Show(sweep, console) as show:
            again = put_in_line_again(study, retries=retries, alone=not shared)
            if again:
                show.note(f"{again} trials go on or are tried again")
            try:
                code = Runner(sweep, study, folder, slots=slots, retries=retries, show=show).run()
            except search.STORAGE_ERRORS as err:
                raise search.lost(shlex.join(resume_words(sweep.name, folder, address)), address, err) from err
    rows = search.latest(study)
    console.print(report_table(sweep, rows))
    if winners.is_tuning(sweep, rows):
        try:
            show_winners(
                [sweep.name],
                runs=folder.parents[1],
                storage=address,
                out=None,
                console=console,
                allow_plugins=sweep.allow_plugins,
            )
        except InputError as err:  # an arm of which every setting failed
            console.print(*err.lines, sep="\n", soft_wrap=True, markup=False, highlight=False)
    console.print(
        f"runs      {folder}/trials/<trial>",
        f"dashboard optuna-dashboard {without_secrets(address)}",
        sep="\n",
        soft_wrap=True,
    )
    if rest := what_goes_on(sweep, rows, folder, address, retries=retries):
        console.print(rest, soft_wrap=True, markup=False, highlight=False)
    return code


@contextmanager
def _alone(folder: Path, *, shared: bool) -> Iterator[None]:
    """Keep a second runner off a SQLite study; one that is killed leaves no lock."""
    if shared:
        yield
        return
    try:
        with FileLock(folder / "runner.lock", timeout=0):
            yield
    except Timeout as err:
        raise InputError(
            f"{folder}: another runner has this sweep; accepted: wait, or share it with --storage postgresql://..."
        ) from err


def _slots(sweep: Sweep, folder: Path, workers: int | None) -> list[machine.Slot]:
    """Deal this machine out so that the most demanding trial fits."""
    points = grid(sweep) if sweep.method == "grid" else corners(sweep)
    trainers = [make_trial(sweep, 0, values, folder).experiment.trainer for values in points]
    on_gpu = [trainer.devices for trainer in trainers if trainer.accelerator != "cpu"]
    devices = machine.gpus() if on_gpu else ()
    return machine.deal(workers, devices=devices, n_cores=machine.cores(), per_trial=max(on_gpu, default=1))


def put_in_line_again(study: optuna.Study, *, retries: int, alone: bool) -> int:
    """Put back what was stopped, what failed below the limit, and what a killed runner left; returns how many.

    Args:
        study: of the sweep.
        retries: how often a trial that failed is tried again.
        alone: no other runner uses the study, so that whatever is marked as running was left.
    """
    again = 0
    for row in search.latest(study):
        if row.state == "running" and (alone or machine.is_gone(row.owner, row.started)):
            search.mark_lost(study, row)
        elif row.state == "stopped":
            search.put_back(study, row, reason=row.reason, resumes=True, failed=False)
        elif row.state == "failed" and row.failures < retries:
            search.put_back(study, row, reason=row.reason, resumes=row.killed, failed=True)
        else:
            continue
        again += 1
    return again


def stored(name: str, *, runs: Path, storage: str | None, allow_plugins: bool = False) -> tuple[Sweep, Path, str]:
    """Find a sweep that was begun: as it was begun, its folder, and its storage.

    Raises:
        InputError: there is none.
    """
    stem = sweep_name(name)
    folder = sweep_folder(stem, runs)
    address = storage or search.default_storage(folder)
    text = search.stored_text(stem, address)
    if text is None:
        raise InputError(
            f"{without_secrets(address)}: holds no sweep {stem}; accepted: distill3d sweep run {name} first"
        )
    return parse_sweep(text, stem, origin=f"sweep {stem}", allow_plugins=allow_plugins), folder, address


def _changed(name: str, sweep: Sweep) -> bool:
    try:
        return find_sweep(name).read_text(encoding="utf-8") != sweep.text
    except (ConfigError, OSError):
        return False


def show_winners(
    names: Sequence[str],
    *,
    runs: Path,
    storage: str | None,
    out: Path | None,
    console: Console,
    allow_plugins: bool = False,
) -> None:
    """Write the winner of every arm of one or several tunings to a file, and show them.

    Raises:
        InputError: there is no such sweep, or it is no tuning that has ended; several sweeps and no ``out``.
    """
    if out is None and len(names) > 1:
        raise InputError("winners of several sweeps go to one file; accepted: --out FILE")
    tunings = [
        (
            *state_of(name, runs=runs, storage=storage, allow_plugins=allow_plugins),
            sweep_folder(sweep_name(name), runs),
        )
        for name in names
    ]
    path = out or tunings[0][2] / WINNERS
    for line in winners.write_winners(tunings, path):
        console.print(line, soft_wrap=True, markup=False, highlight=False)
    console.print(f"winners   {path}; read by tuned.file={path}", soft_wrap=True, markup=False, highlight=False)


def state_of(name: str, *, runs: Path, storage: str | None, allow_plugins: bool = False) -> tuple[Sweep, list[Attempt]]:
    """A sweep that was begun or exported, or that agents of W&B ran here, and the state of every trial.

    Raises:
        InputError: there is none.
    """
    folder = sweep_folder(sweep_name(name), runs)
    by_agents = runs / "wandb" / folder.name
    if storage is None and not (folder / "study.db").is_file():
        if (folder / "sweep.yaml").is_file():
            sweep = read_sweep(folder / "sweep.yaml", name=folder.name, allow_plugins=allow_plugins)
            return sweep, slurm.rows_of_folders(sweep, list(known_trials(sweep, folder)))
        if by_agents.is_dir():
            sweep = read_sweep(find_sweep(name), allow_plugins=allow_plugins)
            return sweep, slurm.rows_of_agents(sweep, by_agents)
    sweep, _, address = stored(name, runs=runs, storage=storage, allow_plugins=allow_plugins)
    return sweep, search.latest(search.load_study(sweep.name, address))


def export_slurm(
    path: Path,
    *,
    runs: Path,
    out: Path | None,
    at_once: int,
    time: str,
    cpus: int,
    allow_plugins: bool = False,
) -> Path:
    """Write a sweep as a SLURM array job; returns the script.

    Raises:
        ConfigError: the file is wrong, or a trial could not run.
    """
    sweep = read_sweep(path, allow_plugins=allow_plugins)
    folder = sweep_folder(sweep.name, runs)
    check(sweep, folder)
    script = out or slurm.default_script(sweep, runs)
    trials = list(known_trials(sweep, folder))
    slurm.export(sweep, trials, script, folder=folder, at_once=at_once, time=time, cpus=cpus)
    return script
