"""Opens trees and stacks in napari itself: what ``distill3d/napari.yaml`` names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from distill3d.evaluation.figures.layers import Layer, image_layer, whole_tree
from distill3d.volumes.stack_files import stem_of
from distill3d.volumes.swc import MICROMETERS, is_tree_file, read_swc, stated_spacing
from distill3d.volumes.volume import read_volume


def get_reader(path: str | list[str]) -> Callable[[str | list[str]], list[Layer]] | None:
    """Return the reader of a file, or None for several at once, which napari then opens one by one."""
    return read if isinstance(path, str) else None


def read(path: str | list[str]) -> list[Layer]:
    """Read a tree as lines, a stack as an image; both in um.

    Raises:
        InputError: the file cannot be read.
    """
    file = Path(path if isinstance(path, str) else path[0])
    if is_tree_file(file):
        tree = read_swc(file, spacing_um=stated_spacing(file) or MICROMETERS, allow_empty=True)
        return [whole_tree(file.stem, tree)]
    volume = read_volume(file)
    return [image_layer(stem_of(file), volume.data, volume.spacing_um)]
