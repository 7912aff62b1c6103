"""Hold a gold tree against its image: where its nodes lie, in which units, and how thick neurites are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from distill3d.data.base import Case
from distill3d.data.check import orientation
from distill3d.data.fingerprint import RadiusFit, TreePrint, Units
from distill3d.errors import InputError
from distill3d.volumes.alignment import flip_y
from distill3d.volumes.otsu import above_otsu
from distill3d.volumes.raster import rasterize
from distill3d.volumes.tree import Tree
from distill3d.volumes.volume import Volume

RADII = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # voxels in the plane that trees are drawn with
AROUND = 8.0  # voxels in the plane: what is bright farther from a tree is not its neurite


def overlap(volume: Volume, tree: Tree) -> tuple[float, float]:
    """Return how many twentieths of the nodes lie inside, and how bright it is there; larger is likelier."""
    report = orientation(volume, tree)
    if report is None:
        return 0.0, 0.0
    light = max(report.mean_as_is, report.mean_flipped) - report.background
    return round(20 * report.n_inside / tree.n_nodes), round(light, 6)


def tree_print(case: Case, tree: Tree, units: Units, *, drawn: bool) -> TreePrint:
    """Measure the tree of a case.

    Args:
        case: whose volume it is held against.
        tree: of the case, in um.
        units: that its file counts in.
        drawn: gold is drawn from it, so radii are tried.
    """
    volume, report = case.volume, orientation(case.volume, tree)
    flip = "unclear" if report is None else report.verdict
    radii = tree.radii_um / _pixel(volume)
    covered, fits = _fits(volume, flip_y(tree, volume) if flip == "flipped" else tree) if drawn else (1.0, ())
    return TreePrint(
        units=units,
        inside=(0 if report is None else report.n_inside) / tree.n_nodes,
        flip=flip,
        radii=(float(radii.min()), float(np.median(radii)), float(radii.max())),
        unusable=float((radii <= 0).mean()),
        covered=covered,
        fits=fits,
    )


def _pixel(volume: Volume) -> float:
    """Return the edge of a voxel in the plane."""
    return float(np.sqrt(volume.spacing_um[1] * volume.spacing_um[2]))


def _fits(volume: Volume, tree: Tree) -> tuple[float, tuple[RadiusFit, ...]]:
    """Hold a tree, drawn with its file's radii and with fixed ones, against what is bright nearby.

    Returns:
        The share of what is bright that is near the tree, and a fit for each radius that can be drawn.
    """
    bright = above_otsu(volume.data)
    count = int(np.count_nonzero(bright))
    bright &= _drawn(volume, tree, AROUND)
    nearby = int(np.count_nonzero(bright))
    fits: list[RadiusFit] = []
    for voxels in (None, *RADII):
        try:
            mask = _drawn(volume, tree, voxels)
        except InputError:  # the file's column holds no radii
            continue
        dice = 2 * int(np.count_nonzero(mask & bright)) / max(int(np.count_nonzero(mask)) + nearby, 1)
        fits.append(RadiusFit(voxels=voxels, dice=dice, share=float(mask.mean())))
    return nearby / max(count, 1), tuple(fits)


def _drawn(volume: Volume, tree: Tree, voxels: float | None) -> NDArray[np.bool_]:
    return rasterize(
        tree,
        volume.shape,
        spacing_um=volume.spacing_um,
        radius="file" if voxels is None else "fixed",
        radius_um=(voxels or 1.0) * _pixel(volume),
        allow_outside=True,
    )
