"""Find and read the gold of a stack, tree and mask, on its voxels, and say which files state other voxels."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal, final, overload

import numpy as np
from numpy.typing import NDArray

from distill3d.data.case_files import CaseFiles, GoldNames, case_files_of
from distill3d.errors import InputError
from distill3d.volumes.alignment import detect_flip, flip_y
from distill3d.volumes.geometry import Stated
from distill3d.volumes.lazy import Blocks, LazyVolume
from distill3d.volumes.meaning import neuron_mask
from distill3d.volumes.parts import computed, parts_of
from distill3d.volumes.placement import brought_to, contradict
from distill3d.volumes.stack_files import entries, split_inside, stem_of
from distill3d.volumes.swc import MICROMETERS, read_swc, stated_spacing
from distill3d.volumes.tree import Tree
from distill3d.volumes.volume import Volume, open_volume, read_volume

_LOG = logging.getLogger(__name__)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Gold:
    """What is known of an image: `Case.mask`, `Case.known`, what the mask's file states, and what reading it mended."""

    mask: NDArray[np.bool_]
    known: NDArray[np.bool_]
    stated: Stated = Stated()  # noqa: RUF009 - immutable
    remarks: tuple[str, ...] = ()


@final
@dataclass(frozen=True, slots=True, eq=False)
class LargeGold:
    """What is known of an image that stays on disk, bool [Z, Y, X] read by part; see `Gold`."""

    mask: Blocks
    known: Blocks


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class GoldRules:
    """How the gold of a data set is named and what its files hold; attributes as in `NeuronsConfig`."""

    tree: str = "{stem}.swc"
    masks: tuple[str, ...] = ("{stem}_mask", "{stem}_label")
    tree_units: Literal["voxel", "um"] = "voxel"
    flip_y: Literal["never", "always", "auto"] = "never"
    labels: tuple[int, ...] = ()
    unknown_label: int | None = None

    def beside(self, stack: Path) -> CaseFiles:
        """Return a stack with the gold tree and mask that lie beside it."""
        folder = split_inside(stack)[0].parent
        files = {path.name: path for path in entries(folder)} if folder.is_dir() else {}
        return case_files_of(stem_of(stack), stack, GoldNames(files), self.tree, self.masks)

    def read_tree(self, path: Path, volume: Volume | LazyVolume) -> Tree:
        """Read the gold tree of a volume, mirrored in y where the rules say so.

        Raises:
            InputError: the file cannot be used, or no node lies in the volume.
        """
        units = volume.spacing_um if self.tree_units == "voxel" else MICROMETERS
        gold = read_swc(path, spacing_um=stated_spacing(path) or units)
        if self.flip_y == "always":
            return flip_y(gold, volume)
        try:
            report = detect_flip(volume, gold)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        if report.verdict != "flipped":
            return gold
        if self.flip_y == "auto":
            _LOG.info("%s: tree mirrored in y (%s)", path, report)
            return flip_y(gold, volume)
        _LOG.warning("%s: y of the tree seems to run against the image (%s); data.flip_y=auto mends it", path, report)
        return gold

    def read_mask(self, path: Path, volume: Volume, *, image: Path) -> Gold:
        """Read the gold mask of a volume as `read_gold` does."""
        return read_gold(path, volume, image=image, labels=self.labels, unknown_label=self.unknown_label)

    def open_mask(self, path: Path, volume: LazyVolume, *, image: Path) -> LargeGold:
        """Open the gold mask of a volume that stays on disk; it is that of `read_mask`."""
        stored = open_volume(path, spacing_um=volume.spacing_um, allow_blank=True)
        values = _on_voxels_of(volume, stored, names=(str(image), str(path))).data
        known: Blocks = np.broadcast_to(np.True_, volume.shape)
        if self.unknown_label is not None:
            known = computed(lambda part: part != self.unknown_label, values)
        _require_known(path, known, self.unknown_label)
        return LargeGold(computed(np.logical_and, _neuron(path, values, self.labels), known), known)


def read_gold(path: Path, volume: Volume, *, image: Path, labels: Sequence[int], unknown_label: int | None) -> Gold:
    """Read a mask, turned to its image where both headers say how they lie in space.

    Args:
        path: file of the mask.
        volume: its image.
        image: file of that.
        labels: values that are neuron; none stands for all but 0 and the unknown one, or a probability of one half, see
            `neuron_mask`.
        unknown_label: value of voxels that nobody labelled.

    Raises:
        InputError: the mask cannot be read or its values be no gold, it lies elsewhere, has another shape, or no known
            voxel.
    """
    stored = read_volume(path, spacing_um=volume.spacing_um, allow_blank=True)
    brought = _on_voxels_of(volume, stored, names=(str(image), str(path)))
    known = np.ones(volume.shape, bool) if unknown_label is None else brought.data != unknown_label
    _require_known(path, known, unknown_label)
    mask = np.asarray(_neuron(path, brought.data, labels))
    turned = ("the mask is stored with other axes than the image: turned as both headers say",)
    return Gold(mask & known, known, brought.stated, () if brought is stored else turned)


@overload
def _on_voxels_of(volume: Volume, stored: Volume, *, names: tuple[str, str]) -> Volume: ...
@overload
def _on_voxels_of(volume: LazyVolume, stored: LazyVolume, *, names: tuple[str, str]) -> LazyVolume: ...
def _on_voxels_of(
    volume: Volume | LazyVolume, stored: Volume | LazyVolume, *, names: tuple[str, str]
) -> Volume | LazyVolume:
    brought = brought_to(volume, stored, names=names)
    if brought.shape != volume.shape:
        raise InputError(
            f"{names[1]}: mask of shape {brought.shape} for a volume of shape {volume.shape}; accepted: the same"
        )
    return brought


def _require_known(path: Path, known: Blocks, unknown_label: int | None) -> None:
    if unknown_label is not None and not any(part.any() for part in parts_of(known)):
        raise InputError(
            f"{path}: every voxel is {unknown_label}, the unknown label; accepted: a mask with known voxels"
        )


def _neuron(path: Path, values: Blocks, labels: Sequence[int]) -> Blocks:
    """Mark labels, or what `evaluate` takes for neuron too."""
    if labels:
        return computed(functools.partial(np.isin, test_elements=labels), values)
    return neuron_mask(path, values, gold=True)


def spacing_doubts(stated: Mapping[str, Stated]) -> tuple[str, ...]:
    """Say which files of a case state voxels of different sizes.

    Args:
        stated: what each states, by its name in a sentence.

    >>> spacing_doubts({"the image": Stated((2.0, 1.0, 1.0)), "the mask": Stated((1.0, 1.0, 1.0))})
    ('the mask states voxels of zyx 1 1 1 um, the image of 2 1 1 um; data.spacing_um=[z,y,x] decides',)
    """
    return tuple(
        f"{b} states voxels of zyx {_in_words(stated[b])} um, {a} of {_in_words(stated[a])} um; "
        "data.spacing_um=[z,y,x] decides"
        for a, b in combinations(stated, 2)
        if contradict(stated[a], stated[b])
    )


def _in_words(stated: Stated) -> str:
    return " ".join(f"{size:g}" for size in stated.spacing_um or ())
