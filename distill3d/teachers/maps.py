"""Feature maps of timm's 2D networks: rows and columns wherever a layer keeps them, images of any size.

No other file knows how families of networks differ.
"""

from __future__ import annotations

import copy
import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from timm.models import get_model_input_config
from timm.models.hiera import Hiera
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from distill3d.errors import ConfigError
from distill3d.layers.recording import record

Size = tuple[int, int]
MOST_PREFIX = 8  # class and register tokens before those of the patches, where one image size is all there is to go by
_PROBE = 4  # sides of the image that shows where a layer keeps its map, in multiples; the second is one wider


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a layer keeps its map.

    Attributes:
        rows: axis of the rows, before that of the columns: 2 in [N, C, Y, X], 1 in [N, Y, X, C]; 0 for tokens.
        stride: pixels along a side of what a token stands for.
        prefix: tokens before the first of these.
        reroll: number of the block whose tokens a Hiera puts in order; -1 for tokens that run along the rows.
    """

    rows: int
    stride: int = 1
    prefix: int = 0
    reroll: int = -1


def side_multiple(net: nn.Module) -> int:
    """Return what the sides of an image must be divisible by, so that all cells of a map cover equally many pixels."""
    if size := _only_size(net):
        return math.lcm(*size)
    info = getattr(net, "feature_info", None)  # timm's networks state their reductions
    return math.lcm(*(int(each["reduction"]) for each in info)) if info else 1


def _only_size(net: nn.Module) -> Size | None:
    """Return the one image size that a network takes; None where it takes others or can be brought to them."""
    config = get_model_input_config(net)
    fixed = config["fixed_input_size"] and not hasattr(net, "set_input_size")
    return tuple(config["input_size"][1:]) if fixed else None


def at_size(net: nn.Module, size_yx: Size, copies: dict[Size, nn.Module]) -> nn.Module:
    """Return a network that takes images of this size: itself, or a copy whose tables of positions are interpolated.

    All other parameters of a copy are the network's own, so that many sizes take little memory.

    Args:
        net: of timm.
        size_yx: of the images, in pixels.
        copies: those made so far, by size; the new one is put there too.

    Raises:
        ConfigError: it takes images of one other size only.
    """
    if (only := _only_size(net)) and only != size_yx:
        raise refused(net, size_yx, f"it takes {only[0]} x {only[1]} only")
    if not hasattr(net, "set_input_size") or _built_for(net) == size_yx:
        return net
    device = next(net.parameters()).device
    if size_yx not in copies or not _is_on(device, copies[size_yx]):
        # timm puts new tables in place of old ones, but fills some buffers in place
        resized = copy.deepcopy(net, {id(parameter): parameter for parameter in net.parameters()})
        try:
            with warnings.catch_warnings(action="ignore", category=UserWarning):  # of how timm handles its tables
                cast("VisionTransformer", resized).set_input_size(img_size=size_yx)
        except (AssertionError, RuntimeError, ValueError, ZeroDivisionError) as err:
            raise refused(net, size_yx, str(err)) from err
        copies[size_yx] = resized.requires_grad_(requires_grad=False).eval()
    return copies[size_yx]


def _is_on(device: torch.device, net: nn.Module) -> bool:
    """Whether all of it is: of a copy, what is shared follows the network to another device, and its tables do not."""
    return all(value.device == device for value in itertools.chain(net.parameters(), net.buffers()))


def _built_for(net: nn.Module) -> Size:
    size = getattr(getattr(net, "patch_embed", None), "img_size", None)
    return tuple(size or get_model_input_config(net)["input_size"][1:])


def refused(net: nn.Module, size_yx: Sequence[int], why: str) -> ConfigError:
    """Say in one line that a network does not take images of a size."""
    name = getattr(net, "pretrained_cfg", {}).get("architecture") or type(net).__name__
    reason = (why.strip().splitlines() or ["no reason given"])[0]
    return ConfigError(
        f"the teacher {name!r} cannot run on slices of {size_yx[0]} x {size_yx[1]} pixels: {reason}; "
        "accepted: a network that takes any size, such as a ViT, a ConvNeXt or an EfficientNet"
    )


def run(net: nn.Module, images: Tensor) -> Tensor:
    """Run a network.

    Raises:
        ConfigError: it does not take images of this size.
    """
    try:
        return net(images)
    except torch.OutOfMemoryError:
        raise
    except (AssertionError, RuntimeError, ValueError, TypeError, IndexError) as err:
        raise refused(net, images.shape[2:], str(err)) from err


@torch.no_grad()
def find_layouts(net: nn.Module, paths: Sequence[str], copies: dict[Size, nn.Module]) -> dict[str, Layout]:
    """Return where layers keep their maps, from what changes in their outputs when the image gets wider.

    Shapes of one image do not tell [N, C, Y, X] from [N, Y, X, C]. Only a network that takes images of one size is
    judged by these.

    Args:
        net: of timm.
        paths: of its layers.
        copies: as of `at_size`.

    Returns:
        Path -> layout, of the layers that give maps of more than one cell.
    """
    if only := _only_size(net):
        shapes = _shapes(net, only, paths, copies)
        layouts = {path: _from_one(shape, only) for path, shape in shapes.items()}
    else:
        side = _PROBE * side_multiple(net)
        wider = (side, side * (_PROBE + 1) // _PROBE)
        first, second = (_shapes(net, size, paths, copies) for size in ((side, side), wider))
        layouts = {path: _from_two(first[path], second[path], side) for path in first if path in second}
    if isinstance(net, Hiera):
        layouts = {path: _hiera(path, layout) for path, layout in layouts.items()}
    return {path: layout for path, layout in layouts.items() if layout is not None}


def _shapes(
    net: nn.Module, size: Size, paths: Sequence[str], copies: dict[Size, nn.Module]
) -> Mapping[str, torch.Size]:
    sized = at_size(net, size, copies)
    with record(sized, paths, skip=True) as outputs:
        run(sized, torch.zeros(1, 3, *size, device=next(net.parameters()).device))
    return {path: value.shape for path, value in outputs.items()}


def _from_two(square: Sequence[int], wider: Sequence[int], side: int) -> Layout | None:
    """Return the layout of a layer from its shapes for an image of ``side`` x ``side`` and for a wider one."""
    if len(square) != len(wider) or square[0] != 1:  # windows go where images would be
        return None
    changed = [axis for axis, (one, other) in enumerate(zip(square, wider, strict=True)) if one != other]
    if len(square) == 4 and changed in ([2], [3]):
        rows = changed[0] - 1
        grows = wider[rows + 1] * _PROBE == square[rows] * (_PROBE + 1)  # as the image does; not so without padding
        return Layout(rows) if grows and square[rows] == square[rows + 1] else None
    if len(square) == 3 and changed == [1]:
        stride = side / math.sqrt(_PROBE * max(0, wider[1] - square[1]) or math.inf)
        return _tokens(square[1], side, round(stride)) if stride == round(stride) else None
    return None


def _from_one(shape: Sequence[int], size: Size) -> Layout | None:
    """Return the layout of a layer that gives this shape for the only image size of a network."""
    if shape[0] != 1:
        return None
    if len(shape) == 4:
        fitting = [rows for rows in (1, 2) if shape[rows] == shape[rows + 1] > 1 and size[0] % shape[rows] == 0]
        return Layout(fitting[0]) if len(fitting) == 1 else None
    if len(shape) != 3:
        return None
    tokens = [_tokens(shape[1], size[0], stride) for stride in range(1, size[0] // 2 + 1) if size[0] % stride == 0]
    return next((each for each in tokens if each is not None and each.prefix <= MOST_PREFIX), None)


def _tokens(count: int, side: int, stride: int) -> Layout | None:
    prefix = count - (side // stride) ** 2 if stride else -1
    return Layout(0, stride, prefix) if prefix >= 0 else None


def _hiera(path: str, layout: Layout | None) -> Layout | None:
    """Take the order of the tokens into account: by units of the mask, which its blocks alone can undo."""
    if layout is None or layout.rows:
        return layout
    parent, _, number = path.rpartition(".")
    return Layout(0, layout.stride, layout.prefix, int(number)) if parent == "blocks" else None


def as_map(value: Tensor, layout: Layout | None, net: nn.Module, size_yx: Sequence[int], *, path: str) -> Tensor:
    """Bring a layer's output to [N, C, y, x].

    Args:
        value: of the layer.
        layout: where it keeps its map; None where it keeps none.
        net: whose layer it is.
        size_yx: of the image, in pixels.
        path: of the layer, for the error.

    Raises:
        ConfigError: it is no map.
    """
    if layout is None or value.ndim != (4 if layout.rows else 3):
        raise ConfigError(
            f"the teacher's layer {path!r} gives {tuple(value.shape)}, which is no feature map; "
            "accepted: layers that give [N, C, Y, X], [N, Y, X, C] or one token per patch, in cells that part the "
            "image evenly"
        )
    if layout.rows == 2:
        return value
    if layout.reroll >= 0:
        value = cast("Hiera", net).reroll(value, layout.reroll)
    elif not layout.rows:
        grid = [side // layout.stride for side in size_yx]
        value = value[:, layout.prefix :].unflatten(1, grid)
    return value.movedim(3, 1)
