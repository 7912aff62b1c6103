"""Make clean volumes hard: dim the neuron and put real background under it, both measured in the background's noise.

It never touches a mask or a tree.

One number, ``contrast``, says how hard a volume is. Its *reference* is the 90th percentile, over the gold voxels, of
the clean intensity minus the clean background; in the hard volume the reference stands ``contrast`` standard deviations
of the background's noise above the background. Everything keeps its intensity relative to the reference, up to
``CEILING`` times (otherwise a saturated soma would be seen at any contrast).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from distill3d.config.paths import ConfigPath
from distill3d.data.texture import Background, tile
from distill3d.errors import InputError
from distill3d.volumes.volume import Volume

REFERENCE_PERCENTILE = 90.0  # real gold is a pixel or two off, so the mean over it is half background
CEILING = 2.0  # brightest neuron voxel, in multiples of the reference
COUNTS_PER_SIGMA = 64.0  # uint16 steps per standard deviation of the background's noise
PEDESTAL_SIGMA = 16.0  # the background's darkest place sits so far above zero that no noise is cut off
PHOTONS = 100.0  # of the background, where no setting says how many
MIN_GOLD_VOXELS = 20  # a patch with fewer says nothing about how bright its neuron is


@dataclass(frozen=True, kw_only=True, slots=True)
class HardConfig:
    """Settings of the hard variant of a data set."""

    enabled: bool = False
    contrast: float = 2.0  # reference intensity of the neuron in standard deviations of the background's noise, > 0
    backgrounds: tuple[ConfigPath, ...] = ()  # unlabelled stacks, or folders of them
    photons: float = PHOTONS  # of the background, > 0; the fewer, the stronger the neuron's own Poisson noise
    seed: int = 0  # >= 0; the case's name is added to it

    def __post_init__(self) -> None:
        """Refuse settings that mean nothing."""
        if not self.contrast > 0:
            raise ValueError(f"contrast must be > 0, got {self.contrast}")
        if not self.photons > 0:
            raise ValueError(f"photons must be > 0, got {self.photons}")
        if self.seed < 0:
            raise ValueError(f"seed must be >= 0, got {self.seed}")
        if self.enabled and not self.backgrounds:
            raise ValueError("backgrounds must name at least one unlabelled stack when enabled is true, got none")


def case_rng(seed: int, name: str) -> np.random.Generator:
    """Return the random numbers of one case: the same for a seed and a name on every machine and in every process.

    >>> bool(case_rng(0, "OP_1").integers(1000) == case_rng(0, "OP_1").integers(1000))
    True
    """
    digest = hashlib.sha256(name.encode()).digest()
    return np.random.Generator(np.random.PCG64([seed, int.from_bytes(digest[:8], "little")]))


def clean_signal(image: NDArray[np.number], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the intensity above the clean background (the median outside the gold), >= 0, float32 [Z, Y, X]."""
    outside = image[~mask][::11]
    background = float(np.median(outside)) if outside.size else 0.0
    return np.maximum(image.astype(np.float32) - np.float32(background), 0)


def reference_of(signal: NDArray[np.floating], mask: NDArray[np.bool_]) -> float:
    """Return how bright a neuron is: the 90th percentile of its gold voxels.

    Args:
        signal: [Z, Y, X] intensity above the clean background.
        mask: [Z, Y, X] gold, not empty.
    """
    return float(np.percentile(signal[mask], REFERENCE_PERCENTILE))


def harden(
    volume: Volume,
    mask: NDArray[np.bool_],
    backgrounds: Sequence[Background],
    config: HardConfig,
    rng: np.random.Generator,
) -> Volume:
    """Dim the neuron to ``config.contrast`` and lay one of the backgrounds under it.

    Args:
        volume: [Z, Y, X], clean.
        mask: [Z, Y, X] gold; read, never changed.
        backgrounds: at least one; the random numbers choose.
        config: contrast and photon count.
        rng: random numbers of this case, see `case_rng`.

    Returns:
        uint16 volume of the same shape and spacing, 64 steps per standard deviation of the background's noise.

    Raises:
        InputError: no background, an empty mask or one of another shape, or a neuron no brighter than its surroundings.
    """
    if not backgrounds:
        raise InputError("hard variant without a background stack; accepted: at least one")
    if mask.shape != volume.data.shape:
        raise InputError(f"mask of shape {mask.shape} does not belong to a volume of shape {volume.data.shape}")
    if not mask.any():
        raise InputError("mask is empty: the contrast of a neuron needs at least one gold voxel")
    signal = clean_signal(volume.data, mask)
    reference = reference_of(signal, mask)
    if not reference > 0:
        raise InputError("neuron is no brighter than its background; the hard variant needs a stack where it is")
    model = backgrounds[int(rng.integers(len(backgrounds)))]
    scene = tile(model, volume.data.shape, rng)
    _add_neuron(scene, signal / np.float32(reference), config.contrast, config.photons, rng)
    counts = np.rint((scene + PEDESTAL_SIGMA) * COUNTS_PER_SIGMA)
    return replace(volume, data=np.clip(counts, 0, np.iinfo(np.uint16).max).astype(np.uint16))


def _add_neuron(
    scene: NDArray[np.float32],
    relative: NDArray[np.float32],
    contrast: float,
    photons: float,
    rng: np.random.Generator,
) -> None:
    """Add the neuron to the scene, in place, with the Poisson noise of its own photons.

    The texture already holds the background's noise: ``photons`` of it have a standard deviation of sqrt(photons),
    which is the scene's unit. So s units of neuron are s * sqrt(photons) photons.

    Args:
        scene: [Z, Y, X] in standard deviations of the background's noise; changed.
        relative: [Z, Y, X] intensity of the clean neuron, 1 at the reference.
        contrast: of the reference.
        photons: of the background.
        rng: source of the photon noise.
    """
    per_unit = float(np.sqrt(photons))
    bright = np.nonzero(relative)
    units = contrast * np.minimum(relative[bright], CEILING).astype(np.float64)
    scene[bright] += (rng.poisson(units * per_unit) / per_unit).astype(np.float32)


def harden_patch(
    image: NDArray[np.float32],
    mask: NDArray[np.bool_],
    model: Background,
    contrast: float,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Do to a patch what `harden` does to a volume, as a training augmentation.

    Args:
        image: [Z, Y, X] float32, in about [0, 1].
        mask: [Z, Y, X] gold of the patch, bool or 0/1; may be empty.
        model: background.
        contrast: of the reference, in standard deviations of the background's noise. The reference is measured on the
            patch's gold, and 1.0 (the brightest of the volume) where there is hardly any.
        rng: random numbers of this patch.

    Returns:
        [Z, Y, X] float32; its 1st and 99.8th percentiles are 0 and 1.
    """
    gold = np.asarray(mask, np.bool_)
    signal = clean_signal(image, gold)
    reference = reference_of(signal, gold) if gold.sum() >= MIN_GOLD_VOXELS else 1.0
    scene = tile(model, image.shape, rng)
    _add_neuron(scene, signal / np.float32(max(reference, 1e-3)), contrast, PHOTONS, rng)
    low, high = np.percentile(scene.ravel()[::5], (1.0, 99.8))
    return (scene - np.float32(low)) / np.float32(max(high - low, 1e-6))
