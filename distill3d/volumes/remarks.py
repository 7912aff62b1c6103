"""What libraries log of a file instead of raising it: kept until it is known whether the file is refused."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LOG = logging.getLogger(__name__)


@contextmanager
def heard(library: str) -> Iterator[list[logging.LogRecord]]:
    """Keep warnings and errors of a library's logger off the terminal; yields the list they go to."""
    records: list[logging.LogRecord] = []

    def keep(record: logging.LogRecord) -> bool:
        if record.levelno >= logging.WARNING:
            records.append(record)
        return record.levelno < logging.WARNING

    logger = logging.getLogger(library)
    logger.addFilter(keep)
    try:
        yield records
    finally:
        logger.removeFilter(keep)


def in_words(record: logging.LogRecord) -> str:
    """Return a message without the object it begins with, at most 100 letters."""
    return record.getMessage().split("> ", maxsplit=1)[-1][:100]


def warn_of(path: Path, records: list[logging.LogRecord]) -> None:
    """Log in one line what was said of a file that is read all the same."""
    if records:
        more = f" and {len(records) - 1} more" if len(records) > 1 else ""
        _LOG.warning("%s: %s%s", path, in_words(records[0]), more)
