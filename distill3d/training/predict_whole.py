"""From a stack in memory to a probability stack on disk, on the voxels that each network was trained on."""

from __future__ import annotations

import functools
import itertools
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distill3d.errors import InputError
from distill3d.training.inference import mean_prob, total_windows
from distill3d.training.module import DistillModule
from distill3d.training.networks import Networks
from distill3d.volumes.lazy import LazyVolume
from distill3d.volumes.memory import require_room
from distill3d.volumes.prob import write_prob
from distill3d.volumes.reading import in_words
from distill3d.volumes.resample import TOLERATED, nearest_shape, resized
from distill3d.volumes.volume import Volume

_LOG = logging.getLogger(__name__)


def write_prediction(
    target: Path,
    stack: Path,
    image: Volume,
    networks: Networks,
    modules: Sequence[DistillModule],
    begin: Callable[[int], Callable[[int], None]] | None = None,
) -> None:
    """Predict a stack and write its probability, on the stack's own voxels whatever those of a network are.

    Args:
        target: to write.
        stack: its file.
        image: what was read of it.
        networks: what predicts it.
        modules: the same, loaded.
        begin: called with the number of windows, returns what is called with the number of those that are done.

    Raises:
        InputError: the file cannot be written.
    """
    shapes = [_seen_shape(stack, image, module, networks) for module in modules]
    by_shape = {shape: [m for m, own in zip(modules, shapes, strict=True) if own == shape] for shape in shapes}
    total = sum(total_windows(group, shape, flips=networks.flips) for shape, group in by_shape.items())
    windows = begin(total) if begin else None

    def share(shape: tuple[int, int, int], group: Sequence[DistillModule]) -> NDArray[np.float32]:
        if shape != image.shape:
            _LOG.warning("%s: resampled from %s to %s voxels for the network", stack, _zyx(image.shape), _zyx(shape))
        seen = mean_prob(group, resized(image.data, shape), flips=networks.flips, on_window=windows)
        seen *= np.float32(len(group) / len(modules))
        return resized(seen, image.shape)

    prob = functools.reduce(np.add, itertools.starmap(share, by_shape.items()))
    try:
        made_from, grid = networks.origin(stack), image.stated.grid
        write_prob(target, prob, image.spacing_um, grid=grid, made_from=made_from, made_with=networks.manner)
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error.strerror})") from error


def _seen_shape(
    stack: Path, image: Volume | LazyVolume, module: DistillModule, networks: Networks
) -> tuple[int, int, int]:
    """Return the shape in which a network sees a stack: another one where voxels differ much from those trained on.

    Raises:
        InputError: that would take too much memory.
    """
    if not networks.knows_spacing(image):
        return image.shape
    shape = nearest_shape(image.shape, image.spacing_um, module.trained_um)
    if shape != image.shape:
        require_room(stack, 4.0 * math.prod(shape), claims=f"resampled to the network's voxels, {_zyx(shape)}, takes")
    return shape


def _zyx(shape: tuple[int, int, int]) -> str:
    return "x".join(map(str, shape))


def require_same_voxels(stack: Path, image: LazyVolume, networks: Networks, modules: Sequence[DistillModule]) -> None:
    """Refuse to predict by block what would have to be resampled.

    Raises:
        InputError: voxels of the stack differ too much from those that a network was trained on.
    """
    for module in modules:
        if _seen_shape(stack, image, module, networks) != image.shape:
            raise InputError(
                f"{stack}: voxels of {in_words(image.spacing_um)} um, the network was trained on "
                f"{in_words(module.trained_um[0])} um, and what is predicted by block is not resampled; accepted: "
                f"a copy within a factor of {TOLERATED:g}, or --spacing z,y,x where the stack's is wrong"
            )
