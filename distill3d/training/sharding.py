"""Fully sharded data parallel training: each process holds a share of the student's weights and optimizer states."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.fsdp import fully_shard

from distill3d.config.schema import Experiment, TrainerConfig
from distill3d.errors import ConfigError

FSDP = "fsdp"
MIN_BLOCKS = 2


def sharding_strategy(settings: TrainerConfig) -> ModelParallelStrategy:
    """Return Lightning's strategy for modules that shard themselves, on a GPU or not.

    Lightning's own ``fsdp`` takes GPUs only, and its checkpoints are folders.
    """
    return ModelParallelStrategy(
        data_parallel_size=settings.devices * settings.num_nodes,
        tensor_parallel_size=1,
        save_distributed_checkpoint=False,
    )


def check_sharding(experiment: Experiment) -> None:
    """Refuse what needs whole weights or gradients in a process.

    Raises:
        ConfigError: names the setting.
    """
    trainer = experiment.trainer
    if trainer.strategy != FSDP:
        return
    if trainer.devices * trainer.num_nodes == 1:
        raise ConfigError(
            "trainer.strategy=fsdp with 1 process has nothing to share; accepted: trainer.devices=2 or more"
        )
    if experiment.balance.mode == "gradient":
        raise ConfigError(
            "trainer.strategy=fsdp: no process has the whole gradients that balance.mode=gradient compares; accepted: "
            "balance.mode=fixed, or trainer.strategy=ddp"
        )


def is_sharded(trainer: L.Trainer) -> bool:
    """Whether each process holds a share of the weights alone."""
    return isinstance(trainer.strategy, ModelParallelStrategy)


def shard(module: L.LightningModule, *parts: nn.Module) -> None:
    """Shard parts of a module, block by block, if its training is sharded; processes have met.

    Args:
        module: as its trainer has it.
        parts: those that train, each called as a whole.
    """
    if not module._trainer or not is_sharded(module.trainer):  # noqa: SLF001 - `trainer` raises where there is none
        return
    mesh = module.device_mesh
    if mesh is None:
        raise RuntimeError("processes have not met yet: Lightning calls `configure_model` when they have")
    for part in parts:
        if not any(True for _ in part.parameters()):
            continue
        for block in _blocks(part):
            fully_shard(block, mesh=mesh["data_parallel"])
        fully_shard(part, mesh=mesh["data_parallel"])


def _blocks(network: nn.Module) -> list[nn.Module]:
    """Return the members of rows of equal layers, such as a ViT's blocks: what is gathered and let go at a time."""
    rows = [list(part) for part in network.modules() if isinstance(part, nn.Sequential | nn.ModuleList)]
    alike = [row for row in rows if len(row) >= MIN_BLOCKS and len({type(layer) for layer in row}) == 1]
    return [layer for row in alike for layer in row if any(True for _ in layer.parameters())]
