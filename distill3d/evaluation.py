"""Scores a run's predictions against gold, case by case, beside a baseline. It trains and predicts nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.filters import threshold_otsu

from distill3d.data.datamodule import DistillDataModule
from distill3d.data.prepared import PreparedCase
from distill3d.errors import InputError
from distill3d.experiment import experiment_from_plain
from distill3d.figures import case_figure
from distill3d.inference import read_prob
from distill3d.metrics.voxel import VoxelScores, aggregate, voxel_scores
from distill3d.run_folder import RunFolder, write_json
from distill3d.schema import Experiment


def evaluate(run: Path | str) -> dict[str, Any]:
    """Score every test case of a run and write ``metrics.json`` and ``figures/``.

    Args:
        run: a run's folder with predictions in ``prob/``.

    Returns:
        The content of ``metrics.json``: ``cases``, ``mean``, ``sd``, ``n_missed``, the same under ``baselines.otsu``,
        and ``cost``, ``teacher``, ``provenance`` of the training.

    Raises:
        InputError: not a run folder, no test case, or a prediction is missing.
    """
    folder = RunFolder(Path(run))
    experiment = experiment_from_plain(folder.read_config())
    data = DistillDataModule(experiment)
    if not data.case_names("test"):
        raise InputError(f"{folder.path}: its data has no test case; accepted: one or more under data.test")
    data.prepare_data()
    student: dict[str, VoxelScores] = {}
    baseline: dict[str, VoxelScores] = {}
    for case in data.cases("test"):
        prob = _prediction(folder, case)
        student[case.name] = _scores(case, prob >= experiment.inference.threshold)
        baseline[case.name] = _scores(case, otsu(case.raw))
        _draw(folder, experiment, case, prob, student[case.name])
    results = {
        "experiment": experiment.name,
        "seed": experiment.seed,
        "components": {kind: getattr(experiment, kind).name for kind in ("data", "student", "teacher", "strategy")},
        **_summary(student),
        "baselines": {"otsu": _summary(baseline)},
        **folder.read_json(folder.fit),
    }
    write_json(folder.metrics, results)
    return results


def otsu(image: NDArray[np.number]) -> NDArray[np.bool_]:
    """Segment by Otsu's global threshold, the baseline that needs no training.

    Args:
        image: [Z, Y, X] intensities as they were recorded; the clipping that helps a network would handicap it.

    Returns:
        [Z, Y, X], True above the threshold.
    """
    return np.asarray(image > threshold_otsu(np.asarray(image)))


def case_pictures(folder: RunFolder, results: Mapping[str, Any]) -> dict[str, Path]:
    """Name for the logs -> the picture that `evaluate` drew."""
    return {f"mip/{case}": _picture(folder, case) for case in results["cases"]}


def _picture(folder: RunFolder, case: str) -> Path:
    return folder.figures / f"{case}.png"


def _prediction(folder: RunFolder, case: PreparedCase) -> NDArray[np.float32]:
    path = folder.prob(case.name)
    if not path.is_file():
        raise InputError(f"{path}: no prediction of test case {case.name}; accepted: a run that `fit` has finished")
    prob = read_prob(path)
    if prob.shape != case.mask.shape:
        raise InputError(f"{path}: shape {prob.shape}, but the gold of {case.name} has {case.mask.shape}")
    return prob


def _scores(case: PreparedCase, pred: NDArray[np.bool_]) -> VoxelScores:
    return voxel_scores(pred=pred, gold=case.mask, known=case.known, spacing_um=case.spacing_um)


def _summary(scores: Mapping[str, VoxelScores]) -> dict[str, Any]:
    summary = aggregate(list(scores.values()))
    return {"cases": {name: dataclasses.asdict(score) for name, score in scores.items()}, **dataclasses.asdict(summary)}


def _draw(
    folder: RunFolder, experiment: Experiment, case: PreparedCase, prob: NDArray[np.float32], scores: VoxelScores
) -> None:
    dice, tolerant = scores.dice, scores.dice_tol
    case_figure(
        _picture(folder, case.name),
        f"{case.name}: {experiment.name}, seed {experiment.seed}; Dice {dice:.3f}, within 2 voxels {tolerant:.3f}",
        image=case.image,
        gold=case.mask,
        known=case.known,
        prob=prob,
        threshold=experiment.inference.threshold,
        spacing_um=case.spacing_um,
    )
