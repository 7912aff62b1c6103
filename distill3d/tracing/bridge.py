"""Join pieces of a skeleton across gaps, along the likeliest way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast, final

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation
from scipy.spatial import KDTree
from skimage.graph import MCP_Geometric
from skimage.measure import block_reduce

from distill3d.tracing.graph import Skeleton
from distill3d.volumes.lazy import Blocks

_STEEPNESS = 10.0  # of the cost, APP2's constant
_LOOK_BACK = 3.0  # radii and voxels over which a branch's direction at its tip is taken
_ROUNDING = 1e-6  # of a length: sums of steps are not exact
_WIDE = 160  # voxels a side of a box in which ways are looked for voxel by voxel
_CLOSED = -1.0  # no way leads through a voxel of this cost


class Terrain(NamedTuple):
    """What a way leads through.

    Attributes:
        prob: float32 [Z, Y, X] in [0, 1], read by part.
        mask: bool [Z, Y, X], the skeleton's foreground, likewise.
        spacing_um: ZYX voxel size, float64 [3].
    """

    prob: Blocks
    mask: Blocks
    spacing_um: NDArray[np.float64]

    def voxels(self, points_zyx_um: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the voxels that points lie in, int64 [N, 3]."""
        return np.rint(points_zyx_um / self.spacing_um).astype(np.int64)


class _Way(NamedTuple):
    """A way from a piece's own node to another piece's: its cost, both nodes, the voxels between them [K, 3]."""

    cost: float
    start: int
    end: int
    voxels: NDArray[np.int64]


def step_cost(prob: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the cost of a micrometer through voxels, from 1 (probability 1) to exp(10) (probability 0).

    Source: Xiao and Peng 2013, APP2: exp(10 (1 - p)^2).

    >>> step_cost(np.array([1.0, 0.5, 0.0])).round(2).tolist()
    [1.0, 12.18, 22026.47]
    """
    return np.exp(_STEEPNESS * (1 - prob) ** 2)


def bridge_gaps(skeleton: Skeleton, terrain: Terrain, *, gap_um: float, max_turn_deg: float) -> Skeleton:
    """Join tips to other pieces where a way leads out of the mask for at most ``gap_um``, and ahead.

    From every tip near another piece the cheapest way to any other piece is found. Cheap ways are taken first, and one
    between pieces that are joined already is left out, so no cycle appears. A micrometer costs 1 in the mask and
    `step_cost` outside. Work is bounded: one search per tip, in a box that holds the nearest piece; a large box is
    searched in cells first, then along the way that is found.

    Args:
        skeleton: nodes at centers of voxels.
        terrain: what ways lead through.
        gap_um: longest part of a way outside the mask; a step counts half for each of its two voxels. 0 joins nothing.
        max_turn_deg: largest angle between the direction in which a branch arrives at its tip and the one from there to
            the node it is joined to. Below 90 fibers that end side by side stay apart; 180 allows all. A piece of one
            node has no direction.

    Returns:
        The same nodes, then those of the bridges; their radii go evenly from one end's to the other's.
    """
    if not (gap_um and skeleton.n_nodes):
        return skeleton
    count, piece = skeleton.pieces()
    ways = _Search(skeleton, piece, terrain, gap_um, max_turn_deg).ways()
    group = np.arange(count)  # pieces joined so far have one number
    bridges = []
    for way in sorted(ways, key=lambda way: (way.cost, way.start)):
        a, b = group[piece[way.start]], group[piece[way.end]]
        if a != b:
            group[group == b] = a
            bridges.append(way)
    return _add(skeleton, bridges, terrain.spacing_um)


@final
class _Search:
    """Looks for ways from tips, and holds what all of them share."""

    def __init__(
        self, skeleton: Skeleton, piece: NDArray[np.int64], terrain: Terrain, gap_um: float, max_turn_deg: float
    ) -> None:
        self.points, self.radii, self.degrees = skeleton.points_zyx_um, skeleton.radii_um, skeleton.degrees
        self.neighbors = skeleton.neighbors()
        self.piece, self.terrain, self.gap_um, self.max_turn_deg = piece, terrain, gap_um, max_turn_deg
        self.voxels = terrain.voxels(self.points)
        self.tree = KDTree(self.points)

    def ways(self) -> list[_Way]:
        """Return the way of every tip that has one."""
        tips = np.flatnonzero(self.degrees <= 1).tolist()
        ways = [self.way_from(tip, reach) for tip in tips if (reach := self.distance_to_other(tip)) is not None]
        return [way for way in ways if way is not None]

    def distance_to_other(self, tip: int) -> float | None:
        """Return the distance in um to the node of another piece whose surface is nearest, None if it is too far."""
        limit = self.gap_um + self.radii[tip] + float(np.linalg.norm(self.terrain.spacing_um))
        near = self.nodes_within(tip, limit + float(self.radii.max()))
        near = near[self.piece[near] != self.piece[tip]]
        if not len(near):
            return None
        distance = np.linalg.norm(self.points[near] - self.points[tip], axis=1)
        to_surface = distance - self.radii[near]
        nearest = int(np.argmin(to_surface))
        return float(distance[nearest]) if to_surface[nearest] <= limit else None

    def nodes_within(self, node: int, radius_um: float) -> NDArray[np.int64]:
        """Return the nodes in a ball around a node, ascending."""
        return np.sort(np.array(self.tree.query_ball_point(self.points[node], radius_um), np.int64))

    def way_from(self, tip: int, reach_um: float) -> _Way | None:
        """Return the cheapest way from a tip to any other piece, None if it is too long or turns too far.

        The search is in a box around the tip, ``reach_um`` and half a gap to every side.
        """
        spacing, whole = self.terrain.spacing_um, self.terrain.mask
        half = np.ceil((reach_um + self.gap_um / 2) / spacing).astype(np.int64)
        low = np.maximum(self.voxels[tip] - half, 0)
        high = np.minimum(self.voxels[tip] + half + 1, whole.shape)
        z, y, x = (slice(*ends) for ends in zip(low.tolist(), high.tolist(), strict=True))
        mask, inside = whole[z, y, x], self.nodes_within(tip, float(np.linalg.norm(half * spacing)))
        inside = inside[((self.voxels[inside] >= low) & (self.voxels[inside] < high)).all(axis=1)]
        ends = inside[self.piece[inside] != self.piece[tip]]
        box = Terrain(self.terrain.prob[z, y, x], mask, spacing)
        path, cost = _cheapest_path(box, self.voxels[tip] - low, self.voxels[ends] - low)
        end = int(ends[(self.voxels[ends] - low == path[-1]).all(axis=1)][0])
        too_long = _length_outside(path, mask, spacing) > self.gap_um * (1 + _ROUNDING)
        if too_long or self.turn_deg(tip, end) > self.max_turn_deg:
            return None
        own = inside[self.piece[inside] == self.piece[tip]]
        return self.way_after_last(own, path + low, cost, end)

    def way_after_last(self, own: NDArray[np.int64], path: NDArray[np.int64], cost: float, end: int) -> _Way:
        """Let a way start where it leaves its own piece for the last time."""
        node_at = dict(zip(map(tuple, self.voxels[own].tolist()), own.tolist(), strict=True))
        steps = [tuple(voxel) for voxel in path.tolist()]
        last = max(i for i, voxel in enumerate(steps) if voxel in node_at)
        return _Way(cost, node_at[steps[last]], end, path[last + 1 : -1])

    def turn_deg(self, tip: int, end: int) -> float:
        """Return by how many degrees a way to ``end`` turns from the direction in which the branch arrives."""
        ahead, arriving = self.points[end] - self.points[tip], self.points[tip] - self.points[self.node_behind(tip)]
        lengths = float(np.linalg.norm(ahead) * np.linalg.norm(arriving))
        return float(np.degrees(np.arccos(np.clip(ahead @ arriving / lengths, -1, 1)))) if lengths else 0.0

    def node_behind(self, tip: int) -> int:
        """Return the node a few radii and voxels behind a tip, or the one where its branch ends."""
        far = _LOOK_BACK * float(self.radii[tip] + self.terrain.spacing_um.max())
        before, node = -1, tip
        while np.linalg.norm(self.points[node] - self.points[tip]) < far:
            ahead = [other for other in self.neighbors[node] if other != before]
            if len(ahead) != 1:
                break
            before, node = node, ahead[0]
        return node


def _cheapest_path(box: Terrain, start: NDArray[np.int64], ends: NDArray[np.int64]) -> tuple[NDArray[np.int64], float]:
    """Return the voxels [K, 3] of the cheapest path from one voxel to any of others [N, 3], and what it costs.

    In a box of more than `_WIDE` voxels a side, only near the cheapest path through voxels that are so many together:
    the time goes with the third power of the side.
    """
    prob, mask = np.asarray(box.prob), np.asarray(box.mask)
    coarse = -(-np.array(mask.shape) // _WIDE)
    if (coarse == 1).all():
        return _reach(np.where(mask, 1.0, step_cost(prob)), start, ends, box.spacing_um)
    cell = cast("int", tuple(coarse.tolist()))  # its type is guessed from its default
    cells = Terrain(block_reduce(prob, cell, np.max), block_reduce(mask, cell, np.max), box.spacing_um * coarse)
    guide = _cheapest_path(cells, start // coarse, ends // coarse)[0]
    near = np.zeros(cells.mask.shape, bool)
    near[tuple(guide.T)] = True
    near = binary_dilation(near, np.ones((3, 3, 3), bool))
    first, last = (edge(np.argwhere(near), axis=0) for edge in (np.min, np.max))
    low, high = first * coarse, np.minimum((last + 1) * coarse, mask.shape)
    part = tuple(slice(*ends) for ends in zip(low.tolist(), high.tolist(), strict=True))
    inner = tuple(slice(*ends) for ends in zip(first.tolist(), (last + 1).tolist(), strict=True))
    open_to = near[inner].repeat(coarse[0], 0).repeat(coarse[1], 1).repeat(coarse[2], 2)[tuple(map(slice, high - low))]
    cost = np.where(open_to, np.where(mask[part], 1.0, step_cost(prob[part])), _CLOSED)
    reached = ends[((ends >= low) & (ends < high)).all(axis=1)] - low
    path, total = _reach(cost, start - low, reached[open_to[tuple(reached.T)]], box.spacing_um)
    return path + low, total


def _reach(
    cost: NDArray[np.floating], start: NDArray[np.int64], ends: NDArray[np.int64], spacing_um: NDArray[np.float64]
) -> tuple[NDArray[np.int64], float]:
    search = MCP_Geometric(cost, sampling=tuple(spacing_um))
    costs = search.find_costs([start], ends, find_all_ends=False)[0][tuple(ends.T)]
    cheapest = int(np.argmin(costs))
    return np.array(search.traceback(ends[cheapest]), np.int64), float(costs[cheapest])


def _length_outside(path: NDArray[np.int64], mask: NDArray[np.bool_], spacing_um: NDArray[np.float64]) -> float:
    out = np.logical_not(mask[tuple(path.T)])
    steps = np.linalg.norm(np.diff(path, axis=0) * spacing_um, axis=1)
    return float((steps * (out[1:].astype(float) + out[:-1]) / 2).sum())


def _add(skeleton: Skeleton, bridges: Sequence[_Way], spacing_um: NDArray[np.float64]) -> Skeleton:
    """Append the bridges' nodes and edges."""
    points, radii, edges = [skeleton.points_zyx_um], [skeleton.radii_um], [skeleton.edges]
    first = skeleton.n_nodes
    for way in bridges:
        chain = np.array([way.start, *range(first, first + len(way.voxels)), way.end])
        ends = skeleton.radii_um[[way.start, way.end]]
        points.append(way.voxels * spacing_um)
        radii.append(np.linspace(ends[0], ends[1], len(chain))[1:-1])
        edges.append(np.stack([chain[:-1], chain[1:]], axis=1))
        first += len(way.voxels)
    return Skeleton(np.concatenate(points), np.concatenate(radii), np.concatenate(edges))
