"""Centerlines of gold for the losses that want them: made once per case, kept on disk, cut and turned with a patch.

A skeleton is that of the whole case, before augmentation. Flips and quarter turns commute with cutting and with
dilation, so a worker only moves it; otherwise a neurite would be thinned anew, and differently, at every border of a
patch. A free rotation takes the nearest voxel, as for all labels, which may break a line that is one voxel wide;
dilated lines stay whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from distill3d.data.prepared import PreparedCase, code_hash, written_once
from distill3d.errors import InputError
from distill3d.types import SkeletonTarget
from distill3d.volumes.components import label_components
from distill3d.volumes.raster import rasterize

_FILE = "skeleton.npy"


def add_skeletons(case: PreparedCase, targets: Sequence[SkeletonTarget]) -> PreparedCase:
    """Return the case with its skeletons beside it, made first if there are none; safe with several processes at once.

    Args:
        case: a prepared case; skeletons are kept beside its folder.
        targets: what losses want.

    Raises:
        InputError: a tree is wanted and the case has none, or the cache cannot be written.
    """
    return case.with_skeletons({target.name: _file(case, target) for target in targets})


def skeleton_of(case: PreparedCase, target: SkeletonTarget) -> NDArray[np.bool_]:
    """Make a skeleton of a whole case.

    ``mask`` thins the gold mask to lines of one voxel (in voxels, whatever their spacing); ``tree`` marks the
    26-connected voxels that the gold tree's edges run through. Dilated voxels are kept where they are gold; the line
    itself always is.

    Source: Lee et al. 1994, Building skeleton models via 3-D medial surface and axis thinning algorithms, as in
    scikit-image; dilation within the gold class as in Kirchhoff et al. 2024, arXiv 2404.03010.

    Args:
        case: to thin or to draw.
        target: source and dilation of the skeleton.

    Returns:
        [Z, Y, X].

    Raises:
        InputError: a tree is wanted and the case has none.
    """
    line = _line_of_mask(case.mask) if target.source == "mask" else _line_of_tree(case)
    if not target.dilation_vox:  # no iteration would mean "until nothing changes"
        return line
    grown = np.asarray(binary_dilation(line, iterations=target.dilation_vox), np.bool_)
    return line | (grown & case.mask)


def _line_of_mask(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    from distill3d.volumes.thinning import skeleton  # noqa: PLC0415 - a quarter of a second, wanted only where a loss is

    if not mask.any():
        return np.zeros(mask.shape, bool)
    return skeleton(mask, label_components(mask)[0])


def _line_of_tree(case: PreparedCase) -> NDArray[np.bool_]:
    tree = case.tree()
    if tree is None:
        raise InputError(f"{case.name}: a skeleton from the tree is wanted, and it has none; accepted: source=mask")
    return rasterize(tree, case.shape, spacing_um=case.spacing_um, radius="fixed", radius_um=0.0)


def _file(case: PreparedCase, target: SkeletonTarget) -> Path:
    code = (__name__, rasterize.__module__, label_components.__module__, "distill3d.volumes.thinning")
    content = [case.folder.name, target.name, code_hash(*code)]
    address = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]

    def write(folder: Path) -> dict[str, str]:
        np.save(folder / _FILE, skeleton_of(case, target), allow_pickle=False)
        return {"name": case.name, "skeleton": target.name}

    return written_once(case.folder.parent / address, write) / _FILE
