"""Where the tubes of a student lie: within a patch before training, in test cases after it and how near neurites."""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill3d.config.schema import Experiment
from distill3d.data.prepared import PreparedCase
from distill3d.evaluation.metrics.tubes import TubeTally, saturated_steps
from distill3d.layers.grids import filled_up
from distill3d.layers.tubes.conv3d import TubularConv3d
from distill3d.layers.tubes.embed import TubularEmbed
from distill3d.layers.tubes.geometry import Outside
from distill3d.students.base import Student
from distill3d.training.module import DistillModule
from distill3d.types import Axis

MANY_OUTSIDE = 0.25  # share of the taps along an axis: from here on what a tube reads depends on where a patch lies
WINDOWS = 8  # of a case, at most: those that hold most gold

Window = tuple[slice, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TapsOutside:
    """How many taps of the straight tubes on maps of one size lie beyond them.

    Attributes:
        size_zyx: of the map, in its own voxels.
        share: by axis of the tubes, in [0, 1].
        outside: what those taps read.
        whole: the map is the patch itself.
    """

    size_zyx: tuple[int, ...]
    share: Mapping[Axis, float]
    outside: Outside
    whole: bool

    @property
    def note(self) -> str:
        """In words, on one line; with advice from `MANY_OUTSIDE` on."""
        axes: dict[str, list[str]] = {}
        for axis, share in sorted(self.share.items(), reverse=True):
            axes.setdefault(f"{share:.0%}".replace("%", " %"), []).append(axis)
        first, *rest = (f"{share}{{}} along {', '.join(names)}" for share, names in axes.items())
        parts = ", ".join([first.format(" of the taps"), *(part.format("") for part in rest)])
        where = f"the {'patch' if self.whole else 'map'} of {self.size_zyx}"
        reads = "its border" if self.outside == "border" else "zeros"
        text = f"tubes: {parts} lie outside {where}; they read {reads}"
        if max(self.share.values()) < MANY_OUTSIDE:
            return text
        return f"{text}, so that a response depends on where a patch lies: fewer taps or larger patches mend it"


def taps_outside(student: Student, size_zyx: tuple[int, int, int]) -> tuple[TapsOutside, ...]:
    """Count the taps of a student's straight tubes beyond the maps they read, one entry per size of map.

    Args:
        student: with what its strategy changes in it.
        size_zyx: of a patch.
    """
    layers = {path: layer for path, layer in student.named_modules() if isinstance(layer, TubularEmbed | TubularConv3d)}
    padded = tuple(n + -n % stride for n, stride in zip(size_zyx, student.stride_zyx, strict=True))
    inner = [path for path, layer in layers.items() if isinstance(layer, TubularConv3d)]
    sizes = dict.fromkeys(layers, padded) | (_map_sizes(student, inner, size_zyx) if inner else {})
    shares: dict[tuple[tuple[int, ...], Outside], dict[Axis, float]] = {}
    for path, layer in layers.items():
        z, y, x = sizes[path]
        shares.setdefault((sizes[path], layer.outside), {}).update(layer.shares_outside((z, y, x)))
    return tuple(
        TapsOutside(size_zyx=size, share=share, outside=outside, whole=size == padded)
        for (size, outside), share in shares.items()
    )


@torch.no_grad()
def _map_sizes(student: Student, paths: Sequence[str], size_zyx: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Path -> size of the map that a tubular convolution reads; a forward in which these compute nothing."""
    probe = copy.deepcopy(student).eval()
    sizes: dict[str, tuple[int, ...]] = {}

    def note(path: str, channels: int, image: Tensor) -> Tensor:
        sizes[path] = tuple(image.shape[2:])
        return image.new_zeros(1, channels, *sizes[path])

    for path in paths:
        layer = probe.get_submodule(path)
        layer.forward = functools.partial(note, path, layer.get_parameter("weight").shape[0])
    probe(torch.zeros(1, 1, *size_zyx))
    return sizes


def tap_notes(experiment: Experiment) -> tuple[str, ...]:
    """Return `TapsOutside.note` for the tubes of an experiment's student, if it has any.

    Raises:
        ConfigError: the student cannot be built.
    """
    module = DistillModule(experiment)
    return tuple(each.note for each in taps_outside(module.student, experiment.patches.size_zyx))


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
    whole = filled_up(torch.from_numpy(np.ascontiguousarray(image)), layer.block_zyx)
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
