"""The table of what was reconstructed in a folder: a row a stack, kept from call to call."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import final

from distill3d.errors import InputError
from distill3d.storage.run_folder import write_text
from distill3d.volumes.stack_files import stem_of

Row = dict[str, str]
SCORES = (
    "tree_f1", "tree_precision", "tree_recall", "tree_esa",
    "dice", "precision", "recall", "dice_tol", "cldice", "hd95_um",
)  # fmt: skip
_FIRST = ("file", "shape_zyx", "spacing_zyx_um", "length_um", "branches", "tips", "trees")
_LAST = ("seconds", "warnings", "error")


@final
class Summary:
    """Rows by stem of the stack, in a CSV file that is whole after every one; scores have a column if a row has one.

    Several processes may write into one file at once: each adds its rows to those that are there.

    Args:
        path: of the file; need not exist.
        overwrite: it may be somebody else's, whose rows are dropped.

    Raises:
        InputError: it is somebody else's.
    """

    def __init__(self, path: Path, *, overwrite: bool = False) -> None:
        self._path = path
        self._rows = self._read(overwrite=overwrite)

    def _read(self, *, overwrite: bool) -> dict[str, Row]:
        if not self._path.is_file():
            return {}
        rows = csv.DictReader(io.StringIO(self._path.read_text(encoding="utf-8", errors="replace")))
        if tuple(rows.fieldnames or ())[: len(_FIRST)] == _FIRST:
            return {stem_of(row["file"]): row for row in rows if row.get("file")}
        if not overwrite:
            raise InputError(
                f"{self._path}: is there and is no summary of stacks; accepted: --overwrite, or another --out"
            )
        return {}

    @property
    def done(self) -> dict[str, Row]:
        """The rows without an error."""
        return {stem: row for stem, row in self._rows.items() if not row.get("error")}

    def put(self, stem: str, row: Row) -> None:
        """Add or replace a row, and write the file."""
        try:
            with _alone_in(self._path.parent):
                self._rows = {**self._rows, **self._read(overwrite=True), stem: row}
                write_text(self._path, self._text())
        except OSError as error:
            raise InputError(f"{self._path}: cannot be written ({error.strerror})") from error

    def _text(self) -> str:
        scores = [key for key in SCORES if any(each.get(key) for each in self._rows.values())]
        text = io.StringIO()
        writer = csv.DictWriter(text, [*_FIRST, *scores, *_LAST], extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows.values())
        return text.getvalue()


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Let other processes wait that come here with this folder; no file is left, as one of `filelock` would be."""
    held = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)


def as_line(row: Row) -> str:
    """Say in a line what came of a stack."""
    found = f"length {row['length_um']} um, branches {row['branches']}, tips {row['tips']}, trees {row['trees']}"
    scored = next((f"; {name} {row[key]}" for key, name in _HEADLINES.items() if row.get(key)), "")
    return f"{row['file']}  {found}{scored}; {row['seconds']} s"


_HEADLINES = {"tree_f1": "length F1", "dice": "Dice"}
