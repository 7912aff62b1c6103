"""Which processes train: those that a launcher started, else those that Lightning starts itself."""

from __future__ import annotations

import os

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.lsf import LSFEnvironment
from lightning.fabric.plugins.environments.mpi import MPIEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from distill3d.config.schema import TrainerConfig
from distill3d.errors import ConfigError

SPECIAL_STEPS = 2**31  # SLURM's numbers of steps that are no ``srun``, such as the shell of ``salloc``, begin here


def cluster_environment(settings: TrainerConfig) -> ClusterEnvironment:
    """Return what tells the processes of a training apart.

    Variables of a SLURM allocation count only in the processes that ``srun`` starts: in a shell, a notebook or a batch
    script inside of it a training on one device is one process like any other.

    Raises:
        ConfigError: the launcher started other processes than ``devices`` and ``num_nodes`` ask for.
    """
    if TorchElasticEnvironment.detect():
        world, local = int(os.environ["WORLD_SIZE"]), int(os.environ.get("LOCAL_WORLD_SIZE", settings.devices))
        if (world, local) != (settings.devices * settings.num_nodes, settings.devices):
            accepted = f"torchrun --nproc-per-node={settings.devices} --nnodes={settings.num_nodes}"
            raise _refusal(settings, "torchrun", world, accepted)
        return TorchElasticEnvironment()
    if "SLURM_NTASKS" in os.environ and not _is_interactive():
        return _slurm(settings)
    for launcher in (LSFEnvironment, MPIEnvironment):
        if launcher.detect():
            environment = launcher()
            if environment.world_size() != settings.devices * settings.num_nodes:
                accepted = f"{settings.devices * settings.num_nodes} processes"
                raise _refusal(
                    settings, launcher.__name__.removesuffix("Environment"), environment.world_size(), accepted
                )
            return environment
    return _own(settings)


def _slurm(settings: TrainerConfig) -> ClusterEnvironment:
    asked = settings.devices * settings.num_nodes
    accepted = f"srun with --nodes={settings.num_nodes} and --ntasks-per-node={settings.devices}"
    if not _is_srun():
        if asked > 1:
            raise _refusal(
                settings, "SLURM", 1, f"{accepted}, or SLURM_JOB_NAME=interactive to start them without srun"
            )
        return _own(settings)
    tasks, nodes = int(os.environ["SLURM_NTASKS"]), int(os.environ.get("SLURM_NNODES", settings.num_nodes))
    if (tasks, nodes) != (asked, settings.num_nodes) or (tasks > 1 and "SLURM_NTASKS_PER_NODE" not in os.environ):
        raise _refusal(settings, "srun", tasks, accepted)
    return SLURMEnvironment()


def _is_interactive() -> bool:
    """Whether this is a shell that SLURM gave, in which Lightning starts processes itself."""
    return os.environ.get("SLURM_JOB_NAME") in {"bash", "interactive"}


def _is_srun() -> bool:
    step = os.environ.get("SLURM_STEP_ID", "")
    return (step.isdecimal() and int(step) < SPECIAL_STEPS) or os.environ.get("SLURM_PROCID", "0") != "0"


def _own(settings: TrainerConfig) -> ClusterEnvironment:
    """Return Lightning's own environment: it starts the processes of this node, and those of no other."""
    asked = settings.devices * settings.num_nodes
    world = os.environ.get("WORLD_SIZE", "")
    if asked > 1 and "LOCAL_RANK" in os.environ and world.isdecimal() and int(world) != asked:
        raise _refusal(
            settings, "LOCAL_RANK and WORLD_SIZE say that a launcher", int(world), "neither of them, or torchrun"
        )
    if settings.num_nodes > 1 and not (os.environ.keys() & {"NODE_RANK", "GROUP_RANK"} and "MASTER_ADDR" in os.environ):
        raise ConfigError(
            f"trainer.num_nodes={settings.num_nodes}, but nothing started processes on other nodes; "
            "accepted: srun, torchrun, or NODE_RANK and MASTER_ADDR set on every node"
        )
    return LightningEnvironment()


def _refusal(settings: TrainerConfig, launcher: str, started: int, accepted: str) -> ConfigError:
    tasks = "1 process" if started == 1 else f"{started} processes"
    return ConfigError(
        f"trainer.devices={settings.devices} on trainer.num_nodes={settings.num_nodes}, "
        f"but {launcher} started {tasks}; accepted: {accepted}"
    )
