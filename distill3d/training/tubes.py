"""Where the tubes of a trained student lie in test cases, and how closely they follow the neurites there."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from distill3d.data.prepared import PreparedCase
from distill3d.evaluation.metrics.tubes import TubeTally, saturated_steps
from distill3d.layers.tubes.embed import TubularEmbed
from distill3d.training.module import DistillModule

WINDOWS = 8  # of a case, at most: those that hold most gold

Window = tuple[slice, ...]


class Placed(NamedTuple):
    """Taps [A, N, K, 3] in voxels of a window."""

    bent: NDArray[np.floating]
    straight: NDArray[np.floating]


def tubular_embed(module: DistillModule) -> TubularEmbed | None:
    """Return the layer of the student that reads along tubes, if it has one."""
    return next((layer for layer in module.student.modules() if isinstance(layer, TubularEmbed)), None)


@torch.no_grad()
def place(module: DistillModule, layer: TubularEmbed, image: NDArray[np.float32]) -> Placed:
    """Return where the tubes of a student lie in an image [Z, Y, X] in [0, 1]; zeros fill it up to whole blocks."""
    missing = [-size % block for size, block in zip(image.shape, layer.block_zyx, strict=True)]
    whole = F.pad(torch.from_numpy(np.ascontiguousarray(image)), [n for a in (2, 1, 0) for n in (0, missing[a])])
    shown = module.student.normalize(whole[None, None].to(module.device))
    return Placed(*(layer.tap_points(shown, straight=straight)[0].cpu().numpy() for straight in (False, True)))


def tube_shares(module: DistillModule, cases: Iterable[PreparedCase]) -> dict[str, float | None] | None:
    """Measure how closely the tubes of a trained student follow gold; None for a student without tubes.

    A case is cut into windows of once to twice the patch's edges (a smaller case is one window), each of which the
    layer sees alone, as in prediction; of more than 8 windows the 8 that hold most gold are looked at. Taps outside
    their window do not count.

    Returns:
        See `TubeTally.shares`; over all cases together.
    """
    layer = tubular_embed(module)
    if layer is None:
        return None
    tally = TubeTally()
    for case in cases:
        image = case.image
        for window in fullest_windows(case.mask, module.experiment.patches.size_zyx):
            taps = place(module, layer, image[window])
            tally.add(*taps, np.asarray(case.mask[window]), saturated=_saturated(layer, taps.bent))
    return tally.shares()


def _saturated(layer: TubularEmbed, bent: NDArray[np.floating]) -> NDArray[np.bool_] | None:
    if layer.offsets is None:
        return None
    by_axis = [
        saturated_steps(taps, axis, law=layer.law, extent=layer.extent, spacing=layer.tap_spacing)
        for axis, taps in zip(layer.axis_numbers, bent, strict=True)
    ]
    return np.stack(by_axis)


def fullest_windows(mask: NDArray[np.bool_], size_zyx: tuple[int, ...], most: int = WINDOWS) -> list[Window]:
    """Cut a case into windows of once to twice a size, and return those that hold most gold, the fullest first.

    Args:
        mask: gold [Z, Y, X].
        size_zyx: in voxels; where the case is smaller there is one window.
        most: windows returned at most.
    """
    edges = [
        np.linspace(0, n, max(1, n // size) + 1).round().astype(int).tolist()
        for n, size in zip(mask.shape, size_zyx, strict=True)
    ]
    windows = [
        tuple(slice(a, b) for a, b in sides) for sides in itertools.product(*(itertools.pairwise(e) for e in edges))
    ]
    return sorted(windows, key=lambda window: -int(mask[window].sum()))[:most]
