"""Build the 3D encoder of a timm convnet, pruned to the stages used and run step by step; values are random."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast, final

import torch
from timm.models import EfficientNet, MobileNetV3
from timm.models.convnext import ConvNeXt
from timm.models.resnet import ResNet
from torch import Tensor, nn

from distill3d.errors import ConfigError
from distill3d.layers.conv3d import DepthKernel, DepthPadding
from distill3d.layers.networks2d import create_2d
from distill3d.layers.norm3d import Norm
from distill3d.students.surgery import Surgery, to_3d
from distill3d.students.timm_blocks3d import Pool

# Families whose forward runs its children in order, as read in timm 1.0.31.
FAMILIES = (EfficientNet, MobileNetV3, ResNet, ConvNeXt)
PROBE = 64  # side of the image that is sent through the 2D network to see where it halves


@final
class Encoder3d(nn.Module):
    """Stages of a timm convnet in 3D; every entry of its state dict has the name timm gives it.

    Args:
        children: top-level modules under timm's names, already 3D.
        steps: paths of the modules to run, in order.
        taps: paths of those whose outputs are returned.
        octaves: halvings in the plane up to each tap.
        channels: of each tap.
        stem: path of the first convolution.
        layer_rule: timm's `group_matcher` of the network.
    """

    def __init__(
        self,
        children: dict[str, nn.Module],
        *,
        steps: tuple[str, ...],
        taps: tuple[str, ...],
        octaves: tuple[int, ...],
        channels: tuple[int, ...],
        stem: str,
        layer_rule: Mapping[str, Any],
    ) -> None:
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)
        self.steps = steps
        self.taps = taps
        self.octaves = octaves
        self.channels = channels
        self.first_conv = stem
        self.layer_rule = layer_rule

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the taps of [B, 1, Z, Y, X], finest first."""
        features: list[Tensor] = []
        for path in self.steps:
            image = self.get_submodule(path)(image)
            if path in self.taps:
                features.append(image)
        return features


def build_encoder(
    name: str,
    *,
    stages: int,
    depth_kernel: DepthKernel,
    depth_strides: tuple[int, ...],
    depth_padding: DepthPadding,
    norm: Norm,
    pool: Pool,
) -> Encoder3d:
    """Build the 3D encoder of the timm convnet ``name``, with random values.

    Args:
        name: timm's name of the network.
        stages: halvings in the plane up to the deepest tap.
        depth_kernel: see `Surgery`.
        depth_strides: see `Surgery`.
        depth_padding: see `Surgery`.
        norm: see `Surgery`.
        pool: see `Surgery`.

    Raises:
        ConfigError: timm has no such network, it has no 3D form here, or it has no stage within ``stages``.
    """
    net = _create(name)
    if depth_kernel == "neurino" and not (isinstance(net, ConvNeXt) and cast("Any", net.stem)[0].stride == (4, 4)):
        rule = "a rule for ConvNeXt encoders with a stem of one convolution"
        raise ConfigError(f"student.depth_kernel='neurino' is {rule}, student.encoder={name!r}")
    scale = 2 if depth_kernel == "neurino" else 1  # NeurINO's stem halves once where ConvNeXt's halves twice
    known = cast("list[dict[str, Any]]", net.feature_info)
    used = [info for info in known if info["reduction"] // scale <= 2**stages]
    if not used:
        raise ConfigError(
            f"student.stages={stages}: encoder {name!r} has no feature map at this stage; accepted: 2 to 5"
        )
    taps = tuple(str(info["module"]) for info in used)
    steps = _steps(net, taps)
    surgery = Surgery(
        depth_kernel=depth_kernel,
        depth_strides=depth_strides,
        depth_padding=depth_padding,
        norm=norm,
        pool=pool,
        reductions={path: max(1, r // scale) for path, r in _reductions(net).items()},
        stem=next(path for path, layer in net.named_modules() if isinstance(layer, nn.Conv2d)),
    )
    return Encoder3d(
        {top: to_3d(child, replace(surgery, path=top)) for top, child in _pruned(net, steps).items()},
        steps=steps,
        taps=taps,
        octaves=tuple((int(info["reduction"]) // scale).bit_length() - 1 for info in used),
        channels=tuple(int(info["num_chs"]) for info in used),
        stem=surgery.stem,
        layer_rule=cast("Any", net).group_matcher(),
    )


def _create(name: str) -> nn.Module:
    accepted = "encoders of the EfficientNet, MobileNetV3, ResNet and ConvNeXt families"
    net = create_2d(name, setting="student.encoder", accepted=accepted, num_classes=0)
    if not isinstance(net, FAMILIES):
        raise ConfigError(
            f"student.encoder={name!r} is a {type(net).__name__}, which has no 3D form here; accepted: {accepted}"
        )
    return net


def _steps(net: nn.Module, taps: tuple[str, ...]) -> tuple[str, ...]:
    """List the modules to run, in order, up to the last tap; containers of several taps are opened."""
    steps: list[str] = []
    for top, child in net.named_children():
        opened = any(tap.startswith(f"{top}.") for tap in taps)
        for path in [f"{top}.{name}" for name, _ in child.named_children()] if opened else [top]:
            steps.append(path)
            if path == taps[-1]:
                return tuple(steps)
    raise AssertionError(f"tap {taps[-1]} is not among the children of {type(net).__name__}")


def _pruned(net: nn.Module, steps: tuple[str, ...]) -> dict[str, nn.Module]:
    kept: dict[str, nn.Module] = {}
    for path in steps:
        top, _, inner = path.partition(".")
        if inner:
            container = kept.setdefault(top, nn.Sequential())
            container.add_module(inner, net.get_submodule(path))
        else:
            kept[top] = net.get_submodule(path)
    return kept


@torch.no_grad()
def _reductions(net: nn.Module) -> dict[str, int]:
    """Send an image through the 2D network and note at which reduction each convolution and pooling works."""
    paths = {layer: path for path, layer in net.named_modules()}
    reductions: dict[str, int] = {}

    def note(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        reductions[paths[layer]] = PROBE // args[0].shape[-1]

    handles = [
        layer.register_forward_pre_hook(note)
        for layer in paths
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d)
    ]
    net.eval()(torch.zeros(1, 3, PROBE, PROBE))
    net.train()
    for handle in handles:
        handle.remove()
    return reductions
