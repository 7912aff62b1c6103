"""Student `monai`: MONAI's networks as they are, for comparison; none mirrors a 2D network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, final

from einops import rearrange
from torch import Tensor, nn

from distill3d.config.registry import STUDENTS
from distill3d.errors import InputError, first_line
from distill3d.students.base import Student

Stride = tuple[int, int, int]
UNETR_BLOCK = 16  # MONAI's UNETR embeds blocks of 16 x 16 x 16
FEATURE_STEP = {"UNETR": 1, "SwinUNETR": 12, "SegResNet": 8, "DynUNet": 1}  # attention heads, groups of channels


@dataclass(frozen=True, kw_only=True, slots=True)
class MonaiConfig:
    """Settings of ``monai``."""

    network: Literal["UNETR", "SwinUNETR", "SegResNet", "DynUNet"] = "SegResNet"
    features: int = 16  # channels at the finest resolution; SwinUNETR: a multiple of 12, SegResNet: of 8
    patch_zyx: tuple[int, int, int] = (32, 96, 96)  # voxels, UNETR only: it knows one size; others are tiled to it
    hidden_size: int = 192  # UNETR only: embedding
    num_heads: int = 6  # UNETR only
    depth_strides: tuple[int, ...] = (2, 2, 2)  # DynUNet only: 1 or 2 per halving in the plane, finest first

    def __post_init__(self) -> None:
        step = FEATURE_STEP[self.network]
        if self.features < 1 or self.features % step:
            raise ValueError(f"features={self.features}: network={self.network!r} accepts multiples of {step}")
        if min(self.patch_zyx) < 1 or any(n % UNETR_BLOCK for n in self.patch_zyx):
            raise ValueError(f"patch_zyx={list(self.patch_zyx)}: accepted: multiples of {UNETR_BLOCK}")
        if self.num_heads < 1 or self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size={self.hidden_size} must be a multiple of num_heads={self.num_heads}")
        if not self.depth_strides or not set(self.depth_strides) <= {1, 2}:
            raise ValueError(f"depth_strides={list(self.depth_strides)}: accepted: 1 or 2 for each halving")


@STUDENTS.register("monai", config=MonaiConfig)
@final
class MonaiStudent(Student):
    """Adapter for UNETR, SwinUNETR, SegResNet and DynUNet of MONAI, one input and one output channel."""

    def __init__(self, config: MonaiConfig) -> None:
        super().__init__()
        self.config = config
        self.net, self.stride_zyx = BUILDERS[config.network](config)

    def segment(self, image: Tensor) -> Tensor:
        """Return logits [B, 1, Z, Y, X] of an image whose axes are divisible by ``stride_zyx``.

        Raises:
            InputError: the image is so small that the network's coarsest map is one voxel, which it cannot normalize.
        """
        if self.config.network == "UNETR":
            return self._tiled(image)
        try:
            return self.net(image)
        except ValueError as err:
            size = " x ".join(str(n) for n in image.shape[2:])
            raise InputError(
                f"student monai {self.config.network}: a patch of {size} voxels is too small for it "
                f"({first_line(err)}); accepted: twice {self.stride_zyx} along some axis"
            ) from err

    def _tiled(self, image: Tensor) -> Tensor:
        z, y, x = (n // p for n, p in zip(image.shape[2:], self.config.patch_zyx, strict=True))
        tiles = rearrange(image, "b c (z d) (y h) (x w) -> (b z y x) c d h w", z=z, y=y, x=x)
        return rearrange(self.net(tiles), "(b z y x) c d h w -> b c (z d) (y h) (x w)", z=z, y=y, x=x)


def _unetr(config: MonaiConfig) -> tuple[nn.Module, Stride]:
    from monai.networks.nets.unetr import UNETR  # noqa: PLC0415 - seconds of import, wanted only where it is built

    net = UNETR(
        1,
        1,
        config.patch_zyx,
        feature_size=config.features,
        hidden_size=config.hidden_size,
        mlp_dim=4 * config.hidden_size,
        num_heads=config.num_heads,
    )
    for name, parameter in net.named_parameters():
        if "norm_cross_attn" in name:  # MONAI builds these and never uses them; several processes would wait for them
            parameter.requires_grad_(False)
    return net, config.patch_zyx


def _swin_unetr(config: MonaiConfig) -> tuple[nn.Module, Stride]:
    from monai.networks.nets.swin_unetr import SwinUNETR  # noqa: PLC0415 - as above

    return SwinUNETR(1, 1, feature_size=config.features), (32, 32, 32)


def _segresnet(config: MonaiConfig) -> tuple[nn.Module, Stride]:
    from monai.networks.nets.segresnet import SegResNet  # noqa: PLC0415 - as above

    return SegResNet(init_filters=config.features, in_channels=1, out_channels=1), (8, 8, 8)


def _dynunet(config: MonaiConfig) -> tuple[nn.Module, Stride]:
    from monai.networks.nets.dynunet import DynUNet  # noqa: PLC0415 - as above

    strides = [(1, 1, 1), *((depth, 2, 2) for depth in config.depth_strides)]
    levels = len(strides)
    net = DynUNet(
        spatial_dims=3,
        in_channels=1,
        out_channels=1,
        kernel_size=[(3, 3, 3)] * levels,
        strides=strides,
        upsample_kernel_size=strides[1:],
        filters=[min(config.features * 2**i, 320) for i in range(levels)],
    )
    total = [1, 1, 1]
    for stride in strides:
        total = [t * s for t, s in zip(total, stride, strict=True)]
    return net, (total[0], total[1], total[2])


BUILDERS: dict[str, Callable[[MonaiConfig], tuple[nn.Module, Stride]]] = {
    "UNETR": _unetr,
    "SwinUNETR": _swin_unetr,
    "SegResNet": _segresnet,
    "DynUNet": _dynunet,
}
