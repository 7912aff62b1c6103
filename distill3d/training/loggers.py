"""Curves to CSV always, and to W&B: online when logged in, else offline, never asking."""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb
import yaml
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger

from distill3d.config.compare import disagreements
from distill3d.config.plain import Plain, as_plain, flatten
from distill3d.config.registry import Component
from distill3d.config.schema import Experiment, LoggingConfig, Pretraining
from distill3d.errors import InputError, printable
from distill3d.storage.network import answers
from distill3d.storage.rank import is_main_process
from distill3d.storage.record import as_text
from distill3d.storage.run_folder import RunFolder, write_text

_LOG = logging.getLogger(__name__)


def wandb_mode(experiment: Experiment | Pretraining) -> str:
    """Return how W&B takes a run: as the settings say, else WANDB_MODE, else online where key and server are there.

    It is asked before a run takes its folder. Variables of W&B that are empty count as not set.

    Raises:
        InputError: online was asked for and is not possible, WANDB_MODE is none, or a W&B agent started this run with
            other settings than its sweep asks for.
    """
    for name in [name for name, value in os.environ.items() if name.startswith("WANDB_") and not value]:
        del os.environ[name]
    if wrong := disagreements(sweep_parameters(), as_plain(experiment)):
        raise InputError(*(f"W&B sweep: {line}" for line in wrong))
    chosen, source = _chosen(experiment.logging)
    if chosen in ("offline", "disabled") or not is_main_process():
        return chosen
    no_key, obstacle = _obstacle()
    if not obstacle:
        return "online"
    if chosen == "online":
        raise InputError(f"{source}: {obstacle}; accepted: logging.wandb=offline, or auto, which is offline then")
    if not no_key:
        _LOG.warning("W&B: %s; this run is logged offline, and `wandb sync` can send it later", obstacle)
    return "offline"


# WANDB_MODE -> what it means; two are older names
_MODES = {"online": "online", "offline": "offline", "disabled": "disabled", "dryrun": "offline", "run": "online"}


def _chosen(settings: LoggingConfig) -> tuple[str, str]:
    """Return online, offline, disabled or auto, and which setting says so."""
    named = os.environ.get("WANDB_MODE", "auto")
    if settings.wandb != "auto" or named == "auto":
        return settings.wandb, f"logging.wandb={settings.wandb}"
    if named not in _MODES:
        raise InputError(f"WANDB_MODE={named} in the environment; accepted: {', '.join(_MODES)}, or none")
    return _MODES[named], f"WANDB_MODE={named}"


def _obstacle() -> tuple[bool, str]:
    """Return whether no key is known, which is a choice, and in words what keeps W&B from being online, if anything."""
    try:
        # silent: where it greets, it asks the server for the name, for 10 seconds where none answers
        server = str(wandb.setup(wandb.Settings(silent=True)).settings.base_url)
    except ValueError as err:
        raise InputError(f"W&B's settings: {' '.join(str(err).split())}") from err
    try:
        # without a prompt, and without a server, it only says whether a key is known
        if not wandb.login(prompt=False, verify=False):
            return True, "no key of W&B is known: log in with `wandb login`"
        if not answers(server):
            return False, f"{server} cannot be reached"
        wandb.login(prompt=False, verify=True)
    except wandb.Error as err:  # a key that cannot be one, or that the server refuses
        return False, " ".join(str(err).split())
    return False, ""


def make_loggers(
    experiment: Experiment | Pretraining, folder: RunFolder, *, mode: str, first_step: int
) -> list[Logger]:
    """Build the loggers of a run; a resumed run adds to the same W&B run and writes a CSV of its own.

    Args:
        experiment: what runs.
        folder: where it runs.
        mode: from `wandb_mode`.
        first_step: 0, or the step a resumed run continues from.
    """
    curves = folder.path / "curves" / f"from_step{first_step}"
    if is_main_process() and curves.exists():
        shutil.rmtree(curves)  # steps that were lost and are now taken again
    loggers: list[Logger] = [CSVLogger(folder.path, name="curves", version=curves.name, flush_logs_every_n_steps=1)]
    if mode != "disabled":
        loggers.append(_wandb_logger(experiment, folder, mode, sweep_parameters()))
    return loggers


def sweep_parameters() -> dict[str, Any]:
    """What the sweep of a W&B agent asks of this process; empty where no agent started it.

    The agent names a file with them in the environment, which the other ranks inherit. They are only compared with the
    settings, never applied: those come from the command line, the same on every rank.
    """
    path = os.environ.get("WANDB_SWEEP_PARAM_PATH")
    if path is None or "WANDB_SWEEP_ID" not in os.environ:
        return {}
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as err:
        raise InputError(f"{path}: the sweep's parameters are not readable: {err}") from err
    return {key: given["value"] for key, given in content.items() if isinstance(given, Mapping) and "value" in given}


def _wandb_logger(
    experiment: Experiment | Pretraining, folder: RunFolder, mode: str, swept: Mapping[str, Any]
) -> WandbLogger:
    """Start the W&B run in the main process; the other ranks get a logger that logs nothing."""
    if not is_main_process():
        return WandbLogger()
    # Started here and not by Lightning, which passes an argument that W&B warns of, and sets WANDB_MODE for good.
    run = wandb.init(
        project=experiment.logging.project,
        entity=experiment.logging.entity,
        dir=folder.path,
        id=_run_id(folder),
        resume="allow",
        mode=mode,  # pyright: ignore[reportArgumentType] - one of the three it accepts, or W&B says so
        group=printable(os.environ.get("WANDB_RUN_GROUP", experiment.name)),  # a sweep's runs belong together
        name=printable(f"{experiment.name}-seed{experiment.seed}"),
        tags=[
            part.name
            for f in dataclasses.fields(experiment)
            if isinstance(part := getattr(experiment, f.name), Component)
        ]
        + [tag for tag in os.environ.get("WANDB_TAGS", "").split(",") if tag],
        config=as_text(_logged(as_plain(experiment), swept)),
        settings=wandb.Settings(console="off", silent=True, init_timeout=60),
    )
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    return WandbLogger(experiment=run)


def _logged(settings: Plain, swept: Mapping[str, Any]) -> Plain:
    """Return all settings; where a sweep has locked a whole section, that section under dotted keys."""
    locked = {key: value for key, value in settings.items() if key in swept}
    free = {key: value for key, value in settings.items() if key not in swept}
    return free | {key: value for key, value in flatten(locked).items() if key not in swept}


def log_results(loggers: list[Logger], results: Mapping[str, Any], figures: Mapping[str, Path]) -> None:
    """Send the scores, the table of cases and the figures to W&B, and close it.

    Args:
        loggers: as `make_loggers` gave them.
        results: content of ``metrics.json``.
        figures: name -> PNG, or a page that holds all it needs.
    """
    for logger in loggers:
        if not isinstance(logger, WandbLogger):
            continue
        run = logger.experiment
        columns = list(dict.fromkeys(name for scores in results["cases"].values() for name in scores))
        table = wandb.Table(columns=["case", *columns])
        for case, scores in results["cases"].items():
            values = (scores.get(column) for column in columns)  # no gold tree, no scores of one
            table.add_data(printable(case), *values)
        run.log({"cases": table} | {printable(name): _medium(path) for name, path in figures.items()})
    learned = {key: results[key] for key in ("kept", "nonlinear_share")}
    learned |= {f"tubes/{key}": value for key, value in (results["tubes"] or {}).items()}
    known = {key: value for key, value in learned.items() if value is not None}
    log_summary(loggers, {f"test/{key}": value for key, value in results["mean"].items()} | known)


def _medium(path: Path) -> wandb.Image | wandb.Html:
    """Return a figure as W&B shows it; to a page W&B would add styles of its own, which the page's policy forbids."""
    return wandb.Html(path, inject=False) if path.suffix == ".html" else wandb.Image(str(path))


def log_summary(loggers: list[Logger], summary: Mapping[str, float]) -> None:
    """Send a run's final numbers to W&B, and close it."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.summary.update({printable(key): value for key, value in summary.items()})
            logger.experiment.finish()


def log_stop(loggers: list[Logger], reason: str) -> None:
    """Note in W&B that a run was stopped from outside: its exit code alone looks like a failure."""
    for logger in loggers:
        if isinstance(logger, WandbLogger) and is_main_process():
            logger.experiment.summary["stopped"] = reason


def _run_id(folder: RunFolder) -> str:
    """Return the same id whenever this run is resumed."""
    path = folder.wandb_id
    if not path.is_file():
        write_text(path, uuid.uuid4().hex[:12])
    return path.read_text().strip()
