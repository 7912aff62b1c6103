"""Prepared cases in, patches out: every patch is a function of (seed, index) and of nothing else.

So two processes see what one would, and a resumed run sees what an uninterrupted one does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from distill3d.config.schema import PatchConfig
from distill3d.data.background import case_rng
from distill3d.data.prepared import PreparedCase
from distill3d.types import UNTURNED, Batch, Turn
from distill3d.volumes.intensity import rescale

JITTER = 0.25  # a gold voxel lies up to this share of the patch's size off its center, per axis
VAL_SEED = 0  # validation patches are the same ones whatever the run's seed
BLANK = -1  # index of a patch that counts for nothing, see `ValPatches`


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Patch:
    """A box cut out of a case.

    Attributes:
        image: [Z, Y, X] float32, in [0, 1] before augmentation; 0 outside the volume.
        target: [Z, Y, X] bool, gold.
        known: [Z, Y, X] bool, False outside the volume and where nobody labelled.
        spacing_um: ZYX.
        origin_zyx_vox: place in its volume of the first voxel of the box it was cut from; negative where padded.
        case: name of the case.
        turn: how it was flipped and turned in that box.
        skeletons: name -> [Z, Y, X] bool, the centerlines of the case.
    """

    image: NDArray[np.float32]
    target: NDArray[np.bool_]
    known: NDArray[np.bool_]
    spacing_um: tuple[float, float, float]
    origin_zyx_vox: tuple[int, int, int]
    case: str
    turn: Turn = UNTURNED
    skeletons: dict[str, NDArray[np.bool_]] = field(default_factory=dict)


Augmentation = Callable[[Patch, np.random.Generator], Patch]


def cut(case: PreparedCase, origin_zyx_vox: Sequence[int], size_zyx: Sequence[int]) -> Patch:
    """Cut a box; what lies outside the volume is 0, no gold and not known."""
    z, y, x = (int(o) for o in origin_zyx_vox)
    ends = zip((z, y, x), size_zyx, case.shape, strict=True)
    inside = [(min(max(o, 0), full), min(max(o + n, 0), full)) for o, n, full in ends]
    source = tuple(slice(low, high) for low, high in inside)
    place = tuple(slice(low - o, high - o) for (low, high), o in zip(inside, (z, y, x), strict=True))

    def label(whole: NDArray[np.bool_]) -> NDArray[np.bool_]:
        part = np.zeros(tuple(size_zyx), bool)
        part[place] = whole[source]
        return part

    image = np.zeros(tuple(size_zyx), np.float32)
    image[place] = rescale(case.raw[source], case.low, case.high)
    return Patch(
        image=image,
        target=label(case.mask),
        known=label(case.known),
        spacing_um=case.spacing_um,
        origin_zyx_vox=(z, y, x),
        case=case.name,
        skeletons={name: label(whole) for name, whole in case.skeletons.items()},
    )


def draw_origin(
    case: PreparedCase, size_zyx: Sequence[int], rng: np.random.Generator, *, foreground: bool
) -> tuple[int, int, int]:
    """Choose where a patch starts.

    Around a random gold voxel, up to `JITTER` off the center, if ``foreground`` and the case has gold; otherwise
    anywhere, or around a random known voxel where not all are known. The patch stays inside the volume; along an axis
    where it is larger, the volume is centered in it.
    """
    if foreground and len(case.foreground):
        center = np.array(np.unravel_index(case.foreground[rng.integers(len(case.foreground))], case.shape))
        reach = np.floor(np.array(size_zyx) * JITTER).astype(np.int64)
        center += rng.integers(-reach, reach + 1)
    elif case.labelled is not None:
        center = np.array(np.unravel_index(case.labelled[rng.integers(len(case.labelled))], case.shape))
    else:
        # From all possible places, not all centers: those would crowd at the border.
        room = np.maximum(np.array(case.shape) - np.array(size_zyx), 0)
        center = rng.integers(0, room + 1) + np.array(size_zyx) // 2
    z, y, x = (
        int(min(max(c - n // 2, 0), full - n)) if full >= n else -((n - full) // 2)
        for c, n, full in zip(center, size_zyx, case.shape, strict=True)
    )
    return z, y, x


@final
class TrainPatches(Dataset[Patch]):
    """Endless training patches; ``patches[index]`` depends on (seed, index) only.

    Args:
        cases: at least one.
        config: patch size and share of foreground.
        seed: of the run.
        augment: changes a patch with the random numbers it is given.
    """

    def __init__(
        self, cases: Sequence[PreparedCase], config: PatchConfig, *, seed: int, augment: Augmentation | None = None
    ) -> None:
        self.cases, self.config, self.seed, self.augment = tuple(cases), config, seed, augment

    def __getitem__(self, index: int) -> Patch:
        rng = np.random.default_rng([self.seed, index])
        case = self.cases[rng.integers(len(self.cases))]
        foreground = bool(rng.random() < self.config.foreground)
        patch = cut(case, draw_origin(case, self.config.size_zyx, rng, foreground=foreground), self.config.size_zyx)
        return patch if self.augment is None else self.augment(patch, rng)


@final
class ValPatches(Dataset[Patch]):
    """The same ``val_patches`` patches of every case in every run, around gold first, then anywhere.

    Index `BLANK` gives a patch without a known voxel, which fills up the shorter share of a process and counts for
    nothing.
    """

    def __init__(self, cases: Sequence[PreparedCase], config: PatchConfig) -> None:
        self.cases, self.config = tuple(cases), config

    def __len__(self) -> int:
        return len(self.cases) * self.config.val_patches

    def __getitem__(self, index: int) -> Patch:
        size = self.config.size_zyx
        if index == BLANK:
            case = self.cases[0]
            return cut(case, case.shape, size)
        case, number = self.cases[index // self.config.val_patches], index % self.config.val_patches
        rng = case_rng(VAL_SEED, f"{case.name} {number}")
        around_gold = number < round(self.config.foreground * self.config.val_patches)
        return cut(case, draw_origin(case, size, rng, foreground=around_gold), size)


@final
class StepSampler(Sampler[int]):
    """Indices of one epoch for one process.

    Epoch e of length L holds e*L to (e+1)*L-1 over all processes; rank r of n gets every n-th of them from r on.

    Args:
        per_epoch: indices per epoch and process.
        rank: of this process.
        world: number of processes.
    """

    def __init__(self, per_epoch: int, *, rank: int = 0, world: int = 1) -> None:
        self.per_epoch, self.rank, self.world, self.epoch = per_epoch, rank, world, 0

    def __len__(self) -> int:
        return self.per_epoch

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that comes next; Lightning calls it, after a resume too."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        first = self.epoch * self.per_epoch * self.world + self.rank
        return iter(range(first, first + self.per_epoch * self.world, self.world))


def val_indices(count: int, *, rank: int = 0, world: int = 1) -> list[int]:
    """Deal validation patches out to processes; shares are filled up with `BLANK`, so that all run as many steps.

    Example:
        >>> val_indices(5, rank=1, world=2)
        [1, 3, -1]
    """
    share = list(range(rank, count, world))
    return share + [BLANK] * (-(-count // world) - len(share))


def collate(patches: Sequence[Patch]) -> Batch:
    """Stack patches into a batch."""
    return Batch(
        image=_stack([p.image for p in patches]),
        target=_stack([p.target.astype(np.float32) for p in patches]),
        known=_stack([p.known for p in patches]),
        spacing_um=torch.tensor([p.spacing_um for p in patches], dtype=torch.float32),
        origin_zyx_vox=torch.tensor([p.origin_zyx_vox for p in patches], dtype=torch.int64),
        cases=tuple(p.case for p in patches),
        turns=tuple(p.turn for p in patches),
        skeletons={name: _stack([p.skeletons[name] for p in patches]) for name in patches[0].skeletons},
    )


def _stack(arrays: Sequence[NDArray[np.generic]]) -> Tensor:
    return torch.from_numpy(np.stack(arrays)[:, None])
