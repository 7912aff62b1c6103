"""Which windows of a stack hold nothing but background, so that no network needs to see them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self, final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

_CELL = 2  # voxels along an axis of which a mean is taken: one hot voxel is nothing
# How far above its background a cell may be a neuron. Noise of photons has a long tail, of 12 standard deviations where
# that is faint; in a stack whose noise is not, neurites are lost from 10 on and none is at 7.
_SIGMAS, _PLAIN = 6.0, 0.2  # and share of the range, for where noise hides what is bright nothing is known
_TAIL, _FAINT = 12.0, 0.03  # standard deviations, and share of the range of intensities; whichever is less
_GRAYS, _FAINTEST = 2.0, 0.01  # likewise of gray levels: where background is 0 it has no spread
_DARKEST = 16  # gray levels, whose distance is looked at
_PER_MAD = 1.4826  # standard deviation of a normal distribution


@final
@dataclass(frozen=True, slots=True)
class Background:
    """The background of a stack, as means of 2 x 2 x 2 voxels ("cells") show it.

    A window is background if its brightest cell is within 6 standard deviations of the noise, at most 20 % of the
    intensities' range (12, at most 3 %; two gray levels, at most 1 %), of both the stack's level and its own. Noise is
    what neighboring cells differ by, in the stack or in the window, whichever is less: so neither a dense stack, whose
    intensities are spread wide, nor a dim corner of a bright one is taken for noise.

    Attributes:
        level: median of the cells.
        noise: standard deviation of a cell.
        gray: distance of two gray levels.
    """

    level: float
    noise: float
    gray: float

    @classmethod
    def of(cls, sample: NDArray[np.float32]) -> Self:
        """Estimate it.

        Args:
            sample: [N, Z, Y, X] parts of the stack.
        """
        cells = _cells(sample)
        grays = np.unique(sample.ravel()[:: max(1, sample.size >> 20)])[:_DARKEST]
        gray = float(np.median(np.diff(grays))) if len(grays) > 1 else 0.0
        return cls(float(np.median(cells)), _noise(cells), gray)

    def covers(self, window: NDArray[np.float32]) -> bool:
        """Whether a window holds nothing else."""
        if float(window.max()) <= self._limit(min(self.level, float(window.min())), 0.0):
            return True  # no need to look closer
        cells = _cells(window[None])
        brightest = float(cells.max())
        if brightest > self._limit(self.level, self.noise):
            return False
        level, noise = min(self.level, float(np.median(cells))), min(self.noise, _noise(cells))
        return brightest <= self._limit(level, noise)

    def _limit(self, level: float, noise: float) -> float:
        margins = (min(_SIGMAS * noise, _PLAIN), min(_TAIL * noise, _FAINT), min(_GRAYS * self.gray, _FAINTEST))
        return level + max(margins)


def _cells(parts: NDArray[np.float32]) -> NDArray[np.float32]:
    size = [min(_CELL, length) for length in parts.shape[1:]]
    return F.avg_pool3d(torch.from_numpy(np.ascontiguousarray(parts))[:, None], size, ceil_mode=True)[:, 0].numpy()


def _noise(cells: NDArray[np.float32]) -> float:
    """Return the standard deviation of noise: what edges are, which are few, does not count."""
    steps = np.abs(np.diff(cells, axis=-1))
    return _PER_MAD / math.sqrt(2) * float(np.median(steps)) if steps.size else 0.0
