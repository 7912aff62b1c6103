"""A whole pretraining: photos, training, probe, weights and model card. It decides the order and holds no method."""

from __future__ import annotations

import time
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import Logger
from rich.console import Console
from safetensors.torch import save
from torch.utils.data import DataLoader

from distill3d.config.plain import as_plain
from distill3d.config.schema import Pretraining
from distill3d.experiment import load_pretraining
from distill3d.storage.lock import FolderLock
from distill3d.storage.provenance import peak_memory_gib, provenance
from distill3d.storage.rank import is_main_process
from distill3d.storage.run_folder import RunFolder, write_bytes, write_json
from distill3d.teachers.base import hash_weights
from distill3d.terminal import stderr
from distill3d.training.callbacks import HoldsFolder, StepClock
from distill3d.training.claim import is_finished, take
from distill3d.training.loggers import log_summary, make_loggers, wandb_mode
from distill3d.training.pretrain.card import write_card
from distill3d.training.pretrain.module import PhotoModule, build_vit
from distill3d.training.pretrain.photos import Crops, PhotoData, photos
from distill3d.training.pretrain.probe import probe
from distill3d.training.trainer import check_trainer, goes_on_from, make_trainer, quiet, train

STATISTICS_BATCHES = 8


def pretrain(
    settings: Pretraining | str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    console: Console | None = None,
) -> Path:
    """Train a 2D ViT on photos, probe it, and leave its weights in half precision with a model card.

    Args:
        settings: a loaded pretraining, or its name or path.
        resume: continue an unfinished run from its last checkpoint.
        overwrite: delete what is there and start anew.
        console: where messages go; stderr by default.

    Returns:
        The run's folder, with ``<architecture>.safetensors``, ``<architecture>.md`` and ``metrics.json``.

    Raises:
        ConfigError: the settings are wrong.
        InputError: a photo is missing; the folder holds a run and neither flag was given, or both were.
        TrainingError: the loss is not finite.
    """
    settings = settings if isinstance(settings, Pretraining) else load_pretraining(settings)
    console = console or stderr()
    folder = RunFolder(Path(settings.runs) / settings.name / f"seed{settings.seed}")
    lock = FolderLock(folder.path)
    plain = as_plain(settings)
    if is_finished(folder, plain, lock, resume=resume, overwrite=overwrite):
        if is_main_process():
            console.print(f"{folder.path} is finished; --overwrite runs it again", soft_wrap=True)
        return folder.path
    with quiet(), lock:
        check_trainer(settings.trainer, folder)
        mode = wandb_mode(settings)
        L.seed_everything(settings.seed, workers=True, verbose=False)
        data = PhotoData(settings)
        data.prepare_data()
        module = PhotoModule(settings)
        checkpoint, steps = goes_on_from(folder, settings.trainer, resume=resume)
        if checkpoint is None:
            crops = Crops(photos("train"), settings.crops, seed=settings.seed + 1, augment=True)
            sampler = range(STATISTICS_BATCHES * settings.crops.batch_size)
            loader = DataLoader(crops, batch_size=settings.crops.batch_size, sampler=sampler)
            module.measure(islice(loader, STATISTICS_BATCHES))
        if is_main_process():
            take(folder, plain, lock, resume=resume, overwrite=overwrite)
        loggers = make_loggers(settings, folder, mode=mode, first_step=steps)
        _train(settings, module, data, folder, loggers, checkpoint, lock)
        if is_main_process():
            results = _finish(settings, folder)
            means = {f"probe/{key}": fmean(values) for key, values in results["explained_variance"].items()}
            log_summary(loggers, means)
    return folder.path


def _train(
    settings: Pretraining,
    module: PhotoModule,
    data: PhotoData,
    folder: RunFolder,
    loggers: list[Logger],
    checkpoint: Path | None,
    lock: FolderLock,
) -> None:
    clock = StepClock()
    trainer = make_trainer(settings.trainer, folder, loggers, [clock, HoldsFolder(lock)], monitor="val/explained")
    train(trainer, module, data, folder=folder, checkpoint=checkpoint)
    lock.check()
    if trainer.is_global_zero:
        cost = {
            "parameters": sum(p.numel() for p in module.net.parameters()),
            "step_minutes": (clock.step_seconds + clock.wait_seconds) / 60,
            "peak_memory_gib": peak_memory_gib(),
            "steps": trainer.global_step,
            **clock.cost(),
        }
        write_json(folder.fit, {"cost": cost, "teacher": as_plain(module.teacher.identity), "provenance": provenance()})


def _finish(settings: Pretraining, folder: RunFolder) -> dict[str, Any]:
    """Probe the trained network and a random one, and write weights, scores and card."""
    module = PhotoModule(settings)
    state = torch.load(folder.last, map_location="cpu", weights_only=True)["state_dict"]
    module.load_state_dict(state, strict=True)
    module.net.load_state_dict({key: value.half() for key, value in module.net.state_dict().items()})
    module.eval()
    trained = probe(module)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        module.net = build_vit(settings.architecture, pixels=settings.crops.pixels).eval()
    results: dict[str, Any] = {
        "experiment": settings.name,
        "seed": settings.seed,
        "explained_variance": {"trained": trained, "random": probe(module)},
        **folder.read_json(folder.fit),
    }
    weights = {key.removeprefix("net."): value.half() for key, value in state.items() if key.startswith("net.")}
    results["weights"] = {"sha256": hash_weights(weights)}
    path = folder.path / f"{settings.architecture}.safetensors"
    write_bytes(path, save(weights))
    write_json(folder.metrics, results)
    write_card(path.with_suffix(".md"), settings, results)
    write_json(folder.done, {"finished_at": time.strftime("%Y-%m-%dT%H:%M:%S%z")})
    return results
