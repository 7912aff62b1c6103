"""`TeacherView`: the maps of the teacher that a strategy asked for, on the student's grid.

A map comes from slices of the patch, run in every step, or is cut out of maps of the whole volume, cached or run. All
places are counted in voxels of the volume, so that crops at odd offsets, flips and quarter turns are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import Tensor

from distill3d.config.schema import AugmentConfig, PatchConfig
from distill3d.errors import ConfigError
from distill3d.layers.grids import Cells
from distill3d.teachers.base import LOGITS, Teacher
from distill3d.teachers.cache import CacheCount, FeatureCache, Stack
from distill3d.teachers.slices import SliceMaps, Zoom, cut_slices, slice_order, stacked_maps
from distill3d.transfer.requests import TeacherRequest, ViewConfig
from distill3d.types import AXES, UNTURNED, Axis, Batch, Prediction, Turn

GEOMETRY = frozenset({"flip", "rotate90"})  # augmentations that a map of the whole volume can follow


def map_cells(shape_zyx: Sequence[int], size_zyx: Sequence[int], stride_zyx: Sequence[int]) -> list[Cells]:
    """Return where the cells of a student's map lie in a patch.

    Args:
        shape_zyx: of the map.
        size_zyx: of the patch, in voxels.
        stride_zyx: of the student, which pads the patch at its end to a multiple of it.
    """
    padded = [size + -size % stride for size, stride in zip(size_zyx, stride_zyx, strict=True)]
    return [Cells.regular(count, full / count) for count, full in zip(shape_zyx, padded, strict=True)]


@final
class TeacherView:
    """Serves requests.

    Args:
        teacher: frozen; on the device of the batches.
        requests: all that may be asked for.
        stacks: volumes by case; needed where a view's source is the volume.
        cache: folder of the maps of whole volumes.
        patches: what becomes of a patch before the student sees it.

    Raises:
        ConfigError: a layer that the teacher does not have, or an augmentation that the view cannot follow.
    """

    def __init__(
        self,
        teacher: Teacher,
        requests: Sequence[TeacherRequest],
        *,
        stacks: Mapping[str, Stack],
        cache: Path,
        patches: PatchConfig,
    ) -> None:
        self.teacher, self.requests, self.stacks = teacher, tuple(requests), dict(stacks)
        teacher.check_layers([request.layer for request in requests])
        for view in {request.view for request in requests}:
            refuse_unseen(view, patches)
        zooms = {Zoom(scale=request.view.scale, square=request.view.square) for request in requests}
        self._caches = {zoom: FeatureCache(cache / "features", teacher, zoom) for zoom in zooms}

    @property
    def cached(self) -> tuple[tuple[str, Zoom, Axis, tuple[str, ...]], ...]:
        """What `fill` works through: case, resizing, axis, layers."""
        wanted: dict[tuple[Zoom, Axis], list[str]] = {}
        for request in self.requests:
            if request.view.source == "volume" and request.view.cache:
                wanted.setdefault((_zoom(request.view), request.axis), []).append(request.layer)
        return tuple(
            (name, zoom, axis, tuple(dict.fromkeys(layers)))
            for name in self.stacks
            for (zoom, axis), layers in wanted.items()
        )

    def sizes(self) -> tuple[tuple[str, str, str, int], ...]:
        """Case, axis, layers and bytes on disk of what `fill` worked through."""
        return tuple(
            (name, axis, ", ".join(layers), self._caches[zoom].bytes_of(self.stacks[name], layers, axis))
            for name, zoom, axis, layers in self.cached
        )

    def fill(self, *, on_slices: Callable[[int], None] | None = None) -> CacheCount:
        """Compute the maps of whole volumes that are not in the cache yet.

        Args:
            on_slices: called with the number of slices after each forward.
        """
        for name, zoom, axis, layers in self.cached:
            self._caches[zoom].fill(self.stacks[name], layers, axis, on_slices=on_slices)
        counts = [cache.count for cache in self._caches.values()]
        return CacheCount(
            hits=sum(c.hits for c in counts), misses=sum(c.misses for c in counts), bytes=sum(c.bytes for c in counts)
        )

    @torch.no_grad()
    def __call__(
        self,
        requests: Iterable[TeacherRequest],
        *,
        student: Prediction,
        batch: Batch,
        stride_zyx: Sequence[int],
        step: int,
    ) -> Prediction:
        """Return the teacher's maps of a batch, on the grids of the student's.

        Args:
            requests: some of those given at the start.
            student: holds the maps whose grids are wanted.
            batch: what the student saw.
            stride_zyx: of the student.
            step: of the training; slices are drawn by it.

        Returns:
            ``features`` [B, C, Z, Y, X] float32 by `TeacherRequest.key`; where a view takes only some slices, the map
            has only those along its axis, and ``slices_vox`` says which. ``logits`` [B, 1, Z, Y, X] is the mean of the
            teacher's logits over the axes, if all voxels were asked for.
        """
        requests, size = tuple(requests), batch.image.shape[2:]
        features: dict[str, Tensor] = {}
        slices: dict[str, Tensor] = {}
        runs: dict[tuple[Axis, ViewConfig], dict[str, list[SliceMaps]]] = {}
        for request in requests:
            shape = student.features[request.grid_of].shape[2:] if request.grid_of else size
            target = map_cells(shape, size, stride_zyx if request.grid_of else (1, 1, 1))
            along = AXES.index(request.axis)
            chosen = drawn_slices(request.view, size[along], step)
            if request.view.slices is not None:
                target[along] = Cells(np.asarray(chosen, np.float64), 1.0)
                slices[request.key] = torch.tensor(chosen)
            if request.view.source == "volume":
                maps = [self._from_volume(request, batch, index, target) for index in range(len(batch.cases))]
            else:
                look = request.axis, request.view
                runs[look] = runs.get(look) or self._from_patches(*look, batch, chosen)
                maps = [each.on_grid(target) for each in runs[look][request.layer]]
            features[request.key] = torch.stack(maps)
        whole_logits = [
            features[r.key] for r in requests if r.layer == LOGITS and not r.grid_of and r.key not in slices
        ]
        logits = torch.stack(whole_logits).mean(0) if whole_logits else torch.empty(0)
        return Prediction(logits=logits, features=features, slices_vox=slices)

    def _from_patches(
        self, axis: Axis, view: ViewConfig, batch: Batch, chosen: Sequence[int]
    ) -> dict[str, list[SliceMaps]]:
        """Run the teacher on slices of the patches, for all layers that are seen in this way."""
        wanted = (request.layer for request in self.requests if (request.axis, request.view) == (axis, view))
        layers = list(dict.fromkeys(wanted))  # two layers of the student may learn from one of the teacher
        order = slice_order(axis)
        by_layer: dict[str, list[SliceMaps]] = {layer: [] for layer in layers}
        # Pixels made square by the spacing differ in number where the patches' spacings do.
        parts = batch.image.split(1) if view.square else [batch.image]
        for index, images in enumerate(parts):
            maps = stacked_maps(
                self.teacher,
                cut_slices(images, axis, chosen),
                layers,
                axis=axis,
                across=Cells(np.asarray(chosen, np.float64), 1.0),
                zoom=_zoom(view),
                spacing_yx_um=batch.spacing_um[index, list(order[1:])].tolist(),
            )
            for layer in layers:
                by_layer[layer] += maps[layer]
        return by_layer

    def _from_volume(self, request: TeacherRequest, batch: Batch, index: int, target: Sequence[Cells]) -> Tensor:
        """Cut the map of one patch out of that of its volume, and turn it as the patch was turned."""
        stack = self.stacks[batch.cases[index]]
        turn = batch.turns[index] if batch.turns else UNTURNED
        origin, size = batch.origin_zyx_vox[index].tolist(), batch.image.shape[2:]
        in_volume = in_box(target, turn, size, origin)
        if request.view.cache:
            maps = self._caches[_zoom(request.view)].read(stack, request.layer, request.axis)
        else:
            maps = self._live(stack, request, in_volume, batch.image.device)
        return turn.apply(maps.crop(in_volume).on_grid(in_volume, device=batch.image.device))

    def _live(
        self, stack: Stack, request: TeacherRequest, in_volume: Sequence[Cells], device: torch.device
    ) -> SliceMaps:
        """Run the teacher on the whole slices that a patch needs."""
        order = slice_order(request.axis)
        image = torch.from_numpy(stack.image())[None, None]
        whole = Cells.regular(image.shape[2 + order[0]], 1.0)
        low, high = whole.around(in_volume[order[0]])
        return stacked_maps(
            self.teacher,
            cut_slices(image, request.axis, range(low, high)).to(device),
            [request.layer],
            axis=request.axis,
            across=whole.part(low, high),
            zoom=_zoom(request.view),
            spacing_yx_um=[stack.spacing_um[a] for a in order[1:]],
        )[request.layer][0]


def in_box(target: Sequence[Cells], turn: Turn, size_zyx: Sequence[int], origin_zyx: Sequence[int]) -> list[Cells]:
    """Return where cells of a turned patch lie in the volume, ascending, in the volume's order of axes."""
    by_axis: dict[int, Cells] = {}
    for axis, (cells, source, flip) in enumerate(zip(target, turn.source_axes, turn.flipped, strict=True)):
        there = cells.reversed_in(size_zyx[axis]) if flip else cells
        by_axis[source] = there.shifted(origin_zyx[source])
    return [by_axis[axis] for axis in range(3)]


def drawn_slices(view: ViewConfig, count: int, step: int) -> list[int]:
    """Return which of ``count`` slices are seen in a step, ascending: all, or as many as the view says.

    Example:
        >>> drawn_slices(ViewConfig(slices=2), 5, step=0) == drawn_slices(ViewConfig(slices=2), 5, step=0)
        True
    """
    if view.slices is None or view.slices >= count:
        return list(range(count))
    rng = np.random.default_rng([view.seed, step])  # the same on every rank
    return sorted(rng.choice(count, view.slices, replace=False).tolist())


def refuse_unseen(view: ViewConfig, patches: PatchConfig) -> None:
    """Refuse augmentations that a view of whole volumes cannot follow.

    Raises:
        ConfigError: names them, and the settings that accept or remove them.
    """
    if view.source != "volume":
        return
    augment, size = patches.augment, patches.size_zyx
    if augment.rotate:
        raise ConfigError(
            f"patches.augment.rotate={augment.rotate}: maps of whole stacks cannot follow free rotations; "
            "accepted: rotate=0, or view.source=patch"
        )
    names = [f.name for f in fields(AugmentConfig) if f.name not in GEOMETRY and not f.name.startswith("hard_")]
    unseen = [name for name in names if getattr(augment, name)]
    if unseen and not view.augment_after:
        raise ConfigError(
            f"patches.augment: with view.source=volume the teacher does not see {', '.join(unseen)}; accepted: "
            "view.augment_after=true if that is meant, view.source=patch, or these probabilities at 0"
        )
    turned = [axis for axis in view.axes if list(size).count(size[AXES.index(axis)]) > 1]
    if view.slices is not None and augment.rotate90 and turned:
        raise ConfigError(
            f"patches.size_zyx={list(size)}: quarter turns may move the axis {turned[0]}, of which view.slices="
            f"{view.slices} are drawn; accepted: view.slices=null, augment.rotate90=0, or an axis of its own length"
        )


def _zoom(view: ViewConfig) -> Zoom:
    return Zoom(scale=view.scale, square=view.square)
