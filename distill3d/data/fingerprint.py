"""What a folder of stacks and golds is like, as far as it decides how to train on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, final

import numpy as np

from distill3d.volumes.geometry import Spacing

Units = Literal["voxel", "um"]
Shape = tuple[int, int, int]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RadiusFit:
    """How well a tree, drawn with some radius, covers what is bright around it.

    Attributes:
        voxels: the radius in the plane's voxels; None: those of the file.
        dice: of the mask that is drawn and the voxels around the tree above Otsu's threshold, in [0, 1].
        share: of the volume that is drawn, in [0, 1].
    """

    voxels: float | None
    dice: float
    share: float


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TreePrint:
    """A gold tree against its image.

    Attributes:
        units: what its file counts in, by where its nodes lie and how bright the image is there.
        inside: share of its nodes that lie in the volume, in these units.
        flip: whether y runs against the image's: ``fine``, ``flipped`` or ``unclear``.
        radii: smallest, median and largest of the file, in the plane's voxels.
        unusable: share of nodes whose radius is not above 0.
        covered: share of the voxels above Otsu's threshold that lie near it; 1 for a case with a mask.
        fits: radii it was drawn with; none for a case with a mask, which wins.
    """

    units: Units
    inside: float
    flip: str
    radii: tuple[float, float, float]
    unusable: float
    covered: float = 1.0
    fits: tuple[RadiusFit, ...] = ()


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CasePrint:
    """What was measured on one case; see `distill3d.data.check.CaseFacts` for what is not said here.

    Attributes:
        suffix: of the image's file.
        states_spacing: its file or the user states the voxel size; False: 1 um is assumed.
        mask_share: gold's share of the known voxels; None where gold is a tree alone.
        held_out: kept for test by the folder's layout.
        notes: where its files contradict each other, and what reading them mended.
    """

    name: str
    suffix: str = ".tif"
    shape_zyx: Shape
    dtype: str = "uint8"
    low: float = 0.0
    high: float = 255.0
    spacing_um: Spacing = (1.0, 1.0, 1.0)
    states_spacing: bool = True
    known_share: float = 1.0
    mask_share: float | None = None
    tree: TreePrint | None = None
    image_hash: str
    gold_hash: str | None = None
    held_out: bool = False
    notes: tuple[str, ...] = ()

    @property
    def pixel_um(self) -> float:
        """Edge of a voxel in the plane."""
        return float(np.sqrt(self.spacing_um[1] * self.spacing_um[2]))


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What trains: its memory in bytes (of the GPU, if there is one), and whether that is a GPU."""

    memory: float
    gpu: bool = False


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """All that decides how to train on a folder's stacks.

    Attributes:
        folder: absolute.
        layout: as in `NeuronsConfig`, likewise `nested` and `tree`.
        spacing_um: that the user gave for all; None: the files'.
        contrasts: of each channel, how far gold stands out in the first case: (mean - median) / standard deviation.
        cases: that can be read, by name.
        left_out: name and reason of cases that cannot be used.
        unlabelled: names of stacks without gold.
        folds: number of folds that a splits_final.json deals out; None without one.
        machine: that will train.
    """

    folder: str
    layout: Literal["beside", "nnunet"] = "beside"
    nested: bool = False
    tree: str = "{stem}.swc"
    spacing_um: Spacing | None = None
    contrasts: tuple[float, ...] = (0.0,)
    cases: tuple[CasePrint, ...]
    left_out: tuple[tuple[str, str], ...] = ()
    unlabelled: tuple[str, ...] = ()
    folds: int | None = None
    machine: Machine


def best(contrasts: tuple[float, ...]) -> int:
    """Return the channel in which gold stands out most, the first of equal ones."""
    return contrasts.index(max(contrasts))


def in_channel(layout: str, channel: int) -> dict[str, Any]:
    """Return the settings of `neurons` that read a channel."""
    if not channel:
        return {}
    return {"volume": f"{{stem}}_{channel:04d}"} if layout == "nnunet" else {"channel": channel}
