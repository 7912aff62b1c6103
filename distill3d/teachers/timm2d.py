"""Teacher `timm2d`: any timm network with weights from a package, the hub, a file, or none (random)."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import nn

from distill3d.config.paths import ConfigPath
from distill3d.config.registry import TEACHERS
from distill3d.layers.networks2d import create_2d
from distill3d.teachers import weights as sources
from distill3d.teachers.base import Teacher, TeacherIdentity, hash_weights
from distill3d.teachers.weight_files import from_file

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Timm2dConfig:
    """Settings of ``timm2d``."""

    architecture: str = sources.LITE0  # timm's name; for `hub` it may name the weights too, as in resnet18.a1_in1k
    weights: Literal["package", "hub", "file", "random"] = "package"  # `package` needs no network
    path: ConfigPath | None = None  # of weights=file: .safetensors, .pth, .ckpt ... with timm's names or the authors'
    seed: int = 0  # of weights=random

    def __post_init__(self) -> None:
        if self.weights == "package" and self.architecture not in sources.PACKAGED:
            raise ValueError(
                f"architecture={self.architecture!r}: weights='package' accepts {', '.join(sources.PACKAGED)}; "
                "for other networks set weights to 'hub', 'file' or 'random'"
            )
        if (self.weights == "file") != (self.path is not None):
            raise ValueError(f"path={self.path!r} with weights={self.weights!r}: a path goes with weights='file' only")


@TEACHERS.register("timm2d", config=Timm2dConfig)
@final
class Timm2d(Teacher):
    """A frozen network of timm.

    The input statistics are those timm names for the network. For EfficientNet-Lite0 they are 0.5 and 0.5, and they fit
    the packaged weights better than ImageNet's: skimage's ``coffee`` is an espresso with 0.94 against 0.81, its
    ``chelsea`` a cat with 0.88 against 0.84 (center square, 224 pixels).
    """

    def __init__(self, config: Timm2dConfig) -> None:
        net, origin = _build(config)
        if config.weights == "random":
            logger.warning("teacher %s has RANDOM weights: nobody trained it", config.architecture)
        cfg = sources.pretrained_cfg(net)
        super().__init__(
            net,
            identity=TeacherIdentity(
                architecture=config.architecture.split(".", maxsplit=1)[0],
                weights=origin,
                sha256=hash_weights(net.state_dict()),
                random=config.weights == "random",
            ),
            input_mean=tuple(cfg["mean"]),
            input_std=tuple(cfg["std"]),
        )


def _build(config: Timm2dConfig) -> tuple[nn.Module, str]:
    """Return the network and, in words, where its weights come from."""
    name = config.architecture
    if config.weights == "hub":
        return sources.from_hub(name)
    if config.weights == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            return create_2d(name, setting=sources.SETTING), f"random, seed {config.seed}"
    if config.path is not None:
        return from_file(name, os.fspath(config.path)), f"file {config.path}"
    return sources.from_package(name)
