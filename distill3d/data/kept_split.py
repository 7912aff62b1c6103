"""The split that a run was trained with, kept in its folder: another one could test on what it has learned from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from distill3d.config.folds import some
from distill3d.data.base import SPLITS, Split
from distill3d.errors import InputError, printable
from distill3d.storage.record import Record
from distill3d.storage.run_folder import RunFolder

_NOWHERE = "none"


def require_kept(folder: RunFolder, splits: Mapping[Split, Sequence[str]]) -> None:
    """Refuse a split that is not the run's, because cases came or went since; a run of an older version kept none.

    Raises:
        InputError: says of some cases where they were and where they are now; or the file is damaged.
    """
    kept = Record(folder.split, folder.read_json(folder.split))
    if not kept.content:
        return
    then = {name: split for split in SPLITS for name in kept.texts(split)}
    now = {printable(name): split for split in SPLITS for name in splits[split]}
    names = sorted(then.keys() ^ now.keys()) + sorted(then.keys() & now.keys())  # first what moved the others
    moved = [
        f"{name} from {then.get(name, _NOWHERE)} to {now.get(name, _NOWHERE)}"
        for name in names
        if then.get(name) != now.get(name)
    ]
    if moved:
        raise InputError(
            f"{folder.path}: its data are split otherwise now ({some(moved)}); accepted: the cases that it was trained "
            "with (take away what is new, put back what is gone), or a new run"
        )
