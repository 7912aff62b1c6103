"""What follows a training: predictions, scores, and what is said of the trained network."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Literal

import lightning as L
from lightning.pytorch.loggers import Logger
from rich.console import Console

from distill3d.data.datamodule import DistillDataModule
from distill3d.data.each import Each
from distill3d.data.prepared import PreparedCase
from distill3d.evaluation.figures.places import case_pictures
from distill3d.evaluation.run_scores import score_cases, write_scores
from distill3d.neurons.nonlinear import nonlinear_audit
from distill3d.storage.lock import FolderLock
from distill3d.storage.rank import is_main_process
from distill3d.storage.run_folder import RunFolder, write_json
from distill3d.teachers.base import Teacher
from distill3d.terminal import progress_bar, stderr
from distill3d.training.figures import learned_figures
from distill3d.training.inference import inference_device, predict_prob, window_count
from distill3d.training.loggers import log_results
from distill3d.training.module import DistillModule, load_module
from distill3d.training.shares import shared
from distill3d.training.similarity import kept, layer_similarity, mirrored_blocks, similarity_batch
from distill3d.training.tubes import tube_shares
from distill3d.volumes.prob import write_prob


def finish(
    folder: RunFolder,
    teacher: Teacher,
    data: DistillDataModule,
    loggers: list[Logger],
    console: Console,
    lock: FolderLock,
    *,
    trainer: L.Trainer | None,
) -> None:
    """Predict and score the test cases, if there are any, and say that the run is done.

    Args:
        folder: of the run, with checkpoints and what `fit` noted of the training.
        teacher: of the run.
        data: of the run.
        loggers: of the run.
        console: where progress goes.
        lock: of the folder.
        trainer: whose processes share the cases; None leaves them to the main one.
    """
    checkpoint = folder.best if folder.best.is_file() else folder.last
    with shared(trainer, checkpoint) as each:
        if each is None:
            return
        module = load_module(checkpoint)
        names, scores, predicting = data.case_names("test"), {}, {}
        if names:
            seconds = _predict(folder, module, data, console, each)
            lock.check()
            scores, predicting = score_cases(folder, each=each), {"predict_seconds": seconds}
        if not is_main_process():
            return
        lock.check()
        compare_layers(folder, module.cpu(), teacher.cpu(), data, "after")
        _note(folder, module, data, predicting)
        if names:
            lock.check()
            results = write_scores(folder, scores)
            figures = case_pictures(folder, results) | learned_figures(folder, module, data.first_case("test"))
            log_results(loggers, results, figures)
        lock.check()
        write_json(folder.done, {"finished_at": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "cases": len(names)})


def compare_layers(
    folder: RunFolder,
    module: DistillModule,
    teacher: Teacher,
    data: DistillDataModule,
    when: Literal["before", "after"],
) -> None:
    """Note how alike the layers of student and teacher are, before or after the training."""
    if teacher.identity.architecture == "none":
        return
    similarity = layer_similarity(module.student, teacher, similarity_batch(data))
    if similarity["student"]:  # some students of MONAI have no block that gives a map
        write_json(folder.similarity, {**folder.read_json(folder.similarity), when: similarity})


def _predict(folder: RunFolder, module: DistillModule, data: DistillDataModule, console: Console, each: Each) -> float:
    """Predict the test cases, and validation cases where the experiment asks for it; returns seconds of the former."""
    started = time.perf_counter()
    _predict_cases(folder, module, data.cases("test"), console, each)
    seconds = time.perf_counter() - started
    if module.experiment.inference.validation:
        _predict_cases(folder, module, data.cases("val"), console, each)  # what `evaluate` may choose settings on
    return seconds


def _predict_cases(
    folder: RunFolder, module: DistillModule, cases: Sequence[PreparedCase], console: Console, each: Each
) -> None:
    module.to(inference_device(module.experiment))
    overlap, size = module.experiment.inference.overlap, module.experiment.patches.size_zyx
    with progress_bar(console if is_main_process() else stderr(quiet=True)) as bar:

        def predict(case: PreparedCase) -> None:
            task = bar.add_task(f"predict {case.name}", total=window_count(case.shape, size, overlap), info="")
            prob = predict_prob(module, case.image, on_window=lambda n: bar.advance(task, n))
            write_prob(folder.prob(case.name), prob, case.spacing_um, grid=case.grid)

        each(cases, predict)


def _note(folder: RunFolder, module: DistillModule, data: DistillDataModule, predicting: dict[str, Any]) -> None:
    """Add to what is known of the training."""
    fitted = folder.read_json(folder.fit)
    fitted |= {"cost": fitted["cost"] | predicting, "kept": _kept(folder, module)}
    neurons = nonlinear_audit(module.student, lambda: similarity_batch(data).image)
    write_json(folder.fit, fitted | neurons | {"tubes": tube_shares(module, data.cases("test"))})


def _kept(folder: RunFolder, module: DistillModule) -> float | None:
    """Return the share of its likeness to the teacher that the student still has; None where it took over no block."""
    alike = folder.read_json(folder.similarity)
    if not {"before", "after"} <= alike.keys():
        return None
    return kept(alike["before"], alike["after"], mirrored_blocks(module.student, module.transferred))
