"""Two trees as colored lines in space: what a page needs to draw them, in few bytes."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from distill3d.evaluation.figures.canvas import FALSE, HIT, LOST, RIGHT, Flags, Reals, Rgb, Spacing
from distill3d.evaluation.metrics.tree import DEFAULT_TREE_TOLERANCE
from distill3d.evaluation.metrics.tree_distance import SLACK, nearest_distances
from distill3d.evaluation.metrics.tree_errors import TreePieces, pieces_within, tree_pieces
from distill3d.volumes.tree import Tree

MOST_BYTES = 600_000  # of lines and marks in the text of a page
LINE_BYTES, MARK_BYTES = 16, 8  # of one, as base64
COARSE = 2000  # cells along the longest side where all is too much, at first
STEPS = 65535
Scene = dict[str, Any]  # of JSON: see `scene`
# side, whether it is wrong -> name, color, pixels; what comes first is drawn below
LOOKS: dict[tuple[str, bool], tuple[str, Rgb, float]] = {
    ("pred", False): ("predicted, right", RIGHT, 1.4),
    ("gold", False): ("gold, found", HIT, 2.2),
    ("pred", True): ("predicted, spurious", FALSE, 3.0),
    ("gold", True): ("gold, missed", LOST, 3.0),
}


@final
@dataclass(frozen=True, slots=True)
class TreePart:
    """What has one color of a tree, ZYX in um: lines [L, 2, 3], tips [T, 3], branch points [B, 3]."""

    name: str
    side: str
    color: Rgb
    width: float
    length_um: float
    lines: Reals
    tips: Reals
    branches: Reals

    @property
    def n_bytes(self) -> int:
        """Of its text in a page."""
        return LINE_BYTES * len(self.lines) + MARK_BYTES * (len(self.tips) + len(self.branches))

    def as_plain(self, code: Callable[[Reals], str]) -> dict[str, Any]:
        """Return it for the page, its points as text."""
        return {
            "name": self.name,
            "side": self.side,
            "color": "#{:02x}{:02x}{:02x}".format(*(round(255 * value) for value in self.color)),
            "width": self.width,
            "um": round(self.length_um, 1),
            "lines": code(self.lines),
            "tips": code(self.tips),
            "branches": code(self.branches),
        }


def scene(
    *,
    gold: Tree | None,
    pred: Tree | None,
    shape_zyx: Sequence[int],
    spacing_um: Spacing,
    tolerance_vox: float = DEFAULT_TREE_TOLERANCE,
    most_bytes: int = MOST_BYTES,
) -> Scene:
    """Cut both trees where they begin to err, and write lines and marks as whole numbers.

    A line is what of an edge has one color, and so has every piece the color that it has in `tree_figure`. Where that
    is more than ``most_bytes``, places that lie close together become one, by as little as will do.

    Args:
        gold: in um; None where there is none, and nothing is right or wrong then.
        pred: the same.
        shape_zyx: voxels of the image.
        spacing_um: ZYX voxel size.
        tolerance_vox: how far a piece may be from the other tree.
        most_bytes: of the lines and marks together.

    Returns:
        Everything XYZ. ``box``: lowest and highest corner of the image in um. ``parts``: ``name``, ``side`` (gold or
        pred), ``color``, ``width`` in pixels, ``um`` (length), and ``lines`` (6 numbers each), ``tips``, ``branches``
        (3 each) as base64 of uint16, of which number n stands for ``origin + step * n`` um.
    """
    whole = [
        part
        for side, tree, other in (("gold", gold, pred), ("pred", pred, gold))
        if tree is not None
        for part in tree_parts(side, tree, other, spacing_um, tolerance_vox)
    ]
    order = [name for name, _, _ in LOOKS.values()]
    whole.sort(key=lambda part: order.index(part.name) if part.name in order else 0)
    corners = np.array([[-0.5] * 3, np.array(shape_zyx) - 0.5]) * spacing_um
    everything = np.concatenate([corners, *(part.lines.reshape(-1, 3) for part in whole), *(p.tips for p in whole)])
    origin, extent = everything.min(axis=0), float(np.ptp(everything, axis=0).max())
    parts, cell = whole, extent / COARSE
    while sum(part.n_bytes for part in parts) > most_bytes:
        parts, cell = [_thinned(part, cell) for part in whole], 1.3 * cell
    step = extent / STEPS

    def code(points: Reals) -> str:
        numbers = np.rint((points - origin) / step).clip(0, STEPS)[..., ::-1].astype("<u2")
        return base64.b64encode(numbers.tobytes()).decode()

    return {
        "box": corners[:, ::-1].tolist(),
        "origin": origin[::-1].tolist(),
        "step": step,
        "parts": [part.as_plain(code) for part in parts],
    }


def tree_parts(
    side: str, tree: Tree, other: Tree | None, spacing_um: Spacing, tolerance_vox: float
) -> Iterator[TreePart]:
    """Divide a tree into what agrees with the other one and what does not."""
    pieces = tree_pieces(tree, spacing_um)
    wrong, wrong_nodes = np.zeros(len(pieces.lengths_vox), bool), np.zeros(tree.n_nodes, bool)
    if other is not None:
        of = tree_pieces(other, spacing_um)
        wrong = ~pieces_within(pieces, of=of, tolerance_vox=tolerance_vox)
        wrong_nodes[:] = True
        if other.n_nodes and tree.n_nodes:
            away = nearest_distances(tree.points_zyx_um / np.array(spacing_um), of.segments)
            wrong_nodes = away > tolerance_vox + SLACK
    lines, wrong_lines = _lines(pieces, wrong, tree.n_nodes)
    lines_um, lengths_um = lines * spacing_um, 2 * np.linalg.norm(pieces.halves_zyx_vox * spacing_um, axis=1)
    for err in (False, True) if other is not None else (False,):
        name, color, width = LOOKS[side, err] if other is not None else (_alone(side), RIGHT, 1.8)
        tips, branches = (places[wrong_nodes[places] == err] for places in (tree.tips, tree.branch_points))
        yield TreePart(
            name=name,
            side=side,
            color=color,
            width=width,
            length_um=float(lengths_um[wrong == err].sum()),
            lines=lines_um[wrong_lines == err],
            tips=tree.points_zyx_um[tips],
            branches=tree.points_zyx_um[branches],
        )


def _alone(side: str) -> str:
    return {"gold": "gold (nothing was traced)", "pred": "predicted (there is no gold tree)"}[side]


def _lines(pieces: TreePieces, wrong: Flags, n_nodes: int) -> tuple[Reals, Flags]:
    """Join the pieces of an edge that are alike; return both ends [L, 2, 3] in voxels, and which lines are wrong."""
    if not len(wrong):
        return np.empty((0, 2, 3)), wrong
    starts = pieces.joints[:, 0] < n_nodes  # the end away from the root is a node: an edge begins
    starts[1:] |= wrong[1:] != wrong[:-1]
    first = np.flatnonzero(starts)
    last = np.append(first[1:], len(wrong)) - 1
    points, halves = pieces.points_zyx_vox, pieces.halves_zyx_vox
    return np.stack([points[first] - halves[first], points[last] + halves[last]], axis=1), wrong[first]


def _thinned(part: TreePart, cell_um: float) -> TreePart:
    """Bring what lies in one cell to its mean; lines without length, and those there twice, go."""
    means, place = _clustered(part.lines.reshape(-1, 3), cell_um)
    ends = np.unique(np.sort(place.reshape(-1, 2), axis=1), axis=0)
    return TreePart(
        name=part.name,
        side=part.side,
        color=part.color,
        width=part.width,
        length_um=part.length_um,
        lines=means[ends[ends[:, 0] != ends[:, 1]]],
        tips=_clustered(part.tips, cell_um)[0],
        branches=_clustered(part.branches, cell_um)[0],
    )


def _clustered(points: Reals, cell_um: float) -> tuple[Reals, NDArray[np.int64]]:
    """Return the mean of the points in every cell [C, 3], and the cell of every point."""
    if not len(points):
        return points, np.empty(0, np.int64)
    _, place = np.unique(np.floor(points / cell_um), axis=0, return_inverse=True)
    sums = np.stack([np.bincount(place, points[:, axis]) for axis in range(3)], axis=1)
    return sums / np.bincount(place)[:, None], place
