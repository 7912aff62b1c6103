"""The table of what was reconstructed in a folder: a row a stack, kept from call to call."""

from __future__ import annotations

import csv
import io
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

    Args:
        path: of the file; need not exist.
        overwrite: it may be somebody else's, whose rows are dropped.

    Raises:
        InputError: it is somebody else's.
    """

    def __init__(self, path: Path, *, overwrite: bool = False) -> None:
        self._path = path
        self._rows: dict[str, Row] = {}
        if not path.is_file():
            return
        rows = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8", errors="replace")))
        if tuple(rows.fieldnames or ())[: len(_FIRST)] == _FIRST:
            self._rows = {stem_of(row["file"]): row for row in rows if row.get("file")}
        elif not overwrite:
            raise InputError(f"{path}: is there and is no summary of stacks; accepted: --overwrite, or another --out")

    @property
    def done(self) -> dict[str, Row]:
        """The rows without an error."""
        return {stem: row for stem, row in self._rows.items() if not row.get("error")}

    def put(self, stem: str, row: Row) -> None:
        """Add or replace a row, and write the file."""
        self._rows[stem] = row
        scores = [key for key in SCORES if any(each.get(key) for each in self._rows.values())]
        text = io.StringIO()
        writer = csv.DictWriter(text, [*_FIRST, *scores, *_LAST], extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows.values())
        try:
            write_text(self._path, text.getvalue())
        except OSError as error:
            raise InputError(f"{self._path}: cannot be written ({error.strerror})") from error


def as_line(row: Row) -> str:
    """Say in a line what came of a stack."""
    found = f"length {row['length_um']} um, branches {row['branches']}, tips {row['tips']}, trees {row['trees']}"
    scored = next((f"; {name} {row[key]}" for key, name in _HEADLINES.items() if row.get(key)), "")
    return f"{row['file']}  {found}{scored}; {row['seconds']} s"


_HEADLINES = {"tree_f1": "length F1", "dice": "Dice"}
