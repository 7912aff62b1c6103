"""Teacher `none`: stands where an experiment has no teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from torch import nn

from distill3d.config.registry import TEACHERS
from distill3d.errors import ConfigError
from distill3d.teachers.base import Teacher, TeacherIdentity


@dataclass(frozen=True, kw_only=True, slots=True)
class NoTeacherConfig:
    """``none`` has no settings."""


@TEACHERS.register("none", config=NoTeacherConfig)
@final
class NoTeacher(Teacher):
    """A teacher without a network; strategies that need weights refuse it."""

    def __init__(self, config: NoTeacherConfig) -> None:
        del config
        super().__init__(
            nn.Identity(),
            identity=TeacherIdentity(architecture="none", weights="none", sha256="", random=False),
            input_mean=(0.5, 0.5, 0.5),
            input_std=(0.5, 0.5, 0.5),
        )

    def check_layers(self, layers: Sequence[str]) -> None:
        """Refuse every layer.

        Raises:
            ConfigError: there is one.
        """
        if layers:
            raise ConfigError(
                f"teacher.name=none has no layer {layers[0]!r}; "
                "accepted: a teacher with one, such as teacher.name=timm2d"
            )
