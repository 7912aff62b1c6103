"""From a probability volume, or a raw image, to a tree, and from a file to an SWC file."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from distill3d.config.trace import TraceConfig
from distill3d.errors import InputError, for_each
from distill3d.tracing.bridge import Terrain
from distill3d.tracing.foreground import as_prob, find_foreground
from distill3d.tracing.teasar import skeletonize
from distill3d.tracing.trace_large import trace_by_part
from distill3d.tracing.trees import MAX_SHARE, DenseError, require_sparse, tree_of
from distill3d.volumes.calls import Workers
from distill3d.volumes.inputs import name_of, require_writable, targets_of
from distill3d.volumes.lazy import LazyVolume
from distill3d.volumes.meaning import meaning_of
from distill3d.volumes.origin import as_notes, is_taken, origin_of
from distill3d.volumes.parts import extremes
from distill3d.volumes.prob import says_prob
from distill3d.volumes.reading import Reading
from distill3d.volumes.swc import MICROMETERS, is_tree_file, write_swc
from distill3d.volumes.tree import Tree
from distill3d.volumes.volume import Volume, volume_files

__all__ = ["MAX_SHARE", "DenseError", "input_of", "trace", "trace_file", "trace_files", "trace_volume"]
_LOG = logging.getLogger(__name__)


def trace(
    prob: NDArray[np.number],
    spacing_um: tuple[float, float, float],
    config: TraceConfig | None = None,
    *,
    max_share: float = 1.0,
    percentiles: tuple[float, float] | None = None,
) -> Tree:
    """Trace the neurons of a volume: threshold, skeleton, bridges, spurs, roots. The same input gives the same tree.

    Args:
        prob: [Z, Y, X]; ``config.input`` says what it holds, by default probability (bool counts as 0 and 1).
        spacing_um: ZYX voxel size.
        config: settings of every step; None takes the defaults.
        max_share: of foreground, in [0, 1]; time grows with it, to minutes for a large stack at `MAX_SHARE`.
        percentiles: of an image's intensities that become 0 and 1; None takes the defaults of training.

    Returns:
        One or several trees in micrometers, parents before children, the longest first; without nodes where nothing
        was found. Voxel (0, 0, 0) has its center at the origin.

    Raises:
        InputError: not three axes, a spacing out of range, or values that ``config.input`` does not allow.
        DenseError: there is more foreground than ``max_share``.

    >>> prob = np.zeros((9, 9, 40), np.float32); prob[3:6, 3:6, 5:35] = 1
    >>> tree = trace(prob, (1.0, 1.0, 1.0))
    >>> len(tree.roots), len(tree.tips), 28 < tree.length_um < 31
    (1, 2, True)
    """
    config = config or TraceConfig()
    volume = Volume(prob.astype(np.float32) if prob.dtype == bool else prob, spacing_um)
    likely = as_prob(volume.data, config, percentiles)
    mask = find_foreground(volume.data, likely, config)
    require_sparse(float(mask.mean()), max_share)
    terrain = Terrain(likely, mask, np.array(volume.spacing_um))
    return tree_of(skeletonize(mask, terrain.spacing_um, config), terrain, config)


def trace_volume(
    volume: Volume | LazyVolume,
    config: TraceConfig,
    *,
    max_share: float = 1.0,
    percentiles: tuple[float, float] | None = None,
    workers: Workers | None = None,
) -> Tree:
    """Trace a volume, by part if it stays on disk; see `trace` and `trace_by_part`."""
    if isinstance(volume, LazyVolume):
        return trace_by_part(volume, config, max_share=max_share, percentiles=percentiles, workers=workers)
    return trace(volume.data, volume.spacing_um, config, max_share=max_share, percentiles=percentiles)


def trace_file(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    config: TraceConfig | None = None,
    *,
    spacing_um: Sequence[float] | None = None,
    reading: Reading | None = None,
    overwrite: bool = False,
    workers: Workers | None = None,
) -> Tree:
    """Trace a volume on disk and write the tree as SWC in micrometers; with nothing found, a file without nodes.

    Args:
        path: any format of `read_volume`, for example what ``distill3d predict`` wrote.
        out: the file to write, ending in .swc; its folder is made. Only what came from the same stack is replaced.
        config: as for `trace`; ``input=auto`` goes by what the file says or shows, and None by that and the defaults.
        spacing_um: ZYX voxel size; wins over the file's.
        reading: how a stack is read that does not say that it holds a probability.
        overwrite: replace whatever ``out`` is.
        workers: share what is traced by part, see `distill3d.volumes.cluster.workers`; None: this process does it.

    Returns:
        The tree that was written.

    Raises:
        InputError: the volume cannot be read, its values are not what ``config.input`` says, or ``out`` cannot be
            written.
    """
    path, out, config = Path(path), Path(out), config or TraceConfig(input="auto")
    if out.suffix.lower() != ".swc":
        raise InputError(f"{out}: not the name of a tree; accepted: a name that ends in .swc")
    require_writable(out.parent)
    reading = Reading() if reading is None or says_prob(path) else reading
    volume = reading.read_or_open(path, spacing_um=spacing_um)
    origin = origin_of(*volume_files(path), f"channel {reading.channel}")
    if is_taken(out, origin) and not overwrite:
        raise InputError(f"{out}: is there and did not come from {path}; accepted: --overwrite, or another --out")
    if config.input == "auto":
        config = replace(config, input=input_of(path, volume))
    try:
        tree = trace_volume(volume, config, percentiles=reading.percentiles, workers=workers)
    except InputError as error:
        raise InputError(f"{path}: {error}" if str(path) not in str(error) else str(error)) from error
    try:
        write_swc(out, tree, spacing_um=MICROMETERS, notes=as_notes(made_from=origin))
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror})") from error
    if not tree.n_nodes:
        low, high = extremes(volume.data)
        _LOG.warning("%s: no neuron found; values from %g to %g, read as input=%s", path, low, high, config.input)
    return tree


def trace_files(
    paths: Sequence[Path],
    out: Path,
    config: TraceConfig | None = None,
    *,
    spacing_um: Sequence[float] | None = None,
    reading: Reading | None = None,
    overwrite: bool = False,
    workers: Workers | None = None,
) -> Iterator[tuple[Path, Tree]]:
    """Trace volumes on disk as `trace_file` does.

    Args:
        paths: of the volumes; one that cannot be traced does not stop the others, see `distill3d.errors.for_each`.
        out: the tree of a single volume, or a folder for ``<name>.swc`` of each.
        config: as for `trace_file`, and so are the others.
        spacing_um: ZYX voxel size.
        reading: how a stack is read.
        overwrite: replace whatever is there.
        workers: as for `trace_file`.

    Returns:
        As they are written, each file and its tree.

    Raises:
        InputError: several volumes and ``out`` is the name of a tree, or two would become one tree.
    """
    if len(paths) == 1 and out.suffix and not out.is_dir():
        targets = {out: paths[0]}
    elif is_tree_file(out):
        raise InputError(f"{out}: one tree for {len(paths)} stacks; accepted: --out FOLDER")
    else:
        targets = targets_of(paths, out, ".swc", name_of)

    def work(item: tuple[Path, Path]) -> tuple[Path, Tree]:
        target, path = item
        how = {"spacing_um": spacing_um, "reading": reading, "overwrite": overwrite, "workers": workers}
        return target, trace_file(path, target, config, **how)

    return for_each(targets.items(), work)


def input_of(path: Path, volume: Volume | LazyVolume) -> Literal["prob", "image", "mask"]:
    """Return what a stack is traced as if nobody says it: what its header says, a mask of two values, else an image.

    Raises:
        InputError: it has too few values for an image and too many for a mask.
    """
    meaning = meaning_of(path, volume.data)
    if meaning == "labels":
        raise InputError(
            f"{path}: has more values than the two of a mask and fewer than an image, and does not say what it holds; "
            "accepted: input=mask (all but 0), input=image or input=prob"
        )
    if meaning == "prob":
        return meaning
    if meaning == "mask":
        low, high = extremes(volume.data)
        return "mask" if low < high else "image"
    if meaning == "many":
        _LOG.warning("%s: traced as input=image: it has many values and does not say that they are input=prob", path)
    return "image"
