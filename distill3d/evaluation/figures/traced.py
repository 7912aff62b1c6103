"""A picture of a traced tree beside its image, for stacks without gold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from distill3d.evaluation.figures.canvas import BLUE, GREEN, ORANGE, YELLOW, Spacing, Stack, save_quantized
from distill3d.evaluation.figures.planes import LEFT, SIZE, legend, lines, overview, text
from distill3d.volumes.tree import Tree

COLORS = {"longest tree": YELLOW, "second": BLUE, "third": ORANGE, "others": GREEN}
_RIGHT = 7.5  # inches: where the image begins that has the trees


def traced_figure(path: Path, title: str, *, image: Stack, tree: Tree, spacing_um: Spacing, remark: str = "") -> Path:
    """Draw maximum projections in three planes, alone and beside it with the trees, a color for each of the longest.

    Args:
        path: PNG to write; its folder is made.
        title: above the picture.
        image: [Z, Y, X] intensities.
        tree: in micrometers; may have no node.
        spacing_um: ZYX voxel size.
        remark: below the title.

    Returns:
        ``path``.
    """
    figure = Figure(figsize=SIZE, dpi=110, facecolor="white")
    text(figure, LEFT, 0.35, title, fontsize=12, weight="bold")
    text(figure, LEFT, 0.65, remark)
    ranks = np.minimum(_ranks(tree), len(COLORS) - 1)
    child, parent = tree.edges.T
    points = tree.points_zyx_um / spacing_um
    list(overview(figure, image, spacing_um))
    for ax, plane in overview(figure, image, spacing_um, _RIGHT):
        for rank, color in reversed([*enumerate(COLORS.values())]):
            of_rank = ranks[child] == rank
            lines(ax, plane, points[child[of_rank]], points[parent[of_rank]], color, 1.2)
    if drawn := {name: color for rank, (name, color) in enumerate(COLORS.items()) if (ranks == rank).any()}:
        legend(figure, drawn)
    return save_quantized(figure, path, COLORS.values())


def _ranks(tree: Tree) -> NDArray[np.int64]:
    """Return for every node how many trees are longer than its own, int64 [N]."""
    child, parent = tree.edges.T
    links = coo_array((np.ones(len(child)), (child, parent)), shape=(tree.n_nodes, tree.n_nodes))
    count, of_node = connected_components(links, directed=False) if tree.n_nodes else (0, np.empty(0, np.int64))
    lengths = np.bincount(of_node[child], weights=tree.edge_lengths_um, minlength=count)
    rank = np.empty(count, np.int64)
    rank[np.argsort(-lengths, kind="stable")] = np.arange(count)
    return rank[of_node]
