"""Teacher `several`: two or more teachers at once, each with its own input statistics."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast, final

import torch
from torch import Tensor, nn

from distill3d.config.registry import TEACHERS, Component, components
from distill3d.errors import ConfigError
from distill3d.teachers.base import Teacher, TeacherIdentity


@dataclass(frozen=True, kw_only=True, slots=True)
class SeveralConfig:
    """Settings of ``several``."""

    members: dict[str, Component] = components(
        "teacher"
    )  # by a name you choose, with which layers start: `vit.blocks.3`

    def __post_init__(self) -> None:
        if not self.members or any("." in name for name in self.members):
            raise ValueError(f"members={list(self.members)}: accepted: one or more, with names that have no dot")


@TEACHERS.register("several", config=SeveralConfig)
@final
class Several(Teacher):
    """Feature maps of several frozen networks; a layer is named by its member, a dot, and its path there.

    The weights of the strategy's pairs set how much each counts. It gives maps only: a strategy that copies weights
    needs one teacher.
    """

    def __init__(self, config: SeveralConfig) -> None:
        members = {name: cast("Teacher", TEACHERS.build(member)) for name, member in config.members.items()}
        known = [member.identity for member in members.values()]
        super().__init__(
            nn.ModuleDict(members),
            identity=TeacherIdentity(
                architecture=" + ".join(each.architecture for each in known),
                weights="; ".join(each.weights for each in known),
                sha256=hashlib.sha256(" ".join(each.sha256 for each in known).encode()).hexdigest()[:16],
                random=any(each.random for each in known),
            ),
            input_mean=(0.5, 0.5, 0.5),  # each member has its own
            input_std=(0.5, 0.5, 0.5),
        )
        self.seen = tuple(each for member in members.values() for each in member.seen)

    @property
    def multiple(self) -> int:
        """What the sides of an image must be divisible by, for all members."""
        return math.lcm(*(member.multiple for _, member in self._members()))

    def by_multiple(self, layers: Sequence[str]) -> dict[int, list[str]]:
        """Return the layers by what their own member asks for: no other member pads its images."""
        parts: dict[int, list[str]] = {}
        for name, member in self._members():
            for multiple, own in member.by_multiple(_of(name, layers)).items():
                parts.setdefault(multiple, []).extend(f"{name}.{layer}" for layer in own)
        return parts

    @property
    def fingerprint(self) -> str:
        """All that a map depends on, but the image."""
        each = (f"{name} {member.fingerprint} multiple {member.multiple}" for name, member in self._members())
        return "; ".join(each)

    def check_layers(self, layers: Sequence[str]) -> None:
        """Refuse what `maps` cannot give."""
        names = [name for name, _ in self._members()]
        unknown = [layer for layer in layers if layer.partition(".")[0] not in names]
        if unknown:
            raise ConfigError(
                f"teacher layer {unknown[0]!r} names no member; "
                f"accepted: {', '.join(f'{name}.<path>' for name in names)}"
            )
        for name, member in self._members():
            member.check_layers(_of(name, layers))

    def main_layers(self) -> tuple[str, ...]:
        """Paths of the members' blocks, in order."""
        return tuple(f"{name}.{layer}" for name, member in self._members() for layer in member.main_layers())

    def block(self, layer: str) -> nn.Module | None:
        """Return the module at a layer's path in its member."""
        name, _, path = layer.partition(".")
        return dict(self._members())[name].block(path)

    def map_layers(self) -> tuple[str, ...]:
        """Paths of those blocks that give feature maps."""
        return tuple(f"{name}.{layer}" for name, member in self._members() for layer in member.map_layers())

    @torch.no_grad()
    def maps(self, images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Return feature maps [N, C, y, x] of some layers; only the members they belong to run."""
        maps: dict[str, Tensor] = {}
        for name, member in self._members():
            if member_layers := _of(name, layers):
                self.images_seen += len(images)
                maps |= {f"{name}.{layer}": value for layer, value in member.maps(images, member_layers).items()}
        return maps

    def _members(self) -> Iterator[tuple[str, Teacher]]:
        return ((name, cast("Teacher", member)) for name, member in cast("nn.ModuleDict", self.net).items())


def _of(member: str, layers: Sequence[str]) -> list[str]:
    """Return the paths, within a member, of those layers that belong to it."""
    return [path for name, _, path in (layer.partition(".") for layer in layers) if name == member]
