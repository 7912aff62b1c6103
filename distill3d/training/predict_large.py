"""From a stack that stays on disk to a probability that does: by block, into an OME-Zarr that appears whole."""

from __future__ import annotations

import contextlib
import glob
import logging
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from distill3d.errors import InputError
from distill3d.storage.lock import FolderLock
from distill3d.training.blocks_on_disk import Blockwise, Leavings, block_size
from distill3d.training.inference import ways_of
from distill3d.training.module import DistillModule
from distill3d.training.networks import Networks
from distill3d.training.predict_elsewhere import blocks_by_workers
from distill3d.volumes.calls import Workers
from distill3d.volumes.intensity import WHOLE
from distill3d.volumes.lazy import LazyVolume
from distill3d.volumes.origin import origin_of
from distill3d.volumes.parts import shape_on_disk
from distill3d.volumes.prob import CHUNKS, begin_prob
from distill3d.volumes.stack_files import names_folder, split_inside

_LOG = logging.getLogger(__name__)


def stays_on_disk(stack: Path, *, channel: int) -> bool:
    """Whether a stack is predicted by block: a folder of chunks is, and what is large in a file that is read so."""
    file, _ = split_inside(stack)
    if names_folder(file):
        return True
    return math.prod(shape_on_disk(stack, channel=channel) or ()) > WHOLE


def write_by_blocks(
    target: Path,
    stack: Path,
    image: LazyVolume,
    networks: Networks,
    modules: Sequence[DistillModule],
    on_window: Callable[[int], None],
    workers: Workers | None = None,
) -> None:
    """Predict a stack by block, in a hidden folder beside the target, which is renamed when all is there.

    A killed prediction of the same stack, networks and settings goes on there; another one begins anew.

    Args:
        target: to write, a folder.
        stack: its file or folder.
        image: the same, opened.
        networks: what predicts it.
        modules: the same, loaded.
        on_window: called with the number of windows that are done.
        workers: run the windows; None: this process does.

    Raises:
        InputError: a part of the stack cannot be read, the target cannot be written, or another process is at it.
    """
    from distill3d.volumes.zarr_writing import add_levels, written_level  # noqa: PLC0415 - a second of import

    size = block_size([module.experiment.patches.size_zyx for module in modules], CHUNKS)
    made_from, made_with = networks.origin(stack), networks.manner
    key = origin_of(made_from, made_with, f"{image.shape} {size}")[-16:]
    folder = target.with_name(f".{target.name}.{key}.partial")
    with _held(folder, target):
        begun = folder / "image.zarr"
        if not begun.is_dir():  # what else is there is of no use
            Leavings.clear(folder)
            places = {"grid": image.stated.grid, "made_from": made_from, "made_with": made_with}
            begin_prob(begun, image.shape, image.spacing_um, **places)
        ways = ways_of(modules, image.data, flips=networks.flips)
        work = Blockwise(image.data, written_level(begun), ways, size, Leavings(folder))
        if done := sum(map(work.leavings.is_done, work.blocks)):
            count = len(work.blocks)
            _LOG.warning("%s: %d of %d blocks were there already; goes on with the others", target, done, count)
        if workers is None:
            work.all(on_window)
        else:
            blocks_by_workers(workers, work, networks, stack, begun, on_window)
        add_levels(begun)
        for left in begun.rglob("*.partial"):  # of who was killed as it wrote a chunk
            left.unlink(missing_ok=True)
        _replace(begun, target)
        shutil.rmtree(folder)
        _forget_others(target)


@contextlib.contextmanager
def _held(folder: Path, target: Path) -> Iterator[None]:
    """Let nobody else write to a folder meanwhile."""
    try:
        with FolderLock(folder, shown=target, work="predicts it", elsewhere="--out") as lock:
            lock.acquire()
            yield
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error.strerror})") from error


def _forget_others(target: Path) -> None:
    """Delete what killed predictions of other networks or manners left beside it."""
    for other in target.parent.glob(f".{glob.escape(target.name)}.*.partial"):
        with contextlib.suppress(InputError), FolderLock(other) as lock:  # some other process is at it
            lock.acquire()
            shutil.rmtree(other, ignore_errors=True)  # the prediction itself is done


def _replace(made: Path, target: Path) -> None:
    """Move a folder to its place, whatever is there."""
    if not target.is_dir():
        target.unlink(missing_ok=True)
        made.rename(target)
        return
    old = made.with_name("replaced")
    shutil.rmtree(old, ignore_errors=True)  # of who was killed as it deleted it
    target.rename(old)
    made.rename(target)
