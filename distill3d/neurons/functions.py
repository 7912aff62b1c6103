"""Neuron types made of functions of one's choice, before a layer's kernels or behind them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill3d.config.registry import NEURONS
from distill3d.neurons.base import Neuron, NeuronConfig, per_channel

# `exp` and `log` are left out: the first overflows in half precision, the second is not defined everywhere.
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "square": torch.square,
    "cube": lambda x: x**3,
    "power4": lambda x: x**4,
    "power5": lambda x: x**5,
    "power6": lambda x: x**6,
    "abs": torch.abs,
    "cos": torch.cos,
    "elu": F.elu,
    "gelu": F.gelu,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "sin": torch.sin,
    "tanh": torch.tanh,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskBasedConfig(NeuronConfig):
    """Settings of ``task_based``."""

    gate_lr_ratio: float = 0.5  # measured
    functions: tuple[str, ...] = ("square", "sin")  # of x, one or more of `FUNCTIONS`; 2x**2 - sin(x) has these two

    def __post_init__(self) -> None:
        NeuronConfig.__post_init__(self)
        accepted = f"accepted: one or more of {', '.join(FUNCTIONS)}, each once"
        if not self.functions or len(set(self.functions)) < len(self.functions):
            raise ValueError(f"functions={list(self.functions)}: {accepted}")
        for name in self.functions:
            if name not in FUNCTIONS:
                raise ValueError(f"functions: {name!r} is unknown; {accepted}")


@NEURONS.register("task_based", config=TaskBasedConfig)
@final
class TaskBased(Neuron):
    """A neuron made for a task, ``sum_t W_t phi_t(x) + b``: one convolution per term of an expression.

    A coefficient of an expression becomes a weight, so that a list of functions says what the expression is. Products
    and compositions of functions, such as ``x sin(x)``, cannot be named.

    Identity: the layer is the term ``x``, which is added where the list lacks it (ours); the other W_t = 0.
    Random: the layer is the term ``x`` if there is one, else the first. Zeros that pad the image are 0 after phi too.

    Source: Fan et al., task-based neurons (tnlearn), as reviewed in arXiv 2301.09245. What its symbolic regression
    finds are polynomials, unless told otherwise.
    """

    gated = ("branches",)

    def __init__(self, config: TaskBasedConfig, *, conv: nn.Conv3d) -> None:
        super().__init__(config, conv=conv)
        first = "identity" if self.starts_linear or "identity" in config.functions else config.functions[0]
        self.entry = None if first == "identity" else FUNCTIONS[first]
        self.terms = [FUNCTIONS[name] for name in config.functions if name != first]
        self.branches = nn.ModuleList(self.branch(conv, bias=None, zero=self.starts_linear) for _ in self.terms)

    def forward(self, image: Tensor, *, linear: Tensor) -> Tensor:
        """Map [B, C, Z, Y, X]."""
        total = linear
        for term, branch in zip(self.terms, self.branches, strict=True):
            total = total + branch(term(image))
        return total


@dataclass(frozen=True, kw_only=True, slots=True)
class ActivationConfig(NeuronConfig):
    """Settings of ``activation``."""

    gate_lr_ratio: float = 50.0  # extrapolated from 10; one factor per channel is all there is to open
    function: str = "gelu"  # one of `FUNCTIONS`

    def __post_init__(self) -> None:
        NeuronConfig.__post_init__(self)
        if self.function not in FUNCTIONS or self.function == "identity":
            known = ", ".join(sorted(FUNCTIONS.keys() - {"identity"}))
            raise ValueError(f"function: {self.function!r} is unknown; accepted: one of {known}")


@NEURONS.register("activation", config=ActivationConfig)
@final
class Activation(Neuron):
    """A neuron with an activation of its own, ``phi(W x + b)``, before the network's normalization and activation.

    It needs no other weights than the layer's. Several of them in one list, each with its share of the channels, make
    a layer of diverse activations. Identity is ours: ``W x + b + g * phi(W x + b)``, g = 0.

    Source: Fan et al. 2023, NeuroAI, arXiv 2301.09245, on networks with several activations; there they replace the
    network's own, which stays here.
    """

    gated = ("gain",)

    def __init__(self, config: ActivationConfig, *, conv: nn.Conv3d) -> None:
        super().__init__(config, conv=conv)
        self.function = FUNCTIONS[config.function]
        self.gain = self.added_gain(conv)

    def forward(self, image: Tensor, *, linear: Tensor) -> Tensor:  # noqa: ARG002 - other types do
        """Map [B, C, Z, Y, X]."""
        active = self.function(linear)
        return active if self.gain is None else linear + per_channel(self.gain, active)
