"""Checkpoints that appear whole: a stop while one is written leaves the one before it."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any, final

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO

from distill3d.storage.run_folder import write_bytes


@final
class WholeCheckpoints(TorchCheckpointIO):
    """Writes beside the checkpoint's place and renames.

    Lightning's own writes to TMPDIR first, and what moves it from another file system to its place writes over the
    checkpoint before.
    """

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | os.PathLike[str],
        storage_options: Any = None,  # noqa: ANN401 - as Lightning has it
    ) -> None:
        """Write a checkpoint whole or not at all; there are no ``storage_options``."""
        if storage_options is not None:
            raise TypeError(f"storage_options: {storage_options!r}; accepted: None")
        content = io.BytesIO()
        torch.save(checkpoint, content)
        write_bytes(Path(path), content.getbuffer())
