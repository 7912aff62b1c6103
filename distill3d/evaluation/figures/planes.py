"""Draws parts of a stack as maximum projections along its three axes, at their place in voxels, and lines over them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from distill3d.evaluation.figures.canvas import GAMMA, Flags, Rgb, Spacing, Stack, dim_window

Plane = tuple[int, int]
XY, XZ, ZY = (1, 2), (0, 2), (1, 0)  # axes that run down and to the right
SIZE, ROOM = (14.6, 7.7), (6.5, 6.15)  # inches: the picture, the projections of the whole
LEFT, TOP, GAP = 0.4, 1.2, 0.1
Voxels = NDArray[np.int64]
Box = tuple[Voxels, Voxels]  # first and last voxel


def whole(image: Stack) -> Box:
    """Return the box of a whole image."""
    return np.zeros(3, np.int64), np.array(image.shape) - 1


def overview(figure: Figure, image: Stack, spacing_um: Spacing, left: float = LEFT) -> Iterator[tuple[Axes, Plane]]:
    """Draw the whole image in three planes that share one scale, from inches ``left`` on; yields each to draw on."""
    size = np.array(image.shape) * spacing_um
    inch = min(ROOM[0] / (size[2] + size[0]), ROOM[1] / (size[1] + size[0]))
    right, below = left + size[2] * inch + GAP, TOP + size[1] * inch + GAP
    for plane, place in ((XY, (left, TOP)), (ZY, (right, TOP)), (XZ, (left, below))):
        ax = axes(figure, *place, inch * size[list(plane)])
        show(ax, image, spacing_um, whole(image), plane)
        yield ax, plane
        ax.tick_params(labelleft=plane is not ZY, labelbottom=plane is not XY)


def axes(figure: Figure, left: float, top: float, size: np.ndarray) -> Axes:
    """Return axes at a place in inches from the upper left, of that height and width."""
    height, width = size
    return figure.add_axes((left / SIZE[0], 1 - (top + height) / SIZE[1], width / SIZE[0], height / SIZE[1]))


def text(figure: Figure, left: float, top: float, words: str, fontsize: float = 9.5, weight: str = "normal") -> None:
    """Write at a place in inches from the upper left."""
    figure.text(left / SIZE[0], 1 - top / SIZE[1], words, fontsize=fontsize, weight=weight)


def legend(figure: Figure, colors: Mapping[str, Rgb]) -> None:
    """Say in the upper right corner what the lines of each color are."""
    keys = [Line2D([], [], color=color, lw=2, label=name) for name, color in colors.items()]
    place = {"loc": "upper right", "bbox_to_anchor": (1 - 0.15 / SIZE[0], 1 - 0.42 / SIZE[1])}
    look = {"fontsize": 8, "facecolor": "0.3", "labelcolor": "white", "fancybox": False}
    figure.legend(handles=keys, ncols=len(keys), **look, **place)


def show(ax: Axes, image: Stack, spacing_um: Spacing, box: Box, plane: Plane, note: str = "") -> None:
    """Draw the maximum projection of a part of the image at its place in voxels."""
    (low, high), (down, right) = box, plane
    z, y, x = (slice(int(a), int(b) + 1) for a, b in zip(low, high, strict=True))
    part = image if (high - low + 1 == image.shape).all() else image[z, y, x]
    flat = part.max(axis=3 - down - right)
    drawn = ax.imshow(
        flat if down < right else flat.T,
        cmap="gray",
        norm=PowerNorm(GAMMA, *dim_window(flat), clip=True),
        aspect=spacing_um[down] / spacing_um[right],
    )
    drawn.set_extent((low[right] - 0.5, high[right] + 0.5, high[down] + 0.5, low[down] - 0.5))
    ax.set_autoscale_on(False)
    ax.tick_params(labelsize=6.5, length=2, pad=1.5)
    for axis, inches in zip(("x", "y"), np.multiply(ax.get_position().size, SIZE), strict=True):
        ax.locator_params(axis=axis, nbins=int(np.clip(2.5 * inches, 1, 5)), integer=True, min_n_ticks=1)
    label(ax, "ZYX"[right] + "ZYX"[down] + note, (0, 1), (3, -3), va="top", xycoords="axes fraction")


def lines(
    ax: Axes, plane: Plane, starts: NDArray[np.floating], ends: NDArray[np.floating], color: Rgb, width: float
) -> None:
    """Draw straight pieces [N, 3] in voxels, with a dark rim that sets the color off from bright neurites."""
    # A piece that is seen end on is a dot: round caps need some length.
    flat = list(np.stack([starts[:, plane[::-1]], ends[:, plane[::-1]] + 0.02], axis=1))
    for shade, more in (("black", 1.2), (color, 0.0)):
        ax.add_collection(LineCollection(flat, colors=[shade], linewidths=width + more, capstyle="round", snap=False))


def within(points: np.ndarray, box: Box) -> Flags:
    """Say of every point [N, 3] and axis whether it lies in the box."""
    return (points >= box[0] - 0.5) & (points <= box[1] + 0.5)


def label(ax: Axes, words: str, at: tuple[float, float], offset: tuple[int, int], **how: Any) -> None:  # noqa: ANN401 - matplotlib's own
    """Write white on black, so many points beside a place."""
    style = {"color": "white", "fontsize": 7, "bbox": {"facecolor": "black", "edgecolor": "none", "pad": 1}} | how
    ax.annotate(words, at, offset, textcoords="offset points", **style)
