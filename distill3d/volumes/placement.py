"""Bring two stacks of one space to the same order and direction of axes, as their headers state them."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import overload

import numpy as np
from numpy.typing import NDArray

from distill3d.errors import InputError
from distill3d.volumes.geometry import Grid, Spacing, Stated
from distill3d.volumes.lazy import LazyVolume
from distill3d.volumes.volume import Volume

_LOG = logging.getLogger(__name__)
_SAME = 0.01  # relative; formats keep sizes as float32 or as text
_SAME_PLACE_VOX = 0.5  # two stacks whose first voxels are nearer than this begin at one place
_SAME_DIRECTION = 0.02  # of unit vectors: about one degree


@overload
def brought_to(reference: Volume | LazyVolume, volume: Volume, *, names: tuple[str, str]) -> Volume: ...
@overload
def brought_to(reference: Volume | LazyVolume, volume: LazyVolume, *, names: tuple[str, str]) -> LazyVolume: ...
def brought_to(
    reference: Volume | LazyVolume, volume: Volume | LazyVolume, *, names: tuple[str, str]
) -> Volume | LazyVolume:
    """Return a volume with its axes in the order and direction of another one's, as both headers state them.

    A volume is left as it is where one of the two headers says nothing, or where they count in different spaces.

    Args:
        reference: whose axes are wanted.
        volume: what is brought to them, such as the reference's mask.
        names: of reference and volume, for errors.

    Returns:
        The volume, its data a view where nothing had to be turned.

    Raises:
        InputError: the headers' axes are not those of one box, or the two begin at different places; or the volume
            stays on disk and would have to be turned.
    """
    onto, grid = reference.stated.grid, volume.stated.grid
    if onto is None or grid is None or onto.space != grid.space:
        return volume
    grid = _in_units_of(reference.stated, volume.stated, grid)
    order, signs = _permutation(onto, grid, names)
    corner = np.where(signs < 0, np.asarray(volume.shape)[order] - 1, 0)
    axes = grid.axes[:, order]
    origin = None if grid.origin is None else grid.origin + axes @ corner
    turned = Grid(axes * signs, origin, grid.space)
    _require_one_place(onto, turned, names)
    if (order == np.arange(3)).all() and (signs > 0).all():
        return volume
    if isinstance(volume, LazyVolume):
        raise InputError(
            f"{names[1]}: its axes have another order or direction than those of {names[0]}, and it is too large to be "
            "turned in memory; accepted: both the same"
        )
    flips = tuple(slice(None, None, int(sign)) for sign in signs)
    _LOG.info("%s: axes taken in the order %s and direction %s of %s", names[1], order, signs.astype(int), names[0])
    stated = replace(volume.stated, grid=turned, spacing_um=_reordered(volume.stated.spacing_um, order))
    as_stated = volume.spacing_um == volume.stated.spacing_um  # else it was given for the reference's axes
    spacing = stated.spacing_um if as_stated and stated.spacing_um else volume.spacing_um
    return Volume(volume.data.transpose(order)[flips], spacing, stated)


def contradict(a: Stated, b: Stated) -> bool:
    """Tell whether the spacings that two files state contradict each other; not where one states none.

    Where only one of them has a unit, sizes in the same proportion are no contradiction.

    >>> contradict(Stated((1.0, 0.5, 0.5)), Stated((1.0, 1.0, 1.0)))
    True
    """
    if a.spacing_um is None or b.spacing_um is None or same_spacing(a.spacing_um, b.spacing_um):
        return False
    ratios = np.divide(a.spacing_um, b.spacing_um)
    return a.has_unit == b.has_unit or bool(np.ptp(ratios) > _SAME * ratios.max())


def same_spacing(a: Spacing, b: Spacing) -> bool:
    """Tell whether two voxel sizes agree within 1 %, which is more than any format rounds."""
    return np.allclose(a, b, rtol=_SAME, atol=0)


def _reordered(spacing: Spacing | None, order: NDArray[np.intp]) -> Spacing | None:
    if spacing is None:
        return None
    z, y, x = (spacing[axis] for axis in order)
    return z, y, x


def _in_units_of(a: Stated, b: Stated, grid: Grid) -> Grid:
    """Return the second file's grid in the unit of the first, where only one of them names its unit."""
    if a.grid is None or a.has_unit == b.has_unit:
        return grid
    factor = np.cbrt(abs(np.linalg.det(a.grid.axes) / np.linalg.det(grid.axes)))
    return Grid(grid.axes * factor, None if grid.origin is None else grid.origin * factor, grid.space)


def _permutation(onto: Grid, grid: Grid, names: tuple[str, str]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return which axis of the second grid lies along each of the first, and in which direction, 1 or -1."""
    units = [axes / np.linalg.norm(axes, axis=0) for axes in (onto.axes, grid.axes)]
    along = np.linalg.solve(units[0], units[1])  # [axis of the first, axis of the second]
    order = np.abs(along).argmax(axis=1)
    signs = np.sign(along[np.arange(3), order])
    wanted = np.zeros((3, 3))
    wanted[np.arange(3), order] = signs
    if len(set(order.tolist())) < 3 or np.abs(along - wanted).max() > _SAME_DIRECTION:
        raise InputError(
            f"{names[1]}: its header turns its axes against those of {names[0]}; accepted: the same axes, in any "
            "order and direction (resample one of them)"
        )
    return order, signs


def _require_one_place(onto: Grid, grid: Grid, names: tuple[str, str]) -> None:
    if onto.origin is None or grid.origin is None:
        return
    apart_vox = np.linalg.solve(onto.axes, grid.origin - onto.origin)
    if np.abs(apart_vox).max() > _SAME_PLACE_VOX:
        shown = " ".join(f"{n:.3g}" for n in apart_vox)
        raise InputError(
            f"{names[1]}: by its header it begins zyx {shown} voxels away from {names[0]}; accepted: one place"
        )
