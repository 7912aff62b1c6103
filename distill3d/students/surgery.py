"""Turn timm's 2D layers into 3D ones, in place and under the same names; no weights are copied.

Every accepted type is listed: nobody has read the ``forward`` of another, which may silently mean something else in 3D.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.drop import DropPath
from timm.layers.grn import GlobalResponseNorm
from timm.layers.mlp import GlobalResponseNormMlp, Mlp
from timm.layers.norm import LayerNorm, LayerNorm2d
from timm.layers.norm_act import BatchNormAct2d
from timm.layers.squeeze_excite import SEModule
from timm.models import _efficientnet_blocks as efficientnet_blocks
from timm.models import convnext, resnet
from torch import nn

from distill3d.errors import ConfigError
from distill3d.layers.conv3d import (
    DepthKernel,
    DepthPadding,
    PlaneConv3d,
    depth_kernel_size,
    pool_depth,
)
from distill3d.layers.norm3d import ChannelLayerNorm3d, Norm, make_norm
from distill3d.students.timm_blocks3d import ConvNeXtBlock3d, GlobalResponseNorm3d, Pool, SqueezeExcite3d


@dataclass(frozen=True, slots=True, kw_only=True)
class Surgery:
    """How 2D layers become 3D ones.

    Attributes:
        depth_kernel: see `distill3d.layers.conv3d.depth_kernel_size`.
        depth_strides: 1 or 2 for every halving in the plane, finest first.
        depth_padding: what lies beyond the first and last slice.
        norm: what batch normalization becomes; layer normalization stays.
        pool: what squeeze-excite and global response normalization look at.
        reductions: path -> factor by which the input of a strided layer is smaller than the image, in the plane.
        stem: path of the first convolution, which takes one channel.
        path: of the layer being turned.
    """

    depth_kernel: DepthKernel
    depth_strides: tuple[int, ...]
    depth_padding: DepthPadding
    norm: Norm
    pool: Pool
    reductions: dict[str, int]
    stem: str
    path: str = ""

    def depth_stride(self, plane_stride: int) -> int:
        """Return the depth stride of the layer at ``path``: the product over the halvings it makes in the plane."""
        if plane_stride == 1:
            return 1
        first = int(math.log2(self.reductions[self.path]))
        return math.prod(self.depth_strides[first : first + int(math.log2(plane_stride))])

    def refuse(self, layer: nn.Module, why: str) -> ConfigError:
        """Build the error that names the layer without a 3D form."""
        return ConfigError(
            f"student.encoder: layer {type(layer).__name__} at {self.path!r} has no 3D form here ({why}); "
            "accepted: encoders of the EfficientNet, MobileNetV3, ResNet and ConvNeXt families"
        )


def to_3d(module: nn.Module, surgery: Surgery) -> nn.Module:
    """Return the 3D form of a 2D module; its children are replaced in place.

    Raises:
        ConfigError: a layer has no 3D form; names the layer and its path.
    """
    kind = type(module)
    if kind in LEAVES:
        return LEAVES[kind](module, surgery)
    if kind not in BLOCKS and kind not in WRAPPED and kind.__module__ not in ELEMENTWISE:
        raise surgery.refuse(module, "unknown type")
    for name, child in list(module.named_children()):
        path = f"{surgery.path}.{name}" if surgery.path else name
        setattr(module, name, to_3d(child, replace(surgery, path=path)))
    return WRAPPED[kind](module, surgery) if kind in WRAPPED else module


def _conv(layer: nn.Module, surgery: Surgery) -> nn.Module:
    if not isinstance(layer, nn.Conv2d) or isinstance(layer.padding, str):
        raise surgery.refuse(layer, "padding given as text")
    plane, stride, padding = layer.kernel_size, layer.stride, (int(layer.padding[0]), int(layer.padding[1]))
    depth_stride = surgery.depth_stride(stride[0])
    if surgery.depth_kernel == "neurino" and surgery.path == surgery.stem:
        stride, padding, depth_stride = (2, 2), (1, 1), 2
    depth = depth_kernel_size(plane[0], rule=surgery.depth_kernel, stride=depth_stride)
    is_stem = surgery.path == surgery.stem
    conv = PlaneConv3d(
        1 if is_stem else layer.in_channels,
        layer.out_channels,
        kernel_size=(depth, plane[0], plane[1]),
        stride=(depth_stride, stride[0], stride[1]),
        plane_padding=None if isinstance(layer, Conv2dSame) else padding,
        depth_padding=surgery.depth_padding,
        dilation=(1, layer.dilation[0], layer.dilation[1]),
        groups=layer.groups,
        bias=layer.bias is not None,
        shift=is_stem and layer.bias is None,
    )
    _draw_like(conv, layer)
    return conv


@torch.no_grad()
def _draw_like(conv: nn.Conv3d, layer: nn.Conv2d) -> None:
    # As the family does: its spread in 2D, divided by the root of the depth so that responses keep their variance.
    spread = float(layer.weight.std(correction=0)) / math.sqrt(conv.kernel_size[0])
    conv.weight.normal_(0.0, spread)
    if conv.bias is not None and layer.bias is not None:
        conv.bias.copy_(layer.bias)


def _batch_norm(layer: nn.Module, surgery: Surgery) -> nn.Module:
    if not isinstance(layer, nn.BatchNorm2d):
        raise surgery.refuse(layer, "no batch normalization")
    act = layer.get_submodule("act") if isinstance(layer, BatchNormAct2d) else None
    norm = make_norm(surgery.norm, layer.num_features, eps=layer.eps, act=act)
    # Some families start the last normalization of a block at 0, so that the block starts as the identity.
    entries = norm.state_dict()
    norm.load_state_dict({key: value for key, value in layer.state_dict().items() if key in entries}, strict=True)
    return norm


def _layer_norm(layer: nn.Module, surgery: Surgery) -> nn.Module:
    if not isinstance(layer, nn.LayerNorm):
        raise surgery.refuse(layer, "no layer normalization")
    return ChannelLayerNorm3d(list(layer.normalized_shape), eps=layer.eps)


def _max_pool(layer: nn.Module, surgery: Surgery) -> nn.Module:
    if not isinstance(layer, nn.MaxPool2d) or not isinstance(layer.kernel_size, int):
        raise surgery.refuse(layer, "not square")
    plane, stride, padding = layer.kernel_size, _int(layer.stride), _int(layer.padding)
    depth_stride = surgery.depth_stride(stride)
    depth = pool_depth(plane, stride=depth_stride)
    return nn.MaxPool3d(
        (depth, plane, plane),
        stride=(depth_stride, stride, stride),
        padding=(padding if depth > 1 else 0, padding, padding),
        ceil_mode=layer.ceil_mode,
    )


def _average_pool(layer: nn.Module, surgery: Surgery) -> nn.Module:
    if not isinstance(layer, nn.AvgPool2d):
        raise surgery.refuse(layer, "not square")
    plane, stride, padding = _int(layer.kernel_size), _int(layer.stride), _int(layer.padding)
    depth_stride = surgery.depth_stride(stride)
    return nn.AvgPool3d(
        (depth_stride, plane, plane),
        stride=(depth_stride, stride, stride),
        padding=(0, padding, padding),
        ceil_mode=layer.ceil_mode,
        count_include_pad=layer.count_include_pad,
    )


def _int(value: int | tuple[int, ...]) -> int:
    return value if isinstance(value, int) else value[0]


def _unchanged(layer: nn.Module, surgery: Surgery) -> nn.Module:
    del surgery
    return layer


def _squeeze_excite(block: nn.Module, surgery: Surgery) -> nn.Module:
    if isinstance(block, SEModule) and block.add_maxpool:
        raise surgery.refuse(block, "squeezes by maximum too")
    return SqueezeExcite3d(dict(block.named_children()), pool=surgery.pool)


def _convnext_block(block: nn.Module, surgery: Surgery) -> nn.Module:
    if not isinstance(block, convnext.ConvNeXtBlock):
        raise surgery.refuse(block, "no ConvNeXt block")
    return ConvNeXtBlock3d(dict(block.named_children()), gamma=block.gamma, channels_last=not block.use_conv_mlp)


def _response_norm(layer: nn.Module, surgery: Surgery) -> nn.Module:
    if not isinstance(layer, GlobalResponseNorm):
        raise surgery.refuse(layer, "no global response normalization")
    channels_last = layer.channel_dim == -1
    return GlobalResponseNorm3d(layer.weight.numel(), eps=layer.eps, channels_last=channels_last, pool=surgery.pool)


Rule = Callable[[nn.Module, Surgery], nn.Module]

LEAVES: dict[type[nn.Module], Rule] = {
    nn.Conv2d: _conv,
    Conv2dSame: _conv,
    nn.BatchNorm2d: _batch_norm,
    BatchNormAct2d: _batch_norm,
    LayerNorm2d: _layer_norm,
    LayerNorm: _unchanged,  # channels last, inside ConvNeXt blocks
    GlobalResponseNorm: _response_norm,
    nn.MaxPool2d: _max_pool,
    nn.AvgPool2d: _average_pool,
    nn.Linear: _unchanged,
    nn.Identity: _unchanged,
    nn.Dropout: _unchanged,
    DropPath: _unchanged,
}

# Blocks whose forward holds no axis number: their children become 3D, they themselves stay.
BLOCKS: frozenset[type[nn.Module]] = frozenset(
    {
        nn.Sequential,
        efficientnet_blocks.ConvBnAct,
        efficientnet_blocks.DepthwiseSeparableConv,
        efficientnet_blocks.EdgeResidual,
        efficientnet_blocks.InvertedResidual,
        resnet.BasicBlock,
        resnet.Bottleneck,
        convnext.ConvNeXtStage,
        Mlp,
        GlobalResponseNormMlp,
    }
)

# Blocks whose forward names the spatial axes: their children become 3D and move into a class of this package.
WRAPPED: dict[type[nn.Module], Rule] = {
    efficientnet_blocks.SqueezeExcite: _squeeze_excite,
    SEModule: _squeeze_excite,
    convnext.ConvNeXtBlock: _convnext_block,
}

ELEMENTWISE = frozenset({"torch.nn.modules.activation", "timm.layers.activations", "timm.layers.activations_me"})
