"""Volumes that stay on disk and are read by block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, final

import numpy as np

from distill3d.volumes.geometry import Spacing, Stated


class Blocks(Protocol):
    """A ZYX array of which parts can be read: one of NumPy, or one on disk."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along ZYX."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the voxels, as stored."""
        ...

    def __getitem__(self, key: tuple[slice, slice, slice], /) -> Any:  # noqa: ANN401 - zarr, h5py and NumPy type it differently
        """Read a part: an array of NumPy."""
        ...


@final
@dataclass(frozen=True, slots=True, eq=False)
class LazyVolume:
    """A 3D image that is read by block.

    Attributes:
        data: [Z, Y, X], as stored.
        spacing_um: voxel size ZYX in micrometers.
        stated: what its file states of its voxels.
    """

    data: Blocks
    spacing_um: Spacing = (1.0, 1.0, 1.0)
    stated: Stated = Stated()  # noqa: RUF009 - immutable

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along ZYX."""
        z, y, x = self.data.shape
        return z, y, x
