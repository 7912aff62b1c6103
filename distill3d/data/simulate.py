"""The data source ``simulated``: neurons whose every voxel is known, seen through a simulated microscope.

A case is made from the settings and its number alone, and is the same on every machine; no network is needed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from distill3d.config.paths import ConfigPath
from distill3d.config.registry import DATA
from distill3d.data.base import SPLITS, Case, DataSource, Split, differing
from distill3d.data.grow import GrowConfig, fit_tree, grow
from distill3d.data.microscope import MicroscopeConfig, expose
from distill3d.data.prepared import code_hash
from distill3d.data.vary import VaryConfig, varied
from distill3d.errors import InputError
from distill3d.volumes.raster import rasterize
from distill3d.volumes.swc import read_swc
from distill3d.volumes.tree import Tree, forest
from distill3d.volumes.volume import Volume

_CODE = (  # what `load` runs through
    "distill3d.data.background",
    "distill3d.data.grow",
    "distill3d.data.microscope",
    "distill3d.data.simulate",
    "distill3d.data.texture",
    "distill3d.data.vary",
    "distill3d.volumes",
)

SOMA = 1  # SWC type code


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulatedConfig:
    """Settings of ``simulated``."""

    train: int = 8  # cases, >= 1
    val: int = 2  # cases, >= 0
    test: int = 4  # cases, >= 0
    seed: int = 0  # >= 0
    shape_zyx: tuple[int, int, int] = (48, 128, 128)  # voxels, each >= 8
    spacing_um: tuple[float, float, float] = (2.0, 1.0, 1.0)  # ZYX voxel size, > 0
    swc_folder: ConfigPath | None = None  # real trees to render instead of grown ones, one file a case
    # Patterns below swc_folder: of trees that train and validate (empty: all others), and of trees that only test, such
    # as another laboratory's (empty: none is kept apart)
    swc_train: tuple[str, ...] = ()
    swc_test: tuple[str, ...] = ()
    swc_fill: float = 0.006  # a real tree that would fill more of the volume is shown in part, in (0, 1)
    grow: GrowConfig = GrowConfig()  # noqa: RUF009 - frozen
    microscope: MicroscopeConfig = MicroscopeConfig()  # noqa: RUF009 - frozen
    vary: VaryConfig = VaryConfig()  # noqa: RUF009 - frozen
    neighbors_gold: bool = False  # gold is every neurite in view

    def __post_init__(self) -> None:
        """Refuse settings that mean nothing."""
        for name, least in (("train", 1), ("val", 0), ("test", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be >= {least}, got {getattr(self, name)}")
        if min(self.shape_zyx) < 8:
            raise ValueError(f"shape_zyx must be >= 8 on each axis, got {self.shape_zyx}")
        if not min(self.spacing_um) > 0:
            raise ValueError(f"spacing_um must be > 0 on each axis, got {self.spacing_um}")
        if not 0 < self.swc_fill < 1:
            raise ValueError(f"swc_fill must be in (0, 1), got {self.swc_fill}")


@final
@DATA.register("simulated", config=SimulatedConfig)
class Simulated(DataSource):
    """Grown or real trees, rendered; the gold mask is the tree itself.

    Raises:
        InputError: ``swc_folder`` is missing or holds fewer trees than there are cases.
    """

    config: SimulatedConfig

    def __init__(self, config: SimulatedConfig, *, cache: Path) -> None:
        super().__init__(config, cache=cache)
        self._numbers = {f"sim_{k:03d}": k for k in range(config.train + config.val + config.test)}
        self._swc = None if config.swc_folder is None else _swc_files(config)

    def splits(self) -> dict[Split, tuple[str, ...]]:
        """Case names per split, in the order train, val, test."""
        names, counts = iter(self._numbers), (self.config.train, self.config.val, self.config.test)
        return {split: tuple(next(names) for _ in range(n)) for split, n in zip(SPLITS, counts, strict=True)}

    def key(self, name: str) -> str:
        """Hash what shapes this case: settings, number, SWC file and code; but not how many cases there are."""
        settings = asdict(replace(self.config, train=1, val=0, test=0, swc_folder=None, swc_train=(), swc_test=()))
        settings |= {"case": self._number(name), "code": code_hash(*_CODE)}
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        if self._swc is not None:
            digest.update(self._swc[self._number(name)].read_bytes())
        return digest.hexdigest()

    @classmethod
    def same_cases(cls, config: SimulatedConfig, other: Mapping[str, Any]) -> bool | None:
        """Return whether a number is of the same neuron: grown alike, or the same real tree where that can be told."""
        changed = differing(config, other)
        if config.swc_folder is None or other.get("swc_folder") is None:
            return changed <= {"train", "val", "test"}
        # trees that only test are numbered after all others
        drawn = {"swc_folder", "seed", "swc_train", "swc_test", *(("train", "val") if config.swc_test else ())}
        return None if changed & drawn else True

    def load(self, name: str) -> Case:
        """Simulate one case.

        Raises:
            InputError: no case of this name, or its SWC file cannot be used.
        """
        number, config = self._number(name), self.config
        rng = np.random.Generator(np.random.PCG64([config.seed, number]))
        shape, spacing, growth, microscope = config.shape_zyx, config.spacing_um, config.grow, config.microscope
        if config.vary.enabled:
            growth, microscope, spacing = varied(config.vary, growth, microscope, spacing, rng)
        size_um = (np.array(shape) - 1) * np.array(spacing)
        tree = self._tree(number, size_um, growth, rng)
        others = [grow(size_um, replace(growth, tips=1, margin_um=0.0), rng) for _ in range(microscope.neighbors)]
        gold = forest([tree, *others]) if config.neighbors_gold else tree
        neurites = rasterize(gold, shape, spacing_um=spacing)
        soma = rasterize(_soma(tree, growth.soma_um), shape, spacing_um=spacing) if growth.soma_um else None
        trees = [(tree, 1.0), *((other, microscope.neighbor_brightness) for other in others)]
        counts = expose(trees, shape, spacing, microscope, rng, neurites=neurites, soma=soma)
        mask = neurites if soma is None else neurites | soma
        return Case(name=name, volume=Volume(counts, spacing), mask=mask, known=np.ones(shape, bool), tree=gold)

    def _number(self, name: str) -> int:
        if name not in self._numbers:
            raise InputError(f"no simulated case {name!r}; accepted: sim_000 to {list(self._numbers)[-1]}")
        return self._numbers[name]

    def _tree(self, number: int, size_um: NDArray[np.float64], config: GrowConfig, rng: np.random.Generator) -> Tree:
        if self._swc is None:
            return grow(size_um, config, rng)
        path = self._swc[number]
        try:
            return fit_tree(read_swc(path), size_um, self.config.swc_fill, config)
        except InputError as error:
            raise InputError(text if str(path) in (text := str(error)) else f"{path}: {text}") from error


def _soma(tree: Tree, radius_um: float) -> Tree:
    return Tree(tree.points_zyx_um[:1], np.array([radius_um]), np.array([-1]), np.array([SOMA]))


def _swc_files(config: SimulatedConfig) -> list[Path]:
    """SWC files below the folder in an order drawn from the seed; one a case, so no neuron is in two splits."""
    folder = Path(config.swc_folder or "")
    if not folder.is_dir():
        raise InputError(f"swc_folder {folder} is not a folder; accepted: a folder of .swc files, one for each case")
    trees = (path for path in folder.rglob("*") if path.suffix.lower() == ".swc" and not path.name.startswith("."))
    names = sorted(path.relative_to(folder).as_posix() for path in trees)
    order = np.random.Generator(np.random.PCG64([config.seed, len(names)])).permutation(len(names))
    drawn = [names[k] for k in order]
    reserved = [name for name in drawn if _matches(name, config.swc_test)]
    others = [
        name for name in drawn if name not in reserved and (not config.swc_train or _matches(name, config.swc_train))
    ]
    trained = config.train + config.val
    pools = {
        "train and val": (others, trained),
        "test": (reserved if config.swc_test else others[trained:], config.test),
    }
    for split, (pool, cases) in pools.items():
        if len(pool) < cases:
            raise InputError(
                f"swc_folder {folder} holds {len(names)} .swc files, {len(pool)} of them for {split}; "
                f"accepted: as many different trees as cases, {cases}"
            )
    return [folder / name for pool, cases in pools.values() for name in pool[:cases]]


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
