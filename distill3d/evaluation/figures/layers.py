"""Stacks and trees as layers of napari, in um; napari itself is not needed to make them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill3d.evaluation.figures.canvas import RIGHT, Rgb, Spacing, dim_window
from distill3d.evaluation.figures.scene import tree_parts
from distill3d.evaluation.metrics.tree import DEFAULT_TREE_TOLERANCE
from distill3d.evaluation.metrics.tree_errors import error_stretches, pieces_within, tree_pieces
from distill3d.volumes.tree import Tree

Layer = tuple[Any, dict[str, Any], str]  # data, settings, kind: napari's LayerData
WORST = "worst places"
LINE = 0.8  # width of a tree's line, in pixels of the image
UNITS = ("um", "um", "um")


def stack_layer(name: str, data: NDArray[Any], spacing_um: Spacing, **settings: Any) -> Layer:  # noqa: ANN401 - napari's
    """Return a stack [Z, Y, X] as an image."""
    return data, {"name": name, "scale": spacing_um, "units": UNITS, **settings}, "image"


def image_layer(name: str, data: NDArray[np.number], spacing_um: Spacing) -> Layer:
    """Return an image whose dim neurites can be seen, as in the figures."""
    low, high = dim_window(np.asarray(data).max(axis=0))
    return stack_layer(name, data, spacing_um, contrast_limits=(low, high), gamma=0.6, colormap="gray")


def tree_layer(name: str, lines_um: NDArray[np.floating], color: Rgb, width_um: float) -> Layer:
    """Return lines [L, 2, 3] as vectors, which napari draws by the ten thousand."""
    vectors = np.stack([lines_um[:, 0], lines_um[:, 1] - lines_um[:, 0]], axis=1)
    settings = {"edge_width": width_um, "edge_color": [(*color, 1.0)], "vector_style": "line", "units": UNITS}
    return vectors, {"name": name, **settings}, "vectors"


def whole_tree(name: str, tree: Tree) -> Layer:
    """Return a tree that is compared with nothing."""
    return tree_layer(name, tree.points_zyx_um[tree.edges], RIGHT, LINE)


def tree_layers(*, gold: Tree | None, pred: Tree | None, spacing_um: Spacing) -> Iterator[Layer]:
    """Yield both trees in the colors of the figures, what is right and what is wrong of each apart, and the worst.

    Args:
        gold: in um; None where there is none.
        pred: likewise.
        spacing_um: ZYX voxel size.
    """
    pixel = min(spacing_um)
    for side, tree, other in (("pred", pred, gold), ("gold", gold, pred)):
        if tree is not None:
            for part in tree_parts(side, tree, other, spacing_um, DEFAULT_TREE_TOLERANCE):
                yield tree_layer(part.name, part.lines, part.color, LINE * pixel * part.width / 1.4)
    if gold is not None and pred is not None:
        yield worst_layer(gold=gold, pred=pred, spacing_um=spacing_um)


def worst_layer(*, gold: Tree, pred: Tree, spacing_um: Spacing) -> Layer:
    """Return a point at every missed or spurious stretch as long as the tolerance, the longest first."""
    places, lengths, kinds = [], [], []
    for kind, one, other in (("missed", gold, pred), ("spurious", pred, gold)):
        pieces = tree_pieces(one, spacing_um)
        wrong = ~pieces_within(pieces, of=tree_pieces(other, spacing_um), tolerance_vox=DEFAULT_TREE_TOLERANCE)
        for stretch in error_stretches(pieces, wrong):
            if stretch.length_vox < DEFAULT_TREE_TOLERANCE:
                break
            places.append(stretch.center_zyx_vox * spacing_um)
            lengths.append(stretch.length_vox)
            kinds.append(kind)
    order = np.argsort([-length for length in lengths], kind="stable")
    features = {"kind": np.array(kinds)[order], "voxels": np.array(lengths, float)[order]}
    points = np.array(places, float).reshape(-1, 3)[order]
    settings = {
        "name": WORST,
        "features": features,
        "size": 6 * min(spacing_um),
        "face_color": "transparent",
        "border_color": "yellow",
        "text": {"string": "{kind} {voxels:.0f}", "color": "yellow", "size": 9, "translation": [0, -5, 0]},
        "units": UNITS,
    }
    return points, settings, "points"
