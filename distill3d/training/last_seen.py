"""A picture of a validation patch as the network saw it last, for whoever watches a run. It changes nothing learned."""

from __future__ import annotations

import contextlib
import os
from typing import final

import lightning as L
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from distill3d.storage.run_folder import RunFolder
from distill3d.types import Batch

GAP = 3  # pixels between two panels


@final
class LastSeen(L.Callback):
    """Writes ``validation.png`` after every validation: image, gold and probability of one patch, the same each time.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self._drawn: tuple[Image.Image, PngInfo] | None = None

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: object,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw the first patch, which is around gold."""
        if batch_idx == 0 and trainer.is_global_zero and isinstance(outputs, Tensor):
            notes = PngInfo()
            notes.add_itxt("case", batch.cases[0])
            notes.add_text("step", str(trainer.global_step))
            self._drawn = _panels(batch.image[0], batch.target[0], outputs[0].sigmoid()), notes

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write it, now that others have looked whether the folder is still the run's."""
        if self._drawn is not None:
            image, notes = self._drawn
            part = self.folder.path / f".{self.folder.validation.name}.{os.getpid()}"
            with contextlib.suppress(OSError):  # a picture is no reason to stop a training
                image.save(part, "PNG", pnginfo=notes)
                part.replace(self.folder.validation)


def _panels(*volumes: Tensor) -> Image.Image:
    """Put projections along z of [1, Z, Y, X] in [0, 1] side by side."""
    shades: list[NDArray[np.uint8]] = []
    for volume in volumes:
        flat = volume.detach()[0].float().amax(0).clamp(0, 1).cpu().numpy()
        shades += [np.full((len(flat), GAP), 255, np.uint8), np.rint(255 * flat).astype(np.uint8)]
    return Image.fromarray(np.concatenate(shades[1:], axis=1))
