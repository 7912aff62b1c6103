"""Outputs of inner layers, by module path, for the length of one forward.

Hooks are set when a forward begins and removed when it ends: nothing stale is ever read, and a network inside a wrapper
(such as DistributedDataParallel) is recorded by its own paths.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from distill3d.errors import ConfigError, did_you_mean

_NUMBER = re.compile(r"(?:^|(?<=\.))\d+(?=\.|$)")  # a part of a path that is a number


@contextmanager
def record(net: nn.Module, paths: Sequence[str], *, skip: bool = False) -> Iterator[dict[str, Tensor]]:
    """Yield a mapping that holds the last output of each of the layers once the network has run.

    Args:
        net: runs inside the block.
        paths: of its layers, as in ``net.named_modules()``.
        skip: leave out layers whose output is no tensor.

    Raises:
        ConfigError: an output is no tensor, and none is skipped.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Identity(), nn.ReLU())
        >>> with record(net, ["0"]) as outputs:
        ...     last = net(torch.tensor([-1.0]))
        >>> outputs["0"].item(), last.item()
        (-1.0, 0.0)
    """
    outputs: dict[str, Tensor] = {}

    def keep(path: str, output: object) -> None:
        if not isinstance(output, Tensor):
            if skip:
                return
            raise ConfigError(f"layer {path!r} gives a {type(output).__name__}; accepted: layers that give one tensor")
        outputs[path] = output.clone()  # later layers may work in place, as ReLUs of timm's networks do

    layers = {path: net.get_submodule(path) for path in paths}
    handles = [
        layer.register_forward_hook(lambda _net, _args, output, path=path: keep(path, output))
        for path, layer in layers.items()
    ]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def check_paths(net: nn.Module, paths: Sequence[str], *, owner: str) -> None:
    """Refuse paths that name no layer.

    Args:
        net: the network.
        paths: wanted.
        owner: what the network is to the user, such as ``"student"``.

    Raises:
        ConfigError: one line per unknown path, with the nearest and all that are valid.
    """
    known = [path for path, _ in net.named_modules() if path]
    unknown = [path for path in dict.fromkeys(paths) if path not in known]
    if unknown:
        raise ConfigError(*(_unknown(path, known, owner) for path in unknown))


def _unknown(path: str, known: Sequence[str], owner: str) -> str:
    hint = did_you_mean(path, known)
    return f"the {owner} has no layer {path!r}{hint and f'; {hint}'}; accepted: {', '.join(shorten(known))}"


def shorten(paths: Sequence[str]) -> list[str]:
    """Join paths that differ in one number only, so that a list of hundreds stays readable.

    Example:
        >>> shorten(["stem", "blocks.0", "blocks.1", "blocks.0.conv", "blocks.1.conv"])
        ['stem', 'blocks.0-1', 'blocks.0-1.conv']
    """
    joined: dict[str, list[list[str]]] = {}
    for path in paths:
        joined.setdefault(_NUMBER.sub("#", path), []).append(_NUMBER.findall(path))
    return [_spread(form, numbers) for form, numbers in joined.items()]


def _spread(form: str, numbers: Sequence[Sequence[str]]) -> str:
    for column in zip(*numbers, strict=True):
        low, high = min(map(int, column)), max(map(int, column))
        form = form.replace("#", str(low) if low == high else f"{low}-{high}", 1)
    return form


def main_layers(net: nn.Module) -> tuple[str, ...]:
    """Return the paths of a network's blocks, in order: the boxes of a drawing of it.

    Containers (lists and sequences) and an ``encoder`` are opened, without the identities in them; everything else is
    one block.
    """

    def boxes(module: nn.Module, prefix: str) -> Iterator[str]:
        for name, child in module.named_children():
            path = f"{prefix}{name}"
            if name == "encoder":
                yield from boxes(child, f"{path}.")
            elif isinstance(child, nn.ModuleList) or (type(child) is nn.Sequential and len(child)):
                inner = child.named_children()
                yield from (f"{path}.{part}" for part, layer in inner if not isinstance(layer, nn.Identity))
            else:
                yield path

    return tuple(boxes(net, ""))
