"""What a data source offers: named cases in three splits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from distill3d.config.plain import as_plain
from distill3d.data.gold import GoldRules
from distill3d.volumes.reading import Reading
from distill3d.volumes.swc import Tree
from distill3d.volumes.volume import Volume

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Case:
    """One neuron: its image and what is known of it.

    Attributes:
        name: unique within the data set; the stem of its files.
        volume: raw intensities [Z, Y, X] and spacing.
        mask: bool [Z, Y, X], True on the neuron.
        known: bool [Z, Y, X], False where nobody labelled.
        tree: the gold tree in um, None for cases that only have a mask.
        doubts: in which points its files contradict each other, in words.
        remarks: what reading the mask mended, in words; see `Tree.remarks` too.
    """

    name: str
    volume: Volume
    mask: NDArray[np.bool_]
    known: NDArray[np.bool_]
    tree: Tree | None
    doubts: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


class DataSource(ABC):
    """A registered kind of data set.

    Args:
        config: the source's own settings.
        cache: folder for whatever is expensive to make; shared by all runs and processes.
    """

    def __init__(self, config: Any, *, cache: Path) -> None:  # noqa: ANN401 - each source has its own config class
        self.config = config
        self.cache = cache

    @classmethod
    def reading(cls, config: Any) -> Reading:  # noqa: ANN401 - as above
        """Return how stacks like these are read from a file; needs no data. By default as any stack is."""
        del config
        return Reading()

    @classmethod
    def gold_rules(cls, config: Any) -> GoldRules:  # noqa: ANN401 - as above
        """Return how the gold of such stacks is named and read; by default as it is of any stack."""
        del config
        return GoldRules()

    @classmethod
    def same_cases(cls, config: Any, other: Mapping[str, Any]) -> bool | None:  # noqa: ANN401 - as above
        """Return whether a name is of the same neuron here and in data of this kind with other settings.

        Args:
            config: of the one.
            other: settings of the other, as plain containers.

        Returns:
            None where that cannot be told; by default wherever the settings differ.
        """
        return None if differing(config, other) else True

    @abstractmethod
    def splits(self) -> dict[Split, tuple[str, ...]]:
        """Case names per split; disjoint, by neuron and never by patch."""

    @abstractmethod
    def key(self, name: str) -> str:
        """Return a hash of everything `load` depends on (files, settings), so that prepared copies can be reused."""

    @abstractmethod
    def load(self, name: str) -> Case:
        """Read or simulate one case.

        Raises:
            InputError: the case cannot be used; says why in one line.
        """


def differing(config: Any, other: Mapping[str, Any]) -> set[str]:  # noqa: ANN401 - as above
    """Return which settings of a source are not as ``other``, plain containers, has them; what it lacks is the same."""
    own = as_plain(config)
    return {key for key, value in other.items() if key != "name" and own.get(key) != value}
