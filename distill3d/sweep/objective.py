"""What a trial achieved, read from what its run left. It scores nothing itself.

A sweep's metric is called as W&B shows it: ``test/<score>``, the mean over the test cases in ``metrics.json``, or a
value logged during training, ``val/dice`` or ``train/loss``, of which the best by the sweep's goal counts.
"""

from __future__ import annotations

from distill3d.config.builder import unknown
from distill3d.config.schema import Experiment
from distill3d.evaluation.scores import SCORES
from distill3d.storage.achieved import LOGGED, achieved
from distill3d.storage.run_folder import RunFolder
from distill3d.sweep.schema import Metric, Sweep

_IN_UM = {
    **{f"test/{name}_tol_um": "mask_um" for name in ("dice", "precision", "recall")},
    **{f"test/tree_{name}_um": "tree_um" for name in ("f1", "precision", "recall")},
}  # metric -> setting without which it is not scored


def metric_names() -> tuple[str, ...]:
    """Every name a sweep's metric can have."""
    return (*(f"test/{key}" for key, score in SCORES.items() if score.averaged), *LOGGED)


def metric_problems(sweep: Sweep, experiment: Experiment) -> list[str]:
    """Say why a trial could not have the sweep's metric, or could not be stopped early by it."""
    name, known = sweep.metric.name, list(metric_names())
    if name not in known:
        return [f"metric.name: {unknown(name, known, 'no run produces')}"]
    if (setting := _IN_UM.get(name)) and getattr(experiment.evaluation, setting) is None:
        return [f"metric.name: {name} is not scored; accepted: evaluation.{setting}=NUMBER"]
    if sweep.early_terminate is None:
        return []
    if name not in LOGGED:
        return [f"early_terminate: {name} is known only at the end; accepted: metric.name {' or '.join(LOGGED)}"]
    count = experiment.trainer.steps // experiment.trainer.validate_every
    if name == "val/dice" and count <= sweep.early_terminate.first:
        first = sweep.early_terminate.first
        return [f"early_terminate: the first bracket is after {first} validations, a trial has {count}; nothing stops"]
    return []


def objective(run: RunFolder, metric: Metric) -> float | None:
    """Return what a finished run achieved, None if it did not produce the metric."""
    return achieved(run, metric.name, highest=metric.goal == "maximize")
