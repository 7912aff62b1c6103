"""What a file says of its voxels: how large they are, in which unit of length, and how their axes lie in space."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final
from urllib.parse import quote, unquote

import numpy as np
from numpy.typing import NDArray

_LOG = logging.getLogger(__name__)
_METERS = {"": 1e6, "deci": 1e5, "centi": 1e4, "milli": 1e3, "micro": 1.0, "nano": 1e-3, "pico": 1e-6}
INCH = 25400.0
UM_PER_UNIT = {
    "m": 1e6, "dm": 1e5, "cm": 1e4, "mm": 1e3, "um": 1.0, "nm": 1e-3, "pm": 1e-6, "micron": 1.0,
    "å": 1e-4, "angstrom": 1e-4, "ångstrom": 1e-4, "ångström": 1e-4, "in": INCH, "inch": INCH, "inche": INCH,
    **{f"{prefix}{meter}": size for prefix, size in _METERS.items() for meter in ("meter", "metre")},
}  # fmt: skip

Spacing = tuple[float, float, float]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """How a stack lies in the space its header counts in.

    Attributes:
        axes: float64 [3, 3]; column k is the step in um from a voxel to the next along array axis k (z, y, x).
        origin: float64 [3], the place of voxel (0, 0, 0) in um; None where it is not stated.
        space: name of the space; places in two spaces cannot be compared.
    """

    axes: NDArray[np.float64]
    origin: NDArray[np.float64] | None
    space: str


@final
@dataclass(frozen=True, slots=True, eq=False)
class Stated:
    """What a file states of its voxels.

    Attributes:
        spacing_um: ZYX; None where it states none.
        has_unit: False where the sizes are plain numbers, which are taken as um.
        grid: how the axes lie in space, None where the format or the file does not say.
    """

    spacing_um: Spacing | None = None
    has_unit: bool = True
    grid: Grid | None = None


def checked_grid(axes: NDArray[np.float64], origin: NDArray[np.float64] | None, space: str) -> Grid | None:
    """Return a grid; None where the axes are no numbers or do not span space."""
    lengths = np.linalg.norm(axes, axis=0)
    if axes.shape != (3, 3) or not np.isfinite(axes).all() or not (lengths > 0).all():
        return None
    if abs(np.linalg.det(axes / lengths)) < 1e-3:
        return None
    return Grid(axes, origin if origin is not None and np.isfinite(origin).all() else None, space)


def grid_in_words(grid: Grid | None) -> dict[str, str]:
    """Return what a header must hold for `grid_of_words`, without blanks; nothing for no grid.

    >>> words = grid_in_words(Grid(np.diag([2.0, 0.5, -0.5]), np.array([0.0, 0.25, 9.0]), "left-posterior-superior"))
    >>> words["origin_um"], words["space"]
    ('0.0,0.25,9.0', 'left-posterior-superior')
    """
    if grid is None:
        return {}
    numbers = {"axes_um": grid.axes, "origin_um": np.empty(0) if grid.origin is None else grid.origin}
    words = {name: ",".join(str(float(number)) for number in values.ravel()) for name, values in numbers.items()}
    return {**words, "space": quote(grid.space, safe="")}


def grid_of_words(words: Mapping[str, str]) -> Grid | None:
    """Return the grid that `grid_in_words` wrote, None where there is no whole one."""
    axes, origin = (_numbers_of(words.get(name, "")) for name in ("axes_um", "origin_um"))
    if len(axes) != 9:
        return None
    return checked_grid(axes.reshape(3, 3), origin if len(origin) == 3 else None, unquote(words.get("space", "")))


def _numbers_of(text: str) -> NDArray[np.float64]:
    try:
        return np.array([float(word) for word in text.split(",")])
    except ValueError:
        return np.empty(0)


def um_per_unit(name: object) -> float | None:
    r"""Return how many micrometers a unit of length has; None for ``pixel``, nothing or an unknown word.

    >>> um_per_unit("mm"), um_per_unit("microns"), um_per_unit("Nanometre"), um_per_unit("\\u00B5m"), um_per_unit("Å")
    (1000.0, 1.0, 0.001, 1.0, 0.0001)
    >>> um_per_unit("pixel")
    """
    text = re.sub(r"\\u([0-9a-fA-F]{4})", lambda code: chr(int(code[1], 16)), str(name))  # ImageJ's way to write µ
    word = unicodedata.normalize("NFKC", text.replace("Â", "")).replace("μ", "u").strip().lower()
    return UM_PER_UNIT.get(word) or UM_PER_UNIT.get(word.removesuffix("s"))


def number_of(value: object) -> float | None:
    """Return a number of a header, also one with a decimal comma; None where there is none.

    >>> number_of(2), number_of("0,5"), number_of("-"), number_of(None)
    (2.0, 0.5, None, None)
    """
    try:
        return float(str(value).replace(",", "."))
    except ValueError:
        return None


def complete_spacing(path: Path, sizes_um: Sequence[float | None]) -> Spacing | None:
    """Return ZYX sizes as a spacing; None if there is none.

    An axis whose size is not a finite number above 0 beside one whose size is counts as 1 um, with a warning.
    """
    usable = [float(s) if s is not None and np.isfinite(s) and s > 0 else None for s in sizes_um]
    missing = [axis for axis, size in zip("zyx", usable, strict=True) if size is None]
    if len(missing) == len(usable):
        return None
    if missing:
        _LOG.warning("%s: states no spacing along %s; 1 um a voxel is assumed there", path, " and ".join(missing))
    z, y, x = (1.0 if size is None else size for size in usable)
    return z, y, x


def checked_spacing(sizes: Sequence[float]) -> Spacing | None:
    """Return three sizes as a spacing, or None unless all are finite and above 0."""
    z, y, x = sizes
    return (z, y, x) if all(np.isfinite(size) and size > 0 for size in sizes) else None


def warn_no_unit(path: Path, sizes: Sequence[float | None], unit: object) -> None:
    """Log that sizes are taken as micrometers though their unit is no length."""
    shown = " ".join("?" if size is None else f"{size:g}" for size in sizes)
    _LOG.warning(
        "%s: states no spacing in a unit of length: zyx %s in unit %r; taken as um", path, shown, unit or "none"
    )
