"""Stops a training whose numbers cannot be used, and keeps the batch and the state of that step to look at."""

# ruff: noqa: ARG002 - Lightning fixes the signatures

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, final

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from distill3d.errors import InputError, NumbersError
from distill3d.storage.checkpoint import read_checkpoint
from distill3d.storage.run_folder import RunFolder
from distill3d.types import Batch, LossTerm, Turn

EXPLODED = 1e10  # a loss beyond it cannot be trained on any more; with float32 it is not infinite yet
KEPT = "the last good checkpoint is kept"


@final
class NumbersWatch(L.Callback):
    """Refuses gradients and weights that are not finite, and keeps what led to them, or to such a loss.

    Args:
        folder: of the run, which gets `RunFolder.failed`.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self._batch: object = None
        self._random: dict[str, Any] = {}

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Remember what the step begins with."""
        self._batch, self._random = batch, _random_state()

    def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse a gradient while the batch that gave it is known, where a step has several.

        Raises:
            NumbersError: it is not finite.
        """
        if trainer.accumulate_grad_batches > 1:
            self._check_gradients(trainer, pl_module)

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        """Refuse a gradient before it reaches the weights.

        Raises:
            NumbersError: it is not finite.
        """
        self._check_gradients(trainer, pl_module)

    def _check_gradients(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            return  # float16 with a scaler: it skips such a step and lowers the scale
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        if gradients and not torch.nn.utils.get_total_norm(gradients).isfinite():
            name = _first_bad((name, p.grad) for name, p in pl_module.named_parameters())
            raise self._refusal(f"gradient of {name or 'all weights together'} is not finite", trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse weights before they are written over good ones.

        Raises:
            NumbersError: they are not finite.
        """
        if name := _first_bad(learned(pl_module)):
            raise self._refusal(f"{name} is not finite", trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Keep the step, if its numbers were why."""
        if isinstance(exception, NumbersError):
            path = self.folder.failed(trainer.global_rank)
            write_failed(path, pl_module, self._batch, self._random, str(exception))

    def _refusal(self, what: str, trainer: L.Trainer) -> NumbersError:
        return NumbersError(f"{what} at step {trainer.global_step}; {places(self._batch)}; {KEPT}")


def check_loss(total: Tensor, terms: Mapping[str, LossTerm], batch: Batch, step: int) -> None:
    """Refuse a loss that nothing can be learned from.

    Raises:
        NumbersError: it is not finite or too large; names the terms, cases and places.
    """
    if total.abs() < EXPLODED:  # which no NaN is
        return
    values = ", ".join(f"{name}={term.value.item():.4g}" for name, term in terms.items())
    what = f"{total.item():.4g}, beyond {EXPLODED:g}," if total.isfinite() else "not finite"
    raise NumbersError(f"loss is {what} at step {step} ({values}); {places(batch)}; {KEPT}")


def places(batch: object) -> str:
    """Say where in which volumes the patches of a batch lie."""
    if not isinstance(batch, Batch):
        return "no place is known"
    origins = zip(batch.cases, batch.origin_zyx_vox.tolist(), strict=True)
    return "batch: " + "; ".join(f"{case} at zyx {tuple(origin)}" for case, origin in origins)


def learned(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield what a training changes: trained parameters and running statistics; other buffers may hold infinity."""
    yield from ((name, p) for name, p in module.named_parameters() if p.requires_grad)
    yield from ((name, b) for name, b in module.named_buffers() if name.rpartition(".")[2].startswith("running_"))


def write_failed(path: Path, module: L.LightningModule, batch: object, random: Mapping[str, Any], why: str) -> None:
    """Write a step that failed, as plain containers and tensors; nothing where it cannot be written."""
    content: dict[str, Any] = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(content)
    content |= {"step": module.global_step, "why": why, "random": dict(random), "batch": batch}
    if isinstance(batch, Batch):
        content["batch"] = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
        content["batch"]["turns"] = [[list(turn.source_axes), list(turn.flipped)] for turn in batch.turns]
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        torch.save(content, part)
        part.replace(path)
    except (OSError, RuntimeError):  # a full disk, of which the reason for all this must not be lost
        part.unlink(missing_ok=True)


def read_failed(path: Path) -> Mapping[str, Any]:
    """Return what `write_failed` wrote.

    Raises:
        InputError: it is something else.
    """
    content = read_checkpoint(path)
    if not {"step", "why", "random", "batch"} <= content.keys():
        raise InputError(f"{path}: holds no step that failed; accepted: what a training leaves that stops at one")
    return content


def read_batch(content: Mapping[str, Any]) -> Batch:
    """Return the batch that `write_failed` wrote, on the CPU."""
    fields = dict(content["batch"])
    turns = [Turn(tuple(axes), tuple(flipped)) for axes, flipped in fields.pop("turns")]
    return Batch(**fields, turns=tuple(turns))


def set_random_state(state: Mapping[str, Any]) -> None:
    """Draw again as at the start of the step; on another device other numbers come."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def _random_state() -> dict[str, Any]:
    state = {"cpu": torch.get_rng_state()}
    return state | ({"cuda": torch.cuda.get_rng_state().cpu()} if torch.cuda.is_initialized() else {})


def _first_bad(tensors: Iterable[tuple[str, Tensor | None]]) -> str:
    """Return the name of the first tensor with a value that is not finite; empty if there is none."""
    for name, tensor in tensors:
        if tensor is not None and tensor.is_floating_point() and not tensor.isfinite().all():
            return name
    return ""
