"""What all figures share: colors, windows of gray, projections at their place, and a canvas that is saved."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.typing import NDArray
from PIL import Image

from distill3d.errors import printable
from distill3d.storage.run_folder import write_bytes
from distill3d.volumes.parts import Parted

# Okabe and Ito's colors, which color-blind readers can tell apart.
GREEN, ORANGE, BLUE, YELLOW = (0.0, 0.62, 0.45), (0.90, 0.38, 0.0), (0.34, 0.71, 0.91), (0.94, 0.89, 0.26)
HIT, FALSE, LOST, UNKNOWN = GREEN, ORANGE, BLUE, (0.35, 0.35, 0.35)
RIGHT = (1.0, 1.0, 1.0)  # predicted, and agrees with gold
GAMMA = 0.6  # dim neurites are the ones that are missed, and must be seen beside bright ones
DIM = (25, 99.8)  # percentiles that are drawn black and white along with it

Rgb = tuple[float, float, float]
Reals, Flags = NDArray[np.floating], NDArray[np.bool_]
Spacing = tuple[float, float, float]
Shape = tuple[int, ...]
Stack = NDArray[np.number] | Parted  # that is drawn


def dim_window(flat: NDArray[np.number]) -> tuple[float, float]:
    """Return the intensities to draw black and white where dim structures are lifted by `GAMMA`."""
    black, white = (float(value) for value in np.percentile(flat, DIM))
    return black, max(white, black + 1e-6)


def gray(image: Stack, axis: int = 0) -> NDArray[np.uint8]:
    """Project a stack [Z, Y, X] along an axis (0 is z) to shades, with dim structures lifted."""
    flat = np.asarray(image.max(axis=axis)).astype(np.float32)
    black, white = dim_window(flat)
    return np.rint(255 * np.clip((flat - black) / (white - black), 0, 1) ** GAMMA).astype(np.uint8)


def show(ax: Axes, part: Reals, start_zyx_vox: NDArray[np.int64], axis: int, spacing_um: Spacing) -> None:
    """Draw a maximum projection along an axis (0 is z) at its place in the whole image."""
    flat = part.max(axis=axis)
    row, column = (a for a in range(3) if a != axis)
    low, high = np.percentile(flat, (5, 99.5))
    top, left = start_zyx_vox[row] - 0.5, start_zyx_vox[column] - 0.5
    drawn = ax.imshow(
        flat, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), aspect=spacing_um[row] / spacing_um[column]
    )
    drawn.set_extent((left, left + flat.shape[1], top + flat.shape[0], top))
    ax.axis("off")


def save(figure: Figure, path: Path, *, dpi: int = 100) -> Path:
    """Write a PNG on white; its folder is made. Returns ``path``."""
    _as_text(figure)
    canvas = FigureCanvasAgg(figure)
    figure.set(dpi=dpi, facecolor="white")
    canvas.draw()  # `savefig` would draw everything twice for its layout
    return _write(path, Image.fromarray(np.asarray(canvas.buffer_rgba())), dpi=(dpi, dpi))


def save_quantized(figure: Figure, path: Path, colors: Iterable[Rgb]) -> Path:
    """Write a PNG of 32 grays and few shades of some colors: a third of the size, and lines keep their exact color.

    Finer shades would only store noise. Lines have a black rim, so that their colors are blended with black alone.

    Returns:
        ``path``.
    """
    shades = [np.linspace(0, 1, 32)[:, None] * np.ones(3), *(np.linspace(0, 1, 9)[1:, None] * c for c in colors)]
    _as_text(figure)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    drawn, palette = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB"), Image.new("P", (1, 1))
    palette.putpalette(np.rint(255 * np.concatenate(shades)).astype(np.uint8).tobytes())
    return _write(path, drawn.quantize(palette=palette, dither=Image.Dither.NONE), optimize=True)


def _write(path: Path, image: Image.Image, **how: Any) -> Path:  # noqa: ANN401 - as Pillow has them
    png = io.BytesIO()
    image.save(png, "PNG", **how)
    write_bytes(path, png.getvalue())
    return path


def _as_text(figure: Figure) -> None:
    """Take names with dollars as names; labels of ticks, which may be formulas, are not there yet."""
    for text in figure.findobj(Text):
        if isinstance(text, Text) and (written := text.get_text()):
            text.set_parse_math("$" not in written)
            text.set_text("\n".join(map(printable, written.split("\n"))))
