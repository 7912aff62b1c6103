"""From centerlines to trees."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from distill3d.config.trace import TraceConfig
from distill3d.errors import InputError
from distill3d.tracing.bridge import Terrain, bridge_gaps, step_cost
from distill3d.tracing.forks import merge_forks
from distill3d.tracing.graph import Skeleton, break_cycles
from distill3d.tracing.prune import cut_spurs, drop_small_trees
from distill3d.tracing.rooting import root_trees
from distill3d.tracing.smooth import smooth
from distill3d.volumes.parts import gather
from distill3d.volumes.tree import Tree

_LOG = logging.getLogger(__name__)
# A denser mask comes from a threshold or a network that failed. Gold fills at most 0.23 % of an OP stack, 0.55 % of a
# DIADEM axon's and 4.7 % of a crop of TrailMap; Otsu marks at most 0.20 % of OP, and 39 to 43 % of its hard variants.
MAX_SHARE = 0.1


class DenseError(InputError):
    """More foreground than the caller lets be traced."""


def require_sparse(share: float, max_share: float) -> None:
    """Warn of a dense mask.

    Raises:
        DenseError: there is more foreground than ``max_share``.
    """
    if share > max_share:
        raise DenseError(f"{100 * share:.3g} % of the volume is foreground; accepted: at most {100 * max_share:.3g} %")
    if share > MAX_SHARE:
        _LOG.warning("%.0f %% of the volume is foreground and takes long; a neuron fills a few percent", 100 * share)


def tree_of(skeleton: Skeleton, terrain: Terrain, config: TraceConfig) -> Tree:
    """Make trees of the centerlines of a mask: gaps bridged, cycles broken, spurs cut, smoothed and rooted."""
    skeleton = bridge_gaps(skeleton, terrain, gap_um=config.gap_um, max_turn_deg=config.max_turn_deg)
    skeleton = break_cycles(skeleton, _edge_costs(skeleton, terrain))
    skeleton = cut_spurs(
        skeleton,
        spur_um=config.spur_um,
        spur_radii=config.spur_radii,
        spur_voxels=config.spur_voxels,
        spacing_um=terrain.spacing_um,
    )
    skeleton = smooth(merge_forks(skeleton), config.smooth_at(terrain.spacing_um.tolist()))
    skeleton = drop_small_trees(skeleton, config.min_tree_um)
    return root_trees(skeleton, config)


def _edge_costs(skeleton: Skeleton, terrain: Terrain) -> NDArray[np.float64]:
    """Return the cost of every edge as a way through the probability, > 0."""
    cost = step_cost(gather(terrain.prob, terrain.voxels(skeleton.points_zyx_um)).astype(np.float64))
    return skeleton.edge_lengths_um * cost[skeleton.edges].mean(axis=1)
