"""Teacher maps of whole volumes on disk, written once and read as memory maps.

An entry's address is a hash of all it depends on: the teacher's weights and input statistics, the layer, the axis, the
resizing, the volume's intensities. It appears whole or not at all, so a killed process leaves nothing that is read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor

from distill3d.errors import InputError
from distill3d.layers.grids import Cells
from distill3d.storage.whole_folder import mark_used, read_meta, sweep, write_whole
from distill3d.teachers.base import Teacher
from distill3d.teachers.slices import SliceMaps, Zoom, cut_slices, run_slices, slice_order
from distill3d.types import Axis

FORMAT = 1
VALUES = "maps.npy"
SLICES_AT_ONCE = 32  # cut out of a volume; `run_slices` may take fewer


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stack:
    """A whole volume, as the teacher sees it slice by slice.

    Attributes:
        name: of the case.
        image: returns its intensities in [0, 1], [Z, Y, X] float32; called only if they are needed.
        sha256: of what ``image`` returns, or of all it is made from.
        spacing_um: ZYX.
    """

    name: str
    image: Callable[[], NDArray[np.float32]]
    sha256: str
    spacing_um: tuple[float, float, float]


@dataclass(slots=True)
class CacheCount:
    """Entries that were there, entries that had to be computed, and their size."""

    hits: int = 0
    misses: int = 0
    bytes: int = 0


class FeatureCache:
    """Maps of some layers of one teacher.

    Args:
        root: folder for all teachers and volumes; made when the first entry is written.
        teacher: computes what is missing.
        zoom: resizes slices first.
    """

    def __init__(self, root: Path, teacher: Teacher, zoom: Zoom) -> None:
        self.root, self.teacher, self.zoom = root, teacher, zoom
        self.count = CacheCount()

    def folder(self, stack: Stack, layer: str, axis: Axis) -> Path:
        """Return where an entry is, or will be."""
        content = {
            "teacher": self.teacher.fingerprint,
            "layer": layer,
            "axis": axis,
            "zoom": dataclasses.asdict(self.zoom),
            "spacing": stack.spacing_um if self.zoom.square else None,
            "stack": stack.sha256,
            "format": FORMAT,
        }
        return self.root / hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]

    def fill(
        self, stack: Stack, layers: Sequence[str], axis: Axis, *, on_slices: Callable[[int], None] | None = None
    ) -> None:
        """Compute the maps that are missing, all layers in one run over the slices; safe with several processes.

        Args:
            stack: the whole volume.
            layers: of the teacher.
            axis: that slices are cut across.
            on_slices: called with the number of slices after each forward, for a progress bar.

        Raises:
            InputError: the folder cannot be written.
        """
        wanted = {layer: self.folder(stack, layer, axis) for layer in layers}
        missing = {layer: folder for layer, folder in wanted.items() if not self._is_whole(folder)}
        self.count.hits += len(wanted) - len(missing)
        try:
            if missing:
                self.root.mkdir(parents=True, exist_ok=True)
                sweep(self.root)
                with FileLock(self.root / f"{min(folder.name for folder in missing.values())}.lock"):
                    missing = {layer: folder for layer, folder in missing.items() if not self._is_whole(folder)}
                    self.count.misses += len(missing)
                    if missing:
                        self._compute(stack, missing, axis, on_slices)
        except OSError as error:
            raise InputError(
                f"{self.root}: cannot be written ({error.strerror}); accepted: cache=PATH of a folder that can, "
                "or strategy.view.cache=false"
            ) from error
        self.count.bytes += self.bytes_of(stack, layers, axis)

    def bytes_of(self, stack: Stack, layers: Sequence[str], axis: Axis) -> int:
        """Return the size on disk of maps that are there."""
        return sum((self.folder(stack, layer, axis) / VALUES).stat().st_size for layer in layers)

    def read(self, stack: Stack, layer: str, axis: Axis) -> SliceMaps:
        """Open the maps of a whole volume, as a memory map of half precision.

        Raises:
            InputError: nobody has computed them.
        """
        folder = self.folder(stack, layer, axis)
        meta = read_meta(folder, version=FORMAT)
        if meta is None:
            raise InputError(f"{folder}: no maps of {layer!r} for {stack.name}; accepted: run `distill3d cache` first")
        mark_used(folder)
        values = torch.from_numpy(np.load(folder / VALUES, mmap_mode="c"))  # copy on write: torch wants it writable
        s, y, x = (Cells.regular(count, pitch) for count, pitch in zip(values.shape, meta["pitches"], strict=False))
        return SliceMaps(values, (s, y, x), axis)

    def _is_whole(self, folder: Path) -> bool:
        return read_meta(folder, version=FORMAT) is not None

    def _compute(
        self, stack: Stack, missing: Mapping[str, Path], axis: Axis, on_slices: Callable[[int], None] | None
    ) -> None:
        """Run all slices once, into a temporary folder, then put each layer's maps in place whole."""
        image = torch.from_numpy(stack.image())[None, None]
        across, *plane = slice_order(axis)
        spacing = [stack.spacing_um[a] for a in plane]
        device = next(self.teacher.net.parameters()).device
        with tempfile.TemporaryDirectory(prefix=".maps.", suffix=".partial", dir=self.root) as work:
            files = {layer: Path(work) / f"{number}.npy" for number, layer in enumerate(missing)}
            arrays: dict[str, np.memmap] = {}
            pitches: dict[str, list[float]] = {}
            for first in range(0, image.shape[2 + across], SLICES_AT_ONCE):
                chosen = range(first, min(first + SLICES_AT_ONCE, image.shape[2 + across]))
                slices = cut_slices(image, axis, chosen).to(device)
                runs = run_slices(self.teacher, slices, list(missing), zoom=self.zoom, spacing_yx_um=spacing)
                for part, maps in runs:
                    for layer, (values, y, x) in maps.items():
                        if layer not in arrays:
                            shape = (image.shape[2 + across], *values.shape[1:])
                            arrays[layer] = np.lib.format.open_memmap(files[layer], "w+", np.float16, shape)
                            pitches[layer] = [1.0, y.pitch, x.pitch]
                        arrays[layer][first + part.start : first + part.stop] = _half(values)
                    if on_slices is not None:
                        on_slices(part.stop - part.start)
            for layer, folder in missing.items():
                arrays[layer].flush()
                write_whole(folder, _mover(files[layer], stack.name, layer, axis, pitches[layer]), version=FORMAT)


def _half(values: Tensor) -> NDArray[np.float16]:
    """Return half precision on the CPU; what does not fit becomes its largest number, not infinite."""
    limit = torch.finfo(torch.float16).max
    return values.clamp(-limit, limit).half().cpu().numpy()


def _mover(
    file: Path, name: str, layer: str, axis: Axis, pitches: Sequence[float]
) -> Callable[[Path], dict[str, object]]:
    def write(target: Path) -> dict[str, object]:
        file.rename(target / VALUES)
        return {"case": name, "layer": layer, "axis": axis, "pitches": list(pitches)}

    return write
