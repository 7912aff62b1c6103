"""Backgrounds of unlabelled stacks: their slow part and their noise, without their neurites and somas."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from distill3d.errors import InputError
from distill3d.volumes.stack_files import VOLUME_SUFFIXES, entries, is_stack, split_inside
from distill3d.volumes.volume import Volume, read_volume

MAD_TO_SIGMA = 1.4826  # of a normal distribution
LOW_SIGMA_VOX = 12.0  # what varies more slowly than this is background, the rest is noise or neurite
TISSUE_SIGMA = 4.0  # robust standard deviations above the median from which on a voxel is tissue
DILATE_VOX = 2  # margin around it, for its blur
MASK_ROUNDS = 3  # bright tissue hides faint tissue: each round looks at the stack without what the last one masked
MOST_TISSUE = 0.9  # share of a stack; with more there is no background left to learn from
FILL_TRIES = 24
PIECE = 0.75  # share of a background stack in a tile where it is smaller than the volume, so that places can vary

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Background:
    """A stack without its neurons, in standard deviations of its own noise.

    Attributes:
        low: [Z, Y, X] float32 >= 0, the slowly varying part above its darkest place.
        noise: [Z, Y, X] float32, mean 0 and standard deviation 1, the texture around ``low``.
    """

    low: Image
    noise: Image


def background_files(paths: Sequence[Path]) -> tuple[Path, ...]:
    """List the stacks that ``paths`` name: files as they are, folders by their volumes, sorted.

    Raises:
        InputError: a path is not there, or a folder holds no volume.
    """
    files: list[Path] = []
    for path in paths:
        if is_stack(path):
            files.append(path)
        elif path.is_dir():
            stacks = [each for each in entries(path) if each.name.lower().endswith(VOLUME_SUFFIXES)]
            if not stacks:
                raise InputError(f"{path}: no background stack in this folder; accepted: {', '.join(VOLUME_SUFFIXES)}")
            files += stacks
        else:
            raise InputError(f"background stack {path.name} not found in folder {path.parent}; give a file or a folder")
    return tuple(files)


def load_background(path: Path) -> Background:
    """Read a stack and take its background, once per file and process.

    Raises:
        InputError: the file cannot be read, or has no noise to take.
    """
    background_files([path])
    return _load_background(path.resolve(), split_inside(path)[0].stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _load_background(path: Path, _mtime_ns: int) -> Background:
    try:
        return background_of(read_volume(path, spacing_um=(1.0, 1.0, 1.0)))  # grain is counted in voxels
    except InputError as error:
        raise InputError(text if str(path) in (text := str(error)) else f"{path}: {text}") from error


def background_of(volume: Volume) -> Background:
    """Split a stack into slow background and noise texture, its neurites and somas masked and refilled.

    A voxel is masked where the stack minus its slow part, lightly smoothed, exceeds median + ``TISSUE_SIGMA`` robust
    standard deviations (1.4826 MAD), dilated by ``DILATE_VOX``. Holes get the slow part of their surroundings, and
    noise copied from elsewhere in the stack so that it keeps its grain.

    Args:
        volume: [Z, Y, X] unlabelled stack.

    Raises:
        InputError: the stack is blank, constant, not finite, or nearly all of it looks like neurite.
    """
    data = np.asarray(volume.data, np.float32)
    if not np.isfinite(data).all():
        raise InputError("background stack has voxels that are not finite; accepted: finite intensities")
    if data.min() == data.max():
        raise InputError(f"background stack is {data.flat[0]:g} everywhere; accepted: a stack with noise")
    mask, low = _find_tissue(data)
    texture = data - low
    std = float(texture[~mask].std(dtype=np.float64))
    if std <= 1e-6 * max(1.0, float(np.abs(low).max())):
        raise InputError(f"background stack has no noise between its neurites (standard deviation {std:g})")
    noise = _fill_holes(texture, mask, np.random.Generator(np.random.PCG64(0)))
    noise = (noise - noise.mean(dtype=np.float64)) / noise.std(dtype=np.float64)
    return Background(((low - low.min()) / std).astype(np.float32), noise.astype(np.float32))


def _find_tissue(data: Image) -> tuple[Mask, Image]:
    """Return where neurites and somas are, and the slow part interpolated below them."""
    smooth = np.asarray(ndimage.gaussian_filter(data, 1.0), np.float32)
    mask = _bright(smooth, np.ones(data.shape, np.bool_))
    low = _slow_part(data, mask)
    for _ in range(MASK_ROUNDS):
        bright = _bright(smooth - low, ~mask)
        mask = np.asarray(ndimage.binary_dilation(bright, iterations=DILATE_VOX), np.bool_)
        if (share := mask.mean()) > MOST_TISSUE:
            raise InputError(f"{share:.0%} of the background stack looks like neurite; accepted: {MOST_TISSUE:.0%}")
        low = _slow_part(data, mask)
    return mask, low


def _bright(values: Image, trusted: Mask) -> Mask:
    """Mark the voxels above median + ``TISSUE_SIGMA`` robust standard deviations of the trusted ones."""
    sample = values[trusted][::7]
    center = np.median(sample)
    spread = MAD_TO_SIGMA * float(np.median(np.abs(sample - center)))
    return np.asarray(values > center + TISSUE_SIGMA * max(spread, 1e-6), np.bool_)


def _slow_part(data: Image, mask: Mask) -> Image:
    """Return the weighted average of the unmasked voxels around each voxel (normalized convolution, about Gaussian)."""
    weight = (~mask).astype(np.float32)
    center = np.float32(data[~mask].mean(dtype=np.float64))
    total, share = (_blur(values) for values in ((data - center) * weight, weight))
    # Rounding of running sums may leave a weight just below zero.
    # Deep inside a soma nothing unmasked is near: fall back to the stack's mean, smoothly.
    return total / (np.maximum(share, 0) + np.float32(1e-3)) + center


def _blur(values: Image) -> Image:
    """Average by boxes three times, within a few percent of a Gaussian, at a cost that does not grow with its width."""
    size = max(1, round(float(np.sqrt(4 * LOW_SIGMA_VOX**2 + 1))))
    for _ in range(3):
        values = np.asarray(ndimage.uniform_filter(values, size), np.float32)
    return values


def _fill_holes(noise: Image, mask: Mask, rng: np.random.Generator) -> Image:
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


def tile(model: Background, shape_zyx: Sequence[int], rng: np.random.Generator) -> Image:
    """Cover any shape with pieces of a background from random places, randomly flipped, blended where they overlap.

    Slow parts are blended by weights that sum to one, noise by weights whose squares do: both keep their strength, so
    that no seam shows. A shape that fits into the stack is one piece.

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


def _pieces(n: int, size: int) -> list[tuple[int, Image, Image]]:
    """Cut an axis of ``size`` voxels into overlapping pieces of at most ``n``: start, weights, weights of the noise."""
    if size <= n:
        ones = np.ones(size, np.float32)
        return [(0, ones, ones)]
    length = max(1, round(PIECE * n))
    step = max(1, length // 2)  # each piece fades in over one half and out over the other
    starts = [int(s) for s in np.linspace(0, size - length, -(-(size - length) // step) + 1).round()]
    tent = (np.sin(np.pi * (np.arange(length) + 0.5) / length) ** 2).astype(np.float32)
    total, squares = np.zeros((2, size), np.float32)
    for start in starts:
        total[start : start + length] += tent
        squares[start : start + length] += tent**2
    runs = [slice(start, start + length) for start in starts]
    roots = np.sqrt(squares).astype(np.float32)
    return [(run.start, np.divide(tent, total[run]), np.divide(tent, roots[run])) for run in runs]


def _random_run(n: int, size: int, rng: np.random.Generator) -> slice:
    """Draw ``size`` of ``n`` voxels from a random start, forwards or backwards."""
    start = int(rng.integers(n - size + 1))
    if rng.random() < 0.5:
        return slice(start, start + size)
    return slice(start + size - 1, start - 1 if start else None, -1)


def _outer(z: Image, y: Image, x: Image) -> Image:
    return z[:, None, None] * y[:, None] * x
