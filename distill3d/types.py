"""The tensors that flow between stages, and the axis legend. It holds no behaviour beyond moving them to a device.

Axis legend, slowest first, used in every docstring and shape comment:
``B`` batch, ``C`` channel, ``Z`` ``Y`` ``X`` space, ``N`` slices or nodes. Arrays are ZYX; only SWC files are XYZ.
Lengths carry their unit: ``_um`` physical, ``_vox`` voxels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Patches ready for the student.

    Attributes:
        image: [B, 1, Z, Y, X] float32, intensities scaled to about [0, 1].
        target: [B, 1, Z, Y, X] float32, 1 on the neuron, 0 elsewhere.
        known: [B, 1, Z, Y, X] bool, False where nobody labelled; losses and metrics ignore those voxels.
        spacing_um: [B, 3] float32, ZYX.
        origin_zyx_vox: [B, 3] int64, position of the patch's first voxel in its volume (negative where padded).
        cases: B names of the volumes the patches come from.
    """

    image: Tensor
    target: Tensor
    known: Tensor
    spacing_um: Tensor
    origin_zyx_vox: Tensor
    cases: tuple[str, ...]

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        """Return the batch with every tensor on ``device`` (Lightning calls this)."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """Return the batch in page-locked memory (the data loader calls this when there is a GPU)."""
        return self._map(Tensor.pin_memory)

    def _map(self, move: Callable[[Tensor], Tensor]) -> Self:
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: move(value) for name, value in tensors.items() if isinstance(value, Tensor)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a network says of a batch.

    Attributes:
        logits: [B, 1, Z, Y, X] before the sigmoid. Empty (shape [0]) for a network that has none.
        features: module path -> feature map [B, C, Z, Y, X], only the layers somebody asked for.
    """

    logits: Tensor
    features: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def nothing(cls) -> Self:
        """Stand in for the teacher of a strategy that never runs one."""
        return cls(logits=torch.empty(0))


@dataclass(frozen=True, slots=True)
class LossTerm:
    """One raw, unweighted scalar and the weight it enters the sum with."""

    value: Tensor
    weight: float = 1.0
