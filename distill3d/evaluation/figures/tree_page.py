"""A case's trees to turn around, as one HTML file that opens anywhere: lines before the projections of the image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from distill3d.evaluation.figures.canvas import Spacing, Stack, gray
from distill3d.evaluation.figures.scene import scene
from distill3d.evaluation.figures.web import Picture, asset, content_policy, environment, picture
from distill3d.evaluation.metrics.tree import DEFAULT_TREE_TOLERANCE
from distill3d.storage.run_folder import write_text
from distill3d.volumes.tree import Tree

SIDE, WALL_QUALITY = 512, 55  # pixels of the longer side of a projection, and of WebP
MOST_WALL = 120_000  # bytes of one in the text of a page


def wall(shades: NDArray[np.uint8], axis: int, spacing_um: Spacing, side: int = SIDE, most: int = MOST_WALL) -> Picture:
    """Encode a projection along an axis (0 is z), as wide over high as it is in um.

    Args:
        shades: what is left of [Z, Y, X] without the axis.
        axis: along which it was projected.
        spacing_um: ZYX voxel size.
        side: pixels of the longer side, at most.
        most: bytes of its text; what has more becomes smaller.
    """
    row, column = (a for a in range(3) if a != axis)
    size_um = np.array([shades.shape[1] * spacing_um[column], shades.shape[0] * spacing_um[row]])
    longest = min(side, max(shades.shape))
    width, height = (max(1, round(longest * float(size) / float(size_um.max()))) for size in size_um)
    drawn = Image.fromarray(shades).resize((width, height), Image.Resampling.BOX, reducing_gap=2.0)
    made = picture(drawn, f"The image, brightest along {'zyx'[axis]}", WALL_QUALITY)
    return made if len(made.uri) <= most else wall(shades, axis, spacing_um, longest * 3 // 4, most)


def walls(image: Stack, spacing_um: Spacing) -> dict[str, Picture]:
    """Return the projections of a stack [Z, Y, X] along z, y and x, by that letter."""
    return {name: wall(gray(image, axis), axis, spacing_um) for axis, name in enumerate("zyx")}


def tree_page(
    path: Path,
    title: str,
    note: str,
    *,
    image: Stack,
    gold: Tree | None,
    pred: Tree | None,
    spacing_um: Spacing,
    notes: Mapping[str, str] | None = None,
) -> Path:
    """Write a page that turns both trees before the image: by mouse, finger and keyboard, at most 1 MB.

    Args:
        path: HTML to write; its folder is made.
        title: above the view.
        note: below the title, such as scores.
        image: [Z, Y, X] intensities.
        gold: in micrometers; None where there is none.
        pred: the same.
        spacing_um: ZYX voxel size.
        notes: for its first line, a comment; see `distill3d.volumes.origin`.

    Returns:
        ``path``.
    """
    script = asset("view.js") + asset("tree.js")
    content = {
        "title": title,
        "note": note,
        "policy": content_policy([script]),
        "style": Markup(asset("view.css")),  # noqa: S704 - ours
        "script": Markup(script),  # noqa: S704 - ours
        "scene": scene(gold=gold, pred=pred, shape_zyx=image.shape, spacing_um=spacing_um),
        "walls": walls(image, spacing_um),
    }
    page = environment().get_template("tree.html.j2").render(content)
    write_text(
        path, f"<!-- {' '.join(f'{key}={value}' for key, value in notes.items())} -->\n{page}" if notes else page
    )
    return path


def in_words(scores: Mapping[str, float]) -> str:
    """Say what the page of a case's trees shows in numbers."""
    if "tree_f1" not in scores:
        return f"Dice {scores['dice']:.3f}; gold has no tree to compare with"
    shares = ", ".join(f"{name} {scores[f'tree_{name}']:.3f}" for name in ("precision", "recall"))
    return f"Length F1 {scores['tree_f1']:.3f}, {shares} within {DEFAULT_TREE_TOLERANCE:g} voxels"
