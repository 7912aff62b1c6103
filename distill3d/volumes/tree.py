"""A neuron's tree in micrometers: its nodes and parents, what is counted of it, and whether it is a tree at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self, final

import numpy as np

from distill3d.errors import InputError

REACH_VOX = 4.0  # as far from a volume as trees are told apart, see `distill3d.evaluation.metrics.tree`


@final
@dataclass(frozen=True, slots=True, eq=False)
class Tree:
    """A forest of nodes in micrometers; nodes keep the order of their file.

    Attributes:
        points_zyx_um: float64 [N, 3].
        radii_um: float64 [N], may be <= 0 where the file's radius column holds something else.
        parents: int64 [N], index of the parent node, -1 for a root.
        types: int64 [N], SWC type codes.
        orphans: int64 [K], indices of the roots whose parent the file names but does not hold.
        remarks: what reading the file mended, in words.

    Raises:
        InputError: lengths differ, or a parent is not a node.

    >>> tree = Tree(np.array([[0.0, 0, 0], [0, 3, 4]]), np.ones(2), np.array([-1, 0]), np.array([1, 3]))
    >>> tree.n_nodes, tree.length_um, tree.roots.tolist(), tree.tips.tolist()
    (2, 5.0, [0], [1])
    """

    points_zyx_um: np.ndarray
    radii_um: np.ndarray
    parents: np.ndarray
    types: np.ndarray
    orphans: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, dtype in (("points_zyx_um", np.float64), ("radii_um", np.float64)):
            object.__setattr__(self, name, np.ascontiguousarray(getattr(self, name), dtype))
        for name in ("parents", "types", "orphans"):
            object.__setattr__(self, name, np.ascontiguousarray(getattr(self, name), np.int64))
        n = len(self.points_zyx_um)
        shapes = [self.points_zyx_um.shape, self.radii_um.shape, self.parents.shape, self.types.shape]
        if shapes != [(n, 3), (n,), (n,), (n,)]:
            raise InputError(f"tree: arrays of shapes {shapes} found; [N, 3], [N], [N], [N] are accepted")
        if n and (self.parents.min() < -1 or self.parents.max() >= n):
            raise InputError(f"tree: parents {self.parents.min()}..{self.parents.max()}; accepted are -1..{n - 1}")

    @classmethod
    def empty(cls) -> Self:
        """Return a tree without nodes."""
        return cls(np.empty((0, 3)), np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64))

    @property
    def n_nodes(self) -> int:
        """Number of nodes."""
        return len(self.parents)

    @property
    def edges(self) -> np.ndarray:
        """Pairs (child, parent) of node indices, int64 [E, 2]."""
        children = np.flatnonzero(self.parents >= 0)
        return np.stack([children, self.parents[children]], axis=1)

    @property
    def roots(self) -> np.ndarray:
        """Indices of nodes without a parent, int64 [R]."""
        return np.flatnonzero(self.parents < 0)

    @property
    def n_children(self) -> np.ndarray:
        """Number of children of every node, int64 [N]."""
        return np.bincount(self.parents[self.parents >= 0], minlength=self.n_nodes)

    @property
    def tips(self) -> np.ndarray:
        """Indices of nodes without a child (a root without a child is one), int64 [T]."""
        return np.flatnonzero(self.n_children == 0)

    @property
    def branch_points(self) -> np.ndarray:
        """Indices of nodes with two or more children, int64 [P]."""
        return np.flatnonzero(self.n_children >= 2)

    @property
    def edge_lengths_um(self) -> np.ndarray:
        """Length of every edge in the order of ``edges``, float64 [E], 0 for two nodes at one place."""
        child, parent = self.edges.T
        return np.linalg.norm(self.points_zyx_um[child] - self.points_zyx_um[parent], axis=1)

    @property
    def length_um(self) -> float:
        """Sum of all edge lengths, 0 for a tree without edges."""
        return float(self.edge_lengths_um.sum())

    @property
    def extent_zyx_um(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest coordinate over all nodes, two float64 [3]; the tree must have a node."""
        return self.points_zyx_um.min(axis=0), self.points_zyx_um.max(axis=0)


@final
@dataclass(frozen=True, slots=True)
class TreeReport:
    """What ``validate`` counted: numbers of nodes of each kind, and the length in micrometers."""

    n_nodes: int
    n_roots: int
    n_orphans: int
    n_tips: int
    length_um: float


def validate(tree: Tree) -> TreeReport:
    """Check that a tree is one, and count what a user should know of it.

    Raises:
        InputError: no node, a coordinate that is not finite, or a cycle.
    """
    if not tree.n_nodes:
        raise InputError("tree: no node found; at least one is needed")
    if not np.isfinite(tree.points_zyx_um).all():
        bad = int(np.flatnonzero(~np.isfinite(tree.points_zyx_um).all(axis=1))[0])
        raise InputError(
            f"tree: node {bad} lies at zyx {tree.points_zyx_um[bad].tolist()}; finite numbers are accepted"
        )
    looping = node_depths(tree.parents) < 0
    if looping.any():
        node = cycle_member(tree.parents, looping)
        raise InputError(f"tree: node {node} is its own ancestor; a tree has no cycle")
    return TreeReport(
        n_nodes=tree.n_nodes,
        n_roots=len(tree.roots),
        n_orphans=len(tree.orphans),
        n_tips=len(tree.tips),
        length_um=tree.length_um,
    )


def forest(trees: Sequence[Tree]) -> Tree:
    """Return trees as one, in their order; at least one.

    >>> pair = Tree(np.array([[0.0, 0, 0], [0, 3, 4]]), np.ones(2), np.array([-1, 0]), np.array([1, 3]))
    >>> forest([pair, pair]).parents.tolist()
    [-1, 0, -1, 2]
    """
    first = np.cumsum([0, *(tree.n_nodes for tree in trees)])
    return Tree(
        np.concatenate([tree.points_zyx_um for tree in trees]),
        np.concatenate([tree.radii_um for tree in trees]),
        np.concatenate([np.where(t.parents < 0, -1, t.parents + n) for t, n in zip(trees, first, strict=False)]),
        np.concatenate([tree.types for tree in trees]),
    )


def shares_inside(tree: Tree, low_um: np.ndarray, high_um: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where every edge, from child to parent, enters a box and leaves it, as shares of the edge, float64 [E].

    One that does not meet the box leaves it no later than it enters.
    """
    child, parent = tree.edges.T
    start = tree.points_zyx_um[child]
    along = tree.points_zyx_um[parent] - start
    along = np.where(np.abs(along) < 1e-12, 1e-12, along)
    one, other = (low_um - start) / along, (high_um - start) / along
    return np.minimum(one, other).max(axis=1).clip(0, 1), np.maximum(one, other).min(axis=1).clip(0, 1)


def within(tree: Tree, shape_zyx: Sequence[int], spacing_um: Sequence[float]) -> Tree:
    """Return what of a tree lies in a volume or less than `REACH_VOX` outside, cut where it leaves.

    No method finds a neurite where there is no image; near a face, what runs along it outside may still be met.

    >>> line = Tree(np.array([[0.0, 0, -50], [0, 0, 50]]), np.ones(2), np.array([-1, 0]), np.array([1, 3]))
    >>> within(line, (1, 1, 21), (1.0, 1.0, 1.0)).points_zyx_um[:, 2].round(6).tolist()
    [24.5, -4.5]
    """
    points, spacing = tree.points_zyx_um, np.asarray(spacing_um)
    low, high = -(0.5 + REACH_VOX) * spacing, (np.asarray(shape_zyx) - 0.5 + REACH_VOX) * spacing
    inside = np.all((points >= low) & (points <= high), axis=1)
    if inside.all():
        return tree
    child, parent = tree.edges.T
    enters, leaves = shares_inside(tree, low, high)
    seen = leaves > enters
    begun, ended = seen & ~inside[child], seen & ~inside[parent]  # get a node where they meet a face
    number = np.cumsum(inside) - 1
    first = np.where(begun, inside.sum() + np.cumsum(begun) - 1, number[child])
    last = np.where(ended, inside.sum() + begun.sum() + np.cumsum(ended) - 1, number[parent])
    met = [
        points[child[which]] + share[which, None] * (points[parent[which]] - points[child[which]])
        for which, share in ((begun, enters), (ended, leaves))
    ]
    like = np.concatenate([np.flatnonzero(inside), child[begun], parent[ended]])
    parents = np.full(len(like), -1)
    parents[first[seen]] = last[seen]
    return Tree(
        np.concatenate([points[inside], *met]),
        tree.radii_um[like],
        parents,
        tree.types[like],
        number[tree.orphans[inside[tree.orphans]]],
        tree.remarks,
    )


def node_depths(parents: np.ndarray) -> np.ndarray:
    """Return the number of edges to the root, int64 [N]; -1 for a node in or below a cycle (pointer doubling)."""
    n = len(parents)
    jump = np.append(np.where(parents < 0, n, parents), n)  # the extra node stands above every root
    depth = np.append((parents >= 0).astype(np.int64), 0)
    for _ in range(max(n, 1).bit_length()):
        depth += depth[jump]
        jump = jump[jump]
    return np.where(jump[:n] == n, depth[:n], -1)


def cycle_member(parents: np.ndarray, looping: np.ndarray) -> int:
    """Walk up from a node that never reaches a root; after N steps the walk is inside the cycle."""
    node = int(np.flatnonzero(looping)[0])
    for _ in range(len(parents)):
        node = int(parents[node])
    return node
