"""How closely tubes follow neurites, and how near they are to the bound of their bending. It bends no tube."""

from __future__ import annotations

from typing import final

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

NEAR = 2.0  # voxels from gold that still are on the neurite
SATURATED = 0.95  # share of the bound from which on a step counts as saturated

Reals, Flags = NDArray[np.floating], NDArray[np.bool_]


def inside(points_zyx_vox: Reals, shape: tuple[int, ...]) -> Flags:
    """Say which points [..., 3] lie in a voxel of an image of this shape; whole numbers are the middles of voxels."""
    return np.all((points_zyx_vox >= -0.5) & (points_zyx_vox <= np.array(shape) - 0.5), axis=-1)


def near_gold(points_zyx_vox: Reals, mask: Flags, radius_vox: float = NEAR) -> Flags:
    """Say which points [..., 3] lie at most ``radius_vox`` from the middle of a gold voxel."""
    gold = np.argwhere(mask)
    if not len(gold):
        return np.zeros(points_zyx_vox.shape[:-1], bool)
    beyond = float(np.nextafter(radius_vox, np.inf))
    return KDTree(gold).query(points_zyx_vox, distance_upper_bound=beyond)[0] <= radius_vox


def share_on_neurite(taps_zyx_vox: Reals, mask: Flags, radius_vox: float = NEAR) -> float:
    """Return the share of the taps inside the image that lie at most ``radius_vox`` from the middle of a gold voxel.

    It is 0 where there is no gold or no tap inside.

    Args:
        taps_zyx_vox: [..., 3]; whole numbers are the middles of voxels.
        mask: gold [Z, Y, X].
        radius_vox: 0 or more.

    Example:
        >>> share_on_neurite(np.array([[0.0, 0, 0], [0, 0, 3], [0, 0, 9]]), np.eye(1, 5, dtype=bool)[None])
        0.5
    """
    near = near_gold(taps_zyx_vox[inside(taps_zyx_vox, mask.shape)], mask, radius_vox)
    return float(near.mean()) if len(near) else 0.0


def saturated_steps(taps_zyx_vox: Reals, axis: int, *, law: str, extent: float, spacing: float) -> Flags:
    """Say which steps between neighboring taps bend at least 95 % as far as the law allows, on either transverse axis.

    Args:
        taps_zyx_vox: [..., K, 3] taps of tubes along one axis.
        axis: the tubes', 0 is z.
        law: "fit": a step may go ``extent`` voxels sideways per voxel along the tube; "snake": ``extent`` voxels;
            "angles": a half may turn by ``extent * pi / 4`` about each axis.
        extent: of the law.
        spacing: voxels between the taps of a straight tube.

    Returns:
        [..., K - 1].

    Example:
        >>> taps = np.array([[0, 0, 0], [0, 0.94, 1], [0, 1.9, 2], [-1, 1.9, 3]])
        >>> saturated_steps(taps, 2, law="fit", extent=1.0, spacing=1.0).tolist()
        [False, True, True]
    """
    steps = np.diff(taps_zyx_vox, axis=-2)
    first, second = (steps[..., a] for a in range(3) if a != axis)
    if law == "angles":
        # The order of turns in `distill3d.layers.tubes.geometry.angle_tube`: first out of the second one's plane.
        along = np.hypot(second, steps[..., axis])
        bends, bound = (np.arctan2(first, along), np.arctan2(second, steps[..., axis])), extent * np.pi / 4
    else:
        bends, bound = (first, second), extent * (spacing if law == "fit" else 1.0)
    return np.maximum(*map(np.abs, bends)) >= SATURATED * bound


@final
class TubeTally:
    """Counts, window by window, how many taps of bent and of straight tubes lie on neurites, and how far they bend."""

    def __init__(self) -> None:
        self._hits = {name: np.zeros(2, np.int64) for name in ("all", "all_straight", "starting", "starting_straight")}
        self._steps, self._bend = np.zeros(2, np.int64), np.zeros(2)

    def add(self, bent: Reals, straight: Reals, mask: Flags, *, saturated: Flags | None) -> None:
        """Count the tubes of a window.

        Args:
            bent: [A, N, K, 3] taps of each axis and block, ZYX in voxels of the window.
            straight: likewise, were they not bent.
            mask: gold of the window [Z, Y, X].
            saturated: [A, N, K - 1] which steps are; None where tubes cannot bend.
        """
        start = straight[0, :, straight.shape[2] // 2]
        starting = inside(start, mask.shape) & near_gold(start, mask)
        for taps, suffix in ((bent, ""), (straight, "_straight")):
            within = inside(taps, mask.shape)
            on = np.zeros_like(within)
            on[within] = near_gold(taps[within], mask)
            self._hits[f"all{suffix}"] += on.sum(), within.sum()
            self._hits[f"starting{suffix}"] += on[:, starting].sum(), within[:, starting].sum()
        moved = np.linalg.norm(bent - straight, axis=-1)[:, starting]
        self._bend += moved.sum(), moved.size
        if saturated is not None:
            self._steps += saturated[:, starting].sum(), saturated[:, starting].size

    def shares(self) -> dict[str, float | None]:
        """Return what was counted, None where there was nothing to count.

        Returns:
            ``on_neurite`` and ``on_neurite_straight``: share of the taps inside the windows that lie within 2 voxels of
            gold. ``followed`` and ``followed_straight``: the same for tubes whose block's center does. Of the latter
            also ``saturated``: share of the steps that are, and ``bend_vox``: mean distance of a tap from its place on
            the straight tube.
        """
        return {
            "on_neurite": _share(self._hits["all"]),
            "on_neurite_straight": _share(self._hits["all_straight"]),
            "followed": _share(self._hits["starting"]),
            "followed_straight": _share(self._hits["starting_straight"]),
            "saturated": _share(self._steps),
            "bend_vox": _share(self._bend),
        }


def _share(counts: NDArray[np.number]) -> float | None:
    return float(counts[0] / counts[1]) if counts[1] else None
