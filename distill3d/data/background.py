"""Make clean stacks hard: dim the neuron and put real background under it, both measured in the background's noise.

It does not find, split or cache cases (`neurons` does) and it never touches a mask or a tree.

How hard a stack is, is one number: ``contrast``. A stack's *reference* is the 90th percentile, over the gold voxels, of the
clean intensity minus the clean background; the hardened stack shows the reference at ``contrast`` standard deviations of the
background's noise. Everything keeps its intensity relative to the reference, up to ``CEILING`` times (a saturated soma would
otherwise still be seen at any contrast).
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from distill3d.errors import InputError
from distill3d.volume import VOLUME_SUFFIXES, Volume, read_volume

REFERENCE_PERCENTILE = 90.0  # of the gold voxels; gold is a pixel or two off in real pairs, so their mean is half background
CEILING = 2.0  # brightest neuron voxel, in multiples of the reference
COUNTS_PER_SIGMA = 64.0  # uint16 steps per standard deviation of the background's noise
PEDESTAL_SIGMA = 16.0  # the background's darkest place sits this far above zero, so that no noise is cut off
MAD_TO_SIGMA = 1.4826  # of a normal distribution
LOW_SIGMA_VOX = 12.0  # what varies more slowly than this is background, the rest is noise or neurite
MASK_ROUNDS = 3  # bright tissue hides the faint: each round sees the stack without what the last one found
FILL_TRIES = 24
PIECE = 0.75  # of a background stack per tile when it is smaller than the volume, the rest is room for chance
MIN_GOLD_VOXELS = 20  # a patch with fewer says nothing about how bright its neuron is


@dataclass(frozen=True, kw_only=True, slots=True)
class HardConfig:
    """Settings of the hard variant of a data set."""

    enabled: bool = False
    contrast: float = 2.0  # reference intensity of the neuron in standard deviations of the background's noise, > 0
    backgrounds: tuple[str, ...] = ()  # unlabelled stacks, or folders of them, relative to the data set's folder
    photons: float = 100.0  # photons of the background, > 0; the fewer, the stronger the neuron's own Poisson noise
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


@dataclass(frozen=True, slots=True, eq=False)
class Background:
    """A stack without its neurons, in standard deviations of its own noise.

    Attributes:
        low: [Z, Y, X] float32 >= 0, the slowly varying part above its darkest place.
        noise: [Z, Y, X] float32, mean 0 and standard deviation 1, the texture around ``low``.
    """

    low: NDArray[np.float32]
    noise: NDArray[np.float32]


def case_rng(seed: int, name: str) -> np.random.Generator:
    """Random numbers of one case: the same for the same seed and name on every machine and in every process.

    >>> case_rng(0, "OP_1").integers(1000) == case_rng(0, "OP_1").integers(1000)
    True
    """
    digest = hashlib.sha256(name.encode()).digest()
    return np.random.Generator(np.random.PCG64([seed, int.from_bytes(digest[:8], "little")]))


def background_files(paths: Sequence[Path]) -> tuple[Path, ...]:
    """List the stacks that ``paths`` name: files as they are, folders by their volumes, sorted.

    Raises:
        InputError: a path is not there, or a folder holds no volume.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_file():
            found.append(path)
        elif path.is_dir():
            stacks = sorted(p for p in path.iterdir() if p.name.lower().endswith(VOLUME_SUFFIXES))
            if not stacks:
                raise InputError(f"{path}: no background stack in this folder; accepted: {', '.join(VOLUME_SUFFIXES)}")
            found += stacks
        else:
            raise InputError(f"{path}: background stack {path.name} not found in folder {path.parent}")
    return tuple(found)


def load_background(path: Path) -> Background:
    """Read a stack and take its background; a process does it once per file.

    Raises:
        InputError: the file cannot be read, or has no noise to take.
    """
    return _load_background(path.resolve(), path.stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _load_background(path: Path, _mtime_ns: int) -> Background:
    try:
        return background_of(read_volume(path, spacing_um=(1.0, 1.0, 1.0)))  # grain is counted in voxels
    except InputError as error:
        text = str(error)
        raise InputError(text if str(path) in text else f"{path}: {text}") from error


def background_of(volume: Volume, *, k: float = 4.0, dilate_vox: int = 2, seed: int = 0) -> Background:
    """Split a stack into slow background and noise texture, its neurites and somas masked and refilled.

    A voxel is masked where the stack minus its slow part, lightly smoothed, exceeds median + ``k`` robust standard deviations
    (1.4826 MAD), dilated by ``dilate_vox``. Holes get the slow part of their surroundings and noise copied from elsewhere in
    the stack, so that it keeps its grain.

    Args:
        volume: [Z, Y, X] unlabelled stack.
        k: threshold in robust standard deviations; lower masks more.
        dilate_vox: margin around what was found, for blur.
        seed: of the copied noise.

    Raises:
        InputError: the stack is blank, constant, not finite, or nearly all of it looks like neurite.
    """
    data = np.asarray(volume.data, np.float32)
    if not np.isfinite(data).all():
        raise InputError("background stack has voxels that are not finite; accepted: finite intensities")
    if data.size == 0 or data.min() == data.max():
        value = data.flat[0] if data.size else "no voxels"
        raise InputError(f"background stack is constant ({value}); accepted: a stack with noise")
    mask, low = _find_tissue(data, k, dilate_vox)
    noise = _fill_holes(data - low, mask, np.random.default_rng(seed))
    std = float(noise[~mask].std(dtype=np.float64))
    if std <= 0:
        raise InputError(f"background stack has no noise between its neurites (standard deviation {std})")
    noise = (noise - noise.mean(dtype=np.float64)) / noise.std(dtype=np.float64)
    low = (low - low.min()) / std
    return Background(low.astype(np.float32), noise.astype(np.float32))


def _find_tissue(
    data: NDArray[np.float32], k: float, dilate_vox: int
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Return where neurites and somas are, and the slow part interpolated below them."""
    smooth = ndimage.gaussian_filter(data, 1.0)
    ball = ndimage.generate_binary_structure(3, 1)
    mask = _bright(smooth, np.ones(data.shape, bool), k)
    low = _slow_part(data, mask)
    for _ in range(MASK_ROUNDS):
        mask = ndimage.binary_dilation(_bright(smooth - low, ~mask, k), ball, iterations=dilate_vox)
        if mask.mean() > 0.9:
            raise InputError(f"{mask.mean():.0%} of the background stack looks like neurite; accepted: at most 90 %")
        low = _slow_part(data, mask)
    return mask, low


def _bright(values: NDArray[np.float32], trusted: NDArray[np.bool_], k: float) -> NDArray[np.bool_]:
    """Voxels above median + k robust standard deviations of the trusted ones."""
    sample = values[trusted][::7]
    center = np.median(sample)
    spread = MAD_TO_SIGMA * np.median(np.abs(sample - center))
    return values > center + k * max(float(spread), 1e-6)


def _slow_part(data: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Weighted average of the unmasked voxels around each voxel (normalized convolution, nearly Gaussian)."""
    weight = (~mask).astype(np.float32)
    center = np.float32(data[~mask].mean(dtype=np.float64))
    total, share = (_blur(values, LOW_SIGMA_VOX) for values in ((data - center) * weight, weight))
    # Rounding of running sums may leave a weight just below zero.
    # Deep inside a soma nothing unmasked is near: fall back to the stack's mean, smoothly.
    return total / (np.maximum(share, 0) + np.float32(1e-3)) + center


def _blur(values: NDArray[np.float32], sigma_vox: float) -> NDArray[np.float32]:
    """Three box averages, within a few percent of a Gaussian, at a cost that does not grow with its width."""
    size = max(1, round(float(np.sqrt(4 * sigma_vox**2 + 1))))
    for _ in range(3):
        values = ndimage.uniform_filter(values, size)
    return values


def _fill_holes(
    noise: NDArray[np.float32], mask: NDArray[np.bool_], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Replace masked voxels by noise of unmasked places, copied in one piece so that its grain stays."""
    filled, hole = noise.copy(), mask.copy()
    for _ in range(FILL_TRIES):
        if not hole.any():
            return filled
        shift = tuple(int(rng.integers(n)) for n in noise.shape)
        take = hole & ~np.roll(mask, shift, (0, 1, 2))
        filled[take] = np.roll(noise, shift, (0, 1, 2))[take]
        hole &= ~take
    filled[hole] = rng.choice(noise[~mask], int(hole.sum()))
    return filled


def tile(model: Background, shape_zyx: Sequence[int], rng: np.random.Generator) -> NDArray[np.float32]:
    """Cover any shape with pieces of a background from random places, randomly flipped, blended where they overlap.

    Slow parts are blended by weights that sum to one, noise by weights whose squares do: both keep their strength, so that
    no seam shows. A shape that fits into the stack is one piece.

    Returns:
        [Z, Y, X] float32 of ``shape_zyx``, slow part + noise, in standard deviations of the noise.
    """
    axes = [_pieces(n, size) for n, size in zip(model.noise.shape, shape_zyx, strict=True)]
    low, noise = np.zeros((2, *shape_zyx), np.float32)
    for piece in itertools.product(*axes):
        target = tuple(slice(start, start + len(weight)) for start, weight, _ in piece)
        source = tuple(_random_run(n, len(p[1]), rng) for n, p in zip(model.noise.shape, piece, strict=True))
        low[target] += model.low[source] * _outer(*(weight for _, weight, _ in piece))
        noise[target] += model.noise[source] * _outer(*(root for _, _, root in piece))
    low += noise
    return low


def _pieces(n: int, size: int) -> list[tuple[int, NDArray[np.float32], NDArray[np.float32]]]:
    """Cut an axis of ``size`` voxels into overlapping pieces of at most ``n``: start, weights, weights of the noise."""
    if size <= n:
        ones = np.ones(size, np.float32)
        return [(0, ones, ones)]
    length = max(2, round(PIECE * n))
    step = length // 2  # each piece fades in over one half and out over the other
    starts = np.linspace(0, size - length, -(-(size - length) // step) + 1).round().astype(int)
    tent = np.sin(np.pi * (np.arange(length) + 0.5) / length).astype(np.float32) ** 2
    total, squares = np.zeros((2, size), np.float32)
    for start in starts:
        total[start : start + length] += tent
        squares[start : start + length] += tent**2
    runs = [slice(start, start + length) for start in starts]
    return [(run.start, tent / total[run], tent / np.sqrt(squares[run])) for run in runs]


def _random_run(n: int, size: int, rng: np.random.Generator) -> slice:
    """``size`` of ``n`` voxels from a random start, forwards or backwards."""
    start = int(rng.integers(n - size + 1))
    if rng.random() < 0.5:
        return slice(start, start + size)
    return slice(start + size - 1, start - 1 if start else None, -1)


def _outer(z: NDArray[np.float32], y: NDArray[np.float32], x: NDArray[np.float32]) -> NDArray[np.float32]:
    return z[:, None, None] * y[:, None] * x


def reference_of(signal: NDArray[np.floating], mask: NDArray[np.bool_]) -> float:
    """How bright a neuron is: the 90th percentile of its gold voxels.

    Args:
        signal: [Z, Y, X] intensity above the clean background.
        mask: [Z, Y, X] gold, not empty.
    """
    return float(np.percentile(signal[mask], REFERENCE_PERCENTILE))


def clean_signal(image: NDArray[np.generic], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Intensity above the clean background (the median outside the gold), never negative."""
    background = np.median(image[~mask][::11]) if not mask.all() else 0
    return np.maximum(image.astype(np.float32) - np.float32(background), 0)


def harden(
    volume: Volume,
    mask: NDArray[np.bool_],
    backgrounds: Sequence[Background],
    config: HardConfig,
    rng: np.random.Generator,
) -> Volume:
    """Dim the neuron to ``config.contrast`` and lay one of the backgrounds under it.

    Args:
        volume: [Z, Y, X] clean stack.
        mask: [Z, Y, X] gold; read, never changed.
        backgrounds: at least one; the random numbers choose.
        config: contrast and photon count.
        rng: random numbers of this case, see `case_rng`.

    Returns:
        uint16 stack of the same shape and spacing, 64 steps per standard deviation of the background's noise.

    Raises:
        InputError: the mask is empty or of another shape, or the neuron is not brighter than its surroundings.
    """
    if mask.shape != volume.data.shape:
        raise InputError(f"mask of shape {mask.shape} does not belong to a volume of shape {volume.data.shape}")
    if not mask.any():
        raise InputError("mask is empty: without gold voxels the contrast of a neuron has no meaning")
    signal = clean_signal(volume.data, mask)
    reference = reference_of(signal, mask)
    if reference <= 0:
        raise InputError("neuron is no brighter than its background; hard variants need a stack where it is")
    model = backgrounds[int(rng.integers(len(backgrounds)))]
    scene = tile(model, volume.data.shape, rng)
    _add_neuron(scene, signal, config.contrast / reference, CEILING * config.contrast, config.photons, rng)
    counts = np.rint((scene + PEDESTAL_SIGMA) * COUNTS_PER_SIGMA)
    return Volume(np.clip(counts, 0, np.iinfo(np.uint16).max).astype(np.uint16), volume.spacing_um)


def _add_neuron(
    scene: NDArray[np.float32],
    signal: NDArray[np.float32],
    scale: float,
    ceiling: float,
    photons: float,
    rng: np.random.Generator,
) -> None:
    """Add ``scale * signal`` to the scene, in place, with the Poisson noise of its own photons.

    The texture already holds the background's noise: ``photons`` of it have a standard deviation of sqrt(photons), which is
    the unit here. A neuron of s units so is s * sqrt(photons) photons.
    """
    per_unit = float(np.sqrt(photons))
    bright = np.nonzero(signal > 0)
    units = np.minimum(signal[bright] * scale, ceiling)
    scene[bright] += (rng.poisson(units * per_unit) / per_unit).astype(np.float32)


def harden_patch(
    image: NDArray[np.float32],
    mask: NDArray[np.bool_],
    model: Background,
    contrast: float,
    rng: np.random.Generator,
    *,
    reference: float | None = None,
    photons: float = 100.0,
) -> NDArray[np.float32]:
    """Do to a patch what `harden` does to a stack, as a training augmentation.

    Args:
        image: [Z, Y, X] float32, in about [0, 1].
        mask: [Z, Y, X] bool gold of the patch; may be empty.
        model: background.
        contrast: of the reference, in standard deviations of the background's noise.
        rng: random numbers of this patch.
        reference: intensity above background that gets ``contrast``; by default measured on the patch's gold, and 1.0 (the
            brightest of the stack) where there is hardly any.
        photons: see `HardConfig`.

    Returns:
        [Z, Y, X] float32; its 1st and 99.8th percentile are 0 and 1.
    """
    mask = np.asarray(mask, bool)
    signal = clean_signal(image, mask)
    if reference is None:
        reference = reference_of(signal, mask) if mask.sum() >= MIN_GOLD_VOXELS else 1.0
    scene = tile(model, image.shape, rng)
    _add_neuron(scene, signal, contrast / max(reference, 1e-3), CEILING * contrast, photons, rng)
    low, high = np.percentile(scene.ravel()[::5], (1.0, 99.8))
    return (scene - np.float32(low)) / np.float32(max(high - low, 1e-6))
