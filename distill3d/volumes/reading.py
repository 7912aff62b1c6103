"""How the stacks of a data set are read, so that others can be read alike."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from distill3d.volumes.geometry import Spacing
from distill3d.volumes.lazy import LazyVolume
from distill3d.volumes.volume import Volume, open_volume, read_or_open, read_volume

_LOG = logging.getLogger(__name__)
MOST_APART = 0.25  # of a voxel's size along an axis
_ROUNDING = 1e-4  # of sizes that a header states


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What is the same for every stack of a data set.

    Attributes:
        channel: of files that have several.
        spacing_um: ZYX voxel size that wins over the files'; None takes theirs.
        percentiles: of a stack's intensities that become 0 and 1; None where nothing says them.
        trained_um: voxel sizes that a network was trained on; none where nothing says them.
    """

    channel: int = 0
    spacing_um: Spacing | None = None
    percentiles: tuple[float, float] | None = None
    trained_um: tuple[Spacing, ...] = ()

    def read(self, path: str | os.PathLike[str], *, spacing_um: Sequence[float] | None = None) -> Volume:
        """Read a stack by these rules; a warning is logged where its voxels are of another size than those trained on.

        Args:
            path: its file.
            spacing_um: ZYX voxel size; wins over the rules and the file's.

        Raises:
            InputError: as for `read_volume`.
        """
        wins = spacing_um or self.spacing_um
        volume = read_volume(path, spacing_um=wins, channel=self.channel)
        self._warn(path, volume, chosen=spacing_um is not None)
        return volume

    def read_or_open(
        self, path: str | os.PathLike[str], *, spacing_um: Sequence[float] | None = None
    ) -> Volume | LazyVolume:
        """Read a mask or probability by these rules, or open it where it is large and can be read by part.

        Raises:
            InputError: as for `read_volume`, or `open_volume`.
        """
        wins = spacing_um or self.spacing_um
        volume = read_or_open(path, spacing_um=wins, channel=self.channel)
        self._warn(path, volume, chosen=spacing_um is not None)
        return volume

    def open(self, path: str | os.PathLike[str], *, spacing_um: Sequence[float] | None = None) -> LazyVolume:
        """Open a stack by these rules, to read it by block; see `read`.

        Raises:
            InputError: as for `open_volume`.
        """
        volume = open_volume(path, spacing_um=spacing_um or self.spacing_um, channel=self.channel)
        self._warn(path, volume, chosen=spacing_um is not None)
        return volume

    def _warn(self, path: str | os.PathLike[str], volume: Volume | LazyVolume, *, chosen: bool) -> None:
        """Log that voxels are of another size than those trained on."""
        own = volume.spacing_um if chosen else volume.stated.spacing_um or volume.spacing_um
        usual = self.trained_um or ((self.spacing_um,) if self.spacing_um else ())
        if usual and not any(_near(own, each) for each in usual):
            taken = (
                "" if own == volume.spacing_um else f", which is taken as data.spacing_um of the run says (else {_HOW})"
            )
            nearest = min(usual, key=lambda each: _apart(own, each))
            _LOG.warning(
                "%s: voxels of %s um, but the run was trained on %s um%s", path, in_words(own), in_words(nearest), taken
            )


_HOW = "--spacing z,y,x"


def in_words(spacing_um: Spacing) -> str:
    """Write a voxel size with four digits.

    >>> in_words((3.03, 1.0, 0.5))
    '3.03x1x0.5'
    """
    return "x".join(f"{size:.4g}" for size in spacing_um)


def range_in_words(spacings_um: Sequence[Spacing]) -> str:
    """Write voxel sizes as a range on each axis; empty for none.

    >>> range_in_words([(5.0, 1.0, 1.0), (1.25, 1.0, 1.0)])
    '1.25-5x1x1'
    """
    ends = ((min(sizes), max(sizes)) for sizes in zip(*spacings_um, strict=True))
    return "x".join(f"{low:.4g}" if low == high else f"{low:.4g}-{high:.4g}" for low, high in ends)


def _near(one: Spacing, other: Spacing) -> bool:
    return _apart(one, other) <= MOST_APART + _ROUNDING


def _apart(one: Spacing, other: Spacing) -> float:
    """Return by how much of the other's size voxels differ, on the axis where that is most."""
    return max(abs(a - b) / b for a, b in zip(one, other, strict=True))
