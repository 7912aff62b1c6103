"""The part of a Markdown file that a report writes, between two lines; all else in the file is its owner's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import final

from distill3d.errors import InputError
from distill3d.storage.run_folder import write_text


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Between:
    """Two lines, and what stands between them.

    Args:
        option: of the command line that names the file, for errors.
        begin: the first line.
        end: the second.
        required: whether the file must hold them; else one without them, or none, gets them at its end.
    """

    option: str
    begin: str
    end: str
    required: bool

    def read(self, path: Path) -> tuple[str, str, str]:
        """Return the text before, between and after the lines.

        Raises:
            InputError: the file cannot be read, or lacks a line.
        """
        if not self.required and not path.exists():
            return "", "", "\n"
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as err:
            raise InputError(f"{self.option}: {path}: {err}; accepted: a Markdown file") from err
        before, begin, rest = text.partition(self.begin)
        between, end, after = rest.partition(self.end)
        if end:
            return before, between, after
        if begin or self.required:
            lines = f"the lines {self.begin} and {self.end}, between which the table is written"
            raise InputError(f"{self.option}: {path} lacks {lines}")
        return before, "", "\n"

    def write(self, path: Path, table: Callable[[str], str]) -> None:
        """Replace what is between the lines.

        Args:
            path: of the file.
            table: makes the new text of the old one.

        Raises:
            InputError: see `read`.
        """
        before, between, after = self.read(path)
        write_text(path, f"{before}{self.begin}\n{table(between)}\n{self.end}{after}")
