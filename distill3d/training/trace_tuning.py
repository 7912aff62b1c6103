"""Chooses how a run's predictions are traced, on its validation cases alone. It never looks at a test case."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from distill3d.config.schema import Experiment
from distill3d.config.trace import TraceConfig
from distill3d.data.datamodule import DistillDataModule
from distill3d.data.prepared import PreparedCase
from distill3d.errors import InputError
from distill3d.evaluation.metrics.tree import tree_scores
from distill3d.evaluation.run_scores import trace_settings
from distill3d.experiment import experiment_from_plain
from distill3d.storage.links import require_inside
from distill3d.storage.lock import FolderLock
from distill3d.storage.run_folder import RunFolder, write_json
from distill3d.terminal import progress_bar, stderr
from distill3d.tracing.trace import MAX_SHARE, DenseError, trace
from distill3d.training.inference import inference_device, predict_prob
from distill3d.training.module import load_module
from distill3d.volumes.prob import read_prob, write_prob

Predictions = list[tuple[PreparedCase, NDArray[np.float32]]]


def tune_trace(
    run: Path | str,
    *,
    trials: int = 40,
    seed: int = 0,
    console: Console | None = None,
    allow_plugins: bool = False,
) -> dict[str, Any]:
    """Search threshold, gap, spur and least tree length that give the best length F1 on the validation cases.

    The first trial is what the run uses now, so the result is never worse on these cases. ``evaluate`` uses the
    best settings from then on.

    Source: Optuna's TPE sampler (Bergstra et al. 2011, Algorithms for hyper-parameter optimization).

    Args:
        run: a finished run's folder; predictions of the validation cases are made if they are not there.
        trials: settings tried, 1 or more.
        seed: of the search.
        console: where progress goes; stderr by default.
        allow_plugins: import the modules that the settings name, though the run lies outside of this project.

    Returns:
        What is written to ``trace.json``: ``best`` settings, ``f1`` with them, ``f1_before``, and every trial.

    Raises:
        InputError: not a finished run, one that cannot be written, or no validation case has a gold tree.
    """
    folder, console = RunFolder(Path(run)), console or stderr()
    require_inside(folder.path)
    experiment = experiment_from_plain(folder.read_config(), source=folder.config, allow_plugins=allow_plugins)
    if folder.state != "done":  # its scores would be of settings that suited a half-trained network
        raise InputError(f"{folder.path}: is not finished; accepted: a finished run, see distill3d fit --resume")
    with FolderLock(folder.path, work="works in it", elsewhere="run") as lock:
        lock.acquire()
        predictions = _predictions(folder, experiment, console, allow_plugins=allow_plugins)
        result = _search(predictions, trace_settings(folder, experiment), trials, seed, console)
        write_json(folder.tuned, result)
    return result


def _search(predictions: Predictions, base: TraceConfig, trials: int, seed: int, console: Console) -> dict[str, Any]:
    import optuna  # noqa: PLC0415 - half a second, wanted by this verb only

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    ranges = _ranges(base)
    study.enqueue_trial({name: getattr(base, name) for name in ranges})

    def objective(trial: optuna.Trial) -> float:
        tried = {name: trial.suggest_float(name, low, high) for name, (low, high) in ranges.items()}
        return _mean_f1(predictions, replace(base, **tried))

    with progress_bar(console) as bar:
        task = bar.add_task("tuning the trace", total=trials, info="")

        def show(study: optuna.Study, _: object) -> None:
            bar.update(task, advance=1, info=f"best F1 {study.best_value:.3f}")

        study.optimize(objective, n_trials=trials, callbacks=[show])
    return {
        "best": study.best_params,
        "f1": study.best_value,
        "f1_before": study.trials[0].value,
        "cases": [case.name for case, _ in predictions],
        "trials": [{**trial.params, "f1": trial.value} for trial in study.trials],
    }


def _ranges(base: TraceConfig) -> dict[str, tuple[float, float]]:
    """Return what is searched: what the run uses now, which is tried first, lies within it."""
    least = base.low_threshold if base.method == "hysteresis" else min(0.05, base.threshold)
    ranges = {
        "threshold": (least, max(0.95, base.threshold)),
        "gap_um": (0.0, max(30.0, base.gap_um)),
        "spur_um": (0.0, max(30.0, base.spur_um)),
        "min_tree_um": (0.0, max(100.0, base.min_tree_um)),
    }
    if base.method == "otsu":
        del ranges["threshold"]  # found in the volume
    return ranges


def _mean_f1(predictions: Predictions, settings: TraceConfig) -> float:
    return float(np.mean([_f1(case, prob, settings) for case, prob in predictions]))


def _f1(case: PreparedCase, prob: NDArray[np.float32], settings: TraceConfig) -> float:
    """Return the length F1 of a case with a gold tree; 0 for a mask denser than a neuron."""
    gold = case.tree()
    try:
        pred = trace(prob, case.spacing_um, settings, max_share=MAX_SHARE)
    except DenseError:
        return 0.0
    return (
        tree_scores(pred=pred, gold=gold, spacing_um=case.spacing_um, shape_zyx=case.shape).f1
        if gold is not None
        else 0.0
    )


def _predictions(folder: RunFolder, experiment: Experiment, console: Console, *, allow_plugins: bool) -> Predictions:
    """Return the validation cases that have a gold tree with their predictions, predicted now if they are not yet."""
    data = DistillDataModule(experiment, run=folder)
    data.prepare_data()
    cases = [case for case in data.cases("val") if case.has_tree]
    if not cases:
        raise InputError(f"{folder.path}: no validation case has a gold tree; accepted: one or more under data.val")
    missing = [case for case in cases if not folder.prob(case.name).is_file()]
    if missing:
        module = load_module(folder.best, allow_plugins=allow_plugins)
        module.to(inference_device(module.experiment))
        with progress_bar(console) as bar:
            task = bar.add_task("predicting", total=len(missing), info="")
            for case in missing:
                prob = predict_prob(module, case.image)
                write_prob(folder.prob(case.name), prob, case.spacing_um, grid=case.grid)
                bar.advance(task)
    return [(case, read_prob(folder.prob(case.name))) for case in cases]
