"""Where a run keeps its files, and whether it is finished. It does not read what is in them."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from distill3d.errors import InputError
from distill3d.storage.links import inside
from distill3d.storage.record import read_plain

State = Literal["absent", "unfinished", "done"]
_PART = re.compile(r"\..+\.\d+(\.partial)?")  # a file that is not yet what its name says, and who writes it


class _At:
    """A path inside a run's folder."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, folder: RunFolder, owner: object = None) -> Path:
        return folder.path / self.name


@dataclass(frozen=True, slots=True)
class RunFolder:
    """``runs/<experiment>/seed<k>/``; a run is complete only when its ``done.json`` exists.

    Args:
        path: of the folder; need not exist.
    """

    path: Path

    config = _At("config.yaml")  # the resolved experiment
    split = _At("split.json")  # names of the cases to train, validate and test on
    audit = _At("audit.json")  # what the transfer moved
    start = _At("start.safetensors")  # the weights that meet the image, before training
    fit = _At("fit.json")  # cost, teacher, versions: what training leaves beside its checkpoints
    gradients = _At("gradients.json")  # what each loss term's gradient was, by step
    similarity = _At("similarity.json")  # how alike the layers of student and teacher were before and after training
    metrics = _At("metrics.json")  # scores per case and their mean
    done = _At("done.json")  # written last
    best = _At("checkpoints/best.ckpt")  # the checkpoint with the best validation Dice
    last = _At("checkpoints/last.ckpt")  # the newest checkpoint; resuming starts here
    wandb_id = _At("wandb_id")  # the run's id on W&B; absent where it was never logged there
    figures = _At("figures")  # pictures
    validation = _At("validation.png")  # a validation patch as the network saw it last
    tuned = _At("trace.json")  # how predictions are traced, as chosen on the validation cases

    def swc(self, case: str) -> Path:
        """Traced tree of a case, in um."""
        return inside(self.path / "swc", f"{case}.swc")

    def prob(self, case: str) -> Path:
        """Predicted probability of a case, uint8: 255 is 1."""
        return inside(self.path / "prob", f"{case}.tif")

    def projections(self, case: str) -> Path:
        """A case seen from above: image, gold, errors, and the tree of gold."""
        return inside(self.path / "projections", f"{case}.npz")

    def failed(self, rank: int) -> Path:
        """Batch and state of a step whose numbers could not be used, as that process of the training had them."""
        return self.path / f"failed_rank{rank}.ckpt"

    @property
    def all_failed(self) -> list[Path]:
        """What `failed` names and is there, in the order of the processes."""
        ranks = {int(path.stem.removeprefix("failed_rank")): path for path in self.path.glob("failed_rank[0-9]*.ckpt")}
        return [path for _, path in sorted(ranks.items())]

    @property
    def parts(self) -> list[Path]:
        """What processes that were killed while they wrote a file left behind, see `write_text`."""
        return [path for path in self.path.rglob(".*") if _PART.fullmatch(path.name) and path.is_file()]

    @property
    def state(self) -> State:
        """Whether there is a run here, and whether it is complete."""
        if self.done.is_file():
            return "done"
        return "unfinished" if self.config.is_file() else "absent"

    def read_config(self) -> dict[str, Any]:
        """Return the resolved settings as plain containers.

        Raises:
            InputError: this is no run folder, or the file is damaged.
        """
        if not self.config.is_file():
            raise InputError(f"{self.path}: not a run folder (no config.yaml); accepted: runs/<experiment>/seed<k>")
        return read_plain(self.config)

    def read_json(self, path: Path) -> dict[str, Any]:
        """Return a JSON file of this run; empty when the stage that writes it has not run.

        Raises:
            InputError: the file is damaged.
        """
        return read_plain(path) if path.is_file() else {}


def write_json(path: Path, content: object) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of it."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_yaml(path: Path, content: object) -> None:
    """Write YAML atomically, keys in their given order."""
    write_text(path, yaml.safe_dump(content, sort_keys=False))


def write_text(path: Path, text: str) -> None:
    """Write text atomically; makes the folder."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write a file whole or not at all, readable for whom the user's umask says; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
