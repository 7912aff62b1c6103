"""Weights files as their authors publish them, brought to timm's names by timm's own filter of the architecture."""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import safetensors
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from distill3d.errors import InputError, first_line
from distill3d.layers.networks2d import create_2d
from distill3d.teachers.weights import SETTING, load_strictly, pretrained_cfg

_LOG = logging.getLogger(__name__)
SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".tar")
HOLDERS = ("state_dict", "model", "teacher", "model_state")  # what a checkpoint calls its weights
AVERAGED = ("teacher", "ema", "momentum")  # of two copies of a network, this one is the better
DECODER = "decoder_"  # of a masked autoencoder; also its tables and norm
_Filter = Callable[..., Mapping[str, Tensor]]


def from_file(name: str, path: str) -> nn.Module:
    """Build a network with the weights of a file; its classifier may differ or be missing.

    The names are timm's or those of the authors (such as Meta's of DINOv2, DINOv3 and MAE), as far as timm knows them.
    They may have the prefix of a wrapper (DataParallel, Lightning, ``torch.compile``, a teacher's backbone); what has
    another prefix is left out. A table of positions for another image size is interpolated.

    Raises:
        InputError: the file is missing, unreadable, or its names or shapes are not the network's.
        ConfigError: timm has no such network.
    """
    state = read_state(Path(path))
    net, convert = _with_filter(name)
    own = _without_wrapper(state, net.state_dict(), path)
    converted = _converted(own, net, convert)
    _check_biases(own, converted, name, path)
    classifier = pretrained_cfg(net).get("classifier") or ""
    weight = converted.get(f"{classifier if isinstance(classifier, str) else classifier[0]}.weight")
    classes = 0 if weight is None else weight.shape[0]
    if classes != getattr(net, "num_classes", classes):
        net = create_2d(name, setting=SETTING, num_classes=classes)
    load_strictly(net, converted, origin=path)
    return net


def read_state(path: Path) -> Mapping[str, Tensor]:
    """Read a state dict: bare, or under one of `HOLDERS`. Nothing in the file is run.

    Raises:
        InputError: the file is missing, of another kind, or unreadable.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such weights file (teacher.path)")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{path}: unknown kind of weights file; accepted: {', '.join(SUFFIXES)}")
    try:
        content: Any = load_file(path) if suffix == ".safetensors" else _torch_load(path)
    except (safetensors.SafetensorError, OSError, RuntimeError, ValueError, EOFError, KeyError) as err:
        raise InputError(f"{path}: not a readable weights file: {first_line(err)}") from err
    except Exception as err:  # torch's unpickler raises a kind of its own without a public name
        raise InputError(f"{path}: holds more than weights, which is refused: {first_line(err)}") from err
    for key in HOLDERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"{path}: no state dict; accepted: names and tensors, also under {', '.join(HOLDERS)}")
    return content


def _torch_load(path: Path) -> object:
    with torch.serialization.safe_globals([argparse.Namespace]):  # holds the arguments of many a training script
        return torch.load(path, map_location="cpu", weights_only=True)


def _without_wrapper(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], origin: str) -> dict[str, Tensor]:
    """Return the entries under the prefix with which most names are the network's, without it."""
    counts = Counter(prefix for name in state for prefix in _prefixes(name, expected))
    prefix = max(counts, key=lambda each: (counts[each], any(word in each for word in AVERAGED)), default="")
    others = [name for name in state if not name.startswith(prefix)]
    if others:
        _LOG.info("%s: %d entries outside %r left out: %s", origin, len(others), prefix, ", ".join(others[:3]))
    own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    return {name: value for name, value in own.items() if name in expected or not name.startswith(DECODER)}


def _prefixes(name: str, expected: Mapping[str, Tensor]) -> Iterator[str]:
    parts = name.split(".")
    for start in range(len(parts)):
        if ".".join(parts[start:]) in expected:
            yield "".join(f"{part}." for part in parts[:start])


def _with_filter(name: str) -> tuple[nn.Module, _Filter | None]:
    """Build a network, and catch the filter that timm would send a checkpoint of it through.

    timm hands it to its loader and keeps it nowhere, so another loader takes that one's place meanwhile.
    """
    builder = cast("Any", sys.modules[timm.models.build_model_with_cfg.__module__])
    filters: list[_Filter | None] = []
    original = builder.load_pretrained
    builder.load_pretrained = lambda *_, filter_fn=None, **__: filters.append(filter_fn)
    try:
        net = create_2d(name, setting=SETTING, pretrained=True)
    finally:
        builder.load_pretrained = original
    return net, filters[0] if filters else None


def _converted(state: Mapping[str, Tensor], net: nn.Module, convert: _Filter | None) -> Mapping[str, Tensor]:
    """Send entries through a filter of timm; one that cannot read them leaves them as they are."""
    if convert is None:
        return state
    try:
        with contextlib.redirect_stdout(io.StringIO()), torch.no_grad():  # one of them prints
            try:
                converted = dict(convert(dict(state), net))
            except TypeError:  # old ones take no network
                converted = dict(convert(dict(state)))
    except Exception as err:  # noqa: BLE001 - made for files of one kind, so any error may come; the comparison says what is wrong
        _LOG.info("timm's filter does not read the file: %s", first_line(err))
        return state
    # timm resamples kernels too, as of a patch embedding with another patch size: that is another network
    resampled = [
        name
        for name, value in converted.items()
        if name in state and value.numel() != state[name].numel() and value.ndim == 4 and "pos" not in name
    ]
    return {**converted, **{name: state[name] for name in resampled}}


def _check_biases(state: Mapping[str, Tensor], converted: Mapping[str, Tensor], name: str, path: str) -> None:
    """Refuse an architecture without the biases that a DINOv3 has: timm drops them (a key's changes no attention)."""
    for key, bias in state.items():
        if not key.endswith(".qkv.bias") or key in converted or key.replace("qkv.bias", "q_bias") in converted:
            continue
        query, _, value = bias.chunk(3)
        if query.any() or value.any():
            raise InputError(
                f"{path}: {key} is not zero, and {name} has no such bias; accepted: the variant with biases, such as "
                f"teacher.architecture={name.partition('.')[0]}_qkvb"
            )
