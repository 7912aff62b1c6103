"""Settings of simulated cases drawn from wide ranges, so that what learns from them is not tied to one microscope."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import numpy as np

from distill3d.data.grow import GrowConfig
from distill3d.data.microscope import MicroscopeConfig

MOST_BLACK = 0.25  # of the contrast: more would cut the neuron off

Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class VaryConfig:
    """Ranges, low and high, of what every case of ``simulated`` draws for itself; lengths are in um.

    ``contrast``, ``background``, radii and the blur are drawn evenly in their logarithm, all else evenly.
    """

    enabled: bool = False
    depth: Range = (1.0, 5.0)  # distance of slices, against the size of a pixel
    contrast: Range = (2.0, 60.0)  # see `MicroscopeConfig`
    background: Range = (2.0, 200.0)
    unevenness: Range = (0.0, 0.6)
    unevenness_um: Range = (15.0, 80.0)
    texture: Range = (0.0, 2.0)
    texture_um: Range = (1.0, 6.0)
    read_noise: Range = (0.5, 5.0)
    blur_um: Range = (0.4, 1.6)  # of the PSF in YX, standard deviation
    blur_depth: Range = (1.0, 3.0)  # of the PSF in Z, against YX
    variation: Range = (0.2, 0.9)
    gaps: Range = (0.0, 15.0)
    gap_um: Range = (2.0, 8.0)
    puncta: Range = (0.0, 120.0)
    neighbors: Range = (0.0, 4.0)
    neighbor_brightness: Range = (0.3, 1.0)
    tips: Range = (2.0, 40.0)
    length_um: Range = (20.0, 70.0)
    tortuosity: Range = (0.05, 0.35)
    tip_radius_um: Range = (0.6, 2.2)
    root_radius: Range = (1.0, 2.5)  # against that of a tip
    soma_um: Range = (4.0, 12.0)
    soma: float = 0.3  # share of cases that show one, in [0, 1]
    black: float = 0.4  # share of cases whose background is cut off, in [0, 1]
    black_level: Range = (0.0, 6.0)  # where it is, see `MicroscopeConfig`

    def __post_init__(self) -> None:
        """Refuse ranges that mean nothing."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, tuple) and not 0 <= value[0] <= value[1] < math.inf:
                raise ValueError(f"{field.name} must be a finite range low to high, >= 0, got {value}")
        for name in (*_LOG, "depth", "unevenness_um", "texture_um"):
            if not getattr(self, name)[0] > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if round(self.tips[0]) < 1 or self.root_radius[0] < 1 or not self.length_um[1] > 0:
            raise ValueError(
                f"tips and root_radius must begin at 1 or more, length_um must reach above 0, got {self.tips}, "
                f"{self.root_radius}, {self.length_um}"
            )
        for name in ("soma", "black"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")


_LOG = ("contrast", "background", "blur_um", "tip_radius_um")
_WHOLE = ("gaps", "puncta", "neighbors", "tips")
_MICROSCOPE = (
    *("contrast", "background", "unevenness", "unevenness_um", "texture", "texture_um", "read_noise", "variation"),
    *("gaps", "gap_um", "puncta", "neighbors", "neighbor_brightness"),
)
_GROW = ("tips", "length_um", "tortuosity", "tip_radius_um")


def varied(
    config: VaryConfig,
    grow: GrowConfig,
    microscope: MicroscopeConfig,
    spacing_um: tuple[float, float, float],
    rng: np.random.Generator,
) -> tuple[GrowConfig, MicroscopeConfig, tuple[float, float, float]]:
    """Draw the settings of a case.

    Args:
        config: ranges.
        grow: what is not drawn stays as it is here.
        microscope: likewise.
        spacing_um: ZYX; pixels stay, and with them the distance of slices changes.
        rng: the only source of chance.

    Returns:
        Growth, microscope and spacing of the case.
    """
    drawn = {field.name: _draw(config, field.name, rng) for field in fields(config) if field.name not in _SHARES}
    shows = {name: bool(rng.random() < getattr(config, name)) for name in ("soma", "black")}
    grown = replace(
        grow,
        root_radius_um=drawn["tip_radius_um"] * drawn["root_radius"],
        soma_um=drawn["soma_um"] if shows["soma"] else 0.0,
        **{name: drawn[name] for name in _GROW},
    )
    blur = drawn["blur_um"]
    seen = replace(
        microscope,
        psf_sigma_um=(blur * drawn["blur_depth"], blur, blur),
        black=min(drawn["black_level"], MOST_BLACK * drawn["contrast"]) if shows["black"] else None,
        **{name: drawn[name] for name in _MICROSCOPE},
    )
    _, y, x = spacing_um
    return grown, seen, (min(y, x) * drawn["depth"], y, x)


_SHARES = ("enabled", "soma", "black")


def _draw(config: VaryConfig, name: str, rng: np.random.Generator) -> float:
    low, high = getattr(config, name)
    share = rng.random()
    if name in _LOG:
        return float(low * (high / low) ** share)
    value = low + (high - low) * share
    return round(value) if name in _WHOLE else float(value)
