"""Where the pictures of a run's cases are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill3d.storage.run_folder import RunFolder


def picture_path(folder: RunFolder, case: str, ending: str) -> Path:
    """Return the file of a picture of a case."""
    return folder.figures / f"{case}{ending}"


def case_pictures(folder: RunFolder, results: Mapping[str, Any]) -> dict[str, Path]:
    """Name for the logs -> the pictures, and pages to turn, that `evaluate` drew."""
    endings = {"mip": ".png", "tree": "_tree.png", "tree_3d": "_3d.html"}
    names = {f"{kind}/{case}": (case, end) for kind, end in endings.items() for case in results["cases"]}
    drawn = {name: picture_path(folder, case, end) for name, (case, end) in names.items()}
    return {name: path for name, path in drawn.items() if path.is_file()}
