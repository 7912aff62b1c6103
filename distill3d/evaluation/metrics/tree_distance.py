"""Exact distances from points to the edges of a tree, and Vaa3D's ESA, DSA and PDS on top of them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import final

import numpy as np
from scipy.spatial import KDTree

from distill3d.volumes.memory import require_room

DSA_THRESHOLD = 2.0
SLACK = 1e-9  # coordinates went through a multiplication and a division by the spacing
_ROOM = 100  # bytes that a point or piece of an edge takes, with its distances
_SAMPLES_PER_EDGE = 2
_NEIGHBORS = 6  # rarely more samples are candidates
_CHUNK, _CROWDED_CHUNK = 16384, 256  # points searched at once; the latter bounds the memory where many edges meet


@final
@dataclass(frozen=True, slots=True, eq=False)
class Segments:
    """Straight pieces of a tree from child to parent; one without length is a point.

    Attributes:
        start: float64 [E, 3].
        end: float64 [E, 3].
    """

    start: np.ndarray
    end: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Length of every segment, float64 [E]."""
        return np.linalg.norm(self.end - self.start, axis=1)

    def at(self, segment: np.ndarray, t: np.ndarray) -> np.ndarray:
        """Return the points at the share t in [0, 1] of the way from start to end, float64 [P, 3]."""
        return self.start[segment] + t[:, None] * (self.end - self.start)[segment]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TreeDistances:
    """Vaa3D's three distances of two trees, symmetric in them.

    ESA and DSA are at least 0 and in the coordinates' unit, PDS is in [0, 1].

    Attributes:
        esa: entire structure average, the mean distance.
        dsa: different structure average, the mean of the distances that reach the threshold.
        pds: percentage of different structure, the share of points whose distance reaches the threshold.
    """

    esa: float
    dsa: float
    pds: float


def esa_dsa_pds(*, pred: Segments, gold: Segments) -> TreeDistances:
    """Measure how far two trees are apart, both directions with equal weight.

    A direction takes the points of ``vaa3d_points`` of one tree and their exact distances to the other's segments. ESA
    and PDS are means of the two directions. DSA is the mean of the directions that have a distance of at least the
    threshold, 0 if none has.

    Source: Peng et al. 2010, "V3D enables real-time 3D visualization and quantitative analysis of large-scale
    biological image data sets"; the definition is that of Vaa3D's plugin neuron_distance. What differs: a distance
    reaches the threshold from 1e-9 below it, for coordinates that were scaled.

    Args:
        pred: at least one segment.
        gold: the same.

    >>> a = Segments(np.zeros((1, 3)), np.array([[0.0, 0, 10]]))
    >>> b = Segments(np.zeros((1, 3)), np.array([[0.0, 0, 20]]))
    >>> found = esa_dsa_pds(pred=a, gold=b)
    >>> round(found.esa, 4), round(found.dsa, 4), round(found.pds, 4)
    (1.3095, 6.0, 0.2143)
    """
    pairs = ((pred, gold), (gold, pred))
    directions = [nearest_distances(vaa3d_points(one), other) for one, other in pairs]
    different = [distances[distances >= DSA_THRESHOLD - SLACK] for distances in directions]
    apart = [float(distances.mean()) for distances in different if len(distances)]
    shares = [len(some) / len(all_) for some, all_ in zip(different, directions, strict=True)]
    return TreeDistances(
        esa=float(np.mean([distances.mean() for distances in directions])),
        dsa=float(np.mean(apart)) if apart else 0.0,
        pds=float(np.mean(shares)),
    )


def vaa3d_points(segments: Segments) -> np.ndarray:
    """Return int(length + 1.5) points of every segment, evenly spaced with both ends; one point is the start.

    >>> vaa3d_points(Segments(np.zeros((2, 3)), np.array([[0.0, 0, 1.6], [0, 0, 0.4]])))[:, 2].tolist()
    [0.0, 0.8, 1.6, 0.0]
    """
    counts = (segments.lengths + 1.5).astype(np.int64)
    segment, place = _runs(counts)
    return segments.at(segment, place / np.maximum(counts - 1, 1)[segment])


def length_points(segments: Segments, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut every segment into equal pieces; return their midpoints [P, 3] and lengths [P].

    Args:
        segments: E of them.
        counts: int64 [E], number of pieces, at least 1.
    """
    segment, place = _runs(counts)
    return segments.at(segment, (place + 0.5) / counts[segment]), (segments.lengths / counts)[segment]


def nearest_distances(points: np.ndarray, segments: Segments) -> np.ndarray:
    """Return the distance of every point to the nearest segment, exact, float64 [P].

    A KD-tree holds samples of the segments, both ends and at most a gap g between neighbors. If a point's nearest
    sample is r away, its nearest segment has a sample within sqrt(r^2 + g^2 / 4): either it is nearest at an end, which
    is a sample, or at the foot of a perpendicular, from which a sample is at most g / 2 away. The distance to every
    segment with such a sample is then computed.

    Args:
        points: float64 [P, 3].
        segments: at least one.

    >>> nearest_distances(np.array([[0.0, 3, 4]]), Segments(np.zeros((1, 3)), np.array([[0.0, 3, 0]]))).tolist()
    [4.0]
    """
    segments = _without_repeated_points(segments)
    samples, owner, gap = _samples(segments)
    # Plain midpoint splits and large leaves: searches from far away, the slow ones, take two thirds of the time.
    tree = KDTree(samples, leafsize=32, balanced_tree=False, compact_nodes=False)
    distances = np.empty(len(points))
    for chunk in _chunks(np.arange(len(points)), _CHUNK):
        away, sample = map(np.asarray, tree.query(points[chunk], k=_NEIGHBORS))
        radius = np.sqrt(away[:, 0] ** 2 + gap**2 / 4) * (1 + SLACK)
        row, column = np.nonzero(away <= radius[:, None])
        distances[chunk] = _smallest(points[chunk], row, segments, owner[sample[row, column]])
        # Where all neighbors asked for are candidates there may be more of them.
        crowded = np.flatnonzero(away[:, -1] <= radius)
        for few in _chunks(crowded, _CROWDED_CHUNK):
            near = tree.query_ball_point(points[chunk[few]], radius[few], return_sorted=False)
            row = np.repeat(np.arange(len(few)), [len(some) for some in near])
            candidates = owner[np.fromiter(chain.from_iterable(near), np.int64, len(row))]
            distances[chunk[few]] = _smallest(points[chunk[few]], row, segments, candidates)
    return distances


def _chunks(rows: np.ndarray, size: int) -> list[np.ndarray]:
    return [rows[first : first + size] for first in range(0, len(rows), size)]


def _without_repeated_points(segments: Segments) -> Segments:
    """Keep one of the segments without length at a place; thousands of them would all be candidates of each other."""
    longer = (segments.start != segments.end).any(axis=1)
    places = np.unique(segments.start[~longer], axis=0)
    start, end = (np.concatenate([ends[longer], places]) for ends in (segments.start, segments.end))
    return Segments(start, end)


def _samples(segments: Segments) -> tuple[np.ndarray, np.ndarray, float]:
    """Return points [S, 3] of the segments with both ends, the segment of each, and the largest gap between them."""
    lengths = segments.lengths
    gap = float(lengths.sum()) / (_SAMPLES_PER_EDGE * len(lengths))
    pieces = np.ones(len(lengths), np.int64)
    if gap:
        pieces = np.ceil(lengths / gap).astype(np.int64).clip(min=1)
    segment, place = _runs(pieces + 1)
    return segments.at(segment, place / pieces[segment]), segment, gap


def _smallest(points: np.ndarray, row: np.ndarray, segments: Segments, segment: np.ndarray) -> np.ndarray:
    """Return the smallest distance of every point to the segments it is paired with.

    Args:
        points: float64 [P, 3].
        row: int64 [pairs], index of the point, not descending, every point at least once.
        segments: E of them.
        segment: int64 [pairs], index of the segment.
    """
    start = segments.start[segment]
    offset, along = points[row] - start, segments.end[segment] - start
    square, dot = np.einsum("ij,ij->i", along, along), np.einsum("ij,ij->i", offset, along)
    t = np.divide(dot, square, out=np.zeros_like(dot), where=square > 0).clip(0.0, 1.0)
    gap = offset - t[:, None] * along
    distances = np.sqrt(np.einsum("ij,ij->i", gap, gap))
    return np.minimum.reduceat(distances, np.searchsorted(row, np.arange(len(points))))


def _runs(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return for counts c0, c1, .. the rows 0 c0 times, 1 c1 times, .. and 0 .. c0 - 1, 0 .. c1 - 1, .."""
    require_room("tree", _ROOM * float(counts.sum(dtype=np.float64)), claims="its edges, cut into pieces, take")
    row = np.repeat(np.arange(len(counts)), counts)
    return row, np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
