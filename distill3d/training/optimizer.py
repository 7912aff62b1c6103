"""How fast each parameter learns: gates, transferred entries by their depth, and all others."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn

from distill3d.config.schema import OptimizerConfig
from distill3d.errors import ConfigError
from distill3d.neurons.conversion import Conversion
from distill3d.students.base import Student


def parameter_groups(
    parameters: Iterable[tuple[str, nn.Parameter]],
    settings: OptimizerConfig,
    *,
    scales: Mapping[str, float],
    others: Mapping[str, float],
    conversion: Conversion,
    steps: int,
) -> list[dict[str, Any]]:
    """Group the parameters that are trained; matrices and kernels decay, biases, norms and gates do not.

    Args:
        parameters: of the student, by name in it, and of whatever trains with it.
        settings: of the optimizer.
        scales: from `transferred_scales`.
        others: layer, by path -> ratio of its entries' learning rate to the decoder's.
        conversion: says which are gates and how fast they learn.
        steps: of the whole run.

    Returns:
        Groups for AdamW, as many as there are depths and kinds at most; ``name`` is for logs, ``factor`` for
        `torch.optim.lr_scheduler.LambdaLR`.
    """
    groups: dict[tuple[str, float, bool], dict[str, Any]] = {}
    for entry, parameter in parameters:
        if not parameter.requires_grad:
            continue
        gate, moved = entry in conversion.gates, entry in scales
        other = next((ratio for path, ratio in others.items() if entry.startswith(f"{path}.")), 1.0)
        scale = conversion.gates[entry] if gate else scales.get(entry, other)
        kind = "gates" if gate else "transferred" if moved else "new"
        decays = parameter.ndim > 1 and not gate
        frozen_until = settings.freeze_transferred_steps if moved else 0
        group = groups.setdefault(
            (kind, scale, decays),
            {
                "name": f"{kind} x{scale:.4g}, {'decays' if decays else 'no decay'}",
                "params": [],
                "lr": settings.lr * scale,
                "weight_decay": settings.weight_decay if decays else 0.0,
                "factor": learning_rate(settings, steps=steps, frozen_until=frozen_until),
            },
        )
        group["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def transferred_scales(student: Student, transferred: Iterable[str], settings: OptimizerConfig) -> dict[str, float]:
    """Return by how much the learning rate of each transferred entry is below the decoder's.

    It is ``transferred_lr_ratio * layer_decay ** (n - depth)``: the deepest transferred entry has depth n, what meets
    the image has 0.

    Source: Bao et al. 2022, BEiT, arXiv 2106.08254 (layer-wise decay); the ratio to the decoder is ours.

    Raises:
        ConfigError: a decay is asked for and the student does not know the depth of an entry.
    """
    ratio, decay = settings.transferred_lr_ratio, settings.layer_decay
    trained = {name for name, _ in student.named_parameters()} & set(transferred)
    if decay == 1 or not trained:
        return dict.fromkeys(trained, ratio)
    depths = {name: depth for name, depth in student.depths().items() if name in trained}
    if unknown := sorted(trained - depths.keys()):
        raise ConfigError(
            f"optimizer.layer_decay={decay}: student {type(student).__name__} does not say how deep {unknown[0]} is; "
            "accepted: 1, or a student that mirrors a 2D network: convnet3d or vit3d"
        )
    deepest = max(depths.values())
    return {name: ratio * decay ** (deepest - depth) for name, depth in depths.items()}


def learning_rate(settings: OptimizerConfig, *, steps: int, frozen_until: int = 0) -> Callable[[int], float]:
    """Return the factor on a group's learning rate by optimizer step: frozen, warm-up, then constant or cosine to 0.

    It is a function and not an object because the scheduler saves an object's attributes in the checkpoint.

    Args:
        settings: schedule and warm-up.
        steps: of the whole run.
        frozen_until: the factor is 0 before this step.

    Example:
        >>> rate = learning_rate(OptimizerConfig(warmup_steps=0), steps=10)
        >>> [round(rate(step), 2) for step in (0, 5, 10)]
        [1.0, 0.5, 0.0]
    """

    def factor(step: int) -> float:
        if step < frozen_until:
            return 0.0
        warm = min(1.0, (step + 1) / (settings.warmup_steps + 1))
        if settings.schedule == "constant":
            return warm
        return warm * 0.5 * (1 + math.cos(math.pi * min(step, steps) / steps))

    return factor
