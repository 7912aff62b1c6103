"""Student `vit3d`: a timm ViT on blocks of voxels, with a decoder of UNETR's kind."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, cast, final

import torch
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from distill3d.config.registry import STUDENTS
from distill3d.errors import ConfigError
from distill3d.layers.blocks3d import DecoderStep, TokenSkip, double_conv, init_leaky, segmentation_head
from distill3d.layers.norm3d import Norm
from distill3d.layers.photo_vit import PHOTO_VIT
from distill3d.layers.positions3d import Grid, resample_plane
from distill3d.students.mirror import MirrorStudent
from distill3d.students.vit_encoder3d import CLASSIFIER, DepthPosition, PrefixTokens, Vit2d, ViTEncoder3d, build_vit2d


@dataclass(frozen=True, kw_only=True, slots=True)
class Vit3dConfig:
    """Settings of ``vit3d``."""

    encoder: str = PHOTO_VIT  # timm's name: ViT (DINO, DINOv2, MAE, supervised) and DINOv3 families
    embed_dim: int | None = None  # None: as the encoder; a teacher of other sizes does not fit
    depth: int | None = None  # transformer blocks, the first of the teacher's; None: as the encoder
    num_heads: int | None = None  # None: as the encoder
    block_zyx: tuple[int, int, int] = (8, 8, 8)  # voxels per token; a teacher's patch is resampled to Y and X
    input_zyx: tuple[int, int, int] = (32, 96, 96)  # voxels the position table is made for; others are interpolated
    # How a token knows its depth. "repeat": not at all, the 2D table is repeated; "learned": a table of depths that
    # starts at zero is added; "sinusoid": a fixed one; "full": each place has its own entry; "rotary" (DINOv3): turned
    depth_position: DepthPosition = "repeat"
    prefix_tokens: PrefixTokens = (
        "per_slice"  # class and register tokens: one set per slice of tokens, one in all, none
    )
    features: tuple[int, ...] = ()  # numbers of the blocks, from 1, that feed the decoder; empty: spread evenly
    decoder: tuple[int, ...] = (8, 16, 32, 64)  # channels per resolution, full first; as many as the block has halvings
    # What the decoder sees of the image itself: convolutions at full resolution, or at every resolution, strided ones
    # between them, added to the tokens
    detail: Literal["full", "pyramid"] = "full"
    norm: Norm = "instance"  # of the decoder and of these
    checkpointing: bool = False  # saves memory: activations of the transformer are computed twice

    def __post_init__(self) -> None:
        for name, values in (("block_zyx", self.block_zyx), ("input_zyx", self.input_zyx), ("decoder", self.decoder)):
            if not values or min(values) < 1:
                raise ValueError(f"{name}={list(values)}: accepted: 1 or more each")
        steps = len(octave_factors(self.block_zyx))
        if len(self.decoder) < steps:
            raise ValueError(
                f"decoder={list(self.decoder)} is too short; accepted: {steps} entries "
                f"for block_zyx={list(self.block_zyx)}"
            )
        if self.features and (min(self.features) < 1 or len(set(self.features)) != steps):
            raise ValueError(
                f"features={list(self.features)}: accepted: {steps} different block numbers from 1, or none"
            )
        for name in ("embed_dim", "depth", "num_heads"):
            if (size := getattr(self, name)) is not None and size < 1:
                raise ValueError(f"{name}={size} is too small; accepted: 1 or more")


@STUDENTS.register("vit3d", config=Vit3dConfig)
@final
class Vit3d(MirrorStudent):
    """Tokens from several depths of a ViT, upsampled and joined step by step, and convolutions of the image itself.

    Source: Hatamizadeh et al. 2022, UNETR, arXiv 2103.10504 (decoder from tokens of several depths, skip from the
    image); channels are reduced before they are upsampled, which is our choice. The transformer is timm's. A pyramid
    of convolutions beside it: the spatial prior of Chen et al. 2022, ViT-Adapter, arXiv 2205.08534, which hands it to
    the transformer's blocks too; adding it to the tokens in the decoder alone is our choice.
    """

    input_weight = "encoder.patch_embed.proj.weight"
    input_shift = "encoder.patch_embed.proj.bias"

    def __init__(self, config: Vit3dConfig) -> None:
        super().__init__()
        self.config = config
        self.architecture_2d = config.encoder.split(".", maxsplit=1)[0]  # what follows the dot is a set of weights
        self.stride_zyx = config.block_zyx
        self.patch_yx = config.block_zyx[1:]
        net = build_vit2d(config.encoder, embed_dim=config.embed_dim, depth=config.depth, num_heads=config.num_heads)
        _refuse_depth_position(config, net)
        self.bias_2d = net.patch_embed.proj.bias is not None
        factors = octave_factors(config.block_zyx)
        self.shape_2d = vit_shape(net)
        self.layer_rule = net.group_matcher()
        self.encoder = ViTEncoder3d(
            net,
            block_zyx=config.block_zyx,
            grid_zyx=_grid(config),
            depth_position=config.depth_position,
            prefix_tokens=config.prefix_tokens,
            features=_features(config, blocks=len(net.blocks), count=len(factors)),
            checkpointing=config.checkpointing,
        )
        self.deepest_layer = f"encoder.blocks.{max(self.encoder.features) - 1}"
        widths = config.decoder[: len(factors)]
        self.detail = double_conv(1, widths[0], stride=(1, 1, 1), norm=config.norm)
        self.skips = nn.ModuleList(
            TokenSkip(net.embed_dim, width, factors=_total(factors[octave:]))
            for octave, width in enumerate(widths[1:], start=1)
        )
        inputs = (*widths[1:], net.embed_dim)
        self.decoder = nn.ModuleList(
            DecoderStep(inputs[octave], width, width, factors=factors[octave], norm=config.norm)
            for octave, width in enumerate(widths)
        )
        self.head = segmentation_head(widths[0])
        wanted = len(widths) if config.detail == "pyramid" else 1
        self.pyramid = nn.ModuleList(
            double_conv(widths[i - 1], widths[i], stride=factors[i - 1], norm=config.norm) for i in range(1, wanted)
        )
        for module in (self.detail, self.skips, self.decoder, self.pyramid):
            init_leaky(module)

    def segment(self, image: Tensor) -> Tensor:
        """Return logits [B, 1, Z, Y, X] of an image whose axes are divisible by ``stride_zyx``."""
        image = self.normalize(image)
        *shallow, fine = self.encoder(image)
        finer = [self.detail(image), *(skip(each) for skip, each in zip(self.skips, shallow, strict=True))]
        detail = finer[0]
        for octave, convolutions in enumerate(self.pyramid, start=1):
            detail = convolutions(detail)
            finer[octave] = finer[octave] + detail
        for step, skip in zip(reversed(self.decoder), reversed(finer), strict=True):
            fine = step(fine, skip)
        return self.head(fine)

    def is_map(self, value: Tensor) -> bool:
        """Tokens [B, T, E] are a map too."""
        return value.ndim in {3, 5}

    def as_map(self, path: str, value: Tensor, image: Tensor) -> Tensor:
        """Put the tokens [B, prefix + Z * Y * X, E] that a block gives back on their grid."""
        grid = [-(-size // block) for size, block in zip(image.shape[2:], self.config.block_zyx, strict=True)]
        patches = math.prod(grid)
        if value.ndim == 3 and value.shape[1] >= patches:
            return value[:, value.shape[1] - patches :].transpose(1, 2).unflatten(2, grid)
        return super().as_map(path, value, image)

    def teacher_key(self, name: str) -> str | None:
        """Drop ``encoder.``: the rest is timm's own name, but for entries that the 2D network does not have."""
        fresh = {"encoder.depth_embed"} if self.bias_2d else {"encoder.depth_embed", Vit3d.input_shift}
        return name.removeprefix("encoder.") if name.startswith("encoder.") and name not in fresh else None

    def mirrors(self, entry: str) -> bool:
        """Whether it is of the blocks that this student has, or of what they are fed with; its classifier is not."""
        part, _, rest = entry.partition(".")
        if part == "blocks":
            return int(rest.partition(".")[0]) < len(self.encoder.blocks)
        if part in {"cls_token", "reg_token"}:
            return self.config.prefix_tokens != "none"
        # what becomes of the kernel that meets the image is the strategy's choice
        return part not in CLASSIFIER and entry != "patch_embed.proj.weight"

    def from_2d(self, name: str, value: Tensor) -> Tensor | None:
        """Bring the 2D position table to this student's grid; it is interpolated in the plane and repeated in depth."""
        if name != "encoder.pos_embed":
            return None
        encoder = self.encoder
        depth, *plane = encoder.grid_zyx
        side = round((value.shape[1] - encoder.table_prefix) ** 0.5)
        prefix = value.shape[1] - side * side
        table = resample_plane(value, old_yx=(side, side), new_yx=(plane[0], plane[1]), prefix=prefix)
        patches = table[:, prefix:].repeat(1, depth if encoder.depth_position == "full" else 1, 1)
        return torch.cat([table[:, : encoder.table_prefix], patches], dim=1)

    def magnification(self, net: nn.Module) -> float:
        """Return the ratio of its patch to this student's block."""
        patch = vit_shape(net).get("patch")
        return patch[0] / self.config.block_zyx[1] if isinstance(patch, tuple) else 1.0

    def misfit(self, net: nn.Module, architecture: str) -> str | None:
        """Return a line on the first size in which a 2D network does not give what this student mirrors."""
        teacher = vit_shape(net)
        if not teacher:
            return f"the student mirrors {self.architecture_2d!r}, {architecture!r} is no ViT; set teacher.architecture"
        blocks, patch = len(self.encoder.blocks), self.config.block_zyx[1:]
        student = self.shape_2d | {"depth": blocks, "patch": patch}
        fits = {
            "depth": blocks <= len(cast("Any", net).blocks),
            "patch": min(patch) > 1,  # one pixel holds nothing of a kernel but its sum
            "class token's place": self.config.prefix_tokens == "none",
        }
        for what in teacher:
            if student[what] != teacher[what] and not fits.get(what):
                return (
                    f"{OPTIONS.get(what, ENCODER)}: the student's {what} is {student[what]}, that of the teacher "
                    f"{architecture!r} is {teacher[what]}; set {_remedy(what, teacher[what], architecture)}"
                )
        return None

    def part_of(self, net: nn.Module) -> str:
        """Say how many of the network's blocks this student has."""
        own, all_of_it = len(self.encoder.blocks), len(cast("Any", net).blocks)
        return f"the first {own} of {all_of_it} blocks" if own < all_of_it else ""


ENCODER = "student.encoder"
OPTIONS = {
    "embedding": "student.embed_dim",
    "depth": "student.depth",
    "number of heads": "student.num_heads",
    "patch": "student.block_zyx",
}  # what else differs is the encoder's


def vit_shape(net: nn.Module) -> dict[str, object]:
    """Return in what ViTs differ beyond names and shapes of weights; empty for a network that is no ViT."""
    if not isinstance(net, VisionTransformer | Eva):
        return {}
    return {
        "embedding": net.embed_dim,
        "depth": len(net.blocks),
        "number of heads": cast("Any", net.blocks[0]).attn.num_heads,
        "patch": tuple(net.patch_embed.patch_size),
        "number of register tokens": 0 if net.reg_token is None else net.reg_token.shape[1],
        "class token's place": "none" if net.cls_token is None or net.no_embed_class else "in the table",
        "activation": type(getattr(cast("Any", net.blocks[0]).mlp, "act", None)).__name__,
    }


def octave_factors(block_zyx: Grid) -> tuple[Grid, ...]:
    """Split a block into upsampling steps by its prime factors, finest step first.

    Axes with fewer factors than others are upsampled in the coarse steps, so that a flat block, which belongs to
    flat voxels, ends with steps in the plane alone.

    Example:
        >>> octave_factors((4, 8, 8))
        ((1, 2, 2), (2, 2, 2), (2, 2, 2))
        >>> octave_factors((2, 14, 14))
        ((1, 2, 2), (2, 7, 7))
    """
    primes = [_primes(n) for n in block_zyx]
    steps = max(1, *map(len, primes))
    z, y, x = ([1] * (steps - len(each)) + each for each in primes)
    return tuple(zip(z, y, x, strict=True))


def _primes(number: int) -> list[int]:
    factors, divisor = [], 2
    while number > 1:
        while number % divisor == 0:
            factors.append(divisor)
            number //= divisor
        divisor += 1
    return factors


def _total(factors: tuple[Grid, ...]) -> Grid:
    z, y, x = (math.prod(each) for each in zip(*factors, strict=True))
    return z, y, x


def _grid(config: Vit3dConfig) -> Grid:
    z, y, x = (-(-n // b) for n, b in zip(config.input_zyx, config.block_zyx, strict=True))
    return z, y, x


def _features(config: Vit3dConfig, *, blocks: int, count: int) -> tuple[int, ...]:
    """Return the numbers of the blocks that feed the decoder, shallow first, the last one always among them."""
    if config.features:
        if max(config.features) > blocks:
            raise ConfigError(
                f"student.features={list(config.features)}: the encoder has {blocks} blocks; accepted: 1 to {blocks}"
            )
        return tuple(sorted(config.features))
    if blocks < count:
        raise ConfigError(
            f"student.depth={blocks}: the decoder of block_zyx={list(config.block_zyx)} takes tokens of {count}; "
            f"accepted: {count} or more"
        )
    return tuple(max(1, round(blocks * step / count)) for step in range(1, count + 1))


def _refuse_depth_position(config: Vit3dConfig, net: Vit2d) -> None:
    table, chosen = net.pos_embed is not None, config.depth_position
    if chosen == ("rotary" if table else "full"):
        kind = "a position table" if table else "rotary positions and no table"
        accepted = "repeat, learned, sinusoid, " + ("full" if table else "rotary")
        raise ConfigError(f"student.depth_position={chosen!r}: {config.encoder!r} has {kind}; accepted: {accepted}")
    if chosen == "sinusoid" and net.embed_dim % 2:
        raise ConfigError(f"student.depth_position='sinusoid': embedding {net.embed_dim} is odd; accepted: even ones")


def _remedy(what: str, size: object, architecture: str) -> str:
    """Return the setting with which a teacher of this size fits."""
    option, encoder = OPTIONS.get(what, ENCODER), f"{ENCODER}={architecture}"
    if what == "patch":
        return f"{option}=[Z,Y,X] with Y and X of 2 or more"
    if encoder.startswith(option):
        return encoder
    return f"{option}={size}{' or less' if what == 'depth' else ''}, or {encoder}"
