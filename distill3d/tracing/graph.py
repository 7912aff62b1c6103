"""A skeleton as nodes and undirected edges, and what every step of tracing needs of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree


@final
@dataclass(frozen=True, slots=True, eq=False)
class Skeleton:
    """Nodes joined by edges, in one piece or several; a node without an edge is a piece of its own.

    Attributes:
        points_zyx_um: float64 [N, 3].
        radii_um: float64 [N], > 0.
        edges: int64 [E, 2], pairs of node indices, each pair once.
    """

    points_zyx_um: NDArray[np.float64]
    radii_um: NDArray[np.float64]
    edges: NDArray[np.int64]

    @property
    def n_nodes(self) -> int:
        """Number of nodes."""
        return len(self.radii_um)

    @property
    def degrees(self) -> NDArray[np.int64]:
        """Number of edges at every node, int64 [N]."""
        return np.bincount(self.edges.ravel(), minlength=self.n_nodes)

    @property
    def edge_lengths_um(self) -> NDArray[np.float64]:
        """Length of every edge, float64 [E]."""
        a, b = self.points_zyx_um[self.edges[:, 0]], self.points_zyx_um[self.edges[:, 1]]
        return np.linalg.norm(a - b, axis=1)

    def pieces(self) -> tuple[int, NDArray[np.int64]]:
        """Return how many connected pieces there are, and the number of every node's piece, from 0."""
        count, piece = connected_components(self.matrix(np.ones(len(self.edges))), directed=False)
        return count, piece.astype(np.int64)

    def matrix(self, weights: NDArray[np.float64]) -> csr_array:
        """Return a sparse [N, N] matrix that holds a weight > 0 for every edge, in one direction."""
        return csr_array((weights, (self.edges[:, 0], self.edges[:, 1])), shape=(self.n_nodes, self.n_nodes))

    def neighbors(self) -> list[list[int]]:
        """Return the neighbors of every node, ascending."""
        both = np.concatenate([self.edges, self.edges[:, ::-1]])
        both = both[np.lexsort((both[:, 1], both[:, 0]))]
        ends = np.cumsum(self.degrees)
        return [part.tolist() for part in np.split(both[:, 1], ends[:-1])] if self.n_nodes else []

    def keep(self, nodes: NDArray[np.bool_]) -> Skeleton:
        """Return the marked nodes, in their order, and the edges between them."""
        new_index = np.cumsum(nodes) - 1
        edges = self.edges[nodes[self.edges].all(axis=1)]
        return Skeleton(self.points_zyx_um[nodes], self.radii_um[nodes], new_index[edges])


def follow(neighbors: list[list[int]], start: int, first: int) -> list[int]:
    """Return the nodes from ``start`` over its neighbor ``first`` to the end of the branch.

    A branch ends at a node with one edge, or with three or more.

    >>> follow([[1], [0, 2], [1, 3, 4], [2], [2]], 0, 1)
    [0, 1, 2]
    """
    branch = [start, first]
    while len(neighbors[branch[-1]]) == 2:
        a, b = neighbors[branch[-1]]
        branch.append(b if a == branch[-2] else a)
    return branch


def break_cycles(skeleton: Skeleton, costs: NDArray[np.float64]) -> Skeleton:
    """Keep the edges of the cheapest spanning forest, so that no path leads back to where it came from.

    Args:
        skeleton: any.
        costs: float64 [E], > 0; of a cycle the most expensive edge is removed.

    >>> ring = Skeleton(np.zeros((3, 3)), np.ones(3), np.array([[0, 1], [1, 2], [0, 2]]))
    >>> break_cycles(ring, np.array([1.0, 3.0, 2.0])).edges.tolist()
    [[0, 1], [0, 2]]
    """
    forest = minimum_spanning_tree(skeleton.matrix(costs)).tocoo()
    edges = np.stack(forest.coords, axis=1).astype(np.int64)
    return Skeleton(skeleton.points_zyx_um, skeleton.radii_um, edges[np.lexsort((edges[:, 1], edges[:, 0]))])
