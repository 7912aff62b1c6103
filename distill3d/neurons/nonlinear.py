"""How far a student's neurons are from linear ones."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor

from distill3d.neurons.layer import NeuronLayer
from distill3d.students.base import Student

CONTROL = "linear"  # the type that has no nonlinear part by intention


@torch.no_grad()
def nonlinear_audit(student: Student, patches: Callable[[], Tensor]) -> dict[str, Any]:
    """Measure how large the nonlinear part of a student's neurons is, relative to the linear one.

    Of every converted layer, before the network's activation: a scale and an offset per channel of the layer's linear
    response explain a part of the neurons' response (least squares over voxels and patches). The share is the standard
    deviation of the rest over that of the explained part, over the channels of a type. 0 for linear neurons, also for
    those whose gates only rescale their layer, as any linear layer could; 1 where both parts are equal. Where gates
    start linear the rest is never more than the difference to the response with the gates set back.

    Args:
        student: is run once, in evaluation mode, and left as it was.
        patches: gives [B, 1, Z, Y, X] on the student's device; called if there are neurons.

    Returns:
        ``nonlinear_share``, the median over layers (and types, where a layer has several), None without neurons;
        ``nonlinear_share_by_type``, the same for each type. The control ``linear`` does not count.
    """
    by_type: dict[str, list[float]] = {}

    def measure(layer: NeuronLayer, args: tuple[Tensor, ...], output: Tensor) -> None:
        response, linear = layer.laid(output), layer.laid(layer.linear(*args))
        for part, _ in layer.each():
            if part.name != CONTROL:
                measured = nonlinear_share(response[:, part.outputs], linear=linear[:, part.outputs])
                by_type.setdefault(part.name, []).append(measured)

    layers = [layer for layer in student.modules() if isinstance(layer, NeuronLayer)]
    handles = [layer.register_forward_hook(measure) for layer in layers]
    if layers:
        was_training = student.training
        student.eval()(patches())
        student.train(was_training)
    for handle in handles:
        handle.remove()
    every = [value for values in by_type.values() for value in values]
    return {
        "nonlinear_share": median(every) if every else None,
        "nonlinear_share_by_type": {name: median(values) for name, values in by_type.items()},
    }


def nonlinear_share(response: Tensor, *, linear: Tensor) -> float:
    """Return the ratio that `nonlinear_audit` describes, of responses [B, C, ...]; 0 where neither part varies."""
    y, x = (values.float().transpose(0, 1).flatten(1) for values in (response, linear))
    y, x = y - y.mean(1, keepdim=True), x - x.mean(1, keepdim=True)
    tiny = torch.finfo(x.dtype).tiny
    explained = x * ((x * y).sum(1, keepdim=True) / x.square().sum(1, keepdim=True).clamp(min=tiny))
    rest, size = (y - explained).square().sum(), explained.square().sum()
    return (rest / size.clamp(min=torch.finfo(x.dtype).eps)).sqrt().item()
