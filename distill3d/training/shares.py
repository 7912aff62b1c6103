"""The cases of a run's end, shared out to the processes that trained it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import lightning as L
import torch.distributed as dist

from distill3d.data.each import Each, one_by_one
from distill3d.data.prepared import PreparedCase
from distill3d.storage.rank import is_main_process
from distill3d.training.ranks import ending_together

T = TypeVar("T")
PATIENCE = timedelta(days=30)  # shares are never equally long; a process that is lost is noticed without it


@contextmanager
def shared(trainer: L.Trainer | None, checkpoint: Path) -> Iterator[Each | None]:
    """Yield what goes through cases in this process, or None where others do without it.

    Processes that do not all see the same checkpoint, such as those of nodes without a common disk, leave all cases
    to the main one: nobody would find their predictions.

    Args:
        trainer: that has just trained; None where nothing was trained now, and the main process is alone.
        checkpoint: that all predict with.
    """
    alone = one_by_one if is_main_process() else None
    if trainer is None or trainer.world_size == 1 or not dist.is_initialized():
        yield alone
        return
    with ending_together(trainer):
        group = dist.new_group(backend="gloo", timeout=PATIENCE)
        same = len(set(_gathered(_stamp(checkpoint), group))) == 1
        yield functools.partial(_each, group) if same else alone


def deal(sizes: Sequence[int], world: int) -> list[list[int]]:
    """Deal things out: the largest first, each to the share that is smallest so far.

    Args:
        sizes: of the things, 1 or more.
        world: number of shares; some are empty where there are fewer things.

    Returns:
        Per share the numbers of its things, in order.

    Example:
        >>> deal([2, 9, 3, 3], 2), deal([5], 3)
        ([[1], [0, 2, 3]], [[0], [], []])
    """
    shares: list[list[int]] = [[] for _ in range(world)]
    totals = [0] * world
    for number in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        least = totals.index(min(totals))
        shares[least].append(number)
        totals[least] += sizes[number]
    return [sorted(share) for share in shares]


def _each(group: Any, cases: Sequence[PreparedCase], work: Callable[[PreparedCase], T]) -> dict[str, T]:  # noqa: ANN401 - torch's type of a group may be an int
    """Work on this process's cases, and return what all processes got."""
    shares = deal([math.prod(case.shape) for case in cases], dist.get_world_size(group))
    done = {cases[number].name: work(cases[number]) for number in shares[dist.get_rank(group)]}
    results = {name: result for part in _gathered(done, group) for name, result in part.items()}
    return {case.name: results[case.name] for case in cases}


def _gathered(value: T, group: Any) -> list[T]:  # noqa: ANN401 - as above
    values: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(values, value, group=group)
    return values


def _stamp(file: Path) -> tuple[str, int, int] | None:
    try:
        seen = file.stat()
    except FileNotFoundError:
        return None
    return file.name, seen.st_size, seen.st_mtime_ns
