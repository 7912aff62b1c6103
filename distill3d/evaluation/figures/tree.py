"""A picture of a predicted tree over its image: what of gold was found, what was missed, what is spurious."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from distill3d.evaluation.figures.canvas import FALSE, HIT, LOST, RIGHT, Flags, Spacing, Stack, save_quantized
from distill3d.evaluation.figures.planes import (
    GAP,
    LEFT,
    SIZE,
    TOP,
    XY,
    ZY,
    Box,
    axes,
    label,
    legend,
    lines,
    overview,
    show,
    text,
    whole,
    within,
)
from distill3d.evaluation.metrics.tree import DEFAULT_TREE_TOLERANCE, length_scores
from distill3d.evaluation.metrics.tree_errors import Stretch, TreePieces, error_stretches, pieces_within, tree_pieces
from distill3d.volumes.tree import Tree

LEGEND = {
    "gold, found": HIT,
    "gold, missed": LOST,
    "predicted, spurious": FALSE,
    "predicted, right (close-ups only)": RIGHT,
}
MARGIN, NEAR, FAR = 12, 28, 80  # voxels: around a stretch, and half a close-up at least and at most
SPOT_ROOM, SPOT_LEFT = (6.9, 2.75), 7.5  # inches: a close-up


def stretch_box(stretch: Stretch, shape_zyx: Sequence[int], tolerance_vox: float) -> Box:
    """Return the first and last voxel of a close-up: the whole stretch, or the middle of one that is very long.

    It is square unless the image is smaller, moved inward at a border, and as deep as what it holds of the stretch and
    the tolerance on both sides.
    """
    points, last = stretch.points_zyx_vox, np.array(shape_zyx) - 1
    low, high = points.min(axis=0), points.max(axis=0)
    half = (high - low)[1:].max() / 2 + MARGIN
    middle = (low + high) / 2 if half <= FAR else stretch.center_zyx_vox
    half = int(np.clip(np.ceil(half), NEAR, FAR))
    first = np.clip(np.rint(middle).astype(np.int64) - half, 0, np.maximum(last - 2 * half, 0))
    end = np.minimum(first + 2 * half, last)
    seen = within(points, (first, end))[:, 1:].all(axis=1)
    depths, reach = points[seen if seen.any() else slice(None), 0], np.ceil(tolerance_vox)
    first[0] = np.clip(np.floor(depths.min()) - reach, 0, last[0])
    end[0] = np.clip(np.ceil(depths.max()) + reach, 0, last[0])
    return first, end


@final
@dataclass(frozen=True, slots=True)
class _Side:
    """A tree, what is wrong with it, and where to look."""

    name: str  # of what is wrong
    owner: str
    other: str
    pieces: TreePieces
    wrong: Flags
    stretches: list[Stretch]
    box: Box | None


@final
@dataclass(frozen=True, slots=True)
class _Scene:
    """What all panels draw from."""

    image: Stack
    spacing_um: Spacing
    gold: _Side
    pred: _Side


def tree_figure(
    path: Path,
    title: str,
    *,
    image: Stack,
    pred: Tree,
    gold: Tree,
    spacing_um: Spacing,
    tolerance_vox: float = DEFAULT_TREE_TOLERANCE,
) -> Path:
    """Draw maximum projections in three planes with both trees, and close-ups of the worst miss and the worst extra.

    Every piece of a tree is drawn in the color of what it counts as in ``metrics.tree.tree_scores``, in voxels. The
    close-ups show the longest connected stretch of missed gold and of spurious prediction, in a slab around it, once
    as the image alone and once with the trees; numbered boxes in the projections say where they are.

    Args:
        path: PNG to write; its folder is made.
        title: above the picture; the scores stand below it.
        image: [Z, Y, X] intensities.
        pred: in micrometers; may have no node.
        gold: the same.
        spacing_um: ZYX voxel size.
        tolerance_vox: how far a piece may be from the other tree.

    Returns:
        ``path``.

    Raises:
        InputError: as ``metrics.tree.tree_scores``.
    """
    scores = length_scores(pred=pred, gold=gold, spacing_um=spacing_um, tolerance=tolerance_vox)
    of_gold, of_pred = tree_pieces(gold, spacing_um), tree_pieces(pred, spacing_um)
    missed = _side(("missed", "gold", "the prediction"), of_gold, of_pred, tolerance_vox, image.shape)
    spurious = _side(("spurious", "the prediction", "gold"), of_pred, of_gold, tolerance_vox, image.shape)
    scene = _Scene(image, spacing_um, missed, spurious)
    figure = Figure(figsize=SIZE, dpi=110, facecolor="white")
    _overview(figure, scene)
    for row, side in enumerate((missed, spurious)):
        top = TOP + row * (SPOT_ROOM[1] + 0.65)
        text(figure, SPOT_LEFT, top - 0.08, f"{row + 1}  {_say(side, tolerance_vox)}")
        if side.box is not None:
            _closeup(figure, top, side.box, scene)
    empty = [side.owner for side in (missed, spurious) if not len(side.wrong)]
    _words(
        figure,
        title,
        f"length F1 {scores.f1:.3f}, precision {scores.precision:.3f}, recall {scores.recall:.3f} within "
        f"{tolerance_vox:g} voxels; gold {of_gold.lengths_vox.sum():.0f}, predicted {of_pred.lengths_vox.sum():.0f} "
        "voxels long",
        " and ".join(empty).capitalize() + ": no node, nothing to draw." if empty else "",
    )
    return save_quantized(figure, path, (HIT, FALSE, LOST))


def _side(
    names: tuple[str, str, str], pieces: TreePieces, of: TreePieces, tolerance_vox: float, shape_zyx: Sequence[int]
) -> _Side:
    wrong = ~pieces_within(pieces, of=of, tolerance_vox=tolerance_vox)
    stretches = error_stretches(pieces, wrong)
    box = stretch_box(stretches[0], shape_zyx, tolerance_vox) if stretches else None
    return _Side(*names, pieces, wrong, stretches, box)


def _say(side: _Side, tolerance_vox: float) -> str:
    """Describe the longest stretch and what is seen of it, or why there is none."""
    if side.box is None:
        near = f"all of {side.owner} is within {tolerance_vox:g} voxels of {side.other}"
        return f"nothing {side.name}: {near if len(side.wrong) else f'{side.owner} has no node'}"
    longest, count = side.stretches[0], len(side.stretches)
    total = sum(stretch.length_vox for stretch in side.stretches)
    head = f"longest of {count} {side.name} stretches" if count > 1 else f"only {side.name} stretch"
    seen = within(longest.points_zyx_vox, side.box).all(axis=1)
    part = "" if seen.all() else ", shown in part" if seen.any() else ", outside the image"
    slices = f"slices {side.box[0][0]} to {side.box[1][0]}"
    return f"{head}: {longest.length_vox:.0f} of {total:.0f} voxels{part}; {slices}"


def _overview(figure: Figure, scene: _Scene) -> None:
    """Draw the whole image in three planes, with numbered boxes."""
    for ax, plane in overview(figure, scene.image, scene.spacing_um):
        _trees(ax, scene, whole(scene.image), plane, closeup=False)
        for number, side in (("1", scene.gold), ("2", scene.pred)):
            if side.box is not None:
                _mark(ax, number, side.box, plane, at_start=side is scene.gold)


def _closeup(figure: Figure, top: float, box: Box, scene: _Scene) -> None:
    """Draw a box: XY without and with the trees, and ZY beside it."""
    size, left = (box[1] - box[0] + 1) * scene.spacing_um, SPOT_LEFT
    inch = min((SPOT_ROOM[0] - 2 * GAP) / (2 * size[2] + size[0]), SPOT_ROOM[1] / size[1])
    for plane, with_trees in ((XY, False), (XY, True), (ZY, True)):
        ax = axes(figure, left, top, inch * size[list(plane)])
        show(ax, scene.image, scene.spacing_um, box, plane, "" if with_trees else ", image alone")
        if with_trees:
            _trees(ax, scene, box, plane, closeup=True)
        ax.tick_params(labelleft=not with_trees)
        left += inch * size[plane[1]] + GAP


def _trees(ax: Axes, scene: _Scene, box: Box, plane: tuple[int, int], *, closeup: bool) -> None:
    """Draw what of both trees lies in the box; in an overview, what agrees is drawn once, as gold."""
    layers = [(scene.pred, False, RIGHT, 0.8)] * closeup + [
        (scene.gold, False, HIT, 1.2 + 0.4 * closeup),
        (scene.pred, True, FALSE, 1.6 + 0.4 * closeup),
        (scene.gold, True, LOST, 1.6 + 0.4 * closeup),
    ]
    for side, wrong, color, width in layers:
        pieces, which = side.pieces, side.wrong == wrong
        drawn = which & within(pieces.points_zyx_vox, box).all(axis=1)
        middle, half = (values[drawn] for values in (pieces.points_zyx_vox, pieces.halves_zyx_vox))
        lines(ax, plane, middle - half, middle + half, color, width)


def _mark(ax: Axes, number: str, box: Box, plane: tuple[int, int], *, at_start: bool) -> None:
    """Draw a box and its number at the first or the last corner, so that those of two boxes seldom meet."""
    (top, left), (bottom, right) = (ends[list(plane)] for ends in box)
    for color, width in (("black", 2.0), ("white", 0.9)):
        edge = {"edgecolor": color, "linewidth": width}
        ax.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, **edge))
    if at_start:
        label(ax, number, (left, top), (-2, 2), fontsize=9, ha="right", va="bottom")
    else:
        label(ax, number, (right, bottom), (2, -2), fontsize=9, ha="left", va="top")


def _words(figure: Figure, title: str, scores: str, remark: str) -> None:
    """Write title, scores, remark and legend above the pictures."""
    text(figure, LEFT, 0.35, title, fontsize=12, weight="bold")
    text(figure, LEFT, 0.65, scores)
    text(figure, LEFT, 0.9, remark)
    legend(figure, LEGEND)
