"""From stacks on disk to probability stacks on disk."""

from __future__ import annotations

import functools
import itertools
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from distill3d.errors import InputError, for_each
from distill3d.terminal import progress_bar, stderr
from distill3d.training.inference import mean_prob, total_windows
from distill3d.training.module import DistillModule
from distill3d.training.networks import Networks, networks_of
from distill3d.training.predict_large import stays_on_disk, write_by_blocks
from distill3d.volumes.geometry import Spacing
from distill3d.volumes.inputs import PROB, targets_of
from distill3d.volumes.lazy import LazyVolume
from distill3d.volumes.memory import require_room
from distill3d.volumes.origin import is_taken
from distill3d.volumes.prob import write_prob
from distill3d.volumes.reading import in_words
from distill3d.volumes.resample import TOLERATED, nearest_shape, resized
from distill3d.volumes.stack_files import is_stack, stem_of
from distill3d.volumes.volume import Volume

_LOG = logging.getLogger(__name__)


def predict(
    run: Path | str | Sequence[Path | str],
    volume: Path | str,
    *,
    out: Path | str = "prob",
    spacing_um: Spacing | None = None,
    channel: int | None = None,
    flips: bool = False,
    overwrite: bool = False,
    allow_plugins: bool = False,
) -> Path:
    """Segment a volume on disk with the best checkpoint of a run, or of several: `predict_all` of one.

    Returns:
        The file written.
    """
    runs = [run] if isinstance(run, Path | str) else run
    networks = networks_of(runs, channel=channel, spacing_um=spacing_um, flips=flips, allow_plugins=allow_plugins)
    (written,) = predict_all(networks, [volume], out=out, overwrite=overwrite)
    return written


def predict_all(
    networks: Networks, volumes: Sequence[Path | str], *, out: Path | str = "prob", overwrite: bool = False
) -> Iterator[Path]:
    """Segment volumes on disk.

    Args:
        networks: see `networks_of`.
        volumes: their files.
        out: folder to write to. Only what came from the same volume, channel and networks is replaced there.
        overwrite: replace whatever is there.

    Returns:
        The files as they are written: ``<out>/<stem>_prob.tif``, or the folder ``<out>/<stem>_prob.zarr`` of a volume
        that is predicted by block, see `stays_on_disk`; uint8, 255 for a probability of 1. A volume that cannot be used
        does not stop the others, see `distill3d.errors.for_each`.

    Raises:
        InputError: two volumes would give one file, or one is there that came from elsewhere, which is found before
            anything is predicted.
    """

    def name(stack: Path) -> str:
        by_block = stays_on_disk(stack, channel=networks.reading.channel)
        return f"{stem_of(stack)}{PROB}.{'zarr' if by_block else 'tif'}"

    targets = targets_of([Path(volume) for volume in volumes], Path(out), "", name)
    if not overwrite:
        require_free(targets, networks)
    return _predicted(targets, networks)


def require_free(targets: Mapping[Path, Path], networks: Networks) -> None:
    """Refuse to replace files that came from elsewhere.

    Raises:
        InputError: a line for each.
    """
    problems = [
        f"{target}: is there and did not come from {volume} and {' and '.join(map(str, networks.checkpoints))}; "
        "accepted: --overwrite, or another --out"
        for target, volume in targets.items()
        if target.exists() and is_stack(volume) and is_taken(target, networks.origin(volume))
    ]
    if problems:
        raise InputError(*problems)


class StackBars:
    """Two bars with time left: windows of the stack that is predicted, and all stacks, where there are several.

    Args:
        bar: holds them.
        stacks: how many there are.
    """

    def __init__(self, bar: Progress, stacks: int) -> None:
        self._bar = bar
        self._through = 0
        self._all = bar.add_task("stacks", total=stacks, info="", visible=stacks > 1)
        self._one = bar.add_task("", total=None, info="", visible=False)

    def windows(self, name: str, total: int) -> Callable[[int], None]:
        """Begin to predict a stack; returns what is to be called with the number of windows done."""
        self._bar.reset(self._one, description=f"predict {name}", total=total, visible=True)

        def advance(count: int) -> None:
            self._bar.advance(self._one, count)
            self._bar.advance(self._all, count / total)

        return advance

    def next_stack(self) -> None:
        """A stack is through, predicted or not."""
        self._through += 1
        self._bar.update(self._one, visible=False)
        self._bar.update(self._all, completed=self._through)


def write_prediction(
    target: Path, stack: Path, image: Volume, networks: Networks, modules: Sequence[DistillModule], bars: StackBars
) -> None:
    """Predict a stack and write its probability, on the stack's own voxels whatever those of a network are.

    Args:
        target: to write.
        stack: its file.
        image: what was read of it.
        networks: what predicts it.
        modules: the same, loaded.
        bars: are moved on.

    Raises:
        InputError: the file cannot be written.
    """
    shapes = [_seen_shape(stack, image, module, networks) for module in modules]
    by_shape = {shape: [m for m, own in zip(modules, shapes, strict=True) if own == shape] for shape in shapes}
    total = sum(total_windows(group, shape, flips=networks.flips) for shape, group in by_shape.items())
    windows = bars.windows(stem_of(stack), total)

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


def _require_same_voxels(stack: Path, image: LazyVolume, networks: Networks, modules: Sequence[DistillModule]) -> None:
    """Refuse to predict by block what would have to be resampled."""
    for module in modules:
        if _seen_shape(stack, image, module, networks) != image.shape:
            raise InputError(
                f"{stack}: voxels of {in_words(image.spacing_um)} um, the network was trained on "
                f"{in_words(module.trained_um[0])} um, and what is predicted by block is not resampled; accepted: "
                f"a copy within a factor of {TOLERATED:g}, or --spacing z,y,x where the stack's is wrong"
            )


def _predicted(targets: Mapping[Path, Path], networks: Networks) -> Iterator[Path]:
    modules = networks.modules()
    with progress_bar(stderr()) as bar:
        bars = StackBars(bar, len(targets))

        def work(item: tuple[Path, Path]) -> Path:
            target, volume = item
            try:
                if target.suffix == ".zarr":
                    image = networks.open(volume)
                    _require_same_voxels(volume, image, networks, modules)
                    windows = bars.windows(stem_of(volume), total_windows(modules, image.shape, flips=networks.flips))
                    write_by_blocks(target, volume, image, networks, modules, windows)
                else:
                    write_prediction(target, volume, networks.read(volume), networks, modules, bars)
            finally:
                bars.next_stack()
            return target

        yield from for_each(targets.items(), work)
