"""Keeps what is read and written of a run inside its folder, also where somebody else made that folder."""

from __future__ import annotations

import os
from pathlib import Path

from distill3d.errors import InputError

UNREAD = "wandb"  # W&B's own folder in a run's: it links to logs in the user's cache, and nothing here reads it


def link_out(folder: Path, root: Path) -> Path | None:
    """Return a link in a run's folder to a place outside of ``root``, None if there is none."""
    root = root.resolve()
    for parent, folders, files in os.walk(folder):
        if Path(parent) == folder and UNREAD in folders:
            folders.remove(UNREAD)
        for path in (Path(parent, name) for name in (*folders, *files)):
            if path.is_symlink() and not _leads_into(path, root):
                return path
    return None


def require_inside(folder: Path) -> None:
    """Refuse a run's folder in which a link leads out of it, so that nothing else is read or overwritten.

    Raises:
        InputError: there is one; names it.
    """
    if link := link_out(folder, folder):
        raise InputError(f"{link}: links to a place outside of its run's folder; accepted: the file or folder itself")


def inside(folder: Path, name: str) -> Path:
    """Return a path below a folder.

    Args:
        folder: that it may not leave.
        name: of the file, such as a case's with a suffix.

    Raises:
        InputError: the name leads out of the folder.
    """
    path = folder / name
    if "\0" in name or not Path(os.path.normpath(path)).is_relative_to(os.path.normpath(folder)):
        raise InputError(f"{name!r} would be a file outside of {folder}; accepted: a name that stays inside")
    return path


def _leads_into(link: Path, root: Path) -> bool:
    try:
        return link.resolve().is_relative_to(root)
    except (OSError, RuntimeError):  # it goes in a circle
        return False
