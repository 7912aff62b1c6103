"""Reads checkpoints of distill3d as plain containers, and the model files that they shrink to. It builds no module.

What a network at the other end needs (a teacher that was a student once) is read here too, so this stands below both.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from distill3d.errors import InputError
from distill3d.storage.run_folder import write_bytes

CHECKPOINT_KEY = "distill3d"  # holds the experiment, the teacher's identity and the names of transferred entries
MODEL_SUFFIX = ".safetensors"
_ACCEPTED = "a .ckpt written by `distill3d fit`, or a .safetensors by `distill3d export`"


def read_checkpoint(path: Path) -> Mapping[str, Any]:
    """Return the content of a ``.ckpt`` file that `fit` wrote, or of a model file, on the CPU; nothing in it is run.

    Raises:
        InputError: the file is missing, or neither.
    """
    with _readable(path):
        if path.suffix == MODEL_SUFFIX:
            return _read_model(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(checkpoint, Mapping) or CHECKPOINT_KEY not in checkpoint:
        raise InputError(f"{path}: not a checkpoint of distill3d; accepted: {_ACCEPTED}")
    return checkpoint


def step_of(path: Path) -> int:
    """Return the number of optimizer steps a checkpoint was written after; no weights are read.

    Raises:
        InputError: the file cannot be read.
    """
    with _readable(path):
        return int(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["global_step"])


def write_model(path: Path, checkpoint: Mapping[str, Any], **more: Any) -> None:  # noqa: ANN401 - plain containers
    """Write a model file: weights in half precision, and what is needed to rebuild the network; whole or not at all.

    Args:
        path: to write, ends in .safetensors.
        checkpoint: as `read_checkpoint` returns it.
        more: plain containers that are kept beside what the checkpoint says of itself.
    """
    state = {name: _halved(value).contiguous() for name, value in checkpoint["state_dict"].items()}
    write_bytes(path, save(state, {CHECKPOINT_KEY: json.dumps({**checkpoint[CHECKPOINT_KEY], **more})}))


def _halved(value: Tensor) -> Tensor:
    half = value.half() if value.is_floating_point() else value
    return half if half.isfinite().all() else value  # a variance may be too large for it


def read_about(path: Path) -> Mapping[str, Any]:
    """Return what a model file says of itself; no weights are read.

    Raises:
        InputError: the file cannot be read, or says nothing.
    """
    with _readable(path), safe_open(path, framework="pt") as file:
        about = json.loads((file.metadata() or {}).get(CHECKPOINT_KEY, "null"))
    if not isinstance(about, dict):
        raise InputError(f"{path}: weights without what `distill3d export` says of them; accepted: {_ACCEPTED}")
    return about


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Say in one line why a file cannot be read."""
    try:
        yield
    except FileNotFoundError as err:
        raise InputError(f"{path}: no such checkpoint") from err
    except InputError:
        raise
    except Exception as err:  # torch raises half a dozen kinds for a file that is not a checkpoint
        reason = " ".join(str(err).split()[:20]) or type(err).__name__
        raise InputError(f"{path}: not a readable checkpoint: {reason}") from err


def _read_model(path: Path) -> Mapping[str, Any]:
    about = read_about(path)
    with safe_open(path, framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    return {
        CHECKPOINT_KEY: about,
        "state_dict": {name: value.float() if value.is_floating_point() else value for name, value in state.items()},
    }
