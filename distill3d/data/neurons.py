"""The data source ``neurons``: volumes and their gold trees or masks, found by name in a folder."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, final

import numpy as np
from numpy.typing import NDArray

from distill3d.config.registry import DATA
from distill3d.data import splits
from distill3d.data.background import HardConfig, background_files, case_rng, harden, load_background
from distill3d.data.base import Case, DataSource, Split
from distill3d.data.case_files import CaseFiles, find_case_files
from distill3d.data.prepared import code_hash
from distill3d.errors import InputError
from distill3d.volumes.alignment import detect_flip, flip_y
from distill3d.volumes.origin import file_hash
from distill3d.volumes.raster import rasterize
from distill3d.volumes.reading import Reading
from distill3d.volumes.swc import Tree, read_swc
from distill3d.volumes.volume import Volume, read_volume

_LOG = logging.getLogger(__name__)
_CODE = (  # what `load` runs through
    "distill3d.volumes.alignment",
    "distill3d.data.background",
    "distill3d.data.case_files",
    "distill3d.data.neurons",
    "distill3d.data.texture",
    "distill3d.volumes.raster",
    "distill3d.volumes.swc",
    "distill3d.volumes.tiff",
    "distill3d.volumes.tree",
    "distill3d.volumes.vaa3d",
    "distill3d.volumes.volume",
)
_SPLITTING = (
    "folder",
    "origin",
    "include",
    "exclude",
    "train",
    "val",
    "test",
    "fractions",
    "folds",
    "fold",
    "split_seed",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class NeuronsConfig:
    """Settings of ``neurons``. Splits are lists (train, val, test), or folds, or else seeded fractions."""

    folder: str  # holds volumes, and trees or masks beside them; ~ is expanded
    nested: bool = False  # cases are in subfolders, whose names they bear: subset__neuron
    origin: str = ""  # where the data can be had, said where the folder is missing
    volume: str = "{stem}"  # name of a volume without its suffix
    tree: str = "{stem}.swc"  # name of a gold tree; * stands for anything, of several the last by name is taken
    masks: tuple[str, ...] = (
        "{stem}_mask",
        "{stem}_label",
    )  # names of a gold mask without suffix; wins over a drawn tree
    spacing_um: tuple[float, float, float] | None = None  # ZYX voxel size; null takes the file's
    channel: int = 0  # of volumes that have several
    tree_units: Literal["voxel", "um"] = "voxel"  # what the SWC file counts in
    radius: Literal["file", "fixed"] = "file"  # fixed: radius_um everywhere, for files whose radius is not one
    radius_um: float = 1.0  # > 0
    radius_scale: float = 1.0  # factor on either radius, > 0
    min_radius_um: float = 0.0  # lower bound after scaling, >= 0
    flip_y: Literal["never", "always", "auto"] = "never"  # mirror trees in y; auto: where the image says so
    labels: tuple[int, ...] = ()  # mask values that are neuron; empty: all but 0 and unknown_label
    unknown_label: int | None = None  # mask value of voxels nobody labelled (TRAILMAP: 0)
    include: tuple[str, ...] = ()  # names or patterns such as OP_*; empty: all
    exclude: tuple[str, ...] = ()  # names or patterns
    train: tuple[str, ...] = ()  # names or patterns
    val: tuple[str, ...] = ()  # names or patterns
    test: tuple[str, ...] = ()  # names or patterns; without train and val, fractions deal the others to those two
    fractions: tuple[float, float, float] = (0.6, 0.2, 0.2)  # train, val, test; sum 1
    folds: int = 0  # K >= 3 cross-validates; 0 does not
    fold: int = 0  # which of them tests, 0 to folds - 1
    split_seed: int = 0  # of fractions and folds
    hard: HardConfig = field(default_factory=HardConfig)  # dim the neurons, lay real background under them

    def __post_init__(self) -> None:
        """Refuse names, sizes and splits that mean nothing."""
        for name, template in (("volume", self.volume), ("tree", self.tree), *(("masks", mask) for mask in self.masks)):
            if template.count("{stem}") != 1:
                raise ValueError(f"{name}={template!r} must hold {{stem}} once")
        for name, value in (("radius_um", self.radius_um), ("radius_scale", self.radius_scale)):
            if not value > 0:
                raise ValueError(f"{name}={value} is out of range; accepted: above 0")
        if self.spacing_um is not None and not min(self.spacing_um) > 0:
            raise ValueError(f"spacing_um={self.spacing_um} is out of range; accepted: three numbers above 0 (z, y, x)")
        if min(self.min_radius_um, self.channel) < 0:
            raise ValueError(f"min_radius_um={self.min_radius_um}, channel={self.channel}; accepted: 0 or more")
        if self.unknown_label is not None and self.unknown_label in self.labels:
            raise ValueError(f"unknown_label={self.unknown_label} is in labels={self.labels}; accepted: another value")
        _check_splits(self)


def _check_splits(config: NeuronsConfig) -> None:
    listed = [*config.train, *config.val, *config.test]
    twice = sorted({name for name in listed if listed.count(name) > 1})
    if twice:
        raise ValueError(f"{', '.join(twice)} listed more than once in train, val, test; accepted: each case once")
    if listed and config.folds:
        raise ValueError(f"folds={config.folds} and lists of cases exclude each other; accepted: one of them")
    if bool(config.train) != bool(config.val):
        raise ValueError("lists of cases need at least one name in train and one in val, or in neither")
    if config.folds and not (config.folds >= 3 and 0 <= config.fold < config.folds):
        raise ValueError(
            f"folds={config.folds}, fold={config.fold}; accepted: 3 or more folds, fold below their number"
        )
    train, val, test = config.fractions
    if min(train, val) <= 0 or test < 0 or abs(sum(config.fractions) - 1) > 1e-6:
        raise ValueError(f"fractions={config.fractions}; accepted: train and val above 0, test 0 or more, sum 1")


@final
@DATA.register("neurons", config=NeuronsConfig)
class Neurons(DataSource):
    """Real volumes with gold trees or masks from a folder, split by neuron and never by patch."""

    config: NeuronsConfig

    @functools.cached_property
    def case_files(self) -> dict[str, CaseFiles]:
        """Case name -> files, of the cases that `include` and `exclude` leave.

        Raises:
            InputError: the folder is missing or holds no labelled volume, or two volumes share a name.
            ConfigError: a pattern matches nothing.
        """
        folder = Path(self.config.folder).expanduser()
        cases = find_case_files(
            folder,
            volume=self.config.volume,
            tree=self.config.tree,
            masks=self.config.masks,
            nested=self.config.nested,
            origin=self.config.origin,
        )
        return {name: cases[name] for name in splits.select(list(cases), self.config.include, self.config.exclude)}

    def splits(self) -> dict[Split, tuple[str, ...]]:
        """Case names per split; disjoint.

        Raises:
            ConfigError: unknown names, or too few cases; one line each.
            InputError: see `case_files`.
        """
        config, names = self.config, list(self.case_files)
        lists: dict[Split, tuple[str, ...]] = {"train": config.train, "val": config.val, "test": config.test}
        if config.train:
            return splits.split_by_lists(names, lists)
        if config.test:
            return splits.split_around_test(names, config.test, config.fractions, config.split_seed)
        if config.folds:
            return splits.split_by_folds(names, config.folds, config.fold, config.split_seed)
        return splits.split_by_fractions(names, config.fractions, config.split_seed)

    def key(self, name: str) -> str:
        """Hash the case's files, the settings that shape it, and the code that reads it."""
        case, settings = self._files_of(name), dataclasses.asdict(self.config)
        files = [path for path in (case.volume, case.tree, case.mask) if path is not None]
        if self.config.hard.enabled:
            files += self._background_files()
        else:
            del settings["hard"]
        content = {
            "name": name,
            "settings": {key: value for key, value in settings.items() if key not in _SPLITTING},
            "files": [(path.name, file_hash(path)) for path in files],
            "code": code_hash(*_CODE),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @classmethod
    def reading(cls, config: NeuronsConfig) -> Reading:
        """Return how its volumes are read."""
        return Reading(channel=config.channel, spacing_um=config.spacing_um)

    def load(self, name: str) -> Case:
        """Read one case, draw its tree where there is no mask, harden it if the settings say so.

        Raises:
            InputError: a file cannot be used, volume and gold do not fit, or there is nothing to make hard.
        """
        files = self._files_of(name)
        volume = read_volume(files.volume, spacing_um=self.config.spacing_um, channel=self.config.channel)
        gold = None if files.tree is None else self._tree(name, files.tree, volume)
        mask, known = self._mask(files, volume, gold)
        if self.config.hard.enabled:
            models = [load_background(path) for path in self._background_files()]
            try:
                volume = harden(volume, mask, models, self.config.hard, case_rng(self.config.hard.seed, name))
            except InputError as error:
                raise InputError(f"{files.volume}: {error}") from error
        return Case(name=name, volume=volume, mask=mask, known=known, tree=gold)

    def _files_of(self, name: str) -> CaseFiles:
        if name not in self.case_files:
            raise InputError(f"{self.config.folder}: no case {name!r}; found: {', '.join(self.case_files)}")
        return self.case_files[name]

    def _background_files(self) -> tuple[Path, ...]:
        folder = Path(self.config.folder).expanduser()
        paths = [Path(path).expanduser() for path in self.config.hard.backgrounds]
        return background_files([path if path.exists() else folder / path for path in paths])

    def _tree(self, name: str, path: Path, volume: Volume) -> Tree:
        spacing = volume.spacing_um if self.config.tree_units == "voxel" else (1.0, 1.0, 1.0)
        gold = read_swc(path, spacing_um=spacing)
        if self.config.flip_y == "always":
            return flip_y(gold, volume)
        try:
            report = detect_flip(volume, gold)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        if report.verdict != "flipped":
            return gold
        if self.config.flip_y == "auto":
            _LOG.info("%s: tree mirrored in y (%s)", name, report)
            return flip_y(gold, volume)
        _LOG.warning("%s: y of the tree seems to run against the image (%s); data.flip_y=auto mends it", name, report)
        return gold

    def _mask(self, files: CaseFiles, volume: Volume, gold: Tree | None) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return gold and known, from the mask file if there is one, else from the tree."""
        if files.mask is not None:
            return self._read_mask(files.mask, volume)
        if gold is None:
            raise InputError(f"{files.volume}: neither tree nor mask found")
        try:
            mask = rasterize(
                gold,
                volume.shape,
                spacing_um=volume.spacing_um,
                radius=self.config.radius,
                radius_um=self.config.radius_um,
                scale=self.config.radius_scale,
                min_radius_um=self.config.min_radius_um,
            )
        except InputError as error:
            raise InputError(f"{files.tree}: {error}") from error
        return mask, np.ones(volume.shape, bool)

    def _read_mask(self, path: Path, volume: Volume) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        values = read_volume(path, spacing_um=volume.spacing_um, allow_blank=True).data
        if values.shape != volume.shape:
            raise InputError(
                f"{path}: mask of shape {values.shape} for a volume of shape {volume.shape}; accepted: the same"
            )
        unknown = self.config.unknown_label
        known = np.ones(volume.shape, bool) if unknown is None else values != unknown
        if not known.any():
            raise InputError(f"{path}: every voxel is {unknown}, the unknown label; accepted: a mask with known voxels")
        mask = np.isin(values, self.config.labels) if self.config.labels else values != 0
        return mask & known, known
