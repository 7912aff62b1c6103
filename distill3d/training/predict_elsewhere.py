"""Prediction by workers that see the same files: of blocks, or of whole stacks."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, final

import torch

from distill3d.training.background import Background
from distill3d.training.blocks import Way
from distill3d.training.blocks_on_disk import Blockwise, Leavings
from distill3d.training.module import DistillModule
from distill3d.training.networks import Networks
from distill3d.training.predict_whole import write_prediction
from distill3d.training.windows import Zyx
from distill3d.volumes.calls import Key, Workers, require_seen
from distill3d.volumes.origin import origin_of

if TYPE_CHECKING:
    from distributed import Future

_RUN, _FINISH, _STACK = "run", "finish", "stack"


def blocks_by_workers(
    workers: Workers,
    work: Blockwise,
    networks: Networks,
    stack: Path,
    begun: Path,
    on_window: Callable[[int], None],
) -> None:
    """Let workers run and finish the blocks that are missing.

    A block is finished by a call of its own, after those that run it and what it needs: all may be run at once.

    Args:
        workers: see the same files.
        work: the prediction, as this process would make it alone.
        networks: what predicts it.
        stack: its file or folder.
        begun: image that is written, beside what blocks leave.
        on_window: called with the number of windows that are done.
    """
    modules = list(dict.fromkeys(way.module for way in work.ways))
    shared = _Blocks(
        networks=_Seen.by(networks),
        stack=stack,
        made_from=networks.origin(stack),
        begun=begun,
        size=work.size,
        looks=[_Look(modules.index(way.module), way.limits, way.flip, way.background) for way in work.ways],
    )
    missing = [block for block in work.blocks if not work.leavings.is_done(block)]
    on_window(sum(block.n_windows for block in work.blocks) - sum(block.n_windows for block in missing))
    after: dict[Key, list[Key]] = {(_RUN, block.number): [] for block in missing}
    for block in missing:
        needs = [(_RUN, number) for number in (block.number, *block.needs)]
        after[_FINISH, block.number] = [key for key in needs if key in after]
    for (name, number), _ in workers.results(workers.start(_take_part, shared, after)):
        if name == _RUN:
            on_window(work.blocks[number].n_windows)


def stacks_by_workers(workers: Workers, targets: Mapping[Path, Path], networks: Networks) -> dict[Path, Future]:
    """Let workers predict stacks, each as a whole.

    Args:
        workers: see the same files.
        targets: to write, and the stack of each.
        networks: what predicts them.

    Returns:
        For each target the call, see `Workers.result`.
    """
    paths = list(targets.items())
    after: dict[Key, list[Key]] = {(_STACK, number): [] for number in range(len(paths))}
    calls = workers.start(_predict, (_Seen.by(networks), paths), after) if paths else {}
    return dict(zip(targets, calls.values(), strict=True))


@final
@dataclass(frozen=True, slots=True)
class _Seen:
    """Networks and the content of their checkpoints, both of which workers must see."""

    networks: Networks
    content: str

    @classmethod
    def by(cls, networks: Networks) -> _Seen:
        """Note what their checkpoints hold."""
        return cls(networks, origin_of(*networks.checkpoints))

    def modules(self) -> list[DistillModule]:
        """Load them; once in a process."""
        checkpoints = self.networks.checkpoints
        require_seen(lambda: origin_of(*checkpoints), self.content, " and ".join(map(str, checkpoints)))
        return _loaded(self.content, self.networks)


@final
@dataclass(frozen=True, slots=True)
class _Look:
    """A `Way` without its network: what is known once for all blocks."""

    network: int
    limits: tuple[float, float] | None
    flip: tuple[int, ...]
    background: Background | None


@final
@dataclass(frozen=True, kw_only=True)
class _Blocks:
    """A prediction by blocks as a worker joins it.

    Attributes:
        networks: what predicts.
        stack: its file or folder.
        made_from: what the process that leads has it from.
        begun: image that is written, beside what blocks leave.
        size: ZYX of a block.
        looks: the ways of the prediction.
    """

    networks: _Seen
    stack: Path
    made_from: str
    begun: Path
    size: Zyx
    looks: list[_Look]

    @cached_property
    def work(self) -> Blockwise:
        """The prediction, in this process from its first block on."""
        from distill3d.volumes.zarr_writing import written_level  # noqa: PLC0415 - a second of import

        modules, networks = self.networks.modules(), self.networks.networks
        require_seen(lambda: networks.origin(self.stack), self.made_from, self.stack)
        require_seen(self.begun.is_dir, True, self.begun)
        ways = [
            Way(module=modules[look.network], limits=look.limits, flip=look.flip, background=look.background)
            for look in self.looks
        ]
        sink, leavings = written_level(self.begun), Leavings(self.begun.parent)
        return Blockwise(networks.open(self.stack).data, sink, ways, self.size, leavings)


def _take_part(shared: _Blocks, key: Key) -> None:
    _take_gpu()
    name, number = key
    if name == _RUN:
        shared.work.run(number)
    else:
        shared.work.finish(number)


def _predict(shared: tuple[_Seen, list[tuple[Path, Path]]], key: Key) -> None:
    _take_gpu()
    seen, paths = shared
    target, stack = paths[key[1]]
    modules = seen.modules()
    write_prediction(target, stack, seen.networks.read(stack), seen.networks, modules)


@functools.lru_cache(maxsize=1)
def _loaded(_content: str, networks: Networks) -> list[DistillModule]:
    return networks.modules(allow_plugins=True)  # the process that leads has chosen them


def gpu_of(worker: str, count: int) -> int:
    """Return which of a machine's GPUs a worker has: that of the number its name ends with.

    Names are numbered by Dask and dask-jobqueue on their own; a worker that is started again keeps its name.

    >>> gpu_of("3", 4), gpu_of("SLURMCluster-5-1", 2), gpu_of("alone", 2)
    (3, 1, 0)
    """
    number = re.search(r"\d+$", worker)
    return int(number[0]) % count if number else 0


def _take_gpu() -> None:
    from distributed import get_worker  # noqa: PLC0415 - optional

    if torch.cuda.is_available():
        torch.cuda.set_device(gpu_of(str(get_worker().name), torch.cuda.device_count()))
