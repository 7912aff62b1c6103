"""Neuron types that imitate nerve cells: saturating dendrites, and spikes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor, nn

from distill3d.config.registry import NEURONS
from distill3d.neurons.base import Neuron, NeuronConfig, at_least, per_channel


@dataclass(frozen=True, kw_only=True, slots=True)
class DendriticConfig(NeuronConfig):
    """Settings of ``dendritic``."""

    gate_lr_ratio: float = 20.0  # measured; one factor per channel is all there is to open
    dendrites: int = 2  # B, the layer included

    def __post_init__(self) -> None:
        NeuronConfig.__post_init__(self)
        at_least(1, dendrites=self.dendrites)


@NEURONS.register("dendritic", config=DendriticConfig)
@final
class Dendritic(Neuron):
    """A neuron with saturating dendrites, ``sum_b tanh(W_b x + b_b)``; the layer is the first.

    Identity is ours, since tanh is not linear: ``W_1 x + b_1 + g * sum_b tanh(W_b x + b_b)``, g = 0.

    Source: as in arXiv 2301.09245.
    """

    gated = ("gain",)

    def __init__(self, config: DendriticConfig, *, conv: nn.Conv3d) -> None:
        super().__init__(config, conv=conv)
        self.dendrites = nn.ModuleList(self.branch(conv, bias=0.0, zero=False) for _ in range(config.dendrites - 1))
        self.gain = self.added_gain(conv)

    def forward(self, image: Tensor, *, linear: Tensor) -> Tensor:
        """Map [B, C, Z, Y, X]."""
        total = linear.tanh()
        for dendrite in self.dendrites:
            total = total + dendrite(image).tanh()
        return total if self.gain is None else linear + per_channel(self.gain, total)


@dataclass(frozen=True, kw_only=True, slots=True)
class SpikingConfig(NeuronConfig):
    """Settings of ``spiking``."""

    gate_lr_ratio: float = 60.0  # measured; likewise, and the rate of weak responses is small
    steps: int = 4  # T, in which the same input arrives
    leak: float = 0.9  # share of the potential kept from step to step, in [0, 1]
    slope: float = 10.0  # of the sigmoid at the threshold, which is 1
    spikes: Literal["soft", "binary"] = "soft"  # soft: the sigmoid itself; binary: 0 or 1, with a surrogate gradient

    def __post_init__(self) -> None:
        NeuronConfig.__post_init__(self)
        at_least(1, steps=self.steps)
        if not 0 <= self.leak <= 1:
            raise ValueError(f"leak={self.leak} is out of range; accepted: 0 to 1")
        if self.slope <= 0:
            raise ValueError(f"slope={self.slope} is too small; accepted: above 0")


@NEURONS.register("spiking", config=SpikingConfig)
@final
class Spiking(Neuron):
    """A leaky integrate-and-fire neuron: ``m <- 0.9 m + W x + b; s = sigmoid(10 (m - 1)); m <- m (1 - s)``, mean s.

    Its rate lies in [0, 1] and needs no other weights than the layer's. Identity is ours, since a rate is not linear:
    ``W x + b + g * rate(W x + b)``, g = 0.

    Binary spikes are ``m > 1``, and have the sigmoid's gradient.

    Source: as in arXiv 2301.09245; T is ours. Neftci et al. 2019, Surrogate gradient learning in spiking neural
    networks, arXiv 1901.09948 (binary spikes).
    """

    gated = ("gain",)

    def __init__(self, config: SpikingConfig, *, conv: nn.Conv3d) -> None:
        super().__init__(config, conv=conv)
        self.config = config
        self.gain = self.added_gain(conv)

    def forward(self, image: Tensor, *, linear: Tensor) -> Tensor:  # noqa: ARG002 - other types do
        """Map [B, C, Z, Y, X]."""
        rate = firing_rate(linear, self.config)
        return rate if self.gain is None else linear + per_channel(self.gain, rate)


def firing_rate(current: Tensor, config: SpikingConfig) -> Tensor:
    """Return the mean of the spikes over T steps, in [0, 1], that a constant current of any shape evokes.

    Example:
        >>> strong = firing_rate(torch.tensor([-1.0, 0.3, 2.0]), SpikingConfig(spikes="binary"))
        >>> strong.tolist()
        [0.0, 0.25, 1.0]
    """
    potential, total = torch.zeros_like(current), torch.zeros_like(current)
    for _ in range(config.steps):
        potential = config.leak * potential + current
        spike = torch.sigmoid(config.slope * (potential - 1))
        if config.spikes == "binary":
            spike = (potential > 1).to(spike) + (spike - spike.detach())  # exactly 0 or 1
        potential = potential * (1 - spike)
        total = total + spike
    return total / config.steps
