"""From a mask to the centerlines of its pieces, by TEASAR."""

from __future__ import annotations

from typing import Any

import kimimaro
import numpy as np
from numpy.typing import NDArray

from distill3d.config.trace import TraceConfig
from distill3d.tracing.graph import Skeleton
from distill3d.volumes.components import label_components

_NEVER = 1e30  # finest voxels; TEASAR treats all parts alike, since somata are recognized when roots are chosen


def skeletonize(mask: NDArray[np.bool_], spacing_um: NDArray[np.float64], config: TraceConfig) -> Skeleton:
    """Find the centerlines of a mask; every piece (26-connected) has at least one node.

    Source: Sato, Bitter, Bender, Kaufman, Nakajima 2000, TEASAR, as `kimimaro` implements it. A radius is the distance
    from the node to the center of the nearest voxel outside; beyond the volume counts as inside.

    Args:
        mask: bool [Z, Y, X].
        spacing_um: ZYX voxel size, float64 [3].
        config: the TEASAR settings.

    Returns:
        Nodes at centers of voxels, in micrometers.
    """
    unit_um = spacing_um.min()  # of kimimaro, whose cost of a voxel depends on the unit: dbf_max ** 1.01
    traced = kimimaro.skeletonize(
        mask.view(np.uint8),
        teasar_params=teasar_params(spacing_um, config),
        anisotropy=tuple(spacing_um / unit_um),
        dust_threshold=0,
        progress=False,
        fix_branching=config.fix_branching,
        fix_borders=True,
        fill_holes=config.fill_holes,
        parallel=1,  # more would start processes
    ).get(1)
    if traced is None:
        voxels, radii, edges = np.empty((0, 3), np.int64), np.empty(0), np.empty((0, 2), np.int64)
    else:
        voxels = np.rint(traced.vertices / (spacing_um / unit_um)).astype(np.int64)
        radii, edges = traced.radii.astype(np.float64) * unit_um, traced.edges.astype(np.int64)
    lone = _pieces_without_node(mask, voxels)
    radii = np.concatenate([radii, np.full(len(lone), unit_um)])
    return Skeleton(np.concatenate([voxels, lone]) * spacing_um, radii, edges)


def teasar_params(spacing_um: NDArray[np.float64], config: TraceConfig) -> dict[str, Any]:
    """Return the settings of kimimaro's TEASAR; lengths in the smallest spacing."""
    return {
        "scale": config.invalidation_scale,
        "const": config.invalidation_at(spacing_um.tolist()) / spacing_um.min(),
        "pdrf_scale": config.centering_weight,
        "pdrf_exponent": config.centering_exponent,
        "soma_detection_threshold": _NEVER,
        "soma_acceptance_threshold": _NEVER,
    }


def _pieces_without_node(mask: NDArray[np.bool_], voxels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the first voxel of every piece that TEASAR passed over, such as one of a single voxel."""
    labels, count = label_components(mask)
    seen = np.zeros(count + 1, bool)
    seen[0] = True
    seen[labels[tuple(voxels.T)]] = True
    missing = np.flatnonzero(~seen)
    if not len(missing):
        return np.empty((0, 3), np.int64)
    where = np.flatnonzero(np.isin(labels, missing))
    _, first = np.unique(labels.ravel()[where], return_index=True)
    return np.stack(np.unravel_index(where[first], mask.shape), axis=1).astype(np.int64)
