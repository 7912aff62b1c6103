"""Whether a network takes patches of the size it is to be trained on, known before anything is written."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from distill3d.config.schema import PatchConfig
from distill3d.errors import ConfigError, first_line
from distill3d.students.base import Student

LARGER = (0, 1, 2)  # strides of the network that are added along an axis, in search of a size that fits

MISTAKES = (AttributeError, NameError, TypeError)  # no other patch mends them
RUN_VOXELS = 2**17  # of a batch: up to here a forward costs less than one without values

Size = tuple[int, int, int]


def check_patch_size(student: Student, patches: PatchConfig) -> None:
    """Send a training batch, and a single patch as for prediction, through a student; a large one without values.

    Args:
        student: is left as it was, and so are the random generators.
        patches: its size and batch size are used.

    Raises:
        ConfigError: a layer refuses them; names the smallest size that none refuses.
    """
    why = _refused(student, patches.batch_size, patches.size_zyx)
    if why is None:
        return
    steps = [
        [-(-n // stride) * stride + k * stride for k in LARGER]
        for n, stride in zip(patches.size_zyx, student.stride_zyx, strict=True)
    ]
    larger = sorted(((z, y, x) for z, y, x in itertools.product(*steps)), key=lambda size: size[0] * size[1] * size[2])
    fits = next((size for size in larger if _refused(student, patches.batch_size, size) is None), None)
    raise ConfigError(
        f"patches.size_zyx={list(patches.size_zyx)} with batch_size={patches.batch_size} does not go through the "
        f"student ({why}); accepted: {'another size' if fits is None else f'{list(fits)} or larger'}"
    )


def _refused(student: Student, batch_size: int, size: Size) -> str | None:
    """Return what keeps a student from patches of a size, None if nothing does."""
    without_values = functools.partial(FakeTensorMode, allow_non_fake_inputs=True)
    for training, count in ((True, batch_size), (False, 1)):
        shape = (count, 1, *size)
        if math.prod(shape) > RUN_VOXELS and _failure(student, shape, without_values, training=training) is None:
            continue
        # what has no form without values is run
        if (why := _failure(student, shape, nullcontext, training=training)) is not None:
            return why
    return None


@torch.no_grad()
def _failure(
    student: Student, shape: tuple[int, ...], mode: Callable[..., AbstractContextManager[Any]], *, training: bool
) -> str | None:
    """Return the first line of what a forward raises; mistakes in a network's code are raised, where it has values."""
    modes = [(module, module.training) for module in student.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in student.buffers()]  # running statistics
    student.train(training)
    try:
        with torch.random.fork_rng(devices=[]), mode():
            student(torch.zeros(shape))
    except Exception as err:
        if mode is nullcontext and isinstance(err, MISTAKES):
            raise
        return first_line(err)  # layers raise what they like
    finally:
        for buffer, before in buffers:
            buffer.copy_(before)
        for module, was_training in modes:
            module.training = was_training
    return None
