"""What a checkpoint says of the data behind its weights: voxel sizes, and cases. It judges neither."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from distill3d.storage.checkpoint import CHECKPOINT_KEY


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """Cases of one data source that weights were trained on, or chosen by.

    Attributes:
        where: the file of the weights, for messages.
        data: settings of the source, as plain containers.
        cases: names; None where a file of an older version does not say them.
    """

    where: str
    data: Mapping[str, Any]
    cases: tuple[str, ...] | None

    def as_plain(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of it, see `seen_by`."""
        return {"data": dict(self.data), "cases": None if self.cases is None else list(self.cases)}


def seen_by(checkpoint: Mapping[str, Any], path: Path) -> tuple[Seen, ...]:
    """Return the cases behind weights: those of their own training, and those behind the weights that began it.

    Args:
        checkpoint: as `distill3d.storage.checkpoint.read_checkpoint` returns it.
        path: of its file.
    """
    saved = checkpoint[CHECKPOINT_KEY]
    said = saved["seen"] if "seen" in saved else [{"data": saved["experiment"]["data"], "cases": None}]
    return tuple(
        Seen(where=str(path), data=each["data"], cases=None if each["cases"] is None else tuple(each["cases"]))
        for each in said
    )


def trained_um(saved: Mapping[str, Any]) -> tuple[tuple[float, float, float], ...]:
    """Return the voxel sizes that a checkpoint of distill3d says its training cases had; older ones do not say it."""
    return tuple((z, y, x) for z, y, x in saved["trained_um"]) if "trained_um" in saved else ()
