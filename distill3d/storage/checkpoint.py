"""Reads checkpoints of distill3d as plain containers. It builds no module.

What a network at the other end needs (a teacher that was a student once) is read here too, so this stands below both.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from distill3d.errors import InputError

CHECKPOINT_KEY = "distill3d"  # holds the experiment, the teacher's identity and the names of transferred entries


def read_checkpoint(path: Path) -> Mapping[str, Any]:
    """Return the content of a ``.ckpt`` file that `fit` wrote, on the CPU.

    Raises:
        InputError: the file is missing, or is no checkpoint of distill3d.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as err:
        raise InputError(f"{path}: no such checkpoint") from err
    except Exception as err:  # torch raises half a dozen kinds for a file that is not a checkpoint
        reason = " ".join(str(err).split()[:20]) or type(err).__name__
        raise InputError(f"{path}: not a readable checkpoint: {reason}") from err
    if not isinstance(checkpoint, Mapping) or CHECKPOINT_KEY not in checkpoint:
        raise InputError(f"{path}: not a checkpoint of distill3d; accepted: a .ckpt written by `distill3d fit`")
    return checkpoint
