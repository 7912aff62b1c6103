"""The layer that stands in for another one, some or all of whose output channels are neurons of one type or several."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple, cast, final

import torch
from torch import Tensor, nn

from distill3d.config.registry import NEURONS, Component
from distill3d.neurons.base import Neuron

Layer = nn.Conv3d | nn.Linear


class Part(NamedTuple):
    """Which channels of a layer are neurons of one type."""

    name: str
    outputs: slice
    inputs: slice


@final
class NeuronLayer(nn.Module):
    """Stand in for a layer: same input, same output shape, another formula for some of its channels or all.

    The layer computes the linear response once. Each type gets its share of the output channels, in order, and of a
    grouped layer the input channels of their groups, which are not divided; what is left stays linear. A type whose
    share rounds to nothing is left out. Types see the tokens [..., C] of a linear layer as a volume [B, C, T, 1, 1].

    Attributes:
        linear: the layer, with its class, geometry and values.
        neurons: one per part.
        parts: which channels are whose.

    Args:
        layer: to replace; it is not copied.
        chosen: types with their `NeuronConfig`; their shares of the channels sum to 1 at most.
    """

    def __init__(self, layer: Layer, chosen: Sequence[Component]) -> None:
        super().__init__()
        self.linear = layer
        conv = layer if isinstance(layer, nn.Conv3d) else _pointwise(layer)
        dealt = list(zip(chosen, _deal(conv, [each.config.channels for each in chosen]), strict=True))
        self.parts = [Part(each.name, *slices) for each, slices in dealt if slices[0].start < slices[0].stop]
        self.neurons = nn.ModuleList(
            NEURONS.build(each, conv=_part(conv, *slices)) for each, slices in dealt if slices[0].start < slices[0].stop
        )

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's signature
        """Map what the layer maps."""
        linear = self.linear(input)
        image, response = self.laid(input), self.laid(linear)
        outputs, last = [], 0
        for part, neuron in self.each():
            own = response if neuron.entry is None else self.laid(self.linear(neuron.entry(input)))
            outputs.append(neuron(image[:, part.inputs], linear=own[:, part.outputs]))
            last = part.outputs.stop
        if last < response.shape[1]:
            outputs.append(response[:, last:])
        whole = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)
        return whole if isinstance(self.linear, nn.Conv3d) else whole.flatten(2).movedim(1, -1).reshape(linear.shape)

    def laid(self, values: Tensor) -> Tensor:
        """Return what the layer maps, or maps it to, as [B, C, Z, Y, X]."""
        if isinstance(self.linear, nn.Conv3d):
            return values
        return values.movedim(-1, 1).reshape(len(values), values.shape[-1], -1, 1, 1)

    def each(self) -> Iterator[tuple[Part, Neuron]]:
        """Yield the parts with their neurons."""
        return zip(self.parts, (cast("Neuron", neuron) for neuron in self.neurons), strict=True)

    def gates(self) -> dict[str, float]:
        """Names of the gates -> their learning rate relative to the optimizer's."""
        return {
            f"neurons.{number}.{gate}": ratio
            for number, (_, neuron) in enumerate(self.each())
            for gate, ratio in neuron.gates().items()
        }


def _deal(conv: nn.Conv3d, shares: Sequence[float]) -> list[tuple[slice, slice]]:
    """Return the output channels of each share, in order, and the input channels that they see."""
    units = conv.groups if conv.groups > 1 else conv.out_channels
    ends = [0, *(round(units * share) for share in accumulate(shares))]
    return [
        (
            _channels(units, first, last, conv.out_channels),
            _channels(units, first, last, conv.in_channels) if conv.groups > 1 else slice(0, conv.in_channels),
        )
        for first, last in pairwise(ends)
    ]


def _channels(units: int, first: int, last: int, channels: int) -> slice:
    return slice(first * channels // units, last * channels // units)


def _part(conv: nn.Conv3d, outputs: slice, inputs: slice) -> nn.Conv3d:
    """Return a convolution of the geometry of some of a layer's channels; the layer itself for all of them."""
    filters = outputs.stop - outputs.start
    if filters == conv.out_channels:
        return conv
    part = copy.deepcopy(conv)
    part.weight = nn.Parameter(conv.weight.detach()[outputs].clone())
    part.bias = None if conv.bias is None else nn.Parameter(conv.bias.detach()[outputs].clone())
    part.groups = max(1, conv.groups * filters // conv.out_channels)
    part.out_channels, part.in_channels = filters, inputs.stop - inputs.start
    return part


def _pointwise(layer: nn.Linear) -> nn.Conv3d:
    """Return a convolution, without values, that sees what a linear layer sees, token by token."""
    with torch.device("meta"):
        conv = nn.Conv3d(layer.in_features, layer.out_features, 1, bias=layer.bias is not None)
    return conv.to_empty(device=layer.weight.device).to(layer.weight.dtype)
