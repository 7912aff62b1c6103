"""Student `convnet3d`: a timm convnet turned 3D as encoder, with a U-Net decoder."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

from torch import Tensor, nn

from distill3d.config.registry import STUDENTS
from distill3d.layers.blocks3d import ConvNormAct3d, DecoderStep, init_leaky, segmentation_head
from distill3d.layers.conv3d import DepthKernel, DepthPadding
from distill3d.layers.norm3d import BatchNormAct3d, GroupNormAct3d, Norm
from distill3d.students.encoder3d import build_encoder
from distill3d.students.mirror import MirrorStudent
from distill3d.students.timm_blocks3d import GlobalResponseNorm3d, Pool, SqueezeExcite3d


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvNet3dConfig:
    """Settings of ``convnet3d``."""

    encoder: str = "tf_efficientnet_lite0"  # timm's name: EfficientNet, MobileNetV3, ResNet or ConvNeXt families
    stages: int = 4  # halvings in the plane up to the deepest stage used, 2 to 5
    depth_strides: tuple[int, ...] = (2, 2, 2, 2, 2)  # 1 or 2 per halving, finest first; the first `stages` are used
    depth_kernel: DepthKernel = "three"  # "full" cubic, "three" at most 3 deep, "one" flat, "neurino" for ConvNeXt
    depth_padding: DepthPadding = (
        "zeros"  # beyond the first and last slice; "replicate" keeps constant volumes constant
    )
    encoder_norm: Norm = "instance"  # what batch normalization becomes: see distill3d.layers.norm3d
    pool: Pool = "volume"  # what squeeze-excite and GRN look at; "slice" as the 2D network does, for an exact start
    decoder: tuple[int, ...] = (8, 16, 24, 48, 64)  # channels per resolution, full first; the first `stages` are used
    norm: Norm = "instance"  # of the decoder

    def __post_init__(self) -> None:
        if not 2 <= self.stages <= 5:
            raise ValueError(f"stages={self.stages} is out of range; accepted: 2 to 5")
        for name, values in (("depth_strides", self.depth_strides), ("decoder", self.decoder)):
            if len(values) < self.stages:
                raise ValueError(
                    f"{name}={list(values)} is too short; accepted: one entry for each of stages={self.stages}"
                )
        if not set(self.depth_strides) <= {1, 2}:
            raise ValueError(f"depth_strides={list(self.depth_strides)}: accepted: 1 or 2 for each halving")
        if min(self.decoder) < 1:
            raise ValueError(f"decoder={list(self.decoder)}: accepted: 1 channel or more at each resolution")
        if self.depth_kernel == "neurino" and set(self.depth_strides[: self.stages]) != {2}:
            raise ValueError(f"depth_strides={list(self.depth_strides)}: depth_kernel='neurino' accepts 2 everywhere")


@STUDENTS.register("convnet3d", config=ConvNet3dConfig)
@final
class ConvNet3d(MirrorStudent):
    """A 2D network's encoder in 3D, which takes the 2D network's weights name by name, and a slim decoder.

    The decoder also sees the image at full resolution through one convolution of its own: thin neurites would not
    survive the encoder's strided stem.
    """

    def __init__(self, config: ConvNet3dConfig) -> None:
        super().__init__()
        self.config = config
        self.architecture_2d = config.encoder.split(".", maxsplit=1)[0]  # what follows the dot is a set of weights
        strides = config.depth_strides[: config.stages]
        self.encoder = build_encoder(
            config.encoder,
            stages=config.stages,
            depth_kernel=config.depth_kernel,
            depth_strides=strides,
            depth_padding=config.depth_padding,
            norm=config.encoder_norm,
            pool=config.pool,
        )
        self.layer_rule = self.encoder.layer_rule
        deepest = self.encoder.octaves[-1]
        self.stride_zyx = (math.prod(strides[:deepest]), 2**deepest, 2**deepest)
        widths = config.decoder[:deepest]
        self.detail = ConvNormAct3d(1, widths[0], norm=config.norm)
        skips = dict(zip(self.encoder.octaves, self.encoder.channels, strict=True)) | {0: widths[0]}
        inputs = (*widths[1:], self.encoder.channels[-1])
        self.decoder = nn.ModuleList(
            DecoderStep(inputs[octave], skips.get(octave, 0), width, factors=(strides[octave], 2, 2), norm=config.norm)
            for octave, width in enumerate(widths)
        )
        self.head = segmentation_head(widths[0])
        for module in (self.detail, self.decoder):
            init_leaky(module)
        stem = self.encoder.get_submodule(self.encoder.first_conv)
        self.deepest_layer = f"encoder.{self.encoder.taps[-1]}"
        self.input_weight = f"encoder.{self.encoder.first_conv}.weight"
        self.input_shift = f"encoder.{self.encoder.first_conv}.{'bias' if stem.bias is not None else 'shift'}"

    def segment(self, image: Tensor) -> Tensor:
        """Return logits [B, 1, Z, Y, X] of an image whose axes are divisible by ``stride_zyx``."""
        image = self.normalize(image)
        features = dict(zip(self.encoder.octaves, self.encoder(image), strict=True)) | {0: self.detail(image)}
        fine = features[self.encoder.octaves[-1]]
        for octave, step in reversed(list(enumerate(self.decoder))):
            fine = step(fine, features.get(octave))
        return self.head(fine)

    def teacher_key(self, name: str) -> str | None:
        """Drop ``encoder.``: the rest is timm's own name."""
        return name.removeprefix("encoder.") if name.startswith("encoder.") and not name.endswith(".shift") else None

    def departures(self) -> tuple[str, ...]:
        """Name the statistics and poolings that look at more than the slice a 2D network sees."""
        config, layers = self.config, list(self.encoder.modules())
        lines: list[str] = []
        if config.encoder_norm != "frozen" and any(isinstance(m, BatchNormAct3d | GroupNormAct3d) for m in layers):
            of = "the batch, in training" if config.encoder_norm == "batch" else "each patch"
            lines.append(f"encoder_norm={config.encoder_norm}: statistics of {of}; the teacher's own: frozen")
        pooled = sum(isinstance(m, SqueezeExcite3d | GlobalResponseNorm3d) for m in layers)
        if pooled and config.pool == "volume":
            lines.append(f"pool=volume: {pooled} layers pool over the patch; slice by slice as the teacher's: slice")
        return tuple(lines)
