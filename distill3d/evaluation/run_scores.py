"""Scores a run's predictions against gold, case by case, as masks and as trees, beside a baseline. Predicts nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distill3d.config.schema import Experiment
from distill3d.config.trace import TraceConfig
from distill3d.data.datamodule import DistillDataModule
from distill3d.data.each import Each, one_by_one
from distill3d.data.prepared import PreparedCase
from distill3d.errors import InputError
from distill3d.evaluation.baseline import OTSU, otsu_dice_by_size, otsu_scores
from distill3d.evaluation.case_scores import Found, Scores, case_scores, traced
from distill3d.evaluation.cleaning import Clean, Segmented, choose_min_voxels, dice_by_size
from distill3d.evaluation.figures.case import case_figure
from distill3d.evaluation.figures.places import picture_path
from distill3d.evaluation.figures.tree import tree_figure
from distill3d.evaluation.figures.tree_page import in_words, tree_page
from distill3d.evaluation.metrics.tree import DEFAULT_TREE_TOLERANCE
from distill3d.evaluation.metrics.voxel import DEFAULT_TOLERANCE_VOX
from distill3d.evaluation.projections import Projections, project, write_projections
from distill3d.evaluation.scores import summarize
from distill3d.experiment import experiment_from_plain
from distill3d.storage.links import require_inside
from distill3d.storage.run_folder import RunFolder, write_json
from distill3d.volumes.inputs import require_writable
from distill3d.volumes.origin import as_notes, origin_of
from distill3d.volumes.prob import read_prob
from distill3d.volumes.swc import MICROMETERS, write_swc
from distill3d.volumes.tree import Tree


class CaseResult(NamedTuple):
    """What `evaluate` knows of a case: scores of the student and of the baseline, and why either was not traced."""

    student: Scores
    untraced: str
    otsu: Scores
    otsu_untraced: str


def evaluate(
    run: Path | str, *, tolerances_um: Mapping[str, float] | None = None, allow_plugins: bool = False
) -> dict[str, Any]:
    """Trace and score every test case of a run; write ``swc/``, ``projections/``, ``figures/``, ``metrics.json``.

    Args:
        run: a run's folder with predictions in ``prob/``.
        tolerances_um: settings of `EvaluationConfig` that replace the run's.
        allow_plugins: import the modules that the settings name, though the run lies outside of this project.

    Returns:
        The content of ``metrics.json``: that of `score_cases`, and ``cost``, ``teacher``, ``kept``, ``tubes``,
        ``nonlinear_share``, ``provenance`` of the training.

    Raises:
        InputError: not a run folder, one that cannot be written, no test case, or a prediction is missing.
    """
    folder = RunFolder(Path(run))
    if folder.config.is_file():
        require_writable(folder.path, option="run, or a copy")
    return write_scores(folder, score_cases(folder, tolerances_um=tolerances_um, allow_plugins=allow_plugins))


def write_scores(folder: RunFolder, scores: Mapping[str, Any]) -> dict[str, Any]:
    """Write ``metrics.json``: scores of the cases, and what is known of the training; returns its content."""
    results = {**scores, **folder.read_json(folder.fit)}
    write_json(folder.metrics, results)
    return results


def score_cases(
    folder: RunFolder,
    *,
    tolerances_um: Mapping[str, float] | None = None,
    allow_plugins: bool = False,
    each: Each = one_by_one,
) -> dict[str, Any]:
    """Trace and score every test case of a run; write its tree, projections and figures.

    Args:
        folder: of the run, with predictions in ``prob/``.
        tolerances_um: as for `evaluate`.
        allow_plugins: as for `evaluate`.
        each: goes through cases; in every process of those that share them.

    Returns:
        ``cases``, ``mean``, ``sd``, ``n_missed``, and the same under ``baselines.otsu``. Scores of trees start with
        ``tree_``; those that end in ``_clean`` are of the mask without small pieces, as a trace drops them too; `Clean`
        is under ``clean``. Of a mask denser than a neuron no tree is made: its case counts as missed in scores of
        trees, and the reason is under ``untraced``. ``tolerances`` has all that scores were taken at.
    """
    require_inside(folder.path)
    experiment = experiment_from_plain(folder.read_config(), source=folder.config, allow_plugins=allow_plugins)
    data = DistillDataModule(experiment, run=folder)
    if not data.case_names("test"):
        raise InputError(f"{folder.path}: its data has no test case; accepted: one or more under data.test")
    data.prepare_data()
    settings = trace_settings(folder, experiment)
    evaluation = dataclasses.replace(experiment.evaluation, **(tolerances_um or {}))
    fixed = {"mask_vox": DEFAULT_TOLERANCE_VOX, "tree_vox": DEFAULT_TREE_TOLERANCE}
    clean, otsu_clean = clean_settings(folder, experiment, data.cases("val"), settings, each)

    def score(case: PreparedCase) -> CaseResult:
        prob = prediction(folder, case)
        result = Found(prob >= experiment.inference.threshold, *traced(case, prob, settings))
        _write_tree(folder, case.name, result.tree)
        scores = case_scores(case, result, clean, evaluation)
        _draw(folder, experiment, case, prob, result, scores)
        write_projections(folder.projections(case.name), _projections(case, result))
        return CaseResult(scores, result.untraced, *otsu_scores(case, otsu_clean, evaluation))

    results = each(data.cases("test"), score)
    return {
        "experiment": experiment.name,
        "seed": experiment.seed,
        "components": {kind: getattr(experiment, kind).name for kind in ("data", "student", "teacher", "strategy")},
        "trace": dataclasses.asdict(settings),
        "tolerances": fixed | dataclasses.asdict(evaluation),
        **_method(clean, {name: (r.student, r.untraced) for name, r in results.items()}),
        "baselines": {"otsu": _method(otsu_clean, {name: (r.otsu, r.otsu_untraced) for name, r in results.items()})},
    }


def _method(clean: Clean, results: Mapping[str, tuple[Scores, str]]) -> dict[str, Any]:
    """Return what ``metrics.json`` has of a method."""
    cases = {name: scores for name, (scores, _) in results.items()}
    untraced = {name: why for name, (_, why) in results.items() if why}
    summary = dataclasses.asdict(summarize(cases))
    return {"clean": dataclasses.asdict(clean), "cases": cases, "untraced": untraced, **summary}


def trace_settings(folder: RunFolder, experiment: Experiment) -> TraceConfig:
    """Return how the run's predictions are traced: as `tune_trace` chose on its validation cases, else its settings."""
    chosen = folder.read_json(folder.tuned)
    return dataclasses.replace(experiment.trace, **chosen["best"]) if chosen else experiment.trace


def clean_settings(
    folder: RunFolder, experiment: Experiment, cases: Sequence[PreparedCase], settings: TraceConfig, each: Each
) -> tuple[Clean, Clean]:
    """Choose which pieces clean scores leave out, for the run and for Otsu, on the validation cases alone.

    A run whose validation cases are not all predicted leaves out what its trace does.
    """
    if not cases:
        return Clean(settings.min_voxels), Clean(OTSU.min_voxels)

    def dice(case: PreparedCase) -> tuple[NDArray[np.float64] | None, NDArray[np.float64]]:
        of_otsu = otsu_dice_by_size(case)
        if not folder.prob(case.name).is_file():
            return None, of_otsu
        mask = prediction(folder, case) >= experiment.inference.threshold
        return dice_by_size(Segmented(mask, case.mask, case.known), settings.min_voxels), of_otsu

    names = [case.name for case in cases]
    of_run, of_otsu = zip(*each(cases, dice).values(), strict=True)
    otsu = Clean(choose_min_voxels(of_otsu, OTSU.min_voxels), names)
    rows = [row for row in of_run if row is not None]
    if len(rows) < len(names):
        return Clean(settings.min_voxels), otsu
    return Clean(choose_min_voxels(rows, settings.min_voxels), names), otsu


def _write_tree(folder: RunFolder, case: str, tree: Tree | None) -> None:
    """Write a tree, which says what it was traced from, so that it is nobody's gold; or remove an earlier one."""
    path = folder.swc(case)
    if tree is None:
        path.unlink(missing_ok=True)
    else:
        write_swc(path, tree, spacing_um=MICROMETERS, notes=as_notes(made_from=origin_of(folder.prob(case))))


def prediction(folder: RunFolder, case: PreparedCase) -> NDArray[np.float32]:
    """Read the predicted probability of a case.

    Raises:
        InputError: there is none, or it has another shape.
    """
    path = folder.prob(case.name)
    if not path.is_file():
        raise InputError(f"{path}: no prediction of case {case.name}; accepted: a run that `fit` has finished")
    prob = read_prob(path)
    if prob.shape != case.mask.shape:
        raise InputError(f"{path}: shape {prob.shape}, but the gold of {case.name} has {case.mask.shape}")
    return prob


def _projections(case: PreparedCase, result: Found) -> Projections:
    return project(
        case.raw, gold=case.mask, known=case.known, pred=result.mask, spacing_um=case.spacing_um, tree=case.tree()
    )


def _draw(
    folder: RunFolder,
    experiment: Experiment,
    case: PreparedCase,
    prob: NDArray[np.float32],
    result: Found,
    scores: Scores,
) -> None:
    title = f"{case.name}: {experiment.name}, seed {experiment.seed}"
    case_figure(
        picture_path(folder, case.name, ".png"),
        f"{title}; Dice {scores['dice']:.3f}, within 2 voxels {scores['dice_tol']:.3f}",
        image=case.image,
        gold=case.mask,
        known=case.known,
        prob=prob,
        threshold=experiment.inference.threshold,
        spacing_um=case.spacing_um,
    )
    gold, path = case.tree(), picture_path(folder, case.name, "_tree.png")
    path.unlink(missing_ok=True)
    if gold is not None and result.tree is not None:
        tree_figure(path, title, image=case.image, pred=result.tree, gold=gold, spacing_um=case.spacing_um)
    tree_page(
        picture_path(folder, case.name, "_3d.html"),
        title,
        in_words(scores),
        image=case.raw,
        gold=gold,
        pred=result.tree,
        spacing_um=case.spacing_um,
    )
