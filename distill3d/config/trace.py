"""Every setting of a trace, in the order of its steps."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, final

_NOT_NEGATIVE = (
    "gap_um",
    "spur_um",
    "spur_radii",
    "spur_voxels",
    "min_tree_um",
    "invalidation_um",
    "invalidation_scale",
    "smooth_um",
)
_INVALIDATION_SIDES, _SMOOTH_SIDES = 1.4, 3.3  # of a voxel: what is due to steps and rough surfaces grows with them


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class TraceConfig:
    """Settings of `trace`, in the order of its steps. Lengths are in micrometers, so the spacing must be right.

    The defaults suit thin, branched neurites, a few voxels thick at about 1 um a voxel, with slices up to four times as
    far apart: probabilities, masks and raw images. They keep twigs rather than miss length, so noise leaves short false
    ends; a larger ``spur_voxels`` has fewer.
    """

    # prob: 255 is 1 where the type is uint8. image: intensities. mask: all that is not 0 is neuron. auto: of a file,
    # what its header says or else its values show; an array holds a probability.
    input: Literal["auto", "prob", "image", "mask"] = "prob"
    # auto: fixed, but otsu on an image. Otsu looks at the stored values, the others at probability or scaled intensity.
    method: Literal["auto", "fixed", "otsu", "hysteresis"] = "auto"
    threshold: float = (
        0.5  # fixed: from which on a voxel is neuron; hysteresis: a piece needs one such voxel; in (0, 1)
    )
    low_threshold: float = 0.25  # hysteresis: from which on a voxel belongs to a piece; above 0, at most `threshold`
    min_voxels: int = 50  # smaller pieces (26-connected) are dropped before anything else, >= 1
    fill_holes: bool = False  # fill enclosed holes of a piece before it is skeletonized

    # TEASAR, as kimimaro does it: paths from the far ends; each takes the voxels around it out of the game.
    invalidation_scale: float = 1.5  # radius of the ball taken out, in local radii, >= 0 ...
    # ... plus this, >= 0: branches that stick out less are not seen; null: 1.4 of a voxel's longest side
    invalidation_um: float | None = None
    centering_weight: float = 100_000.0  # how much dearer the edge of the neurite is than its middle, > 0
    centering_exponent: int = 4  # how steeply, >= 1; powers of 2 are faster
    fix_branching: bool = (
        False  # branch exactly where paths part; one search of the whole box per path: 20 times slower
    )

    gap_um: float = 10.0  # tips are joined to other pieces over at most this length outside the mask; 0 joins none ...
    max_turn_deg: float = 75.0  # ... and if the way turns by at most this from the tip's direction; (0, 180]
    spur_um: float = 0.0  # side branches that end within this length of their branch point are cut; 0 cuts none ...
    spur_radii: float = 1.0  # ... and those within so many radii of the branch point ...
    spur_voxels: float = 2.0  # ... and short ones that stick out of the rest by less than so many voxels
    # window of a running mean along branches, against voxel steps; 0 leaves nodes on voxels, null: 3.3 longest sides
    smooth_um: float | None = None
    min_tree_um: float = 10.0  # shorter trees are dropped; 0 keeps also single nodes

    soma_factor: float = 4.0  # the thickest node is a soma from so many median radii on, > 1
    trees: Literal["all", "largest", "seed"] = "all"  # largest: by length; seed: the one nearest to `seed_zyx_um`
    seed_zyx_um: tuple[float, float, float] | None = None  # the kept tree is rooted at its node nearest to this point

    def __post_init__(self) -> None:
        for name in _NOT_NEGATIVE:
            value = getattr(self, name)
            _require(value is None or 0 <= value < math.inf, name, value, "0 or more, finite")
        for name, floor in (("min_voxels", 1), ("centering_exponent", 1)):
            _require(getattr(self, name) >= floor, name, getattr(self, name), f"{floor} or more")
        _require(0 < self.centering_weight < math.inf, "centering_weight", self.centering_weight, "above 0, finite")
        _require(0 < self.max_turn_deg <= 180, "max_turn_deg", self.max_turn_deg, "above 0, at most 180")
        _require(self.soma_factor > 1, "soma_factor", self.soma_factor, "above 1")
        _require(0 < self.threshold < 1, "threshold", self.threshold, "above 0, below 1")
        ceiling = self.threshold if self.method == "hysteresis" else 1.0
        _require(0 < self.low_threshold <= ceiling, "low_threshold", self.low_threshold, f"above 0, at most {ceiling}")
        _require(all(map(math.isfinite, self.seed_zyx_um or ())), "seed_zyx_um", self.seed_zyx_um, "finite numbers")
        seeded = self.seed_zyx_um is not None
        _require(
            seeded == (self.trees == "seed"), "seed_zyx_um", self.seed_zyx_um, "a point with trees=seed, only then"
        )

    def invalidation_at(self, spacing_um: Iterable[float]) -> float:
        """Return ``invalidation_um``, or its default for a voxel size.

        >>> TraceConfig(invalidation_um=2.0).invalidation_at((3.0, 1.0, 1.0))
        2.0
        """
        return _INVALIDATION_SIDES * max(spacing_um) if self.invalidation_um is None else self.invalidation_um

    def smooth_at(self, spacing_um: Iterable[float]) -> float:
        """Return ``smooth_um``, or its default for a voxel size."""
        return _SMOOTH_SIDES * max(spacing_um) if self.smooth_um is None else self.smooth_um


def _require(holds: bool, name: str, value: object, accepted: str) -> None:
    if not holds:
        raise ValueError(f"{name}={value} is not accepted; accepted: {accepted}")
