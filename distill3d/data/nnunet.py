"""Find cases and folds in the layout of nnU-Net: imagesTr, labelsTr, imagesTs, labelsTs, dataset.json, splits_final."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill3d.data.case_files import CaseFiles, GoldNames, case_files_of, traced_here, volumes_by_stem
from distill3d.errors import ConfigError, InputError
from distill3d.volumes.geometry import Spacing, checked_spacing
from distill3d.volumes.stack_files import READ_AS, VOLUME_SUFFIXES, entries

_LOG = logging.getLogger(__name__)
_FIRST_CHANNEL = "{stem}_0000"


def find_nnunet_files(folder: Path, *, volume: str, tree: str) -> dict[str, CaseFiles]:
    """Find the images that have a label of their name, or a tree beside the labels.

    Source: Isensee et al. 2021, nnU-Net, the layout of ``nnUNet_raw``; also the older one of the Medical Segmentation
    Decathlon, whose images bear no channel in their names.

    Args:
        folder: that of one data set.
        volume: name of an image without suffix; ``{stem}`` alone stands for ``{stem}_0000``, the first channel.
        tree: name of a tree, see `find_case_files`.

    Returns:
        Name -> files, by name. Cases of imagesTs are held out; the label ``ignore`` of dataset.json is unknown, and a
        TIFF takes the spacing of the .json of its name.

    Raises:
        InputError: not such a folder, a .json that cannot be read, a format that is not read, or no labelled image.
    """
    if not (folder / "imagesTr").is_dir():
        raise InputError(
            f"{folder}: no folder imagesTr in it; accepted with data.layout=nnunet: data.folder=PATH of one data set "
            "(imagesTr, labelsTr, dataset.json), such as nnUNet_raw/Dataset001_Neurons"
        )
    about = _read_json(folder / "dataset.json")
    suffix, ignored = _suffix(folder, about), dict(about.get("labels") or {}).get("ignore")
    cases: dict[str, CaseFiles] = {}
    for part, held_out in (("Tr", False), ("Ts", True)):
        for stem, case in _cases_of(folder, part, suffix, volume, tree).items():
            if stem in cases:
                raise InputError(f"{case.volume} and {cases[stem].volume} are both case {stem!r}; accepted: one")
            unknown = ignored if isinstance(ignored, int) else None
            cases[stem] = dataclasses.replace(case, held_out=held_out, unknown_label=unknown)
    if not cases:
        suffix = suffix or ".tif"
        named = "".join(f" {n} {name}" for n, name in dict(about.get("channel_names") or {}).items())
        raise InputError(
            f"{folder}: no image {volume} of imagesTr has a label of its name in labelsTr"
            f"{named and f' (channels of dataset.json:{named})'}; accepted: imagesTr/NAME_0000{suffix} beside "
            f"labelsTr/NAME{suffix}, or data.volume={{stem}}_0001 for another channel"
        )
    return dict(sorted(cases.items()))


def read_folds(folder: Path, names: Sequence[str], count: int) -> list[list[str]] | None:
    """Return which cases nnU-Net keeps out of the training of each fold, None without a ``splits_final.json``.

    Args:
        folder: that of one data set, with the file beside imagesTr.
        names: of the cases to train on; others in the file are left out.
        count: folds that were asked for.

    Raises:
        InputError: it is no such file.
        ConfigError: it has another number of folds, or a case that is not in exactly one of them.
    """
    path = folder / "splits_final.json"
    if not path.is_file():
        return None
    try:
        folds = [[name for name in fold["val"] if name in names] for fold in _read(path)]
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: not a list of train and val; accepted: what nnU-Net writes") from error
    if len(folds) != count:
        raise ConfigError(f"data.folds={count}, but {path} has {len(folds)} folds; accepted: as many")
    for name in names:
        if (times := sum(name in fold for fold in folds)) != 1:
            raise ConfigError(f"{path}: {name!r} is in val of {times} folds; accepted: each case in one (data.exclude)")
    _LOG.info("%s: its folds are taken", path)
    return folds


def count_folds(folder: Path) -> int | None:
    """Return how many folds a ``splits_final.json`` deals out, None without one.

    Raises:
        InputError: it cannot be read.
    """
    path = folder / "splits_final.json"
    return len(_read(path)) if path.is_file() else None


def _cases_of(folder: Path, part: str, suffix: str | None, volume: str, tree: str) -> dict[str, CaseFiles]:
    images, labels = (_files(folder / f"{kind}{part}") for kind in ("images", "labels"))
    stacks = {name: path for name, path in images.items() if suffix is None or name.lower().endswith(suffix)}
    template = _FIRST_CHANNEL if volume == "{stem}" else volume
    by_stem = volumes_by_stem(stacks, template, folder / f"images{part}")
    if not by_stem and volume == "{stem}":
        by_stem = volumes_by_stem(stacks, volume, folder / f"images{part}")
    named = GoldNames(labels)
    found = {stem: case_files_of(stem, path, named, tree, ("{stem}",)) for stem, path in by_stem.items()}
    if traced := traced_here(found.values()):
        _LOG.warning("%s: %s", folder / f"labels{part}", traced)
    cases = {
        stem: dataclasses.replace(case, spacing_um=_spacing_beside(case.volume, stem))
        for stem, case in found.items()
        if case.tree or case.mask
    }
    if unlabelled := sorted(set(by_stem) - set(cases)):
        _LOG.info("%s: left out, because there is no label: %s", folder / f"images{part}", ", ".join(unlabelled))
    return cases


def _files(folder: Path) -> dict[str, Path]:
    """Name -> file, none where there is no such folder (labelsTs is often kept elsewhere)."""
    if not folder.is_dir():
        return {}
    return {path.name: path for path in entries(folder)}


def _suffix(folder: Path, about: dict[str, Any]) -> str | None:
    """Return the suffix that dataset.json names, None where it names none."""
    ending = about.get("file_ending")
    if ending is None:
        return None
    if str(ending).lower() not in VOLUME_SUFFIXES:
        raise InputError(f"{folder / 'dataset.json'}: file_ending {ending!r} is not read; {READ_AS}")
    return str(ending).lower()


def _spacing_beside(path: Path, stem: str) -> Spacing | None:
    """Return the voxel size ZYX of ``<stem>.json`` beside a TIFF, in um; None where there is none."""
    beside = path.with_name(f"{stem}.json")
    if path.suffix.lower() not in {".tif", ".tiff"} or not beside.is_file():
        return None
    sizes = _read_json(beside).get("spacing")
    try:
        spacing = checked_spacing([float(size) for size in sizes or ()])
    except (TypeError, ValueError):
        spacing = None
    if spacing is None:
        raise InputError(f"{beside}: spacing {sizes!r}; three numbers above 0 (z, y, x) are accepted")
    return spacing


def _read(path: Path) -> Any:  # noqa: ANN401 - whatever JSON can say
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error!s:.80}); accepted: what nnU-Net writes") from error


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    content = _read(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}; accepted: what nnU-Net writes")
    return content
