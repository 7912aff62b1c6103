"""Scores two files against each other: masks, trees, or a mask against a tree. It needs no run."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from distill3d.config.schema import EvaluationConfig
from distill3d.config.trace import TraceConfig
from distill3d.errors import InputError
from distill3d.evaluation.metrics.large import PART, large_mask_scores
from distill3d.evaluation.metrics.tree import DEFAULT_TREE_TOLERANCE, length_scores, tree_scores
from distill3d.evaluation.metrics.voxel import DEFAULT_TOLERANCE_VOX
from distill3d.evaluation.scores import mask_scores
from distill3d.terminal import progress_bar, stderr
from distill3d.tracing.trace import trace_volume
from distill3d.volumes.calls import Workers
from distill3d.volumes.lazy import Blocks
from distill3d.volumes.meaning import neuron_mask
from distill3d.volumes.parts import Box, boxes, computed
from distill3d.volumes.pieces import find_pieces
from distill3d.volumes.placement import brought_to, same_spacing
from distill3d.volumes.swc import MICROMETERS, is_tree_file, read_swc, stated_spacing
from distill3d.volumes.tree import Tree, within
from distill3d.volumes.volume import read_or_open

_LOG = logging.getLogger(__name__)


def score_files(
    pred: Path | str,
    gold: Path | str,
    *,
    spacing_um: tuple[float, float, float] | None = None,
    vaa3d_compat: bool = False,
    tolerance: float | None = None,
    tolerances_um: Mapping[str, float] | None = None,
    tree_units: Literal["voxel", "um"] | None = None,
    threshold: float | None = None,
    workers: Workers | None = None,
) -> dict[str, Any]:
    """Score a file against a gold one.

    Two masks: every voxel that is not 0 is neuron, of stacks of many values see `neuron_mask`; where both headers say
    how the stacks lie in space, the first is turned to the second. Two trees: in the unit of the files, or in
    micrometers if a spacing is given; a tree that `trace` wrote states that it is in micrometers, and the spacing is
    that of the other alone, which without one is taken to be in micrometers too, with a warning. A mask against a tree:
    the mask is traced with the default settings, then trees are scored, in voxels; what of the tree lies outside the
    volume is left out.

    Args:
        pred: a mask in any format of `read_volume`, or an SWC file.
        gold: the same.
        spacing_um: ZYX voxel size; of masks it wins over the file's, trees that state none are multiplied by it.
        vaa3d_compat: of trees, see `distill3d.evaluation.metrics.tree.tree_scores`.
        tolerance: of trees, the same, in the unit of the scores; None takes 4.
        tolerances_um: settings of `EvaluationConfig`.
        tree_units: what a tree that states no unit counts in beside a mask; None takes voxels, with a warning where
            they are not 1 um.
        threshold: of a probability, in [0, 1]; None takes 0.5.
        workers: share what is done by part, see `distill3d.volumes.cluster.workers`; None: this process does it.

    Returns:
        Masks: ``dice, precision, recall, f1, nsd, hd95, cldice, betti0_error, betti1_error`` and more; distances in um,
        or in voxels where nothing says the spacing. Trees: ``esa, dsa, pds, precision, recall, f1, length_pred,
        length_gold`` and more, in ``unit``. The tolerances that were used are there too.

    Raises:
        InputError: a file cannot be read, the masks have different shapes, or a tolerance of trees is in um and nothing
            says the voxel size.
    """
    pred, gold, evaluation = Path(pred), Path(gold), EvaluationConfig(**(tolerances_um or {}))
    is_tree = [is_tree_file(path) for path in (pred, gold)]
    if all(is_tree):
        scores_of = _tree_files
    elif any(is_tree):
        scores_of = functools.partial(_mixed, tree_units=tree_units, threshold=threshold, workers=workers)
    else:
        return _mask_files(pred, gold, spacing_um, evaluation, threshold, workers)
    how = {"tolerance": DEFAULT_TREE_TOLERANCE if tolerance is None else tolerance, "tree_um": evaluation.tree_um}
    return scores_of(pred, gold, spacing_um, vaa3d_compat=vaa3d_compat, **how)


def _tree_files(
    pred: Path,
    gold: Path,
    spacing_um: tuple[float, float, float] | None,
    *,
    vaa3d_compat: bool,
    tolerance: float,
    tree_um: float | None,
) -> dict[str, Any]:
    stated = [stated_spacing(path) for path in (pred, gold)]
    if tree_um is not None and not (spacing_um or all(stated)):
        raise InputError(
            f"--tree-um {tree_um:g}: {pred} and {gold} do not say the voxel size; accepted: with --spacing"
        )
    known = spacing_um is not None or any(stated)
    for path, own in zip((pred, gold), stated, strict=True):
        if own is None and spacing_um is None and known:
            _LOG.warning("%s: states no unit and is taken to be in um as the other is; else --spacing z,y,x", path)
    trees = [
        read_swc(path, spacing_um=own or spacing_um or MICROMETERS, allow_empty=path != gold)
        for path, own in zip((pred, gold), stated, strict=True)
    ]
    scores = tree_scores(
        pred=trees[0],
        gold=trees[1],
        spacing_um=spacing_um or MICROMETERS,
        unit="um" if known else "vox",
        vaa3d_compat=vaa3d_compat,
        tolerance=tolerance,
    )
    in_um = _in_um(trees[0], trees[1], spacing_um or MICROMETERS, tree_um)
    return {"pred": str(pred), "gold": str(gold), "kind": "trees", **asdict(scores), **in_um}


def _in_um(pred: Tree, gold: Tree, spacing_um: tuple[float, float, float], tree_um: float | None) -> dict[str, float]:
    """Return scores of length within a tolerance in um and the tolerance; nothing without one."""
    if tree_um is None:
        return {}
    scores = length_scores(pred=pred, gold=gold, spacing_um=spacing_um, unit="um", tolerance=tree_um)
    return {**{f"{name}_um": value for name, value in scores._asdict().items()}, "tree_um": tree_um}


def _mixed(
    pred: Path,
    gold: Path,
    spacing_um: tuple[float, float, float] | None,
    *,
    vaa3d_compat: bool,
    tolerance: float,
    tree_um: float | None,
    tree_units: Literal["voxel", "um"] | None,
    threshold: float | None,
    workers: Workers | None,
) -> dict[str, Any]:
    """Trace the mask, whichever of the two it is, and compare in voxels."""
    mask = next(path for path in (pred, gold) if not is_tree_file(path))
    volume = read_or_open(mask, spacing_um=spacing_um)

    def tree_of(path: Path) -> Tree:
        if path == mask:
            neuron = replace(volume, data=neuron_mask(mask, volume.data, threshold, gold=mask == gold))
            return trace_volume(neuron, TraceConfig(input="mask"), workers=workers)
        stated = stated_spacing(path)
        if stated is None and tree_units is None and volume.spacing_um != MICROMETERS:
            _LOG.warning("%s: states no unit and is taken to be in voxels; else --tree-units um", path)
        units = stated or (MICROMETERS if tree_units == "um" else volume.spacing_um)
        tree = read_swc(path, spacing_um=units, allow_empty=path != gold)
        kept = within(tree, volume.shape, volume.spacing_um)
        if tree.n_nodes and not kept.n_nodes:
            raise InputError(
                f"{path}: no part of it lies in {mask}; accepted: a tree in its voxels, or --tree-units um"
            )
        return kept

    trees = tree_of(pred), tree_of(gold)
    scores = tree_scores(
        pred=trees[0],
        gold=trees[1],
        spacing_um=volume.spacing_um,
        vaa3d_compat=vaa3d_compat,
        tolerance=tolerance,
        shape_zyx=volume.shape,
    )
    in_um = _in_um(*trees, volume.spacing_um, tree_um)
    return {"pred": str(pred), "gold": str(gold), "kind": "mask and tree", **asdict(scores), **in_um}


def _mask_files(
    pred: Path,
    gold: Path,
    spacing_um: Sequence[float] | None,
    evaluation: EvaluationConfig,
    threshold: float | None,
    workers: Workers | None,
) -> dict[str, Any]:
    volumes = [read_or_open(path, spacing_um=spacing_um) for path in (pred, gold)]
    volumes[0] = brought_to(volumes[1], volumes[0], names=(str(gold), str(pred)))
    if volumes[0].shape != volumes[1].shape:
        raise InputError(
            f"{pred} has shape {volumes[0].shape}, {gold} has {volumes[1].shape}; accepted: the same shape [Z, Y, X]"
        )
    if not same_spacing(volumes[0].spacing_um, volumes[1].spacing_um):
        raise InputError(
            f"{pred} has spacing {volumes[0].spacing_um} um, {gold} has {volumes[1].spacing_um}; accepted: the same, "
            "or --spacing z,y,x"
        )
    spacing = volumes[1].spacing_um
    masks = [
        neuron_mask(path, volume.data, threshold, gold=is_gold)
        for path, volume, is_gold in zip((pred, gold), volumes, (False, True), strict=True)
    ]
    how = {"spacing_um": spacing, "tolerance_um": evaluation.mask_um, "surface_um": evaluation.surface_um}
    scores = scores_of_masks(pred=masks[0], gold=masks[1], workers=workers, **how)
    named = {
        "f1": scores["dice"],  # the harmonic mean of precision and recall
        "hd95": scores.pop("hd95_um"),
        "asd": scores.pop("asd_um"),
        "tolerance_vox": DEFAULT_TOLERANCE_VOX,
        "mask_um": evaluation.mask_um,
        "surface_um": evaluation.surface_um,
    }
    return {"pred": str(pred), "gold": str(gold), "kind": "masks", "spacing_um": list(spacing), **scores, **named}


def scores_of_masks(
    *,
    pred: Blocks,
    gold: Blocks,
    known: Blocks | None = None,
    workers: Workers | None = None,
    **how: Any,  # noqa: ANN401 - as `mask_scores` has them
) -> dict[str, float]:
    """Score a mask against gold as `mask_scores` does; where one is read by part, only marked voxels are kept."""
    if isinstance(pred, np.ndarray) and isinstance(gold, np.ndarray):
        return mask_scores(pred=pred, gold=gold, known=None if known is None else np.asarray(known), **how)
    if known is not None:
        pred, gold = (computed(np.logical_and, mask, known) for mask in (pred, gold))
    z, y, x = gold.shape
    shape = (z, y, x)
    with progress_bar(stderr()) as bar:
        pieces = []
        for name, mask in (("prediction", pred), ("gold", gold)):
            task = bar.add_task(f"reading the {name}", total=len(boxes(shape)), info="")
            marks = functools.partial(_marks, mask)
            pieces.append(find_pieces(shape, marks, on_part=lambda t=task: bar.advance(t), workers=workers))
        task = bar.add_task("scoring", total=len(boxes(shape, PART)), info="")
        through = {"on_part": lambda: bar.advance(task), "workers": workers}
        return large_mask_scores(pred=pieces[0], gold=pieces[1], **how, **through)


def _marks(mask: Blocks, box: Box) -> tuple[NDArray[np.bool_], None]:
    return mask[box], None
