"""Tell whether a tree's y axis runs against its image's, by the brightness under the nodes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, final

import numpy as np
from numpy.typing import NDArray

from distill3d.errors import InputError
from distill3d.volumes.lazy import Blocks, LazyVolume
from distill3d.volumes.parts import gather, parts_of
from distill3d.volumes.sample import sample
from distill3d.volumes.tree import Tree
from distill3d.volumes.volume import Volume

MIN_RATIO = 1.5  # one orientation's contrast must be this many times the other's
MIN_SIGMAS = 4.0  # and the two means must differ by this many standard errors
_BLOCK = 4  # voxels a side; nodes in one block see the same noise and count as one for the error
_SAMPLE = 1 << 22  # voxels that estimate background and noise of a larger volume
_PARTS = 64  # likewise, of one that stays on disk


@final
@dataclass(frozen=True, slots=True)
class FlipReport:
    """Brightness under the nodes, in the image's own units.

    Attributes:
        verdict: ``fine`` (tree and image agree), ``flipped`` (y -> Y-1-y fits clearly better) or ``unclear``.
        mean_as_is: mean of the voxels nearest to the nodes.
        mean_flipped: the same with y mirrored.
        volume_mean: mean of all voxels.
        background: median voxel, taken off both means before they are compared.
        n_inside: nodes that lie in the volume; only these count.
    """

    verdict: Literal["fine", "flipped", "unclear"]
    mean_as_is: float
    mean_flipped: float
    volume_mean: float
    background: float
    n_inside: int

    def __str__(self) -> str:
        return (
            f"{self.verdict}: mean at {self.n_inside} nodes {self.mean_as_is:.1f} as is, {self.mean_flipped:.1f} with "
            f"y flipped (volume mean {self.volume_mean:.1f}, background {self.background:.1f})"
        )


def detect_flip(volume: Volume | LazyVolume, tree: Tree) -> FlipReport:
    """Compare the image's brightness at the nodes as they are and with y mirrored (y -> Y-1-y).

    An orientation wins when its contrast (mean minus background) is at least ``MIN_RATIO`` times the other's, and the
    means differ by at least ``MIN_SIGMAS`` standard errors: the volume's standard deviation / sqrt(n), n the number of
    4 x 4 x 4 blocks that hold a node, because nodes closer than that see the same noise.
    Otherwise the verdict is ``unclear``: a dim image, few nodes, or a neuron that is its own mirror image.

    Raises:
        InputError: no node lies in the volume.
    """
    voxels = np.floor(tree.points_zyx_um / volume.spacing_um + 0.5).astype(np.int64)
    inside = voxels[((voxels >= 0) & (voxels < volume.shape)).all(axis=1)]
    if not len(inside):
        size = tuple(n * s for n, s in zip(volume.shape, volume.spacing_um, strict=True))
        raise InputError(f"volume and tree do not overlap: none of {tree.n_nodes} nodes lies in {size} um")
    mirrored = np.where([False, True, False], volume.shape[1] - 1 - inside, inside)
    as_is, flipped = (float(gather(volume.data, places).mean()) for places in (inside, mirrored))
    known = _sample(volume.data)
    background = float(np.median(known))
    error = float(known.std(dtype=np.float64)) / np.sqrt(len(np.unique(inside // _BLOCK, axis=0)))
    return FlipReport(
        verdict=_verdict(as_is - background, flipped - background, least_difference=MIN_SIGMAS * error),
        mean_as_is=as_is,
        mean_flipped=flipped,
        volume_mean=sum(float(part.sum(dtype=np.float64)) for part in parts_of(volume.data)) / math.prod(volume.shape),
        background=background,
        n_inside=len(inside),
    )


def _sample(data: Blocks) -> NDArray[np.number]:
    if not isinstance(data, np.ndarray):
        return sample(data, _PARTS)
    return data.reshape(-1)[:: data.size // _SAMPLE | 1]  # odd, so that it walks through all columns


def flip_y(tree: Tree, volume: Volume | LazyVolume) -> Tree:
    """Return the tree with y mirrored within the volume, voxel y -> Y-1-y.

    >>> tree = Tree(np.array([[0.0, 2.0, 0.0]]), np.ones(1), np.array([-1]), np.ones(1))
    >>> flip_y(tree, Volume(np.ones((1, 11, 1), np.uint8), (1.0, 0.5, 1.0))).points_zyx_um.tolist()
    [[0.0, 3.0, 0.0]]
    """
    points = tree.points_zyx_um.copy()
    points[:, 1] = (volume.shape[1] - 1) * volume.spacing_um[1] - points[:, 1]
    return replace(tree, points_zyx_um=points)


def _verdict(as_is: float, flipped: float, *, least_difference: float) -> Literal["fine", "flipped", "unclear"]:
    if abs(as_is - flipped) < least_difference:
        return "unclear"
    if as_is > 0 and as_is >= MIN_RATIO * flipped:
        return "fine"
    if flipped > 0 and flipped >= MIN_RATIO * as_is:
        return "flipped"
    return "unclear"
