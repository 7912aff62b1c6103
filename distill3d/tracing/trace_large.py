"""From a volume that stays on disk to a tree, in memory that does not grow with the volume but with what is marked."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from distill3d.config.schema import PatchConfig
from distill3d.config.trace import TraceConfig
from distill3d.errors import InputError
from distill3d.terminal import progress_bar, stderr
from distill3d.tracing.bridge import Terrain
from distill3d.tracing.foreground import as_prob, method_of
from distill3d.tracing.teasar_pieces import MOST, TILE, skeletonize_pieces
from distill3d.tracing.trees import require_sparse, tree_of
from distill3d.volumes.calls import Workers
from distill3d.volumes.intensity import rescale, sampled_range
from distill3d.volumes.lazy import Blocks, LazyVolume
from distill3d.volumes.otsu import otsu_threshold
from distill3d.volumes.parts import PART, Box, boxes
from distill3d.volumes.pieces import Marks, find_pieces
from distill3d.volumes.tree import Tree


class Sizes(NamedTuple):
    """In voxels: of what is read at once; of the largest box of a piece that is thinned at once, and else of tiles."""

    part: tuple[int, int, int] = PART
    most: int = MOST
    tile: Sequence[int] = TILE


def trace_by_part(
    volume: LazyVolume,
    config: TraceConfig | None = None,
    *,
    max_share: float = 1.0,
    percentiles: tuple[float, float] | None = None,
    sizes: Sizes | None = None,
    workers: Workers | None = None,
) -> Tree:
    """Trace the neurons of a volume that is read by part, as `distill3d.tracing.trace.trace` does of one in memory.

    The foreground is the same, and so is the tree, but where a piece of the foreground lies in too large a box: it is
    thinned in tiles, so that its nodes may be a voxel elsewhere. An image of more than
    `distill3d.volumes.intensity.WHOLE` voxels is scaled by percentiles of a sample, as it is when it is predicted.

    Args:
        volume: as `distill3d.volumes.volume.open_volume` returns it.
        config: as for `trace`.
        max_share: likewise.
        percentiles: likewise.
        sizes: of parts; None takes what two GiB hold.
        workers: find foreground and centerlines, see `distill3d.volumes.cluster.workers`; None: this process does.

    Raises:
        InputError: values that ``config.input`` does not allow, or more foreground than there is room for.
        DenseError: there is more foreground than ``max_share``.
    """
    config, sizes = config or TraceConfig(), sizes or Sizes()
    data = _AsVolume(volume.data)
    with progress_bar(stderr()) as bar:
        task = bar.add_task("finding foreground", total=len(boxes(volume.shape, sizes.part)), info="")
        prob = _Prob(data, config, percentiles)
        marks = _marks(data, prob, config)
        how = {"min_voxels": config.min_voxels, "on_part": lambda: bar.advance(task), "workers": workers}
        pieces = find_pieces(volume.shape, marks, size=sizes.part, **how)
        require_sparse(len(pieces.voxels) / math.prod(pieces.shape), max_share)
        task = bar.add_task("finding centerlines", total=pieces.count, info="")
        spacing = np.array(volume.spacing_um)
        how = {"most": sizes.most, "tile": sizes.tile, "on_piece": lambda n: bar.advance(task, n), "workers": workers}
        skeleton = skeletonize_pieces(pieces, spacing, config, **how)
        task = bar.add_task("joining them", total=None, info="")
        return tree_of(skeleton, Terrain(prob, pieces, spacing), config)


def _marks(data: Blocks, prob: _Prob, config: TraceConfig) -> Marks:
    """Return what marks the foreground of a box; see `distill3d.tracing.foreground.find_foreground`."""
    method = method_of(config)
    if method == "otsu":
        return functools.partial(_above, data, otsu_threshold(data))
    low = np.float32(config.low_threshold) if method == "hysteresis" else None
    return functools.partial(_likely, prob, np.float32(config.threshold), low)


def _above(data: Blocks, threshold: float, box: Box) -> tuple[NDArray[np.bool_], None]:
    return data[box] > threshold, None


def _likely(
    prob: Blocks, threshold: np.float32, low: np.float32 | None, box: Box
) -> tuple[NDArray[np.bool_], NDArray[np.bool_] | None]:
    likely = prob[box]
    sure = likely >= threshold
    return (sure, None) if low is None else (likely >= low, sure)


@final
class _AsVolume:
    """A volume on disk with the types that one in memory has; refuses what is no finite number."""

    def __init__(self, data: Blocks) -> None:
        self.data, self.shape = data, data.shape
        kinds = {"b": np.dtype(np.uint8), "f": np.dtype(np.float32)}
        self.dtype = kinds.get(data.dtype.kind, data.dtype)

    def __getitem__(self, box: Box) -> NDArray[Any]:
        part = np.asarray(self.data[box]).astype(self.dtype, copy=False)
        if part.dtype.kind == "f" and not np.isfinite(part).all():
            raise InputError("holds NaN or infinite voxels; finite numbers are accepted")
        return part


@final
class _Prob:
    """How likely voxels are neuron, read by part; see `distill3d.tracing.foreground.as_prob`."""

    def __init__(self, data: Blocks, config: TraceConfig, percentiles: tuple[float, float] | None) -> None:
        self.data, self.shape, self.dtype, self.config = data, data.shape, np.dtype(np.float32), config
        self.limits = None
        if config.input == "image":
            self.limits = sampled_range(data, *(percentiles or PatchConfig().percentiles))

    def __getitem__(self, box: Box) -> NDArray[np.float32]:
        part = self.data[box]
        return as_prob(part, self.config) if self.limits is None else rescale(part, *self.limits)
