"""How the weight of a distillation term changes over a run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

ScheduleKind = Literal["constant", "warmup", "cosine"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleConfig:
    """Settings of `schedule_factor`."""

    kind: ScheduleKind = "constant"  # "cosine" falls from 1 to 0 over the run, or until `stop_step`
    warmup_steps: int = 0  # the factor rises from 0 to 1 over so many steps; "warmup" needs it, "cosine" may have it
    stop_step: int | None = None  # the factor is 0 from this step on; null never stops

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other."""
        if self.kind not in get_args(ScheduleKind):
            raise ValueError(f"kind={self.kind} is unknown; accepted: {', '.join(get_args(ScheduleKind))}")
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps={self.warmup_steps} is too small; accepted: 0 or more")
        if self.kind == "warmup" and not self.warmup_steps:
            raise ValueError("warmup_steps=0 makes kind=warmup constant; accepted: 1 or more")
        if self.kind == "constant" and self.warmup_steps:
            raise ValueError(f"warmup_steps={self.warmup_steps} has no effect with kind=constant; accepted: 0")
        if self.stop_step is not None and self.stop_step < 0:
            raise ValueError(f"stop_step={self.stop_step} is too small; accepted: 0 or more, or null")


def schedule_factor(config: ScheduleConfig, *, step: int, steps: int) -> float:
    """Return the factor on a term's weight, in [0, 1].

    The product of the warm-up, ``step / warmup_steps`` and then 1, and for "cosine" of
    ``(1 + cos(pi * step / end)) / 2`` with ``end`` the run's ``steps`` or ``stop_step``, whichever is less. Beyond the
    run's end the last value stays.

    Args:
        config: what changes.
        step: optimizer steps done so far, 0 or more.
        steps: of the whole run, 1 or more.

    Raises:
        ValueError: a step count is out of range.

    Example:
        >>> cosine = ScheduleConfig(kind="cosine", stop_step=50)
        >>> [round(schedule_factor(cosine, step=step, steps=100), 2) for step in (0, 25, 50, 75)]
        [1.0, 0.5, 0.0, 0.0]
    """
    if step < 0 or steps < 1:
        raise ValueError(f"step={step} of steps={steps} does not exist; accepted: step 0 or more, steps 1 or more")
    stop = math.inf if config.stop_step is None else config.stop_step
    if step >= stop:
        return 0.0
    factor = min(1.0, step / config.warmup_steps) if config.warmup_steps else 1.0
    if config.kind == "cosine":
        factor *= (1 + math.cos(math.pi * min(1.0, step / min(stop, steps)))) / 2
    return factor
