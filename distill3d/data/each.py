"""The same work for every case, in one process or shared out to several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from distill3d.data.prepared import PreparedCase

T = TypeVar("T")


class Each(Protocol):
    """Goes through cases; where processes share them out, each of them gets all results."""

    def __call__(self, cases: Sequence[PreparedCase], work: Callable[[PreparedCase], T], /) -> dict[str, T]:
        """Return name -> what the work gave, in the order of the cases."""
        ...


def one_by_one(cases: Sequence[PreparedCase], work: Callable[[PreparedCase], T]) -> dict[str, T]:
    """Do the work for all cases in this process."""
    return {case.name: work(case) for case in cases}
