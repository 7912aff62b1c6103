"""The data source ``neurons``: volumes and their gold trees or masks, found by name in a folder."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, final

import numpy as np

from distill3d.config.paths import ConfigPath
from distill3d.config.plain import as_plain
from distill3d.config.registry import DATA
from distill3d.data import splits
from distill3d.data.background import HardConfig, case_rng, harden
from distill3d.data.base import Case, DataSource, Split
from distill3d.data.case_files import CaseFiles, find_case_files
from distill3d.data.gold import Gold, GoldRules, spacing_doubts
from distill3d.data.nnunet import find_nnunet_files, read_folds
from distill3d.data.prepared import code_hash
from distill3d.data.texture import background_files, load_background
from distill3d.errors import ConfigError, InputError
from distill3d.volumes.geometry import Stated
from distill3d.volumes.origin import file_hash
from distill3d.volumes.raster import rasterize
from distill3d.volumes.reading import Reading
from distill3d.volumes.tree import Tree
from distill3d.volumes.volume import Volume, read_volume, volume_files

_LOG = logging.getLogger(__name__)
_CODE = (  # what `load` runs through
    "distill3d.data.background",
    "distill3d.data.case_files",
    "distill3d.data.gold",
    "distill3d.data.neurons",
    "distill3d.data.nnunet",
    "distill3d.data.texture",
    "distill3d.volumes",
)
_SPLITTING = (
    *("folder", "origin", "include", "exclude", "train", "val", "test"),
    *("fractions", "folds", "fold", "split_seed"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class NeuronsConfig:
    """Settings of ``neurons``. Splits are lists (train, val, test), or folds, or else seeded fractions."""

    folder: ConfigPath  # holds volumes, and trees or masks beside them
    layout: Literal["beside", "nnunet"] = "beside"  # nnunet: imagesTr, labelsTr and so on in folder; masks are labels
    nested: bool = False  # cases are in subfolders, whose names they bear: subset__neuron
    origin: str = ""  # where the data can be had, said where the folder is missing
    volume: str = "{stem}"  # name of a volume without its suffix; of nnunet {stem}_0000, and {stem}_0001 if set so
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
    folds: int = 0  # K >= 3 cross-validates, of nnunet by splits_final.json where it is there; 0 does not
    fold: int = 0  # which of them tests, 0 to folds - 1
    split_seed: int = 0  # of fractions and folds
    hard: HardConfig = field(default_factory=HardConfig)  # dim the neurons, lay real background under them

    def __post_init__(self) -> None:
        """Refuse names, sizes and splits that mean nothing."""
        _check_layout(self)
        for name, value in (("radius_um", self.radius_um), ("radius_scale", self.radius_scale)):
            if not value > 0:
                raise ValueError(f"{name}={value} is out of range; accepted: above 0")
        if self.spacing_um is not None and not min(self.spacing_um) > 0:
            raise ValueError(f"spacing_um={self.spacing_um} is out of range; accepted: three numbers above 0 (z, y, x)")
        if min(self.min_radius_um, self.channel) < 0:
            raise ValueError(f"min_radius_um={self.min_radius_um}, channel={self.channel}; accepted: 0 or more")
        if self.unknown_label is not None and self.unknown_label in self.labels:
            raise ValueError(f"unknown_label={self.unknown_label} is in labels={self.labels}; accepted: another value")
        if self.unknown_label == 0 and not self.labels:
            raise ValueError("unknown_label=0 without labels makes all the rest neuron; accepted: labels=[2], say, too")
        _check_splits(self)


def _check_layout(config: NeuronsConfig) -> None:
    for name, template in (
        ("volume", config.volume),
        ("tree", config.tree),
        *(("masks", mask) for mask in config.masks),
    ):
        if template.count("{stem}") != 1:
            raise ValueError(f"{name}={template!r} must hold {{stem}} once")
    if config.layout == "nnunet" and (config.nested or config.channel):
        raise ValueError(
            f"layout=nnunet with nested={config.nested}, channel={config.channel}; accepted: neither, its channels are "
            "files (volume={stem}_0001)"
        )


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
    if config.fold and not config.folds:
        raise ValueError(f"fold={config.fold} without folds deals nothing out; accepted: folds=5, say, or no fold")
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
        folder = Path(self.config.folder)
        names = {"volume": self.config.volume, "tree": self.config.tree}
        if self.config.layout == "nnunet" and folder.is_dir():
            cases = find_nnunet_files(folder, **names)
        else:
            masks, nested, origin = self.config.masks, self.config.nested, self.config.origin
            cases = find_case_files(folder, **names, masks=masks, nested=nested, origin=origin)
        return {name: cases[name] for name in splits.select(list(cases), self.config.include, self.config.exclude)}

    def splits(self) -> dict[Split, tuple[str, ...]]:
        """Case names per split; disjoint. What the layout holds out is trained on only where a list says so.

        Raises:
            ConfigError: unknown names, or too few cases; one line each.
            InputError: see `case_files`.
        """
        config, names = self.config, list(self.case_files)
        lists: dict[Split, tuple[str, ...]] = {"train": config.train, "val": config.val, "test": config.test}
        if config.train:
            return splits.split_by_lists(names, lists)
        held_out = tuple(name for name, files in self.case_files.items() if files.held_out)
        if config.test or (held_out and not config.folds):
            test = splits.split_by_lists(names, {"test": config.test or held_out})["test"]
            names = [name for name in names if name in test or name not in held_out]
            return splits.split_around_test(names, test, config.fractions, config.split_seed)
        names = [name for name in names if name not in held_out]
        if config.folds:
            parts = read_folds(Path(config.folder), names, config.folds) if config.layout == "nnunet" else None
            return splits.split_by_folds(names, config.folds, config.fold, config.split_seed, parts=parts)
        return splits.split_by_fractions(names, config.fractions, config.split_seed)

    def key(self, name: str) -> str:
        """Hash the case's files, the settings that shape it, and the code that reads it."""
        case, settings = self._files_of(name), as_plain(self.config)
        images = [path for image in (case.volume, case.mask) if image is not None for path in volume_files(image)]
        files = [*images, *([] if case.tree is None else [case.tree])]
        if self.config.hard.enabled:
            files += self._background_files()
        else:
            del settings["hard"]
        content = {
            "name": name,
            "settings": {key: value for key, value in settings.items() if key not in _SPLITTING},
            "files": [(path.name, file_hash(path)) for path in files],
            "folder says": (case.spacing_um, case.unknown_label),
            "code": code_hash(*_CODE),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @classmethod
    def reading(cls, config: NeuronsConfig) -> Reading:
        """Return how its volumes are read."""
        return Reading(channel=config.channel, spacing_um=config.spacing_um)

    @classmethod
    def gold_rules(cls, config: NeuronsConfig) -> GoldRules:
        """Return how its gold is named and read."""
        return GoldRules(
            tree=config.tree,
            masks=config.masks,
            tree_units=config.tree_units,
            flip_y=config.flip_y,
            labels=config.labels,
            unknown_label=config.unknown_label,
        )

    @classmethod
    def same_cases(cls, config: NeuronsConfig, other: Mapping[str, Any]) -> bool | None:
        """Return True for the same folder; any other may hold a copy, or another neuron of that name."""
        try:
            return Path(config.folder).samefile(ConfigPath(other["folder"])) or None
        except (OSError, ConfigError):
            return None

    def load(self, name: str) -> Case:
        """Read one case, draw its tree where there is no mask, harden it if the settings say so.

        Raises:
            InputError: a file cannot be used, volume and gold do not fit, or there is nothing to make hard.
        """
        files = self._files_of(name)
        spacing = self.config.spacing_um or files.spacing_um
        volume = read_volume(files.volume, spacing_um=spacing, channel=self.config.channel)
        tree = None if files.tree is None else self.gold_rules(self.config).read_tree(files.tree, volume)
        gold = self._gold(files, volume, tree)
        doubts = self._doubts(files, volume, gold)
        if self.config.hard.enabled:
            models = [load_background(path) for path in self._background_files()]
            try:
                volume = harden(volume, gold.mask, models, self.config.hard, case_rng(self.config.hard.seed, name))
            except InputError as error:
                raise InputError(f"{files.volume}: {error}") from error
        return Case(
            name=name, volume=volume, mask=gold.mask, known=gold.known, tree=tree, doubts=doubts, remarks=gold.remarks
        )

    def _files_of(self, name: str) -> CaseFiles:
        if name not in self.case_files:
            raise InputError(f"{self.config.folder}: no case {name!r}; found: {', '.join(self.case_files)}")
        return self.case_files[name]

    def _background_files(self) -> tuple[Path, ...]:
        folder = Path(self.config.folder)
        paths = [Path(path) for path in self.config.hard.backgrounds]
        return background_files([path if path.exists() else folder / path for path in paths])

    def _gold(self, files: CaseFiles, volume: Volume, tree: Tree | None) -> Gold:
        """Return what is known, from the mask file if there is one, else from the tree."""
        if files.mask is not None:
            rules = self.gold_rules(self.config)
            if rules.unknown_label is None:
                rules = replace(rules, unknown_label=files.unknown_label)
            return rules.read_mask(files.mask, volume, image=files.volume)
        if tree is None:
            raise InputError(f"{files.volume}: neither tree nor mask found")
        try:
            mask = rasterize(
                tree,
                volume.shape,
                spacing_um=volume.spacing_um,
                radius=self.config.radius,
                radius_um=self.config.radius_um,
                scale=self.config.radius_scale,
                min_radius_um=self.config.min_radius_um,
            )
        except InputError as error:
            raise InputError(f"{files.tree}: {error}") from error
        return Gold(mask, np.ones(volume.shape, bool))

    def _doubts(self, files: CaseFiles, volume: Volume, gold: Gold) -> tuple[str, ...]:
        """Say which files of the case state other voxels, unless the settings decide it."""
        if self.config.spacing_um is not None:
            return ()
        stated = {"the image": volume.stated, "the file beside it": Stated(files.spacing_um), "the mask": gold.stated}
        doubts = spacing_doubts(stated)
        for doubt in doubts:
            _LOG.warning("%s: %s", files.volume, doubt)
        return doubts
