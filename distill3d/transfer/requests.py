"""What a strategy asks of the teacher in a step, and how the teacher is to look at the volume."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from distill3d.types import AXES, Axis


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewConfig:
    """How the 2D teacher looks at a 3D patch: slice by slice along one or several axes.

    ``source`` says what it sees. "patch": the slices of the patch just as the student gets it, after every
    augmentation. "volume": whole slices of the volume as it is, of which the map of the patch is cut out and turned
    with it; this can be cached on disk, so that training runs no teacher at all. What changes intensities is then not
    in the teacher's view: `augment_after` has to say that this is meant.
    """

    axes: tuple[Axis, ...] = ("z",)  # that slices are cut across: "z" gives YX slices
    slices: int | None = None  # per axis and step, drawn with `seed`; null: all
    source: Literal["patch", "volume"] = "patch"
    cache: bool = True  # source=volume only: keep the maps of whole volumes on disk; false computes them in every step
    augment_after: bool = False  # source=volume only: accept that intensity augmentations follow the teacher's view
    square: bool = False  # resize slices first so that their pixels are square, by the volume's spacing
    scale: float = 1.0  # resize slices by this before the teacher sees them, above 0
    seed: int = 0  # of the slices that are drawn

    def __post_init__(self) -> None:
        if not self.axes or len(set(self.axes)) != len(self.axes):
            raise ValueError(f"axes={list(self.axes)}: accepted: one or more of {', '.join(AXES)}, each once")
        if self.slices is not None and self.slices < 1:
            raise ValueError(f"slices={self.slices} is too small; accepted: 1 or more, or null for all")
        if not 0 < self.scale <= 16:
            raise ValueError(f"scale={self.scale} is out of range; accepted: above 0, up to 16")
        if self.seed < 0:
            raise ValueError(f"seed={self.seed} is too small; accepted: 0 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherRequest:
    """One map of the teacher.

    Attributes:
        layer: path in the teacher, or `distill3d.teachers.base.LOGITS`.
        axis: that the slices are cut across.
        grid_of: the student's layer whose grid the map is brought to; empty: the voxels of the patch.
        view: how the teacher looks.
    """

    layer: str
    axis: Axis
    grid_of: str
    view: ViewConfig

    @property
    def key(self) -> str:
        """Name in ``Prediction.features``."""
        return f"{self.layer} across {self.axis}{f' on {self.grid_of}' if self.grid_of else ''}"
