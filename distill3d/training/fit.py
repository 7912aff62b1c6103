"""A whole run: data, model, transfer, training, prediction, scores. It decides the order and holds no method."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

import lightning as L
from lightning.pytorch.loggers import Logger
from rich.console import Console

from distill3d.config.paths import ConfigPath
from distill3d.config.plain import as_plain
from distill3d.config.registry import TEACHERS
from distill3d.config.schema import Experiment
from distill3d.data.datamodule import DistillDataModule
from distill3d.data.prepared import PreparedCase
from distill3d.evaluation.run_scores import case_pictures, evaluate
from distill3d.experiment import load_experiment
from distill3d.neurons.conversion import neuron_costs
from distill3d.neurons.nonlinear import nonlinear_audit
from distill3d.storage.lock import FolderLock
from distill3d.storage.provenance import peak_memory_gib, provenance
from distill3d.storage.rank import is_main_process
from distill3d.storage.run_folder import RunFolder, write_json
from distill3d.teachers.base import Teacher
from distill3d.terminal import progress_bar, stderr
from distill3d.training.callbacks import HoldsFolder, StepClock
from distill3d.training.claim import is_finished, steps_before, take
from distill3d.training.figures import keep_start, learned_figures
from distill3d.training.gradient_audit import GradientAudit
from distill3d.training.inference import inference_device, predict_prob, window_count
from distill3d.training.last_seen import LastSeen
from distill3d.training.loggers import log_results, make_loggers, wandb_mode
from distill3d.training.module import DistillModule, fresh_module, load_module
from distill3d.training.patch_size import check_patch_size
from distill3d.training.similarity import kept, layer_similarity, mirrored_blocks, similarity_batch
from distill3d.training.start import start_batch, start_of
from distill3d.training.tables import audit_table, start_table
from distill3d.training.teacher_maps import cache_line, fill, make_view
from distill3d.training.trainer import check_trainer, make_trainer, quiet, step_of, train
from distill3d.training.tubes import tube_shares
from distill3d.transfer.base import TransferAudit
from distill3d.transfer.view import TeacherView
from distill3d.volumes.prob import write_prob


def fit(
    experiment: Experiment | str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    console: Console | None = None,
) -> Path:
    """Train, predict the validation and test cases, score the latter, and leave everything in the run's folder.

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
    console = console or stderr()
    folder = RunFolder(Path(experiment.runs) / experiment.name / f"seed{experiment.seed}")
    # torchrun and SLURM start all ranks at once: none may wait for others that have nothing to do. A rank that
    # Lightning starts comes later, when the main one has claimed the folder: that is no run of somebody else.
    asks, lock = is_main_process() or folder.state == "done", FolderLock(folder.path)
    if asks and is_finished(folder, as_plain(experiment), lock, resume=resume, overwrite=overwrite):
        if is_main_process():
            console.print(f"{folder.path} is finished; --overwrite runs it again", soft_wrap=True)
        return folder.path
    with quiet(), lock:
        check_trainer(experiment.trainer, folder)
        mode = wandb_mode(experiment)
        L.seed_everything(experiment.seed, workers=True, verbose=False)
        data = DistillDataModule(experiment)
        data.prepare_data()
        checkpoint = folder.last if resume and folder.last.is_file() else None
        module, teacher, audit = _build(experiment, data, checkpoint)
        view = make_view(module, teacher, data) if module.strategy.wants_teacher else None
        trained = resume and folder.fit.is_file() and steps_before(folder) == experiment.trainer.steps
        if is_main_process():  # all inputs have been checked
            take(folder, as_plain(experiment), lock, resume=resume, overwrite=overwrite)
            if not trained:
                folder.fit.unlink(missing_ok=True)  # the other ranks, started later, look for it too
            if audit is not None:
                _show_start(folder, module, teacher, data, audit, console)
        loggers = make_loggers(experiment, folder, mode=mode, first_step=step_of(checkpoint))
        if not trained:
            _show_teacher(view, module, data, console)
            _train(experiment, module, data, folder, loggers, checkpoint, lock)
        if is_main_process():
            _finish(folder, teacher, data, loggers, console, lock)
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
    module.trained_um = tuple(dict.fromkeys(case.spacing_um for case in data.cases("train")))
    check_patch_size(module.student, experiment.patches)
    return module, teacher, audit


def _show_start(
    folder: RunFolder,
    module: DistillModule,
    teacher: Teacher,
    data: DistillDataModule,
    audit: TransferAudit,
    console: Console,
) -> None:
    """Keep what a fresh run starts from, and print its audit's totals if anything was transferred."""
    start = start_of(module.student, teacher, start_batch(data), module.transferred) if audit.transferred else None
    write_json(folder.audit, {**audit.as_dict(), "start": None if start is None else asdict(start)})
    if audit.copy_rate > 0:
        console.print(audit_table(audit))
    if start is not None:
        console.print(start_table(start))
    keep_start(folder, module)
    _compare_layers(folder, module, teacher, data, "before")


def _compare_layers(
    folder: RunFolder,
    module: DistillModule,
    teacher: Teacher,
    data: DistillDataModule,
    when: Literal["before", "after"],
) -> None:
    """Note how alike the layers of student and teacher are."""
    if teacher.identity.architecture == "none":
        return
    similarity = layer_similarity(module.student, teacher, similarity_batch(data))
    if similarity["student"]:  # some students of MONAI have no block that gives a map
        write_json(folder.similarity, {**folder.read_json(folder.similarity), when: similarity})


# ---------------------------------------------------------------- training


def _show_teacher(view: TeacherView | None, module: DistillModule, data: DistillDataModule, console: Console) -> None:
    """Let the teacher look at the training volumes, if the strategy wants it during training."""
    if view is None:
        return
    count = fill(view, data, console)
    if is_main_process() and view.cached:
        console.print(cache_line(count), soft_wrap=True)
    module.look(view)


def _train(
    experiment: Experiment,
    module: DistillModule,
    data: DistillDataModule,
    folder: RunFolder,
    loggers: list[Logger],
    checkpoint: Path | None,
    lock: FolderLock,
) -> None:
    clock, started = StepClock(), time.perf_counter()
    audit, before = GradientAudit(every=experiment.trainer.audit_every), _images_seen(module)
    trainer = make_trainer(experiment.trainer, folder, loggers, [clock, audit, HoldsFolder(lock), LastSeen(folder)])
    train(trainer, module, data, folder=folder, checkpoint=checkpoint)
    lock.check()
    if trainer.is_global_zero:
        trained = [p for p in module.parameters() if p.requires_grad]
        cost = {
            "trainable_parameters": sum(p.numel() for p in trained),
            "fit_seconds": time.perf_counter() - started,
            "peak_memory_gib": peak_memory_gib(),
            **neuron_costs(module.student, size_zyx=experiment.patches.size_zyx),
            "steps": trainer.global_step,
            "devices": trainer.world_size,
            **clock.cost(),
            "teacher_images": _images_seen(module) - before,  # during training; filling the cache is not in it
        }
        identity = as_plain(module.teacher_identity) if module.teacher_identity else None
        write_json(folder.gradients, {"history": audit.history})
        write_json(folder.fit, {"cost": cost, "teacher": identity, "provenance": provenance()})


def _images_seen(module: DistillModule) -> int:
    return 0 if module.teacher is None else module.teacher.images_seen


# ---------------------------------------------------------------- after training


def _finish(
    folder: RunFolder,
    teacher: Teacher,
    data: DistillDataModule,
    loggers: list[Logger],
    console: Console,
    lock: FolderLock,
) -> None:
    """Predict and score the test cases, if there are any, and say that the run is done."""
    module = load_module(folder.best if folder.best.is_file() else folder.last)
    names = data.case_names("test")
    if names:
        started = time.perf_counter()
        _predict_cases(folder, module, data.cases("test"), console)
        predicting = {"predict_seconds": time.perf_counter() - started}
        if module.experiment.inference.validation:
            _predict_cases(folder, module, data.cases("val"), console)  # what `evaluate` may choose settings on
    else:
        predicting = {}
    lock.check()
    _compare_layers(folder, module.cpu(), teacher.cpu(), data, "after")
    fitted = folder.read_json(folder.fit)
    fitted |= {"cost": fitted["cost"] | predicting, "kept": _kept(folder, module)}
    neurons = nonlinear_audit(module.student, lambda: similarity_batch(data).image)
    write_json(folder.fit, fitted | neurons | {"tubes": tube_shares(module, data.cases("test"))})
    if names:
        lock.check()
        results = evaluate(folder.path)
        figures = case_pictures(folder, results) | learned_figures(folder, module, data.cases("test")[0])
        log_results(loggers, results, figures)
    lock.check()
    write_json(folder.done, {"finished_at": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "cases": len(names)})


def _kept(folder: RunFolder, module: DistillModule) -> float | None:
    """Return the share of its likeness to the teacher that the student still has; None where it took over no block."""
    alike = folder.read_json(folder.similarity)
    if not {"before", "after"} <= alike.keys():
        return None
    return kept(alike["before"], alike["after"], mirrored_blocks(module.student, module.transferred))


def _predict_cases(folder: RunFolder, module: DistillModule, cases: Sequence[PreparedCase], console: Console) -> None:
    module.to(inference_device(module))
    overlap, size = module.experiment.inference.overlap, module.experiment.patches.size_zyx
    with progress_bar(console) as bar:
        for case in cases:
            task = bar.add_task(f"predict {case.name}", total=window_count(case.shape, size, overlap), info="")
            prob = predict_prob(module, case.image, on_window=lambda n, task=task: bar.advance(task, n))
            write_prob(folder.prob(case.name), prob, case.spacing_um, grid=case.grid)
