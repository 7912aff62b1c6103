"""From stacks on disk to probability stacks on disk."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.progress import Progress

from distill3d.errors import InputError, for_each
from distill3d.terminal import progress_bar, stderr
from distill3d.training.inference import total_windows
from distill3d.training.module import DistillModule
from distill3d.training.networks import Networks, networks_of
from distill3d.training.predict_elsewhere import stacks_by_workers
from distill3d.training.predict_large import stays_on_disk, write_by_blocks
from distill3d.training.predict_whole import require_same_voxels, write_prediction
from distill3d.volumes.calls import Workers
from distill3d.volumes.geometry import Spacing
from distill3d.volumes.inputs import PROB, require_writable, targets_of
from distill3d.volumes.lazy import LazyVolume
from distill3d.volumes.origin import is_taken
from distill3d.volumes.stack_files import is_stack, stem_of
from distill3d.volumes.volume import Volume


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
    networks: Networks,
    volumes: Sequence[Path | str],
    *,
    out: Path | str = "prob",
    overwrite: bool = False,
    workers: Workers | None = None,
) -> Iterator[Path]:
    """Segment volumes on disk.

    Args:
        networks: see `networks_of`.
        volumes: their files.
        out: folder to write to. Only what came from the same volume, channel and networks is replaced there.
        overwrite: replace whatever is there.
        workers: run the networks, see `distill3d.volumes.cluster.workers`; None: this process does.

    Returns:
        The files as they are written: ``<out>/<stem>_prob.tif``, or the folder ``<out>/<stem>_prob.zarr`` of a volume
        that is predicted by block, see `stays_on_disk`; uint8, 255 for a probability of 1. A volume that cannot be used
        does not stop the others, see `distill3d.errors.for_each`.

    Raises:
        InputError: two volumes would give one file, one is there that came from elsewhere, or ``out`` cannot be
            written, which is found before anything is predicted.
    """

    def name(stack: Path) -> str:
        return prob_name(stack, by_block=stays_on_disk(stack, channel=networks.reading.channel))

    targets = targets_of([Path(volume) for volume in volumes], Path(out), "", name)
    if not overwrite:
        require_free(targets, networks)
    require_writable(Path(out))
    return _predicted(targets, networks, workers)


def prob_name(stack: Path, *, by_block: bool) -> str:
    """Return the name of a stack's probability."""
    return f"{stem_of(stack)}{PROB}.{'zarr' if by_block else 'tif'}"


def predict_stack(
    target: Path,
    stack: Path,
    image: Volume | LazyVolume,
    networks: Networks,
    modules: Sequence[DistillModule],
    begin: Callable[[int], Callable[[int], None]],
    workers: Workers | None = None,
) -> None:
    """Predict a stack, by block if it stays on disk: `write_prediction` or `write_by_blocks`."""
    if isinstance(image, Volume):
        write_prediction(target, stack, image, networks, modules, begin)
        return
    require_same_voxels(stack, image, networks, modules)
    windows = begin(total_windows(modules, image.shape, flips=networks.flips))
    write_by_blocks(target, stack, image, networks, modules, windows, workers)


def require_free(targets: Mapping[Path, Path], networks: Networks) -> None:
    """Refuse to replace files that came from elsewhere.

    Raises:
        InputError: a line for each.
    """
    problems = [
        f"{target}: is there and did not come from {volume} and {' and '.join(map(str, networks.checkpoints))}; "
        "accepted: --overwrite, or another --out"
        for target, volume in targets.items()
        if target.exists() and is_stack(volume) and _came_from_elsewhere(target, volume, networks)
    ]
    if problems:
        raise InputError(*problems)


def _came_from_elsewhere(target: Path, volume: Path, networks: Networks) -> bool:
    try:
        return is_taken(target, networks.origin(volume))
    except InputError:  # whoever reads it says so
        return False


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

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Leave the terminal to other bars."""
        self._bar.stop()
        try:
            yield
        finally:
            self._bar.start()

    def next_stack(self) -> None:
        """A stack is through, predicted or not."""
        self._through += 1
        self._bar.update(self._one, visible=False)
        self._bar.update(self._all, completed=self._through)


def _predicted(targets: Mapping[Path, Path], networks: Networks, workers: Workers | None) -> Iterator[Path]:
    modules = functools.cache(functools.partial(networks.modules, device=None if workers is None else "cpu"))
    whole = {target: stack for target, stack in targets.items() if target.suffix != ".zarr"}
    calls = {} if workers is None else stacks_by_workers(workers, whole, networks)
    with progress_bar(stderr()) as bar:
        bars = StackBars(bar, len(targets))

        def predict_one(target: Path, stack: Path) -> None:
            if workers is not None and target in calls:
                workers.result(calls[target])
                return
            image = networks.read(stack) if target in whole else networks.open(stack)
            begin = functools.partial(bars.windows, stem_of(stack))
            predict_stack(target, stack, image, networks, modules(), begin, workers)

        def work(item: tuple[Path, Path]) -> Path:
            try:
                predict_one(*item)
            finally:
                bars.next_stack()
            return item[0]

        yield from for_each(targets.items(), work)
