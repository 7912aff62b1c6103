"""Measure the fingerprint of a folder of stacks and golds; the data source `neurons` reads them, nothing is written."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill3d.config.paths import ConfigPath
from distill3d.data.base import Case
from distill3d.data.check import CaseFacts, array_hash, case_facts
from distill3d.data.fingerprint import CasePrint, Fingerprint, Machine, TreePrint, Units, best, in_channel
from distill3d.data.neurons import Neurons, NeuronsConfig
from distill3d.data.nnunet import count_folds
from distill3d.data.tree_print import overlap, tree_print
from distill3d.errors import InputError
from distill3d.terminal import progress_bar, stderr
from distill3d.volumes.geometry import Spacing
from distill3d.volumes.inputs import expand
from distill3d.volumes.memory import machine_bytes
from distill3d.volumes.stack_files import VOLUME_SUFFIXES, entries, folders_of, stem_of, suffix_of

MOST_CHANNELS = 8
TREES = ("{stem}.swc", "*{stem}*.swc")  # names of gold trees that are tried, in this order
HALF = 0.5


def survey(folder: Path, *, spacing_um: Spacing | None = None) -> Fingerprint:
    """Read every stack and gold of a folder and measure what decides how to train on them.

    Args:
        folder: of stacks with trees or masks beside them, of such folders, or in nnU-Net's layout.
        spacing_um: ZYX voxel size of all stacks; wins over the files'.

    Raises:
        InputError: the folder is missing, or holds no stack with gold.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; accepted: one that holds stacks and their gold")
    source = _source_of(folder, spacing_um)
    files, settings = source.case_files, source.config
    cases: list[CasePrint] = []
    left_out: list[tuple[str, str]] = []
    contrasts: tuple[float, ...] = ()
    with _no_warnings(), progress_bar(stderr()) as bar:
        task = bar.add_task("reading", total=len(files), info="")
        for name in files:
            bar.update(task, info=name)
            try:
                if not contrasts and (contrasts := _contrasts(settings, name)):
                    source = Neurons(replace(settings, **in_channel(settings.layout, best(contrasts))), cache=Path())
                cases.append(_case_print(source, name))
            except InputError as error:
                left_out.append((name, error.lines[0]))
            bar.advance(task)
    return Fingerprint(
        folder=str(settings.folder),
        layout=settings.layout,
        nested=settings.nested,
        tree=settings.tree,
        spacing_um=spacing_um,
        contrasts=contrasts or (0.0,),
        cases=tuple(cases),
        left_out=tuple(left_out),
        unlabelled=_unlabelled(source),
        folds=count_folds(folder) if settings.layout == "nnunet" else None,
        machine=_machine(),
    )


def _source_of(folder: Path, spacing_um: Spacing | None) -> Neurons:
    """Return the source whose settings find cases: in nnU-Net's layout, in this folder, or in its subfolders.

    Trees are drawn as mere lines, whatever their radii, which are measured apart.
    """
    if "$" in str(folder):
        raise InputError(f"{folder}: holds $, which settings take for a variable; accepted: another name")
    settings: dict[str, Any] = {"folder": ConfigPath(str(folder.resolve())), "spacing_um": spacing_um}
    settings |= {"radius": "fixed", "radius_um": 1e-6}
    if (folder / "imagesTr").is_dir():
        settings["layout"] = "nnunet"
    elif folder.is_dir():
        settings["nested"] = not _has_stacks(folder) and any(_has_stacks(each) for each in folders_of(folder))
    refused: InputError | None = None
    for tree in TREES:
        source = Neurons(NeuronsConfig(**settings, tree=tree), cache=Path())
        try:
            _ = source.case_files
        except InputError as error:
            refused = refused or error
        else:
            return source
    raise refused or InputError(f"{folder}: no stack with gold")


def _has_stacks(folder: Path) -> bool:
    return any(path.name.lower().endswith(VOLUME_SUFFIXES) for path in entries(folder))


def _contrasts(settings: NeuronsConfig, name: str) -> tuple[float, ...]:
    """Say of each channel of a case how far its gold stands out; none where no channel can be used.

    A file without channels gives the same image for each, and has one.
    """
    contrasts: dict[str, float] = {}
    for channel in range(MOST_CHANNELS):
        source = Neurons(replace(settings, **in_channel(settings.layout, channel)), cache=Path())
        try:
            case, _ = _load(source, name)
        except InputError as error:
            if "every voxel is" not in str(error):
                break
            image, contrast = str(error), 0.0  # a dark channel before the one with the neuron
        else:
            image, contrast = array_hash(case.volume.data), _contrast(case.volume.data, case.mask & case.known)
        if image in contrasts:
            break
        contrasts[image] = contrast
    return tuple(contrasts.values())


def _contrast(data: NDArray[np.number], gold: NDArray[np.bool_]) -> float:
    sample = data.reshape(-1)[:: data.size // (1 << 20) | 1]
    spread = float(sample.std(dtype=np.float64))
    if not gold.any() or not spread:
        return 0.0
    light = max(float(data[gold].mean(dtype=np.float64)), float(data[:, ::-1][gold].mean(dtype=np.float64)))
    return (light - float(np.median(sample))) / spread


def _load(source: Neurons, name: str) -> tuple[Case, Units]:
    """Load a case with its tree in the units that fit, voxels where both do."""
    try:
        case = source.load(name)
    except InputError as refused:
        try:
            return Neurons(replace(source.config, tree_units="um"), cache=Path()).load(name), "um"
        except InputError:
            raise refused from None
    if case.tree is None or case.volume.spacing_um == (1.0, 1.0, 1.0):
        return case, "voxel"
    y, x = case.volume.spacing_um[1:]
    as_um = replace(
        case.tree,
        points_zyx_um=case.tree.points_zyx_um / case.volume.spacing_um,
        radii_um=case.tree.radii_um / np.sqrt(y * x),
    )
    if overlap(case.volume, as_um) > overlap(case.volume, case.tree):
        return Neurons(replace(source.config, tree_units="um"), cache=Path()).load(name), "um"
    return case, "voxel"


def _case_print(source: Neurons, name: str) -> CasePrint:
    case, units = _load(source, name)
    facts, files = case_facts(case), source.case_files[name]
    tree = None if case.tree is None else tree_print(case, case.tree, units, drawn=files.mask is None)
    if refused := _useless(facts, tree):
        raise InputError(refused)
    remarks = (*case.doubts, *case.remarks, *(f"the tree: {line}" for line in (case.tree.remarks if case.tree else ())))
    return CasePrint(
        name=name,
        suffix=suffix_of(files.volume),
        shape_zyx=facts.shape_zyx,
        dtype=facts.dtype,
        low=facts.low,
        high=facts.high,
        spacing_um=facts.spacing_um,
        states_spacing=(source.config.spacing_um or files.spacing_um or case.volume.stated_um) is not None,
        known_share=facts.known_share,
        mask_share=facts.gold_share if files.mask is not None else None,
        tree=tree,
        image_hash=facts.image_hash,
        gold_hash=facts.gold_hash,
        held_out=files.held_out,
        notes=remarks,
    )


def _useless(facts: CaseFacts, tree: TreePrint | None) -> str:
    if facts.low == facts.high:
        return f"every voxel is {facts.low:g}"
    if not facts.gold_voxels:
        return "its mask is empty"
    if tree is not None and tree.inside < HALF:
        return f"{1 - tree.inside:.0%} of its tree's nodes lie outside the volume; are spacing and units right?"
    return ""


def _unlabelled(source: Neurons) -> tuple[str, ...]:
    """Name the stacks that have neither tree nor mask."""
    config, folder = source.config, Path(source.config.folder)
    images = folder / "imagesTr" if config.layout == "nnunet" else folder
    labelled = {part.resolve() for files in source.case_files.values() for part in (files.volume, files.mask) if part}
    places = [each for each in (folders_of(images) if config.nested else (images,)) if _has_stacks(each)]
    stacks = expand(places)
    if config.layout == "nnunet":
        end = _channel_end(next(iter(source.case_files.values())).volume)
        stacks = [path for path in stacks if stem_of(path).endswith(end)]
    return tuple(stem_of(path) for path in stacks if path.resolve() not in labelled)


def _channel_end(volume: Path) -> str:
    """Return the channel that ends the name of an image of nnU-Net, such as ``_0000``; empty where it bears none."""
    end = stem_of(volume)[-5:]
    return end if end[:1] == "_" and end[1:].isdigit() else ""


def _machine() -> Machine:
    import torch  # noqa: PLC0415 - tests of a plan need none

    if torch.cuda.is_available():
        return Machine(memory=float(torch.cuda.get_device_properties(0).total_memory), gpu=True)
    return Machine(memory=machine_bytes())


@contextlib.contextmanager
def _no_warnings() -> Iterator[None]:
    """Keep the readers' warnings to themselves: files are read several times, and the plan says what matters."""
    logger = logging.getLogger("distill3d")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
