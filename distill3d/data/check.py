"""Check an experiment's data before anything is trained on it; nothing is mended.

A *problem* makes results wrong (the verb exits with 1); a *note* is worth knowing and does no harm.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import final

import numpy as np

from distill3d.config.schema import Experiment
from distill3d.data.base import SPLITS, Case, Split
from distill3d.data.datamodule import DistillDataModule
from distill3d.errors import InputError
from distill3d.volumes.alignment import FlipReport, detect_flip
from distill3d.volumes.reading import in_words
from distill3d.volumes.swc import Tree
from distill3d.volumes.tree import TreeReport, validate
from distill3d.volumes.volume import Volume

USUAL_UM = (1e-3, 1e3)  # a voxel's edge; 1 nm to 1 mm
NAMED = 3  # cases of a kind that a remark names
MANY_OUTSIDE = 0.05  # share of a tree's nodes outside its volume; more are a problem, fewer a note


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CaseFacts:
    """What was measured on one case.

    Attributes:
        shape_zyx: voxels.
        dtype: of the intensities as read.
        spacing_um: ZYX.
        low: smallest intensity.
        high: largest intensity.
        mean: mean intensity.
        gold_voxels: number of gold voxels.
        gold_share: of the known voxels, in [0, 1].
        known_share: of all voxels, in [0, 1].
        tree: counts, None for a case with a mask only.
        flip: brightness at the nodes; None likewise, and where no node lies in the volume.
        image_hash: equal for equal intensities.
        gold_hash: equal for equal masks; None for an empty one.
    """

    shape_zyx: tuple[int, int, int]
    dtype: str
    spacing_um: tuple[float, float, float]
    low: float
    high: float
    mean: float
    gold_voxels: int
    gold_share: float
    known_share: float
    tree: TreeReport | None
    flip: FlipReport | None
    image_hash: str
    gold_hash: str | None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CaseReport:
    """One case: its facts (None where it could not be read), what is wrong and what is worth knowing."""

    name: str
    split: Split
    facts: CaseFacts | None
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@final
@dataclass(frozen=True, slots=True)
class DataReport:
    """All cases of an experiment, what is wrong between them, and remarks that are of no case."""

    cases: tuple[CaseReport, ...]
    duplicates: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def problems(self) -> tuple[str, ...]:
        """Every problem in words, one line each; empty if the data can be used."""
        return (*(f"{case.name}: {text}" for case in self.cases for text in case.problems), *self.duplicates)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is worth knowing, one line each."""
        return (*(f"{case.name}: {text}" for case in self.cases for text in case.notes), *self.remarks)


def check_data(experiment: Experiment, remarks: tuple[str, ...] = ()) -> DataReport:
    """Read every case of every split and look for what would spoil an experiment.

    Args:
        experiment: whose data are read.
        remarks: notes on what else depends on its patches.

    Raises:
        ConfigError: the splits cannot be made; one line per reason.
        InputError: the data's folder cannot be used.
    """
    data, size = DistillDataModule(experiment), experiment.patches.size_zyx
    cases = tuple(_check_case(data, name, split, size) for split in SPLITS for name in data.case_names(split))
    return DataReport(cases, tuple(_duplicates(cases)), (*_mixed_spacings(cases), *remarks))


def _check_case(data: DistillDataModule, name: str, split: Split, patch_size: tuple[int, int, int]) -> CaseReport:
    try:
        case = data.source.load(name)
        facts = case_facts(case)
    except InputError as error:
        return CaseReport(name=name, split=split, facts=None, problems=error.lines)
    mended = (*case.remarks, *(f"the tree: {remark}" for remark in (case.tree.remarks if case.tree else ())))
    problems, notes = [*case.doubts, *_problems(facts)], [*mended, *_notes(facts, patch_size)]
    return CaseReport(name=name, split=split, facts=facts, problems=tuple(problems), notes=tuple(notes))


def case_facts(case: Case) -> CaseFacts:
    """Measure a case."""
    data, gold, known = case.volume.data, int(np.count_nonzero(case.mask)), int(np.count_nonzero(case.known))
    z, y, x = data.shape
    return CaseFacts(
        shape_zyx=(z, y, x),
        dtype=str(data.dtype),
        spacing_um=case.volume.spacing_um,
        low=float(data.min()),
        high=float(data.max()),
        mean=float(data.mean(dtype=np.float64)),
        gold_voxels=gold,
        gold_share=gold / max(known, 1),
        known_share=known / data.size,
        tree=None if case.tree is None else validate(case.tree),
        flip=None if case.tree is None else orientation(case.volume, case.tree),
        image_hash=array_hash(data),
        gold_hash=array_hash(case.mask) if gold else None,
    )


def orientation(volume: Volume, tree: Tree) -> FlipReport | None:
    """Compare brightness with y mirrored; None where no node lies inside (a neurite may still pass through)."""
    try:
        return detect_flip(volume, tree)
    except InputError:
        return None


def array_hash(array: np.ndarray) -> str:
    """Return a hash of an array's shape and values."""
    content = hashlib.sha256(f"{array.shape}".encode())
    content.update(np.ascontiguousarray(array).data)
    return content.hexdigest()


def _problems(facts: CaseFacts) -> Iterator[str]:
    if facts.low == facts.high:
        yield f"every voxel is {facts.low:g}"
    if not facts.gold_voxels:
        yield "the mask is empty: no gold voxel"
    if facts.tree is None:
        return
    if _outside(facts) > MANY_OUTSIDE * facts.tree.n_nodes:
        yield f"{_outside(facts)} of {facts.tree.n_nodes} nodes lie outside the volume; are spacing and units right?"
    if facts.flip is not None and facts.flip.verdict == "flipped":
        yield (
            f"the tree's y axis runs against the image's: mean {facts.flip.mean_as_is:.1f} at its nodes, "
            f"{facts.flip.mean_flipped:.1f} with y mirrored; data.flip_y=auto mends it"
        )


def _notes(facts: CaseFacts, patch_size: tuple[int, int, int]) -> Iterator[str]:
    if any(n > full for n, full in zip(patch_size, facts.shape_zyx, strict=True)):
        yield f"patches {extent(patch_size)} are larger than the volume {extent(facts.shape_zyx)}: they are padded"
    if not (min(facts.spacing_um) >= USUAL_UM[0] and max(facts.spacing_um) <= USUAL_UM[1]):
        sizes = " ".join(f"{size:g}" for size in facts.spacing_um)
        yield f"voxels of zyx {sizes} um; a size outside 1 nm to 1 mm is rarely right: is the unit?"
    if facts.known_share < 1:
        yield f"{1 - facts.known_share:.1%} of the voxels are not labelled; losses and scores of masks leave them out"
    if facts.tree is None:
        return
    if 0 < _outside(facts) <= MANY_OUTSIDE * facts.tree.n_nodes:
        yield f"{_outside(facts)} of {facts.tree.n_nodes} nodes lie outside the volume"
    if facts.tree.n_orphans:
        yield f"{facts.tree.n_orphans} nodes name a parent that is not in the file; they count as roots"
    if facts.flip is not None and facts.flip.verdict == "unclear":
        yield "the image does not tell whether the tree's y axis is right: it is as bright with y mirrored"


def _outside(facts: CaseFacts) -> int:
    if facts.tree is None:
        return 0
    return facts.tree.n_nodes - (0 if facts.flip is None else facts.flip.n_inside)


def _duplicates(cases: tuple[CaseReport, ...]) -> Iterator[str]:
    for a, b in combinations(cases, 2):
        if a.facts is None or b.facts is None or a.split == b.split:
            continue
        if a.facts.image_hash == b.facts.image_hash:
            yield f"{a.name} ({a.split}) and {b.name} ({b.split}) are the same image"
        elif a.facts.gold_hash is not None and a.facts.gold_hash == b.facts.gold_hash:
            yield f"{a.name} ({a.split}) and {b.name} ({b.split}) have the same gold"


def _mixed_spacings(cases: tuple[CaseReport, ...]) -> Iterator[str]:
    """Say which voxel sizes the training cases have, if there are several."""
    named: dict[str, list[str]] = {}
    for case in cases:
        if case.split == "train" and case.facts is not None:
            named.setdefault(in_words(case.facts.spacing_um), []).append(case.name)
    if len(named) > 1:
        sizes = (
            f"{size} um ({', '.join(names[:NAMED])}{', ...' * (len(names) > NAMED)})" for size, names in named.items()
        )
        yield f"training cases have voxels of {len(named)} sizes: {'; '.join(sizes)}"


def extent(sizes: tuple[int, ...]) -> str:
    """Write sizes joined by x.

    Example:
        >>> extent((24, 64, 64))
        '24x64x64'
    """
    return "x".join(str(n) for n in sizes)
