"""Turn layers of a student into neurons of another type, once its weights have been transferred.

``neurons: {name: quadratic, where: ["encoder.*"], ratio: 0.5, match: width, gate_lr_ratio: 1.0e-3}`` takes every second
3D convolution of the encoder. Only 3D convolutions are converted: the linear layers of transformers are not, because
attention and MLPs read their weights directly.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from distill3d.config.registry import NEURONS, Component
from distill3d.errors import ConfigError
from distill3d.layers.block_embed3d import BlockEmbed
from distill3d.neurons import algebraic, biological
from distill3d.neurons.base import NeuronConfig, NeuronConv3d
from distill3d.students.base import Student

# Importing these modules fills the registry.
BUILT_IN = (biological, algebraic)
MOST_GROWTH = 0.1  # of the student's parameters, with ``match: parameters``
SHOWN = 3  # paths in an error


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """What became of a student's layers.

    Attributes:
        paths: of the converted layers, in order.
        gates: names of the parameters that are zero where a neuron is linear.
        gate_lr_ratio: learning rate of the gates relative to the others'.
    """

    paths: tuple[str, ...] = ()
    gates: frozenset[str] = frozenset()
    gate_lr_ratio: float = 1.0

    def renamed(self, name: str) -> str:
        """Return the name, after the conversion, of an entry of the unconverted student.

        Example:
            >>> Conversion(paths=("encoder.stem",)).renamed("encoder.stem.weight")
            'encoder.stem.linear.weight'
            >>> Conversion(paths=("encoder.stem",)).renamed("head.weight")
            'head.weight'
        """
        owner, _, leaf = name.rpartition(".")
        return f"{owner}.linear.{leaf}" if owner in self.paths else name


def convert_neurons(student: Student, chosen: Component) -> Conversion:
    """Replace layers of a student in place: ``ratio`` of the 3D convolutions that match ``where``.

    It runs after the transfer, and whenever a student is rebuilt for a checkpoint. Which layers are taken depends on
    the settings alone. Entries of a converted layer move to its child ``linear`` (`Conversion.renamed`).

    Args:
        student: not converted yet.
        chosen: a registered neuron type and its settings, a `NeuronConfig`.

    Raises:
        ConfigError: a pattern matches no layer, or ``match: parameters`` cannot be kept; one line.
        RuntimeError: the student is converted already.
    """
    if any(isinstance(module, NeuronConv3d) for module in student.modules()):
        raise RuntimeError("the student's neurons are converted already")
    config: NeuronConfig = chosen.config
    layers = _evenly(_matching(student, config.where), config.ratio)
    before = _parameters(student)
    gates: set[str] = set()
    for path, layer in layers.items():
        neuron: NeuronConv3d = NEURONS.build(chosen, conv=layer)
        owner, _, name = path.rpartition(".")
        setattr(student.get_submodule(owner), name, neuron.train(layer.training))
        gates |= {f"{path}.{gate}" for gate in neuron.gates()}
    growth = _parameters(student) / before - 1
    if config.match == "parameters" and growth > MOST_GROWTH:
        raise ConfigError(
            f"neurons.match=parameters: even with one filter per branch {chosen.name} neurons add {growth:.1%} to the "
            f"student's parameters; accepted: up to {MOST_GROWTH:.0%} (lower neurons.ratio, or set neurons.match=width)"
        )
    conversion = Conversion(paths=tuple(layers), gates=frozenset(gates), gate_lr_ratio=config.gate_lr_ratio)
    for attribute in ("input_weight", "input_shift"):
        if (entry := getattr(student, attribute)) is not None:
            setattr(student, attribute, conversion.renamed(entry))
    return conversion


def convertible_layers(student: Student) -> dict[str, nn.Conv3d]:
    """Return path -> layer for the 3D convolutions that a conversion may replace: those that their owner calls."""
    layers = {path: layer for path, layer in student.named_modules() if isinstance(layer, nn.Conv3d)}
    # A block embedding reads the weights of its convolution itself.
    return {
        path: layer
        for path, layer in layers.items()
        if not isinstance(student.get_submodule(path.rpartition(".")[0]), BlockEmbed)
    }


def _matching(student: Student, where: Iterable[str]) -> dict[str, nn.Conv3d]:
    layers = convertible_layers(student)
    chosen: set[str] = set()
    for pattern in where:
        matched = {path for path in layers if fnmatchcase(path, pattern)}
        if not matched:
            known = ", ".join(list(layers)[:SHOWN])
            raise ConfigError(
                f"neurons.where: {pattern!r} matches none of the {len(layers)} 3D convolutions of student "
                f"{type(student).__name__}; accepted: patterns (fnmatch) of their paths, such as {known or 'none'}"
            )
        chosen |= matched
    return {path: layer for path, layer in layers.items() if path in chosen}


def _evenly(layers: dict[str, nn.Conv3d], ratio: float) -> dict[str, nn.Conv3d]:
    """Take a share of the layers, at least one, in the middle of equal stretches of their order."""
    paths = list(layers)
    count = max(1, round(ratio * len(paths))) if paths else 0
    taken = [paths[(2 * index + 1) * len(paths) // (2 * count)] for index in range(count)]
    return {path: layers[path] for path in taken}


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@torch.no_grad()
def neuron_costs(student: Student, *, size_zyx: tuple[int, int, int]) -> dict[str, int]:
    """Count a student's parameters and its operations on one patch.

    Convolutions and matrix products are counted, forward only, two operations per multiply-add; elementwise
    operations (products, squares, the steps of a spiking neuron) are not: they show in the seconds per step.

    Args:
        student: is run once, in evaluation mode, and left as it was.
        size_zyx: of the patch, in voxels.

    Returns:
        ``parameters`` and ``flops_per_patch``.
    """
    modes = [(module, module.training) for module in student.modules()]
    student.eval()
    like = next(student.parameters())
    with FlopCounterMode(display=False) as counter:
        student(torch.zeros(1, 1, *size_zyx, device=like.device, dtype=like.dtype))
    for module, training in modes:
        module.training = training
    return {"parameters": _parameters(student), "flops_per_patch": counter.get_total_flops()}
