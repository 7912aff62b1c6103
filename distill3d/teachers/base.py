"""The frozen 2D teacher: never trained, never saved. It knows no architecture."""

from __future__ import annotations

import hashlib
from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherIdentity:
    """Which network this is and where its weights come from; goes into every checkpoint and metrics file.

    Attributes:
        architecture: timm's name of the network, ``"none"`` where there is no teacher.
        weights: where the weights come from, for people: a package and version, a hub name, a path, ``"random"``.
        sha256: of the weights, first 16 hex digits (see `hash_weights`); empty where there are none.
        random: True when nobody trained these weights.
    """

    architecture: str
    weights: str
    sha256: str
    random: bool


def hash_weights(state: Mapping[str, Tensor]) -> str:
    """Return 16 hex digits over names, shapes, dtypes and values, independent of the order of the entries."""
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tuple(value.shape)}:{value.dtype};".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return digest.hexdigest()[:16]


class Teacher(nn.Module, ABC):
    """A frozen 2D network.

    Its weights are dropped from every state dict on save and put back on load, so strict loading works with a teacher
    that was never saved. ``train()`` cannot leave eval mode; ``forward`` runs without gradient.

    Args:
        net: the 2D network; takes [N, 3, Y, X].
        identity: what it is.
        input_mean: of the three input channels, for intensities in [0, 1].
        input_std: of the three input channels, for intensities in [0, 1].
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        identity: TeacherIdentity,
        input_mean: tuple[float, float, float],
        input_std: tuple[float, float, float],
    ) -> None:
        super().__init__()
        self.net = net
        self.identity = identity
        self.input_mean = input_mean
        self.input_std = input_std
        self.requires_grad_(requires_grad=False)
        self.eval()
        self.register_state_dict_post_hook(_drop_weights)
        self.register_load_state_dict_pre_hook(_put_weights_back)

    def train(self, mode: bool = True) -> Self:  # noqa: ARG002 - torch's signature
        """Stay in eval mode, whatever is asked."""
        return super().train(mode=False)

    def normalize(self, images: Tensor) -> Tensor:
        """Bring [N, 1 or 3, Y, X] intensities in [0, 1] to this network's statistics, as [N, 3, Y, X]."""
        mean = torch.tensor(self.input_mean, dtype=images.dtype, device=images.device).view(1, 3, 1, 1)
        std = torch.tensor(self.input_std, dtype=images.dtype, device=images.device).view(1, 3, 1, 1)
        return (images - mean) / std

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Run the network on [N, 1 or 3, Y, X] intensities in [0, 1]; returns what the network returns."""
        return self.net(self.normalize(images))


def _drop_weights(module: nn.Module, state: dict[str, Any], prefix: str, _metadata: object) -> None:
    del module
    for key in [key for key in state if key.startswith(prefix)]:
        del state[key]


def _put_weights_back(module: nn.Module, state: dict[str, Any], prefix: str, *_rest: object) -> None:
    own = {f"{prefix}{name}": value for name, value in module.named_parameters()}
    own |= {f"{prefix}{name}": value for name, value in module.named_buffers()}
    state.update(own)
