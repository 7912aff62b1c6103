"""What a microscope makes of trees: fluorescence, blur, background, photons, counts.

Chance comes only from the generator it is given, so that an image is the same on every machine.

Source: the usual camera model, counts = offset + gain * (Poisson(PSF * dye + background) + read noise); for the
Gaussian PSF B. Zhang, J. Zerubia, J.-C. Olivo-Marin (2007), "Gaussian approximations of fluorescence microscope
point-spread function models".
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from distill3d.data.background import reference_of
from distill3d.volumes.tree import Tree

GAIN = 20.0  # counts per photon
OFFSET = 100.0  # counts without light
SAMPLES_PER_UM = 3.0  # along a neurite
OFFSETS_PER_SAMPLE = 8  # random places in the neurite's cross-section

Float = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroscopeConfig:
    """Settings of the simulated microscope; every amount may be 0 to switch its effect off."""

    psf_sigma_um: tuple[float, float, float] = (2.6, 1.1, 1.1)  # ZYX, blur
    photons: float = 300.0  # of a voxel filled with dye, before blur
    background: float = 10.0  # photons, mean
    unevenness: float = 0.2  # slow changes of the background, standard deviation relative to its mean
    unevenness_um: float = 40.0  # length over which the background changes, > 0
    read_noise: float = 2.0  # photons, standard deviation
    variation: float = 0.7  # brightness along a neurite, standard deviation of its logarithm
    variation_um: float = 15.0  # length over which it changes, > 0
    gaps: int = 10  # places per neuron where the dye is missing
    gap_um: float = 5.0  # length of a gap
    gap_level: float = 0.1  # brightness left in a gap, in [0, 1]
    puncta: int = 50  # bright spots that belong to no neuron
    neighbors: int = 1  # unbranched neurites of other neurons that pass through, not in the gold
    neighbor_brightness: float = 0.3  # against the neuron's own
    # The neuron above its background in standard deviations of the noise, measured as for `hard`; 0: as photons say
    contrast: float = 0.0
    texture: float = 0.0  # grain of the tissue, standard deviation in those of the noise of background and reading
    texture_um: float = 2.0  # size of the grains, > 0
    black: float | None = None  # what is not so many standard deviations of the noise above the background reads 0

    def __post_init__(self) -> None:
        """Refuse settings that mean nothing."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "black" and not np.min(value) >= 0:
                raise ValueError(f"{field.name} must be >= 0, got {value}")
        for name in ("unevenness_um", "variation_um", "texture_um"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")
        if self.gap_level > 1:
            raise ValueError(f"gap_level must be in [0, 1], got {self.gap_level}")
        if not self.noise and (self.contrast or self.texture or self.black is not None):
            raise ValueError("contrast, texture and black are measured in noise: background or read_noise must be > 0")

    @property
    def noise(self) -> float:
        """Standard deviation of background and reading, in photons, without the tissue's grain."""
        return float(np.hypot(np.sqrt(self.background), self.read_noise))


def expose(
    trees: Sequence[tuple[Tree, float]],
    shape_zyx: tuple[int, int, int],
    spacing_um: tuple[float, float, float],
    config: MicroscopeConfig,
    rng: np.random.Generator,
    *,
    neurites: NDArray[np.bool_] | None = None,
    soma: NDArray[np.bool_] | None = None,
) -> NDArray[np.uint16]:
    """Take an image of some trees.

    Args:
        trees: each with its brightness, 1 for the neuron of interest; in each tree parents come before children.
        shape_zyx: voxels.
        spacing_um: ZYX voxel size.
        config: the microscope.
        rng: the only source of chance.
        neurites: [Z, Y, X] voxels that the contrast is measured on; needed where the settings ask for one.
        soma: [Z, Y, X] voxels of a soma, filled with dye.

    Returns:
        uint16 counts [Z, Y, X].
    """
    dye = np.zeros(shape_zyx)
    for tree, brightness in trees:
        dye += fluorescence(tree, brightness * node_brightness(tree, config, rng), shape_zyx, spacing_um, rng)
    if soma is not None:
        dye = np.maximum(dye, soma)
    dye += _puncta(shape_zyx, spacing_um, config, rng)
    sigma_vox = [sigma / s for sigma, s in zip(config.psf_sigma_um, spacing_um, strict=True)]
    signal = ndimage.gaussian_filter(dye, sigma_vox, mode="constant", truncate=4.0)
    light = _photons(signal, neurites, config) * signal
    light += config.background * np.maximum(
        1 + config.unevenness * _slow_field(shape_zyx, spacing_um, config, rng), 0.1
    )
    if config.texture:
        light = np.maximum(light + config.texture * config.noise * _grain(shape_zyx, spacing_um, config, rng), 0)
    counted = rng.poisson(light) + config.read_noise * rng.standard_normal(shape_zyx)
    counts = OFFSET + GAIN * counted
    if config.black is not None:
        counts -= OFFSET + GAIN * (config.background + config.black * _all_noise(config))
    return np.clip(np.rint(counts), 0, np.iinfo(np.uint16).max).astype(np.uint16)


def _photons(signal: Float, neurites: NDArray[np.bool_] | None, config: MicroscopeConfig) -> float:
    """Return the photons of one unit of signal."""
    if not config.contrast or neurites is None or not neurites.any():
        return config.photons
    return config.contrast * _all_noise(config) / max(reference_of(signal, neurites), 1e-12)


def _all_noise(config: MicroscopeConfig) -> float:
    return config.noise * float(np.hypot(1, config.texture))


def node_brightness(tree: Tree, config: MicroscopeConfig, rng: np.random.Generator) -> Float:
    """Return the brightness at every node, float64 [N] around 1: slow changes along the neurite, and gaps.

    The logarithm is a first-order autoregressive walk from root to tips.
    """
    chance = rng.standard_normal(tree.n_nodes)
    lengths = np.zeros(tree.n_nodes)
    lengths[tree.edges[:, 0]] = tree.edge_lengths_um
    keep = np.exp(-lengths / config.variation_um)
    fresh = np.sqrt(1 - keep * keep)
    walk = chance.copy()
    for node in np.flatnonzero(tree.parents >= 0):
        walk[node] = keep[node] * walk[tree.parents[node]] + fresh[node] * chance[node]
    brightness = np.exp(config.variation * walk - config.variation**2 / 2)
    for center in tree.points_zyx_um[rng.integers(tree.n_nodes, size=config.gaps)]:
        away = np.sqrt(((tree.points_zyx_um - center) ** 2).sum(axis=1))
        brightness[away <= config.gap_um / 2] *= config.gap_level
    return brightness


def fluorescence(
    tree: Tree,
    brightness: Float,
    shape_zyx: tuple[int, int, int],
    spacing_um: tuple[float, float, float],
    rng: np.random.Generator,
) -> Float:
    """Return the dye per voxel, float64 [Z, Y, X]: about 1 in a neurite of brightness 1 that is thicker than a voxel.

    The sum is the neurites' volume in voxels times their brightness, however thin they are.
    """
    child, parent = tree.edges.T
    lengths = tree.edge_lengths_um
    pieces = np.maximum(1, np.ceil(lengths * SAMPLES_PER_UM)).astype(np.int64) * OFFSETS_PER_SAMPLE
    edge = np.repeat(np.arange(len(lengths)), pieces)
    position = np.arange(len(edge)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    share = (position // OFFSETS_PER_SAMPLE + 0.5) / (pieces[edge] / OFFSETS_PER_SAMPLE)

    def between(values: Float) -> Float:
        low, high = values[child[edge]], values[parent[edge]]
        weight = share.reshape(-1, *[1] * (values.ndim - 1))
        return low + (high - low) * weight

    radii = between(tree.radii_um)
    places = between(tree.points_zyx_um) + radii[:, None] * _in_ball(len(edge), rng)
    volumes = np.pi * radii * radii * (lengths / pieces)[edge]
    return _splat(places, volumes * between(brightness), shape_zyx, spacing_um)


def _puncta(
    shape_zyx: tuple[int, int, int],
    spacing_um: tuple[float, float, float],
    config: MicroscopeConfig,
    rng: np.random.Generator,
) -> Float:
    """Return the dye of bright spots, 0.7 to 1.5 um in radius, a third as bright to a bit brighter than a neurite."""
    high = (np.array(shape_zyx) - 1) * np.array(spacing_um)
    centers = rng.uniform(0, 1, (config.puncta, 3)) * high
    radii, brightness = rng.uniform(0.7, 1.5, config.puncta), rng.uniform(0.4, 1.3, config.puncta)
    n = 64
    places = np.repeat(centers, n, axis=0) + np.repeat(radii, n)[:, None] * _in_ball(n * config.puncta, rng)
    volumes = np.repeat(4 / 3 * np.pi * radii**3 * brightness / n, n)
    return _splat(places, volumes, shape_zyx, spacing_um)


def _in_ball(n: int, rng: np.random.Generator) -> Float:
    """Draw points spread evenly in the unit ball, float64 [n, 3]."""
    direction = rng.standard_normal((n, 3))
    distance = np.sqrt((direction * direction).sum(axis=1))
    return direction * (np.cbrt(rng.random(n)) / np.maximum(distance, 1e-12))[:, None]


def _splat(
    places_um: Float, volumes_um3: Float, shape_zyx: tuple[int, int, int], spacing_um: tuple[float, float, float]
) -> Float:
    """Spread each volume over the eight voxels around its place (trilinear); what falls outside is lost."""
    places = places_um / np.array(spacing_um)
    corner = np.floor(places).astype(np.int64)
    rest = places - corner
    total = np.zeros(int(np.prod(shape_zyx)))
    amount = volumes_um3 / np.prod(spacing_um)
    for step in itertools.product((0, 1), repeat=3):
        voxel = corner + step
        weight = np.where(step, rest, 1 - rest).prod(axis=1) * amount
        inside = ((voxel >= 0) & (voxel < shape_zyx)).all(axis=1)
        flat = np.ravel_multi_index(tuple(voxel[inside].T), shape_zyx)
        total += np.bincount(flat, weight[inside], len(total))
    return total.reshape(shape_zyx)


def _slow_field(
    shape_zyx: tuple[int, int, int],
    spacing_um: tuple[float, float, float],
    config: MicroscopeConfig,
    rng: np.random.Generator,
) -> Float:
    """Draw a smooth random field of mean 0 and standard deviation 1 that changes over ``unevenness_um``."""
    sizes = [n * s / config.unevenness_um for n, s in zip(shape_zyx, spacing_um, strict=True)]
    coarse = rng.standard_normal([int(np.ceil(size)) + 3 for size in sizes])
    axes = [1 + size * np.linspace(0, 1, n) for n, size in zip(shape_zyx, sizes, strict=True)]
    field = ndimage.map_coordinates(coarse, np.meshgrid(*axes, indexing="ij"), order=2, mode="nearest")
    return (field - field.mean()) / max(float(field.std()), 1e-12)


def _grain(
    shape_zyx: tuple[int, int, int],
    spacing_um: tuple[float, float, float],
    config: MicroscopeConfig,
    rng: np.random.Generator,
) -> Float:
    """Draw noise of mean 0 and standard deviation 1 whose grains are about ``texture_um`` wide."""
    sigma_vox = [config.texture_um / 2 / s for s in spacing_um]
    field = ndimage.gaussian_filter(rng.standard_normal(shape_zyx), sigma_vox, mode="wrap")
    return (field - field.mean()) / max(float(field.std()), 1e-12)
