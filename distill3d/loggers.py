"""Curves to CSV always, and to W&B: online when logged in, else offline, never asking. It computes nothing."""

from __future__ import annotations

import dataclasses
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger

from distill3d.config import as_plain
from distill3d.process import is_main_process
from distill3d.registry import Component
from distill3d.run_folder import RunFolder, write_text
from distill3d.schema import Experiment, Pretraining


def make_loggers(experiment: Experiment | Pretraining, folder: RunFolder, *, first_step: int) -> list[Logger]:
    """Build the loggers of a run; a resumed run adds to the same W&B run and writes a CSV of its own.

    Args:
        experiment: what runs.
        folder: where it runs.
        first_step: 0, or the step a resumed run continues from.
    """
    curves = folder.path / "curves" / f"from_step{first_step}"
    if is_main_process() and curves.exists():
        shutil.rmtree(curves)  # steps that were lost and are now taken again
    loggers: list[Logger] = [CSVLogger(folder.path, name="curves", version=curves.name)]
    if (mode := _mode(experiment)) != "disabled":
        loggers.append(_wandb_logger(experiment, folder, mode))
    return loggers


def _wandb_logger(experiment: Experiment | Pretraining, folder: RunFolder, mode: str) -> WandbLogger:
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
        group=experiment.name,
        name=f"{experiment.name}-seed{experiment.seed}",
        tags=[
            part.name
            for f in dataclasses.fields(experiment)
            if isinstance(part := getattr(experiment, f.name), Component)
        ],
        config=as_plain(experiment),
        settings=wandb.Settings(console="off", silent=True, init_timeout=60),
    )
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    return WandbLogger(experiment=run)


def log_results(loggers: list[Logger], results: Mapping[str, Any], pictures: Mapping[str, Path]) -> None:
    """Send the scores, the table of cases and the pictures to W&B, and close it.

    Args:
        loggers: as `make_loggers` gave them.
        results: content of ``metrics.json``.
        pictures: name -> PNG.
    """
    for logger in loggers:
        if not isinstance(logger, WandbLogger):
            continue
        run = logger.experiment
        columns = list(dict.fromkeys(name for scores in results["cases"].values() for name in scores))
        table = wandb.Table(columns=["case", *columns])
        for case, scores in results["cases"].items():
            table.add_data(case, *(scores.get(column) for column in columns))  # no gold tree, no scores of one
        run.log({"cases": table} | {name: wandb.Image(str(path)) for name, path in pictures.items()})
    log_summary(loggers, {f"test/{key}": value for key, value in results["mean"].items()})


def log_summary(loggers: list[Logger], summary: Mapping[str, float]) -> None:
    """Send a run's final numbers to W&B, and close it."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.summary.update(dict(summary))
            logger.experiment.finish()


def _mode(experiment: Experiment | Pretraining) -> str:
    """The experiment's word, else WANDB_MODE, else what the login allows."""
    chosen = experiment.logging.wandb
    if chosen == "auto":
        chosen = os.environ.get("WANDB_MODE", "auto")
    if chosen != "auto":
        return chosen
    # login() without a prompt only says whether a key is known; it asks neither the user nor a server
    return "online" if wandb.login(prompt=False, verify=False) else "offline"


def _run_id(folder: RunFolder) -> str:
    """Return the same id whenever this run is resumed."""
    path = folder.path / "wandb_id"
    if not path.is_file():
        write_text(path, uuid.uuid4().hex[:12])
    return path.read_text().strip()
