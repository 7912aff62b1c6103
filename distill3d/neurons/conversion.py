"""Turn layers of a student into neurons of other types, once its weights have been transferred.

``neurons: {name: quadratic, where: ["encoder.*"], ratio: 0.5}`` takes every second layer of the encoder. A list takes
several types, which divide the layers among them by ``where``, or the channels of the same layers by ``channels``:
``neurons: [{name: quadratic, channels: 0.5}, {name: spiking, channels: 0.5}]``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from timm.models.eva import EvaAttention
from torch import nn

from distill3d.config.registry import Component
from distill3d.errors import ConfigError
from distill3d.layers.block_embed3d import BlockEmbed
from distill3d.layers.global_reasoning import GlobalReasoning3d
from distill3d.neurons import algebraic, biological, functions
from distill3d.neurons.layer import Layer, NeuronLayer
from distill3d.students.base import Student

# Importing these modules fills the registry.
BUILT_IN = (biological, algebraic, functions)
MOST_GROWTH = 0.1  # of the student's parameters, with ``match: parameters``
SHOWN = 3  # paths in an error
ROUNDING = 1e-6  # of a sum of shares
READERS = (BlockEmbed, GlobalReasoning3d, nn.MultiheadAttention)  # read the weights of their layers themselves


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """What became of a student's layers.

    Attributes:
        paths: of the converted layers, in order.
        gates: names of the parameters that are zero where a neuron is linear -> their learning rate relative to the
            optimizer's.
    """

    paths: tuple[str, ...] = ()
    gates: Mapping[str, float] = field(default_factory=dict)

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


def convert_neurons(student: Student, chosen: Component | Sequence[Component]) -> Conversion:
    """Replace layers of a student in place: of each type ``ratio`` of the layers that match its ``where``.

    It runs after the transfer, and whenever a student is rebuilt for a checkpoint. Which layers are taken depends on
    the settings alone. Entries of a converted layer move to its child ``linear`` (`Conversion.renamed`).

    Args:
        student: not converted yet.
        chosen: registered neuron types and their settings, each a `NeuronConfig`.

    Raises:
        ConfigError: a pattern matches no layer, two types take the same channels, or ``match: parameters`` cannot be
            kept; one line.
        RuntimeError: the student is converted already.
    """
    if any(isinstance(module, NeuronLayer) for module in student.modules()):
        raise RuntimeError("the student's neurons are converted already")
    listed = [chosen] if isinstance(chosen, Component) else list(chosen)
    layers = convertible_layers(student)
    taken = [_evenly(_matching(student, layers, each.config.where), each.config.ratio) for each in listed]
    by_path = {path: [each for each, paths in zip(listed, taken, strict=True) if path in paths] for path in layers}
    plan = {path: types for path, types in by_path.items() if types}
    _refuse_overlap(plan)
    before, added, gates = _parameters(student), 0, dict[str, float]()
    for path, types in plan.items():
        layer = NeuronLayer(layers[path], types).train(layers[path].training)
        owner, _, name = path.rpartition(".")
        setattr(student.get_submodule(owner), name, layer)
        gates |= {f"{path}.{gate}": ratio for gate, ratio in layer.gates().items()}
        added += sum(_parameters(neuron) for _, neuron in layer.each() if neuron.match == "parameters")
    _refuse_growth(listed, growth=added / before)
    conversion = Conversion(paths=tuple(plan), gates=gates)
    for attribute in ("input_weight", "input_shift"):
        if (entry := getattr(student, attribute)) is not None:
            setattr(student, attribute, conversion.renamed(entry))
    return conversion


def convertible_layers(student: Student) -> dict[str, Layer]:
    """Return path -> layer for what a conversion may replace: 3D convolutions and linear layers that are called.

    Attention and MLPs of transformers call theirs; `READERS`, and timm's attention with biases of its own, do not.
    """
    layers = {path: layer for path, layer in student.named_modules() if isinstance(layer, nn.Conv3d | nn.Linear)}
    return {path: layer for path, layer in layers.items() if not _is_read(student, path)}


def _is_read(student: Student, path: str) -> bool:
    owner, _, name = path.rpartition(".")
    module = student.get_submodule(owner)
    if isinstance(module, EvaAttention):
        return name == "qkv" and module.q_bias is not None and not module.qkv_bias_separate
    return isinstance(module, READERS)


def _matching(student: Student, layers: Mapping[str, Layer], where: Iterable[str]) -> list[str]:
    chosen: set[str] = set()
    for pattern in where:
        matched = {path for path in layers if fnmatchcase(path, pattern)}
        if not matched:
            known = ", ".join(list(layers)[:SHOWN])
            raise ConfigError(
                f"neurons.where: {pattern!r} matches none of the {len(layers)} convolutions and linear layers "
                f"of student {type(student).__name__}; accepted: patterns (fnmatch) of paths, such as {known or 'none'}"
            )
        chosen |= matched
    return [path for path in layers if path in chosen]


def _evenly(paths: Sequence[str], ratio: float) -> list[str]:
    """Take a share of the layers, at least one, in the middle of equal stretches of their order."""
    count = max(1, round(ratio * len(paths))) if paths else 0
    return [paths[(2 * index + 1) * len(paths) // (2 * count)] for index in range(count)]


def _refuse_overlap(plan: Mapping[str, Sequence[Component]]) -> None:
    for path, types in plan.items():
        total = sum(each.config.channels for each in types)
        if total > 1 + ROUNDING:
            names = " and ".join(each.name for each in types)
            raise ConfigError(
                f"neurons: {names} take {total:.3g} times the channels of {path}; accepted: at most 1 in all (lower "
                "neurons.channels, or set another neurons.where)"
            )


def _refuse_growth(listed: Sequence[Component], *, growth: float) -> None:
    if growth > MOST_GROWTH:
        names = " and ".join(each.name for each in listed if each.config.match == "parameters")
        raise ConfigError(
            f"neurons.match=parameters: even with one filter per branch {names} neurons add {growth:.1%} to the "
            f"student's parameters; accepted: up to {MOST_GROWTH:.0%} (lower neurons.ratio, or set neurons.match=width)"
        )


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
