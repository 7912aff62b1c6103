"""From the bytes of an SWC file to its table: encodings, separators, decimal commas, headers that shift or scale."""

from __future__ import annotations

import gzip
import io
import logging
import re
import zlib
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import final

import numpy as np
from numpy.typing import NDArray

from distill3d.errors import InputError
from distill3d.volumes.memory import require_room

_LOG = logging.getLogger(__name__)
_COLUMNS = 7  # id, type, x, y, z, radius, parent
_ROOM = 16  # bytes of memory that a byte of text takes as lines, words and numbers
_PIECE = 1 << 20
FARTHEST = 1e12  # of a coordinate, in whatever the file counts; a brain has 1e8 nm
_EXACT = 2**53  # the whole numbers below are exact as float64
_HEADER = re.compile(r"\s*#+\s*(OFFSET|SCALE)\b[\s:=]*(.*)", re.IGNORECASE)
_BOMS = ((b"\xff\xfe\0\0", "utf-32"), (b"\0\0\xfe\xff", "utf-32"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))


@final
@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """The numbers of a file as it states them.

    Attributes:
        values: float64 [N, 7], id, type, x, y, z, radius, parent.
        ids: int64 [N], exact.
        parents: int64 [N], exact.
        lines: int64 [N], the line of every row, from 1.
        scale_xyz: what coordinates are multiplied by, from the header.
        offset_xyz: what is added to them then.
        decimal_commas: line of the first number with a decimal comma, 0 where there is none.
    """

    values: NDArray[np.float64]
    ids: NDArray[np.int64]
    parents: NDArray[np.int64]
    lines: NDArray[np.int64]
    scale_xyz: NDArray[np.float64]
    offset_xyz: NDArray[np.float64]
    decimal_commas: int = 0


def read_table(path: Path) -> Table:
    """Read the table of an SWC file; nothing of it is applied yet.

    Raises:
        InputError: no text, a line that is not seven numbers, a coordinate that is not finite, an id that is not whole.
    """
    text = read_text(path)
    every = text.splitlines()
    numbered = [(n, row) for n, line in enumerate(every, start=1) if (row := line.partition("#")[0].strip())]
    lines, rows = np.array([n for n, _ in numbered], np.int64), [row for _, row in numbered]
    decimal_at = 0
    if "," in text or ";" in text:
        _refuse_two_meanings(path, rows, lines)
        rows, decimal_at = _with_points(path, rows, lines)
    values = _numbers(path, rows, lines, every)
    _require_numbers(path, values, lines)
    scale, offset = (_header_vector(path, every, name, default) for name, default in (("SCALE", 1.0), ("OFFSET", 0.0)))
    ids, parents = (_whole(path, rows, values[:, column], column) for column in (0, 6))
    return Table(values, ids, parents, lines, scale, offset, decimal_at)


def read_text(path: Path) -> str:
    """Return the text of a file: UTF-8, or UTF-16 and UTF-32 with their mark, or a gzip archive of one of these.

    Raises:
        InputError: it cannot be read or unpacked, or it is no text.
    """
    try:
        require_room(path, _ROOM * path.stat().st_size)
        content = path.read_bytes()
        if content.startswith(b"\x1f\x8b"):
            content = _unzipped(path, content)
        encoding = next((name for mark, name in _BOMS if content.startswith(mark)), None)
        if encoding is None and b"\0" in content[:2]:
            encoding = "utf-16-be" if content[:1] == b"\0" else "utf-16-le"
        text = content.decode(encoding or "utf-8-sig", errors="strict" if encoding else "replace")
    except (EOFError, UnicodeDecodeError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: damaged or truncated ({error!s:.80}); an SWC file is expected") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); an SWC file is expected") from error
    if "\0" in text:
        raise InputError(f"{path}: holds zero bytes and is no text; an SWC file is expected")
    return text


def _unzipped(path: Path, content: bytes) -> bytes:
    """Unpack an archive, piece by piece, as far as there is room for the table in it."""
    pieces, total = [], 0
    with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
        while piece := file.read(_PIECE):
            total += len(piece)
            require_room(path, _ROOM * total, claims="asks, unpacked, for more than")
            pieces.append(piece)
    return b"".join(pieces)


def _refuse_two_meanings(path: Path, rows: list[str], lines: NDArray[np.int64]) -> None:
    """Refuse whole numbers between commas that make no rows of columns: more than seven, and some rows more or no root.

    That is what commas give that part columns and are decimal too.
    """
    cells = [row.split(",") for row in rows]
    if not rows or not all(word.removeprefix("-").isdecimal() for row in cells for word in row if word):
        return
    counts = [len(row) for row in cells]
    if max(counts) > _COLUMNS <= min(counts) and (
        len(set(counts)) > 1 or not any(row[_COLUMNS - 1].startswith("-") for row in cells)
    ):
        raise InputError(
            f"{path}: line {lines[np.argmax(counts)]} has {max(counts)} whole numbers between commas; accepted: where "
            "commas are decimal, blanks or semicolons between the seven columns"
        )


def _with_points(path: Path, rows: list[str], lines: NDArray[np.int64]) -> tuple[list[str], int]:
    """Return rows with blanks between columns and points in numbers, and the line of the first decimal comma or 0.

    A comma inside a number is decimal where blanks, tabs or semicolons make seven columns already; elsewhere it parts
    columns.
    """
    parsed, decimal_at = [], 0
    for number, row in zip(lines.tolist(), rows, strict=True):
        words = [word.strip(",") for word in row.replace(";", " ").split()]
        words = [word for word in words if word]
        if len(words) < _COLUMNS or words[0].count(",") >= _COLUMNS - 1 or not any("," in w for w in words[:_COLUMNS]):
            parsed.append(row.replace(",", " ").replace(";", " "))
            continue
        decimal_at = decimal_at or number
        if any(word.count(",") > 1 for word in words[:_COLUMNS]):
            raise InputError(f"{path}: line {number} reads {row[:60]!r}; accepted: one decimal point or comma a number")
        parsed.append(" ".join(words[:_COLUMNS]).replace(",", "."))
    if decimal_at:
        columns = (" ".join(row.replace(";", " ").split()[:_COLUMNS]) for row in rows)
        mixed = next((n for n, row in zip(lines.tolist(), columns, strict=True) if "." in row), None)
        if mixed is not None:
            raise InputError(
                f"{path}: decimal commas (line {decimal_at}) and decimal points (line {mixed}); accepted: one of them"
            )
        _LOG.info("%s: decimal commas (line %d) are read as points", path, decimal_at)
    return parsed, decimal_at


def _numbers(path: Path, rows: list[str], lines: NDArray[np.int64], every: list[str]) -> NDArray[np.float64]:
    if not rows:
        return np.empty((0, _COLUMNS))
    try:
        return np.loadtxt(rows, comments=None, usecols=range(_COLUMNS), ndmin=2)
    except ValueError as error:
        reason = "not a table of numbers"
        for number, row in zip(lines.tolist(), rows, strict=True):
            words = row.split()
            if not all(_is_number(word) for word in words[:_COLUMNS]):
                reason = f"line {number} reads {every[number - 1].strip()[:60]!r}"
                break
            if len(words) < _COLUMNS:
                reason = f"line {number} has {len(words)} columns"
                break
        raise InputError(f"{path}: {reason}; seven numbers id type x y z radius parent are accepted") from error


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _require_numbers(path: Path, values: NDArray[np.float64], lines: NDArray[np.int64]) -> None:
    """Refuse coordinates, ids, types and parents that are not finite, and ids that are not whole."""
    bad = ~np.isfinite(values[:, [0, 1, 2, 3, 4, 6]]).all(axis=1)
    if bad.any():
        raise InputError(f"{path}: line {lines[bad][0]} holds a value that is not finite; finite numbers are accepted")
    far = (np.abs(np.nan_to_num(values[:, 1:6], posinf=0.0, neginf=0.0)) > FARTHEST).any(axis=1)
    if far.any():
        raise InputError(f"{path}: line {lines[far][0]} holds a number beyond {FARTHEST:g}, which is no place")
    codes = values[:, [0, 1, 6]]
    broken = (codes != np.rint(codes)).any(axis=1)
    if broken.any():
        raise InputError(f"{path}: line {lines[broken][0]} has an id, type or parent that is not whole")


def _whole(path: Path, rows: list[str], column: NDArray[np.float64], index: int) -> NDArray[np.int64]:
    """Return ids as whole numbers; from the text where float64 is not exact."""
    if not len(column) or np.abs(column).max() < _EXACT:
        return column.astype(np.int64)
    try:
        return np.array([int(Decimal(row.split()[index])) for row in rows], np.int64)
    except (OverflowError, InvalidOperation) as error:
        largest = column[np.abs(column).argmax()]
        raise InputError(f"{path}: id {largest:.0f} is too large; accepted: whole numbers below 2^63") from error


def _header_vector(path: Path, every: list[str], name: str, default: float) -> NDArray[np.float64]:
    """Return the three numbers of a header line that shifts or scales; the default where there is none.

    Raises:
        InputError: the line does not hold three finite numbers, or a scale that is not above 0.
    """
    for number, line in enumerate(every, start=1):
        match = _HEADER.fullmatch(line)
        if match is None or match[1].upper() != name:
            continue
        words = match[2].split()
        words = (
            match[2].replace(",", " ").split() if len(words) < 3 else [w.strip(",").replace(",", ".") for w in words]
        )
        if not words or not _is_number(words[0]):
            continue  # a sentence that begins with the word
        vector = np.array([float(word) if _is_number(word) else np.nan for word in words[:3]])
        if vector.shape == (3,) and np.isfinite(vector).all() and (name == "OFFSET" or (vector > 0).all()):
            return vector
        raise InputError(
            f"{path}: line {number} reads {line.strip()[:60]!r}; accepted: # {name} and three numbers x y z"
        )
    return np.full(3, default)
