"""A whole run: data, model, transfer, training, prediction, scores. It decides the order and holds no method."""

from __future__ import annotations

import logging
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import Logger
from rich.console import Console

from distill3d.callbacks import ExitOnSigterm, StepClock, TrainingBar, progress_bar
from distill3d.config import as_plain, flatten
from distill3d.data.datamodule import DistillDataModule
from distill3d.errors import InputError
from distill3d.evaluation import case_pictures, evaluate
from distill3d.experiment import load_experiment
from distill3d.inference import inference_device, predict_prob, window_count, write_prob
from distill3d.loggers import log_results, make_loggers
from distill3d.module import DistillModule, load_module
from distill3d.process import is_main_process
from distill3d.provenance import peak_memory_gib, provenance
from distill3d.registry import TEACHERS
from distill3d.run_folder import RunFolder, write_json, write_yaml
from distill3d.schema import Experiment, TrainerConfig
from distill3d.tables import audit_table

EXIT_INTERRUPT = 130
# A resumed run may change these; anything else would make it another experiment.
RESUMABLE = ("trainer.steps", "trainer.accelerator", "trainer.precision", "trainer.log_every")
RESUMABLE_SECTIONS = ("logging.", "inference.", "patches.workers", "runs", "cache")


def fit(
    experiment: Experiment | str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    console: Console | None = None,
) -> Path:
    """Train, predict the test cases, score them, and leave everything in the run's folder.

    A finished run with the same settings is not repeated. Under DDP every rank trains and rank 0 alone does the rest.

    Args:
        experiment: a loaded experiment, or its name or path.
        resume: continue an unfinished run from its last checkpoint, or from the start if it has none.
        overwrite: delete what is there and start anew.
        console: where tables go; stderr by default, so that stdout stays clean.

    Returns:
        The run's folder, ``<runs>/<experiment>/seed<k>``.

    Raises:
        ConfigError: the settings are wrong.
        InputError: data, teacher or checkpoint cannot be used, or the folder holds a run and neither flag was given.
        TrainingError: the loss is not finite.
    """
    experiment = experiment if isinstance(experiment, Experiment) else load_experiment(experiment)
    console = console or Console(stderr=True)
    folder = RunFolder(Path(experiment.runs) / experiment.name / f"seed{experiment.seed}")
    if is_main_process() and not overwrite and _finished_or_refused(folder, experiment, resume=resume):
        console.print(f"{folder.path} is finished; --overwrite runs it again", soft_wrap=True)
        return folder.path
    with quiet():
        L.seed_everything(experiment.seed, workers=True, verbose=False)
        data = DistillDataModule(experiment)
        data.prepare_data()
        checkpoint = folder.last if resume and folder.last.is_file() else None
        module, audit = _build(experiment, data, checkpoint)
        trained = resume and folder.fit.is_file() and _steps_before(folder) == experiment.trainer.steps
        if is_main_process():
            if not trained:
                folder.fit.unlink(missing_ok=True)  # the other ranks, started later, look for it too
            _claim(folder, experiment, audit, overwrite=overwrite, console=console)
        loggers = make_loggers(experiment, folder, first_step=_step_of(checkpoint))
        if not trained:
            _train(experiment, module, data, folder, loggers, checkpoint)
        if is_main_process():
            _finish(folder, data, loggers, console)
    return folder.path


def smoke(experiment: Experiment) -> Path:
    """Prove the whole path on real classes: a step, a checkpoint, a resume, a second step, prediction and scores.

    Everything is written under ``runs/smoke``; a former smoke run there is deleted.
    """
    runs = str(Path(experiment.runs) / "smoke")
    first = _shortened(experiment, steps=1, runs=runs)
    fit(first, overwrite=True)
    return fit(_shortened(experiment, steps=2, runs=runs), resume=True)


def _shortened(experiment: Experiment, *, steps: int, runs: str) -> Experiment:
    trainer = replace(experiment.trainer, steps=steps, validate_every=1, log_every=1)
    return replace(experiment, trainer=trainer, patches=replace(experiment.patches, val_patches=1), runs=runs)


# ---------------------------------------------------------------- before training


def _finished_or_refused(folder: RunFolder, experiment: Experiment, *, resume: bool) -> bool:
    """Return True if the run is complete; refuse to touch one that is not, or that had other settings."""
    if folder.state == "absent":
        return False
    then, now = flatten(folder.read_config()), flatten(as_plain(experiment))
    changed = [key for key in dict.fromkeys([*then, *now]) if then.get(key) != now.get(key) and not _resumable(key)]
    if changed:
        shown = "; ".join(f"{key}: {then.get(key)!r} there, {now.get(key)!r} now" for key in changed[:3])
        raise InputError(f"{folder.path} holds a run with other settings ({shown}); accepted: --overwrite, or runs=...")
    if folder.state == "done":
        if (steps := _steps_before(folder)) == experiment.trainer.steps:
            return True
        if not resume:
            raise InputError(f"{folder.path} is finished after {steps} steps; accepted: --resume to go on, --overwrite")
    elif not resume:
        raise InputError(f"{folder.path} holds an unfinished run; accepted: --resume or --overwrite")
    return False


def _steps_before(folder: RunFolder) -> int:
    return int(folder.read_config()["trainer"]["steps"])


def _resumable(key: str) -> bool:
    return key in RESUMABLE or key.startswith(RESUMABLE_SECTIONS)


def _build(
    experiment: Experiment, data: DistillDataModule, checkpoint: Path | None
) -> tuple[DistillModule, dict[str, Any] | None]:
    """Build the module; a fresh run also transfers, a resumed one finds its weights in the checkpoint."""
    teacher = TEACHERS.build(experiment.teacher)
    names = data.case_names("val")
    if checkpoint is not None:
        module = load_module(checkpoint, experiment, val_cases=names)
        module.attach(teacher)
        return module, None
    module = DistillModule(experiment, val_cases=names)
    audit = module.transfer(teacher)
    return module, audit.as_dict() if audit.rows else None


def _claim(
    folder: RunFolder, experiment: Experiment, audit: Mapping[str, Any] | None, *, overwrite: bool, console: Console
) -> None:
    """From here on the folder is this run's; nothing was written before all inputs had been checked."""
    if overwrite and folder.path.exists():
        shutil.rmtree(folder.path)
    folder.done.unlink(missing_ok=True)
    write_yaml(folder.config, as_plain(experiment))
    if audit is not None:
        write_json(folder.audit, audit)
        if audit["copy_rate"] > 0:
            console.print(audit_table(audit))


# ---------------------------------------------------------------- training


def _train(
    experiment: Experiment,
    module: DistillModule,
    data: DistillDataModule,
    folder: RunFolder,
    loggers: list[Logger],
    checkpoint: Path | None,
) -> None:
    clock, started = StepClock(), time.perf_counter()
    trainer = make_trainer(experiment.trainer, folder, loggers, [clock])
    try:
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    except SystemExit as err:
        if is_main_process():
            Console(stderr=True).print(f"stopped; --resume goes on from {folder.path}", soft_wrap=True)
        # Lightning ends an interrupted fit with 1; the shell's convention is 128 + SIGINT
        raise SystemExit(EXIT_INTERRUPT if trainer.interrupted and err.code == 1 else err.code) from err
    if trainer.is_global_zero:
        trained = [p for p in module.parameters() if p.requires_grad]
        cost = {
            "parameters": sum(p.numel() for p in module.student.parameters()),
            "trainable_parameters": sum(p.numel() for p in trained),
            "fit_seconds": time.perf_counter() - started,
            "peak_memory_gib": peak_memory_gib(),
            "steps": trainer.global_step,
            "devices": trainer.world_size,
            **clock.cost(),
        }
        identity = as_plain(module.teacher_identity) if module.teacher_identity else None
        write_json(folder.fit, {"cost": cost, "teacher": identity, "provenance": provenance()})


def make_trainer(
    settings: TrainerConfig, folder: RunFolder, loggers: list[Logger], callbacks: list[Callback]
) -> L.Trainer:
    """Configure Lightning: one epoch is one validation interval, so that a checkpoint never falls inside one."""
    # Two of them: `save_last` would skip the epochs that did not improve, and a killed run would lose those.
    best = ModelCheckpoint(
        folder.best.parent, filename=folder.best.stem, monitor="val/dice", mode="max", enable_version_counter=False
    )
    last = ModelCheckpoint(folder.last.parent, filename=folder.last.stem, enable_version_counter=False)
    watch: list[Callback] = [*callbacks, ExitOnSigterm(), best, last]
    if settings.early_stopping:
        watch.append(EarlyStopping("val/dice", mode="max", patience=settings.early_stopping))
    if Console(stderr=True).is_terminal:
        watch.append(TrainingBar())
    gpu = settings.accelerator != "cpu" and torch.cuda.is_available()
    return L.Trainer(
        accelerator=settings.accelerator,
        devices=settings.devices,
        num_nodes=settings.num_nodes,
        strategy=settings.strategy,
        precision=("bf16-mixed" if gpu else "32-true") if settings.precision == "auto" else settings.precision,
        max_epochs=settings.steps // settings.validate_every,
        gradient_clip_val=settings.gradient_clip or None,
        log_every_n_steps=min(settings.log_every, settings.validate_every),
        logger=loggers,
        callbacks=watch,
        default_root_dir=folder.path,
        enable_progress_bar=Console(stderr=True).is_terminal,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )


# ---------------------------------------------------------------- after training


def _finish(folder: RunFolder, data: DistillDataModule, loggers: list[Logger], console: Console) -> None:
    started = time.perf_counter()
    _predict_cases(folder, data, console)
    seconds = time.perf_counter() - started
    fitted = folder.read_json(folder.fit)
    fitted["cost"]["predict_seconds"] = seconds
    write_json(folder.fit, fitted)
    results = evaluate(folder.path)
    log_results(loggers, results, case_pictures(folder, results))
    write_json(folder.done, {"finished_at": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "cases": len(results["cases"])})


def _predict_cases(folder: RunFolder, data: DistillDataModule, console: Console) -> None:
    module = load_module(folder.best if folder.best.is_file() else folder.last)
    module.to(inference_device(module))
    overlap, size = module.experiment.inference.overlap, module.experiment.patches.size_zyx
    with progress_bar(console) as bar:
        for case in data.cases("test"):
            task = bar.add_task(f"predict {case.name}", total=window_count(case.shape, size, overlap), info="")
            prob = predict_prob(module, case.image, on_window=lambda n, task=task: bar.advance(task, n))
            write_prob(folder.prob(case.name), prob, case.spacing_um)


def _step_of(checkpoint: Path | None) -> int:
    if checkpoint is None:
        return 0
    return int(torch.load(checkpoint, map_location="cpu", weights_only=True)["global_step"])


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Lightning's greetings and four known, harmless warnings off the terminal."""
    names = ("lightning.pytorch", "lightning.fabric")
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # the teacher is in eval mode on purpose
        warnings.filterwarnings("ignore", message=r".*module\(s\) in eval mode")
        # Lightning 2.6 with torch 2.14: its own use of a class torch has renamed
        warnings.filterwarnings("ignore", message=r".*LeafSpec")
        # one worker feeds the step (measured in `make bench`); Lightning counts cores instead
        warnings.filterwarnings("ignore", message=r".*does not have many workers")
        # a resumed run writes into its own folder on purpose
        warnings.filterwarnings("ignore", message=r"Checkpoint directory .* exists and is not empty")
        yield
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
