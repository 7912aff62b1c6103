"""Write and read probability volumes, 8 bits a voxel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distill3d.volumes.volume import Volume, read_volume, write_volume

FULL = 255  # a probability of 1 on disk


def write_prob(path: Path, prob: NDArray[np.floating], spacing_um: tuple[float, float, float]) -> None:
    """Write a probability volume as uint8 TIFF, 255 for 1; any viewer opens it."""
    write_volume(path, Volume(np.round(prob * FULL).astype(np.uint8), spacing_um))


def read_prob(path: Path) -> NDArray[np.float32]:
    """Read what `write_prob` wrote, as probability in [0, 1]."""
    return read_volume(path, allow_blank=True).data.astype(np.float32) / np.float32(FULL)
