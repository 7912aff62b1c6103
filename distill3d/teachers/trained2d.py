"""Teacher `segmenter2d`: a 2D network that an experiment such as `teacher2d` trained on slices, now frozen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

from distill3d.config.paths import ConfigPath
from distill3d.config.registry import TEACHERS
from distill3d.errors import ConfigError, InputError
from distill3d.layers.fpn2d import Segmenter2d
from distill3d.storage.checkpoint import CHECKPOINT_KEY, read_checkpoint
from distill3d.storage.run_folder import RunFolder
from distill3d.storage.trained_on import seen_by
from distill3d.teachers.base import Teacher, TeacherIdentity, hash_weights

STUDENT = "slices2d"
PREFIX = "student.net."


@dataclass(frozen=True, kw_only=True, slots=True)
class Segmenter2dConfig:
    """Settings of ``segmenter2d``."""

    run: ConfigPath = ConfigPath("runs/teacher2d/seed0")  # noqa: RUF009 - frozen; a finished run whose student is `slices2d`


@TEACHERS.register("segmenter2d", config=Segmenter2dConfig)
@final
class Segmenter(Teacher):
    """The best checkpoint of a run of a 2D segmenter; it has logits beside its feature maps."""

    segments = True

    def __init__(self, config: Segmenter2dConfig) -> None:
        folder = RunFolder(Path(config.run))
        if folder.state != "done":
            name = folder.path.parent.name or "teacher2d"
            raise InputError(
                f"teacher.run={config.run}: no finished run; accepted: a run of a 2D segmenter, so first "
                f"`make experiment NAME={name}`"
            )
        checkpoint = read_checkpoint(folder.best)
        student = checkpoint[CHECKPOINT_KEY]["experiment"]["student"]
        if student["name"] != STUDENT:
            raise ConfigError(f"teacher.run={config.run}: its student is {student['name']!r}; accepted: {STUDENT!r}")
        net = Segmenter2d(student["encoder"], stages=student["stages"], width=student["width"])
        state = checkpoint["state_dict"]
        net.load_state_dict({k.removeprefix(PREFIX): v for k, v in state.items() if k.startswith(PREFIX)}, strict=True)
        mean, std = (tuple(state[f"student.{name}"].tolist()) for name in ("input_mean", "input_std"))
        super().__init__(
            net,
            identity=TeacherIdentity(
                architecture=f"segmenter2d/{student['encoder']}",
                weights=f"run {config.run}",
                sha256=hash_weights(net.state_dict()),
                random=False,
            ),
            input_mean=mean,
            input_std=std,
        )
        self.seen = seen_by(checkpoint, folder.best)
