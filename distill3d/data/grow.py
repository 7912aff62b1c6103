"""Trees to render: grown from random numbers, or a real morphology fitted into the volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distill3d.errors import InputError
from distill3d.volumes.tree import Tree, node_depths, shares_inside

AXON = 2  # SWC type code of every grown node
MIN_RADIUS_VALUES = 20  # a file with fewer different radii holds a constant or a color code
MAX_RADIUS_SHARE = 0.02  # of the tree's longest side; thicker "radii" are something else
ZOOM = 1.25  # step of the search for a scale
MOST_ZOOMS = 20  # up to 70-fold; a tree that is still too dense then is shown whole

Float = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class GrowConfig:
    """Settings of grown trees; radii and step also apply to real trees."""

    tips: int = 14  # ends of the tree without its root, >= 1
    step_um: float = 2.0  # distance between nodes, > 0
    length_um: float = 50.0  # mean length of a branch, > 0; the trunk is twice as long
    tortuosity: float = 0.16  # turning per step, standard deviation of each direction component, >= 0
    root_radius_um: float = 1.9  # >= tip_radius_um
    tip_radius_um: float = 1.1  # > 0
    taper: float = 0.5  # radius follows (downstream length / total length) ** taper, > 0
    margin_um: float = 5.0  # distance kept from the volume's faces, >= 0
    soma_um: float = 0.0  # radius of a soma around the root, >= 0; 0: none is in view

    def __post_init__(self) -> None:
        """Refuse settings that mean nothing."""
        for name in ("tips", "step_um", "length_um", "tip_radius_um", "taper"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")
        for name in ("tortuosity", "margin_um", "soma_um"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")
        if self.root_radius_um < self.tip_radius_um:
            raise ValueError(
                f"root_radius_um must be >= tip_radius_um ({self.tip_radius_um}), got {self.root_radius_um}"
            )


def grow(size_um: Sequence[float] | Float, config: GrowConfig, rng: np.random.Generator) -> Tree:
    """Grow a tree: a trunk from one side through the middle, then branches from random nodes until ``tips`` ends exist.

    Every branch is a random walk whose direction changes by ``tortuosity`` only and is reflected at the margin.

    Args:
        size_um: ZYX coordinates of the volume's last voxel; the first is the origin.
        config: shape of the tree.
        rng: its only source of chance.

    >>> tree = grow((50.0, 80.0, 80.0), GrowConfig(tips=5), np.random.Generator(np.random.PCG64(0)))
    >>> len(tree.tips), len(tree.roots)
    (5, 1)
    """
    size = np.asarray(size_um, np.float64)
    margin = np.minimum(config.margin_um, 0.25 * size)
    box = (margin, size - margin)
    start = rng.uniform(*box)
    axis = int(rng.integers(1, 3))  # volumes are flat: trunks come from the sides, not from above
    start[axis] = box[int(rng.integers(2))][axis]
    points, parents = [start], [-1]
    _walk(points, parents, 0, 0.5 * size - start, 2 * config.length_um, box, config, rng)
    for _ in range(config.tips - 1):
        childless = np.ones(len(points), bool)
        childless[parents[1:]] = False
        childless[0] = True  # a second trunk would leave the root a branch point
        node = int(rng.choice(np.flatnonzero(~childless)))
        along = points[node] - points[parents[node]]
        length = config.length_um * rng.uniform(0.5, 1.5)
        _walk(points, parents, node, _sideways(along, rng), length, box, config, rng)
    types = np.full(len(points), AXON)
    bare = Tree(np.array(points), np.zeros(len(points)), np.array(parents), types)
    return Tree(bare.points_zyx_um, tapered_radii(bare, config), bare.parents, types)


def _walk(
    points: list[Float],
    parents: list[int],
    node: int,
    direction: Float,
    length_um: float,
    box: tuple[Float, Float],
    config: GrowConfig,
    rng: np.random.Generator,
) -> None:
    """Append a branch of ``length_um`` (two nodes at least) that leaves ``node``."""
    direction = _unit(direction)
    for _ in range(max(2, round(length_um / config.step_um))):
        direction = _unit(direction + config.tortuosity * rng.standard_normal(3))
        ahead = points[node] + config.step_um * direction
        direction = np.where((ahead < box[0]) | (ahead > box[1]), -direction, direction)
        points.append(np.clip(points[node] + config.step_um * direction, *box))
        parents.append(node)
        node = len(points) - 1


def _sideways(along: Float, rng: np.random.Generator) -> Float:
    """Draw a direction 40 to 80 degrees away from ``along``."""
    along, other = _unit(along), rng.standard_normal(3)
    across = _unit(other - (other * along).sum() * along)
    angle = np.deg2rad(rng.uniform(40, 80))
    return np.cos(angle) * along + np.sin(angle) * across


def _unit(vector: Float) -> Float:
    # Not np.linalg.norm: BLAS sums in an order that depends on the machine.
    return vector / max(float(np.sqrt((vector * vector).sum())), 1e-12)


def tapered_radii(tree: Tree, config: GrowConfig) -> Float:
    """Return radii that shrink from root to tips with the length of cable downstream, float64 [N].

    A tip has ``tip_radius_um``, the node with the most cable downstream ``root_radius_um``.
    """
    downstream = np.zeros(tree.n_nodes)
    lengths = np.zeros(tree.n_nodes)
    lengths[tree.edges[:, 0]] = tree.edge_lengths_um
    for node in np.argsort(-node_depths(tree.parents), kind="stable"):
        if tree.parents[node] >= 0:
            downstream[tree.parents[node]] += downstream[node] + lengths[node]
    share = downstream / max(float(downstream.max()), 1e-12)
    return config.tip_radius_um + (config.root_radius_um - config.tip_radius_um) * share**config.taper


def fit_tree(tree: Tree, size_um: Sequence[float] | Float, fill: float, config: GrowConfig) -> Tree:
    """Fit a real tree, in whatever unit, into a volume.

    It is scaled to fit as a whole. Where that would fill more than ``fill`` of the volume (a neuron with hundreds of
    branches becomes a blob) it is scaled up around its middle until what is inside fills less; the rest is cut off.
    Plausible radii are scaled to a median of ``tip_radius_um`` and kept within a factor of the config's; others
    (constant, color codes, absurdly thick) are replaced by `tapered_radii`.

    Args:
        tree: at least one edge.
        size_um: ZYX coordinates of the volume's last voxel.
        fill: largest share of the volume, in (0, 1).
        config: step and radii.

    Raises:
        InputError: the tree has no edge of any length.
    """
    if not tree.length_um > 0:
        raise InputError(f"tree with {tree.n_nodes} nodes has no length; accepted: at least one edge")
    size = np.asarray(size_um, np.float64)
    scale, middle = _scale_and_middle(tree, size, fill, config)
    radii = tree.radii_um if _radii_are_real(tree) else np.zeros(tree.n_nodes)
    moved = Tree((tree.points_zyx_um - middle) * scale + size / 2, radii, tree.parents, tree.types)
    inside = _crop(_subdivide(moved, config.step_um), size)
    if not radii.any():
        return Tree(inside.points_zyx_um, tapered_radii(inside, config), inside.parents, inside.types)
    radii = inside.radii_um * config.tip_radius_um / max(float(np.median(inside.radii_um)), 1e-12)
    radii = np.clip(radii, 0.8 * config.tip_radius_um, 1.5 * config.root_radius_um)
    return Tree(inside.points_zyx_um, radii, inside.parents, inside.types)


def _scale_and_middle(tree: Tree, size: Float, fill: float, config: GrowConfig) -> tuple[float, Float]:
    low, high = tree.extent_zyx_um
    room = np.maximum(size - 2 * np.minimum(config.margin_um, 0.25 * size), 1e-6)
    scale, middle = float((room / np.maximum(high - low, 1e-9)).min()), (low + high) / 2
    most = fill * float(size.prod()) / (np.pi * config.tip_radius_um**2)
    if tree.length_um * scale <= most:
        return scale, middle
    # Only a part will be seen: look where the tree is, not where its box has its middle.
    child, parent = tree.edges.T
    halfway = (tree.points_zyx_um[child] + tree.points_zyx_um[parent]) / 2
    middle = halfway[((halfway - np.median(halfway, axis=0)) ** 2).sum(axis=1).argmin()]
    for closer in scale * ZOOM ** np.arange(MOST_ZOOMS):
        if closer * _length_within(tree, middle, size / (2 * closer)) <= most:
            return float(closer), middle
    return scale, (low + high) / 2


def _length_within(tree: Tree, middle: Float, half: Float) -> float:
    """Return the length of what lies in the box ``middle`` +- ``half`` (every edge cut at the box's faces)."""
    enters, leaves = shares_inside(tree, middle - half, middle + half)
    return float((np.maximum(leaves - enters, 0) * tree.edge_lengths_um).sum())


def _radii_are_real(tree: Tree) -> bool:
    """Whether the radius column can be one: many values, none negative, thin against the tree."""
    low, high = tree.extent_zyx_um
    thick = float(np.percentile(tree.radii_um, 90)) > MAX_RADIUS_SHARE * float((high - low).max())
    return bool(tree.radii_um.min() >= 0) and len(np.unique(tree.radii_um)) >= MIN_RADIUS_VALUES and not thick


def _subdivide(tree: Tree, step_um: float) -> Tree:
    """Put nodes into edges longer than ``step_um``; parents come before children in the result."""
    order = np.argsort(node_depths(tree.parents), kind="stable")
    above = np.where(tree.parents < 0, np.arange(tree.n_nodes), tree.parents)[order]  # a root is its own
    lengths = np.zeros(tree.n_nodes)
    lengths[tree.edges[:, 0]] = tree.edge_lengths_um
    pieces = np.maximum(1, np.ceil(lengths[order] / step_um)).astype(np.int64)
    ends = np.cumsum(pieces)
    last = np.empty(tree.n_nodes, np.int64)  # new index of an old node
    last[order] = ends - 1
    node, start = np.repeat(order, pieces), np.repeat(above, pieces)
    position = np.arange(ends[-1]) - np.repeat(ends - pieces, pieces)
    share = (position + 1) / np.repeat(pieces, pieces)
    points = tree.points_zyx_um[start] + share[:, None] * (tree.points_zyx_um[node] - tree.points_zyx_um[start])
    radii = tree.radii_um[start] + share * (tree.radii_um[node] - tree.radii_um[start])
    first = np.where(tree.parents[node] < 0, -1, last[start])
    parents = np.where(position == 0, first, np.arange(ends[-1]) - 1)
    return Tree(points, radii, parents, np.full(len(points), AXON))


def _crop(tree: Tree, size: Float) -> Tree:
    """Keep the nodes inside the volume; one that loses its parent becomes a root, one without any edge is dropped."""
    points = tree.points_zyx_um
    inside = np.asarray(((points >= 0) & (points <= size)).all(axis=1), np.bool_)
    parents = np.where((tree.parents >= 0) & inside[tree.parents], tree.parents, -1)
    kept = inside & (parents >= 0)
    kept[parents[kept]] = True
    number = np.append(np.cumsum(kept) - 1, -1)  # parent -1 picks the last entry
    return Tree(points[kept], tree.radii_um[kept], number[parents[kept]], tree.types[kept])
