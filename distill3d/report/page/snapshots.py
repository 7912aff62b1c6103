"""Small pictures of a case for the page: projections, errors and trees at one place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import binary_dilation, uniform_filter

from distill3d.evaluation.figures.canvas import FALSE, HIT, LOST, RIGHT, Flags, Rgb, Spacing
from distill3d.evaluation.figures.case import IS_FALSE, IS_HIT, IS_LOST, KIND_COLORS
from distill3d.evaluation.metrics.tree import DEFAULT_TREE_TOLERANCE
from distill3d.evaluation.metrics.tree_errors import TreePieces, pieces_within, tree_pieces
from distill3d.volumes.tree import Tree

WHOLE, CLOSE = 460, 380  # pixels of the longer side
SHARE, LEAST = 0.3, 64  # side of a close-up: of the image's shorter side, and voxels
RIM = 3  # pixels
Flat = NDArray[np.uint8]  # [Y, X, 3]
Kinds = NDArray[np.uint8]  # [Y, X], of `distill3d.evaluation.figures.case.error_kinds`


@final
class Box(NamedTuple):
    """A place in the plane, in voxels; the ends are not part of it."""

    top: int
    left: int
    bottom: int
    right: int


def shaded(shades: ArrayLike) -> Flat:
    """Bring shades of gray [Y, X], 0 to 255, to RGB."""
    return np.repeat(np.asarray(shades, np.uint8)[..., None], 3, axis=2)


def colored(errors: Kinds) -> Flat:
    """Bring an error projection to RGB."""
    return np.rint(255 * KIND_COLORS).astype(np.uint8)[errors]


def wrong_pixels(errors: Kinds) -> Flags:
    """Return where an error projection shows something missed or false, bool [Y, X].

    What is within `RIM` pixels of what was found is left out unless that is all: a neurite drawn a voxel too thick is
    wrong along its whole length, and would hide the branch that is missing.
    """
    wrong = np.isin(errors, (IS_FALSE, IS_LOST))
    far = wrong & np.logical_not(binary_dilation(errors == IS_HIT, iterations=RIM))
    return far if far.any() else wrong


def worst_place(wrong: NDArray[np.floating]) -> Box:
    """Return the square with the most wrong pixels, moved inward at a border.

    Args:
        wrong: [Y, X], how many arms are wrong there.

    >>> wrong = np.zeros((200, 300)); wrong[150:160, 20:30] = 1
    >>> worst_place(wrong)
    Box(top=123, left=0, bottom=187, right=64)
    """
    side = min(*wrong.shape, max(LEAST, round(SHARE * min(wrong.shape))))
    share = uniform_filter(wrong.astype(np.float32), size=side, mode="constant")
    # Where many squares hold the same errors, the middle one shows them best.
    best = np.argwhere(share >= share.max() * (1 - 1e-4))
    y, x = best[len(best) // 2] if share.max() > 0 else np.array(wrong.shape) // 2
    top, left = (int(np.clip(c - side // 2, 0, n - side)) for c, n in zip((y, x), wrong.shape, strict=True))
    return Box(top, left, top + side, left + side)


def cut(flat: Flat, box: Box) -> Flat:
    """Return the part of a projection that lies in the box."""
    return flat[box.top : box.bottom, box.left : box.right]


def scaled(flat: Flat, longer_side: int, *, aspect: float = 1.0) -> Image.Image:
    """Bring a projection to the size of the page.

    Args:
        flat: the projection.
        longer_side: pixels of the result; a smaller whole projection stays as it is.
        aspect: height of a voxel over its width.
    """
    height, width = flat.shape[0] * aspect, flat.shape[1]
    factor = longer_side / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return Image.fromarray(flat).resize(size, Image.Resampling.LANCZOS if factor < 1 else Image.Resampling.BICUBIC)


def with_box(image: Image.Image, box: Box, shape: Sequence[int]) -> Image.Image:
    """Draw the place of the close-up into a picture of the whole projection."""
    height, width = shape[:2]
    x, y = image.width / width, image.height / height
    corners = (box.left * x, box.top * y, box.right * x - 1, box.bottom * y - 1)
    draw = ImageDraw.Draw(image)
    draw.rectangle(corners, outline=(0, 0, 0), width=3)
    draw.rectangle(corners, outline=(255, 255, 255), width=1)
    return image


def with_trees(image: Image.Image, box: Box, *, gold: Tree, pred: Tree | None, spacing_um: Spacing) -> Image.Image:
    """Draw trees into a close-up: gold found or missed, predicted spurious; without a prediction, gold alone."""
    of_gold = tree_pieces(gold, spacing_um)
    if pred is None:
        _lines(image, box, of_gold, np.ones(len(of_gold.lengths_vox), bool), RIGHT)
        return image
    of_pred = tree_pieces(pred, spacing_um)
    tolerance = DEFAULT_TREE_TOLERANCE
    gold_found = pieces_within(of_gold, of=of_pred, tolerance_vox=tolerance)
    right = pieces_within(of_pred, of=of_gold, tolerance_vox=tolerance)
    for pieces, which, color in (
        (of_gold, gold_found, HIT),
        (of_pred, ~right, FALSE),
        (of_gold, ~gold_found, LOST),
    ):
        _lines(image, box, pieces, which, color)
    return image


def _lines(image: Image.Image, box: Box, pieces: TreePieces, which: Flags, color: Rgb) -> None:
    """Draw pieces with a dark rim, which sets them off from bright neurites."""
    middle, half = pieces.points_zyx_vox[which][:, :0:-1], pieces.halves_zyx_vox[which][:, :0:-1]
    size = np.array([box.right - box.left, box.bottom - box.top])
    start = np.array([box.left, box.top])
    inside = ((middle >= start - 1) & (middle <= start + size)).all(axis=1)
    scale = np.array(image.size) / size
    ends = (np.stack([middle - half, middle + half], axis=1)[inside] + 0.5 - start) * scale
    draw = ImageDraw.Draw(image)
    width = max(2, round(image.width / 130))
    for shade, more in (((0, 0, 0), 2), (tuple(round(255 * c) for c in color), 0)):
        for first, last in ends:
            draw.line((*first, *last), fill=shade, width=width + more)
