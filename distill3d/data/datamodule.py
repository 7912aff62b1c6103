"""From an experiment's data settings to loaders of patches and to whole cases."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, final

import lightning as L
import torch
from torch.utils.data import DataLoader

from distill3d.config.registry import DATA, LOSSES, STRATEGIES
from distill3d.config.schema import Experiment
from distill3d.data.augment import Augment
from distill3d.data.base import SPLITS, DataSource, Split
from distill3d.data.centerline import add_skeletons
from distill3d.data.kept_split import require_kept
from distill3d.data.patches import Patch, StepSampler, TrainPatches, ValPatches, collate, val_indices
from distill3d.data.prepared import PreparedCase, prepare
from distill3d.data.workers import PREFETCH, begin_worker, workers_that_fit
from distill3d.errors import ConfigError, InputError
from distill3d.storage.rank import is_main_process
from distill3d.storage.run_folder import RunFolder
from distill3d.terminal import progress_bar, stderr

_LOG = logging.getLogger(__name__)
T = TypeVar("T")


@final
class DistillDataModule(L.LightningDataModule):
    """Patches for training and validation, whole cases for test.

    Cases are prepared when first needed, one copy for all processes and runs. Use with
    ``Trainer(use_distributed_sampler=False)``: the samplers know ranks, and an epoch is one validation interval.

    Args:
        experiment: its data, patches, trainer, seed and cache are used, and the skeletons that its losses and its
            strategy want.
        run: whose data they are; None for data of no run, or of one that is new.

    Raises:
        ConfigError: unknown data source or loss.
    """

    def __init__(self, experiment: Experiment, *, run: RunFolder | None = None) -> None:
        super().__init__()
        self.experiment = experiment
        self._run = run
        self.source: DataSource = DATA.build(experiment.data, cache=Path(experiment.cache))
        chosen = [(LOSSES, loss) for loss in experiment.losses.values()] + [(STRATEGIES, experiment.strategy)]
        wanted = [registry[part.name].cls.wants(part.config) for registry, part in chosen]
        self.skeletons = tuple(dict.fromkeys(target for targets in wanted for target in targets))
        self._prepared: dict[str, PreparedCase] = {}

    @functools.cached_property
    def splits(self) -> dict[Split, tuple[str, ...]]:
        """Case names per split.

        Raises:
            ConfigError: the settings name cases that are not there, or leave nothing to train on or to validate with.
            InputError: the run was trained with another split.
        """
        splits = self.source.splits()
        empty = [split for split in ("train", "val") if not splits[split]]
        if empty:
            raise ConfigError(f"data: no case in {' and '.join(empty)}; accepted: one or more in each")
        if self._run is not None:
            require_kept(self._run, splits)
        return splits

    def case_names(self, split: Split) -> tuple[str, ...]:
        """Names of the cases of a split; reads no volume."""
        return self.splits[split]

    def cases(self, split: Split) -> tuple[PreparedCase, ...]:
        """Prepared cases of a split, prepared now if they are not yet.

        Raises:
            InputError: a case cannot be used.
        """
        return tuple(self._case(name) for name in self.case_names(split))

    def first_case(self, split: Split) -> PreparedCase:
        """Return the first prepared case of a split; no other is read.

        Raises:
            InputError: it cannot be used.
        """
        return self._case(self.case_names(split)[0])

    def train_cases(self) -> tuple[PreparedCase, ...]:
        """Prepared cases of the training split, with the skeletons that losses and strategy want."""
        return tuple(self._train_case(name) for name in self.case_names("train"))

    def prepare_data(self) -> None:
        """Prepare every case of every split, with a progress bar on a terminal.

        Raises:
            InputError: cases that cannot be used, one line each.
        """
        problems: list[str] = []
        training = self.case_names("train")
        for name in _tracked([name for split in SPLITS for name in self.case_names(split)]):
            try:
                (self._train_case if name in training else self._case)(name)
            except InputError as error:
                problems += error.lines
        if problems:
            raise InputError(*problems)

    def train_dataloader(self) -> DataLoader[Patch]:
        """Return a loader of endless new patches; an epoch has the batches of ``validate_every`` steps, all whole."""
        config, trainer = self.experiment.patches, self.experiment.trainer
        rank, world = self._rank_and_world()
        patches = TrainPatches(self.train_cases(), config, seed=self.experiment.seed, augment=Augment(config.augment))
        sampler = StepSampler(trainer.validate_every * trainer.accumulate * config.batch_size, rank=rank, world=world)
        voxel_bytes = 9 + len(self.skeletons)  # image and target of 4 bytes, and masks
        batch_bytes = config.batch_size * math.prod(config.size_zyx) * voxel_bytes
        workers = workers_that_fit(config.workers, batch_bytes=batch_bytes, processes=trainer.devices)
        return LateLoader(
            patches,
            batch_size=config.batch_size,
            sampler=sampler,
            num_workers=workers,
            persistent_workers=workers > 0,
            prefetch_factor=PREFETCH if workers else None,
            worker_init_fn=begin_worker,
            pin_memory=self._pin_memory(),
            collate_fn=collate,
            generator=torch.Generator(),  # otherwise the loader draws from the global one, and a resumed run differs
        )

    def val_dataloader(self) -> DataLoader[Patch]:
        """Return a loader of the same patches in every run, dealt out to the processes."""
        rank, world = self._rank_and_world()
        patches = ValPatches(self.cases("val"), self.experiment.patches)
        return DataLoader(
            patches,
            batch_size=self.experiment.patches.batch_size,
            sampler=val_indices(len(patches), rank=rank, world=world),
            num_workers=0,  # a cut takes about a millisecond
            pin_memory=self._pin_memory(),
            collate_fn=collate,
            generator=torch.Generator(),
        )

    def _train_case(self, name: str) -> PreparedCase:
        return add_skeletons(self._case(name), self.skeletons)

    def _case(self, name: str) -> PreparedCase:
        if name not in self._prepared:
            case = prepare(self.source, name, self.experiment.patches)
            size = self.experiment.patches.size_zyx
            if is_main_process() and any(n > full for n, full in zip(size, case.shape, strict=True)):
                _LOG.warning("%s: volume %s is smaller than a patch %s and is padded", name, case.shape, tuple(size))
            self._prepared[name] = case
        return self._prepared[name]

    def _rank_and_world(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _pin_memory(self) -> bool:
        return torch.cuda.is_available() and self.experiment.trainer.accelerator != "cpu"


@final
class LateLoader(DataLoader[T]):
    """Asks its sampler for indices when the first batch is wanted, not when iteration is set up.

    Lightning calls ``iter`` before ``set_epoch``. A loader with workers asks for indices at once, so a resumed run
    would see the patches of epoch 0 again.
    """

    def __iter__(self) -> Iterator[Any]:  # pyright: ignore[reportIncompatibleMethodOverride] - a generator, on purpose
        yield from super().__iter__()


def _tracked(names: Sequence[str]) -> Iterator[str]:
    """Yield the names under a progress bar; silent on other ranks and where there is no terminal."""
    with progress_bar(stderr(quiet=not is_main_process())) as bar:
        task = bar.add_task("preparing data", total=len(names), info="")
        for name in names:
            bar.update(task, description=f"preparing {name}")
            yield name
            bar.advance(task)
