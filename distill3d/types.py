"""The tensors that flow between stages, and the axis legend. It holds no behaviour beyond moving them to a device.

Axis legend, slowest first, used in every docstring and shape comment:
``B`` batch, ``C`` channel, ``Z`` ``Y`` ``X`` space, ``N`` slices or nodes. Arrays are ZYX; only SWC files are XYZ.
Lengths carry their unit: ``_um`` physical, ``_vox`` voxels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Literal, NamedTuple, Self

import torch
from torch import Tensor

Axis = Literal["z", "y", "x"]
AXES: tuple[Axis, ...] = ("z", "y", "x")


class Turn(NamedTuple):
    """Flips and quarter turns of a patch: first its axes are permuted, then some are reversed.

    Attributes:
        source_axes: the axis of the box (0 z, 1 y, 2 x) that each axis of the patch runs along.
        flipped: whether it runs against it, for each axis of the patch.
    """

    source_axes: tuple[int, int, int] = (0, 1, 2)
    flipped: tuple[bool, bool, bool] = (False, False, False)

    def apply(self, maps: Tensor) -> Tensor:
        """Turn [..., Z, Y, X] from the box's axes to the patch's.

        Example:
            >>> Turn((0, 2, 1), (False, False, True)).apply(torch.tensor([[[1, 2], [3, 4]]])).tolist()
            [[[3, 1], [4, 2]]]
        """
        lead = maps.ndim - 3
        turned = maps.permute(*range(lead), *(lead + axis for axis in self.source_axes))
        return turned.flip([lead + axis for axis, flip in enumerate(self.flipped) if flip])


UNTURNED = Turn()
SKELETON = "skeleton"  # the auxiliary logits of a student's skeleton head
SkeletonSource = Literal["mask", "tree"]
MAX_DILATION_VOX = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class SkeletonTarget:
    """A centerline as further gold; `distill3d.data.centerline` makes it, `Batch.skeletons` carries it.

    Attributes:
        source: ``mask`` thins the gold mask, ``tree`` draws the gold tree one voxel wide.
        dilation_vox: 0 to 2; how often the line is then grown by its six face neighbors, never beyond the gold mask.

    Example:
        >>> SkeletonTarget(source="mask", dilation_vox=2).name
        'mask_2'
    """

    source: SkeletonSource
    dilation_vox: int

    def __post_init__(self) -> None:
        """Refuse a dilation that is out of range."""
        if not 0 <= self.dilation_vox <= MAX_DILATION_VOX:
            raise ValueError(f"dilation_vox={self.dilation_vox} is out of range; accepted: 0 to {MAX_DILATION_VOX}")

    @property
    def name(self) -> str:
        """Its key in `Batch.skeletons`."""
        return f"{self.source}_{self.dilation_vox}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Patches ready for the student.

    Attributes:
        image: [B, 1, Z, Y, X] float32, intensities scaled to about [0, 1].
        target: [B, 1, Z, Y, X] float32, 1 on the neuron, 0 elsewhere.
        known: [B, 1, Z, Y, X] bool, False where nobody labelled; losses and metrics ignore those voxels.
        spacing_um: [B, 3] float32, ZYX.
        origin_zyx_vox: [B, 3] int64, position in its volume of the box the patch was cut from (negative where padded).
        cases: B names of the volumes the patches come from.
        turns: B turns, how each patch lies in that box; empty where none was turned.
        skeletons: name -> [B, 1, Z, Y, X] bool, the centerlines that losses asked for (`SkeletonTarget`).
    """

    image: Tensor
    target: Tensor
    known: Tensor
    spacing_um: Tensor
    origin_zyx_vox: Tensor
    cases: tuple[str, ...]
    turns: tuple[Turn, ...] = ()
    skeletons: dict[str, Tensor] = field(default_factory=dict)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        """Return the batch with every tensor on ``device`` (Lightning calls this)."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """Return the batch in page-locked memory (the data loader calls this when there is a GPU)."""
        return self._map(Tensor.pin_memory)

    def _map(self, move: Callable[[Tensor], Tensor]) -> Self:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        tensors = {name: move(value) for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, **tensors, skeletons={name: move(value) for name, value in self.skeletons.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a network says of a batch.

    Attributes:
        logits: [B, 1, Z, Y, X] before the sigmoid. Empty (shape [0]) for a network that has none.
        features: feature maps [B, C, Z, Y, X] that somebody asked for: a student's by module path, a teacher's by
            `distill3d.transfer.requests.TeacherRequest.key`, on the grid that the request names.
        slices_vox: for a teacher that saw only some slices of the patch: the request's key -> their places [K].
        auxiliary: name -> logits [B, 1, Z, Y, X] of further heads, which exist to be trained; empty in evaluation mode.
    """

    logits: Tensor
    features: dict[str, Tensor] = field(default_factory=dict)
    slices_vox: dict[str, Tensor] = field(default_factory=dict)
    auxiliary: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def nothing(cls) -> Self:
        """Stand in for the teacher of a strategy that never runs one."""
        return cls(logits=torch.empty(0))


@dataclass(frozen=True, slots=True)
class LossTerm:
    """One raw, unweighted scalar and the weight it enters the sum with."""

    value: Tensor
    weight: float = 1.0
