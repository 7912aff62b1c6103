"""A whole run: data, model, transfer, training, prediction, scores. It decides the order and holds no method."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import lightning as L
from lightning.pytorch.loggers import Logger
from rich.console import Console

from distill3d.config.paths import ConfigPath, data_root
from distill3d.config.plain import as_plain
from distill3d.config.registry import TEACHERS
from distill3d.config.schema import Experiment, TrainerConfig
from distill3d.data.datamodule import DistillDataModule
from distill3d.experiment import load_experiment
from distill3d.layers.norm3d import synchronize_batch_norm
from distill3d.storage.lock import FolderLock
from distill3d.storage.provenance import provenance
from distill3d.storage.rank import is_main_process
from distill3d.storage.run_folder import RunFolder, write_json
from distill3d.students.base import student_costs
from distill3d.teachers.base import Teacher
from distill3d.terminal import stderr
from distill3d.training.callbacks import HoldsFolder, HoldsStatistics, StepClock
from distill3d.training.claim import is_finished, steps_before, take
from distill3d.training.figures import keep_start
from distill3d.training.finish import compare_layers, finish
from distill3d.training.gradient_audit import GradientAudit
from distill3d.training.last_seen import LastSeen
from distill3d.training.loggers import make_loggers, wandb_mode
from distill3d.training.module import DistillModule, fresh_module, load_module
from distill3d.training.patch_size import check_patch_size
from distill3d.training.sharding import FSDP, check_sharding, is_sharded
from distill3d.training.start import start_batch, start_of
from distill3d.training.tables import audit_table, start_table
from distill3d.training.teacher_maps import cache_line, fill, make_view
from distill3d.training.trainer import check_trainer, goes_on_from, make_trainer, quiet, train
from distill3d.training.unseen import check_unseen, seen_here
from distill3d.transfer.base import TransferAudit
from distill3d.transfer.view import TeacherView


def fit(
    experiment: Experiment | str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    console: Console | None = None,
) -> Path:
    """Train, predict the validation and test cases, score the latter, and leave everything in the run's folder.

    A finished run with the same settings is not repeated. Under DDP every rank trains, predicts and scores cases of
    its own; rank 0 alone does the rest.

    Args:
        experiment: a loaded experiment, or its name or path.
        resume: continue an unfinished run from its last checkpoint, or from the start if it has none.
        overwrite: delete what is there and start anew.
        console: where tables go; stderr by default, so that stdout stays clean.

    Returns:
        The run's folder, ``<runs>/<experiment>/seed<k>``.

    Raises:
        ConfigError: the settings are wrong.
        InputError: data, teacher or checkpoint cannot be used; the folder holds a run and neither flag was given, or
            both were.
        TrainingError: the loss is not finite.
    """
    experiment = experiment if isinstance(experiment, Experiment) else load_experiment(experiment)
    console = console or stderr()
    folder = RunFolder(Path(experiment.runs) / experiment.name / f"seed{experiment.seed}")
    lock = FolderLock(folder.path)
    if is_finished(folder, as_plain(experiment), lock, resume=resume, overwrite=overwrite):
        if is_main_process():
            console.print(f"{folder.path} is finished; --overwrite runs it again", soft_wrap=True)
        return folder.path
    with quiet(), lock:
        check_sharding(experiment)
        check_trainer(experiment.trainer, folder)
        mode = wandb_mode(experiment)
        L.seed_everything(experiment.seed, workers=True, verbose=False)
        data = DistillDataModule(experiment, run=folder if resume else None)
        data.prepare_data()
        checkpoint, steps = goes_on_from(folder, experiment.trainer, resume=resume)
        module, teacher, audit = _build(experiment, data, checkpoint)
        view = make_view(module, teacher, data) if module.strategy.wants_teacher else None
        trained = resume and folder.fit.is_file() and steps_before(folder) == experiment.trainer.steps
        if is_main_process():  # all inputs have been checked
            take(folder, as_plain(experiment), lock, resume=resume, overwrite=overwrite, trained=trained)
            write_json(folder.split, data.splits)
            _show_start(folder, module, teacher, data, audit, console)
        loggers = make_loggers(experiment, folder, mode=mode, first_step=steps)
        trainer = None
        if not trained:
            _show_teacher(view, module, data, console)
            trainer = _train(experiment, module, data, folder, loggers, checkpoint, lock, console)
        finish(folder, teacher, data, loggers, console, lock, trainer=trainer)
    return folder.path


def smoke(experiment: Experiment) -> Path:
    """Prove the whole path on real classes: a step, a checkpoint, a resume, a second step, prediction and scores.

    Everything is written under ``runs/smoke``; a former smoke run there is deleted.
    """
    runs = ConfigPath(f"{experiment.runs}/smoke")
    first = _shortened(experiment, steps=1, runs=runs)
    fit(first, overwrite=True)
    return fit(_shortened(experiment, steps=2, runs=runs), resume=True)


def _shortened(experiment: Experiment, *, steps: int, runs: ConfigPath) -> Experiment:
    trainer = replace(experiment.trainer, steps=steps, validate_every=1, log_every=1)
    return replace(experiment, trainer=trainer, patches=replace(experiment.patches, val_patches=1), runs=runs)


# ---------------------------------------------------------------- before training


def _build(
    experiment: Experiment, data: DistillDataModule, checkpoint: Path | None
) -> tuple[DistillModule, Teacher, TransferAudit | None]:
    """Build a module that its patches fit; a fresh run transfers, a resumed one finds its weights in the checkpoint."""
    names = data.case_names("val")
    if checkpoint is None:
        module, teacher, audit = fresh_module(experiment, val_cases=names)
    else:
        teacher = TEACHERS.build(experiment.teacher)
        module, audit = load_module(checkpoint, experiment, val_cases=names, teacher=teacher), None
    begun_by = (*teacher.seen, *(audit.seen if audit else ()))
    check_unseen(data, begun_by)
    if audit is not None:
        module.seen = (seen_here(data), *begun_by)
    module.trained_um = tuple(dict.fromkeys(case.spacing_um for case in data.cases("train")))
    check_patch_size(module.student, experiment.patches)
    return module, teacher, audit


def _show_start(
    folder: RunFolder,
    module: DistillModule,
    teacher: Teacher,
    data: DistillDataModule,
    audit: TransferAudit | None,
    console: Console,
) -> None:
    """Keep what a fresh run (with an audit) starts from, and print its totals if anything was transferred."""
    if audit is None:
        return
    start = start_of(module.student, teacher, start_batch(data), module.transferred) if audit.transferred else None
    write_json(folder.audit, {**audit.as_dict(), "start": None if start is None else asdict(start)})
    if audit.copy_rate > 0:
        console.print(audit_table(audit))
    if start is not None:
        console.print(start_table(start))
    keep_start(folder, module)
    compare_layers(folder, module, teacher, data, "before")


# ---------------------------------------------------------------- training


def _show_teacher(view: TeacherView | None, module: DistillModule, data: DistillDataModule, console: Console) -> None:
    """Let the teacher look at the training volumes, if the strategy wants it during training."""
    if view is None:
        return
    count = fill(view, data, console)
    if is_main_process() and view.cached:
        console.print(cache_line(count), soft_wrap=True)
    module.look(view)


def _share_statistics(settings: TrainerConfig, module: DistillModule, console: Console) -> None:
    """Synchronize the student's batch norm, if that is asked for; one process has all statistics anyway."""
    if not settings.sync_batchnorm or settings.devices * settings.num_nodes == 1:
        return
    if not synchronize_batch_norm(module.student) and is_main_process():
        console.print("trainer.sync_batchnorm: nothing to share, the student trains no batch norm", soft_wrap=True)


def _train(
    experiment: Experiment,
    module: DistillModule,
    data: DistillDataModule,
    folder: RunFolder,
    loggers: list[Logger],
    checkpoint: Path | None,
    lock: FolderLock,
    console: Console,
) -> L.Trainer:
    _share_statistics(experiment.trainer, module, console)
    clock, audit = StepClock(lambda: _images_seen(module)), GradientAudit(every=experiment.trainer.audit_every)
    audits = [] if experiment.trainer.strategy == FSDP else [audit]  # no process has whole gradients there
    frozen = experiment.optimizer.freeze_transferred_steps if experiment.optimizer.transferred_lr_ratio else 0
    watch = [clock, *audits, HoldsFolder(lock), LastSeen(folder), *([HoldsStatistics(frozen)] if frozen else [])]
    trainer = make_trainer(experiment.trainer, folder, loggers, watch)
    train(trainer, module, data, folder=folder, checkpoint=checkpoint)
    lock.check()
    if trainer.is_global_zero:
        module = load_module(folder.last) if is_sharded(trainer) else module
        trained = [p for p in module.parameters() if p.requires_grad]
        cost = {
            "trainable_parameters": sum(p.numel() for p in trained),
            **student_costs(module.student, size_zyx=experiment.patches.size_zyx),
            "steps": trainer.global_step,
            "devices": trainer.world_size,
            **clock.totals(),  # images that the teacher saw as the cache was filled are not in it
            **clock.cost(),
        }
        identity = as_plain(module.teacher_identity) if module.teacher_identity else None
        write_json(folder.gradients, {"history": audit.history})
        made = {"provenance": provenance(), "data_root": data_root()}
        write_json(folder.fit, {"cost": cost, "teacher": identity, **made})
    return trainer


def _images_seen(module: DistillModule) -> int:
    return 0 if module.teacher is None else module.teacher.images_seen
