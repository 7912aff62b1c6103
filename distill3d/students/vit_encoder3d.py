"""A timm ViT's transformer on a 3D grid of tokens.

The blocks are timm's own, so that parameters match the 2D network's name by name and attention is fused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast, final

import torch
from timm.layers.patch_embed import PatchEmbed
from timm.layers.pos_embed_sincos import RotaryEmbeddingDinoV3
from timm.models.eva import Eva, EvaBlock
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from distill3d.errors import ConfigError
from distill3d.layers import photo_vit
from distill3d.layers.block_embed3d import BlockEmbed
from distill3d.layers.networks2d import create_2d
from distill3d.layers.positions3d import (
    AxialRope3d,
    Grid,
    depth_sinusoid,
    resample_depth,
    resample_plane,
    resample_volume,
)

DepthPosition = Literal["repeat", "learned", "sinusoid", "full", "rotary"]
PrefixTokens = Literal["per_slice", "shared", "none"]
Vit2d = VisionTransformer | Eva
ACCEPTED = f"a plain ViT or a DINOv3 ViT of timm, such as {photo_vit.PHOTO_VIT!r} or 'vit_small_patch16_224'"
# Top-level entries of the 2D networks that are understood
CLASSIFIER = frozenset({"fc_norm", "attn_pool", "head"})
PARTS = CLASSIFIER | {"patch_embed", "cls_token", "reg_token", "pos_embed", "rope", "norm_pre", "blocks", "norm"}
INIT_STD = 0.02  # of position tables, as in timm


def build_vit2d(name: str, **changes: int | None) -> Vit2d:
    """Build timm's 2D network with random weights, without its classifier.

    Args:
        name: of timm.
        changes: other ``embed_dim``, ``depth`` or ``num_heads`` than those of the name; None keeps that of the name.

    Raises:
        ConfigError: timm has no such network, it is no ViT of a known family, or the changes do not fit together.
    """
    given: dict[str, Any] = {key: value for key, value in changes.items() if value is not None}
    net = create_2d(name, setting="student.encoder", accepted=ACCEPTED, num_classes=0, **given)
    if not isinstance(net, VisionTransformer | Eva) or not isinstance(net.patch_embed, PatchEmbed):
        raise ConfigError(f"student.encoder={name!r} is a {type(net).__name__}; accepted: {ACCEPTED}")
    _refuse_unknown_parts(name, net)
    _refuse_heads(name, net)
    return net


def _refuse_unknown_parts(name: str, net: Vit2d) -> None:
    """Refuse a 2D network with parts that the 3D form would silently drop."""
    if strange := {key.split(".")[0] for key in net.state_dict()} - PARTS:
        raise ConfigError(
            f"student.encoder={name!r} has {', '.join(sorted(strange))}, unknown here; accepted: {ACCEPTED}"
        )
    rope = getattr(net, "rope", None)
    if rope is not None and not isinstance(rope, RotaryEmbeddingDinoV3):
        raise ConfigError(
            f"student.encoder={name!r}: its rotary positions ({type(rope).__name__}) have no 3D form here; "
            "accepted: DINOv3's"
        )
    if not isinstance(net.patch_embed.norm, nn.Identity):
        raise ConfigError(
            f"student.encoder={name!r} normalizes its patches, which has no 3D form here; accepted: {ACCEPTED}"
        )


def _refuse_heads(name: str, net: Vit2d) -> None:
    heads: int = cast("Any", net.blocks[0]).attn.num_heads
    multiple = 1 if getattr(net, "rope", None) is None else 4
    if net.embed_dim % (heads * multiple):
        raise ConfigError(
            f"student.encoder={name!r}: embedding {net.embed_dim} with {heads} heads; "
            f"accepted: multiples of {heads * multiple}"
        )


@final
class ViTEncoder3d(nn.Module):
    """A ViT whose tokens are blocks of voxels; names are timm's.

    Args:
        net: the 2D network whose blocks, norms and prefix tokens this one takes over.
        block_zyx: voxels per token.
        grid_zyx: tokens per axis that the position tables are made for; they are interpolated to others.
        depth_position: how a token knows its depth, see `distill3d.students.vit3d.Vit3dConfig`.
        prefix_tokens: what becomes of class and register tokens.
        features: numbers of the blocks, from 1, whose tokens are returned; later blocks are left out.
        checkpointing: compute activations anew in the backward pass.
    """

    cls_token: Tensor | None
    reg_token: Tensor | None
    pos_embed: Tensor | None
    depth_embed: Tensor | None
    patch_embed: nn.Module
    norm_pre: nn.Module
    norm: nn.Module

    def __init__(
        self,
        net: Vit2d,
        *,
        block_zyx: Grid,
        grid_zyx: Grid,
        depth_position: DepthPosition,
        prefix_tokens: PrefixTokens,
        features: Sequence[int],
        checkpointing: bool,
    ) -> None:
        super().__init__()
        self.embed_dim = net.embed_dim
        self.grid_zyx = grid_zyx
        self.depth_position: DepthPosition = depth_position
        self.prefix_tokens: PrefixTokens = prefix_tokens
        self.features = tuple(features)
        self.checkpointing = checkpointing
        self.patch_embed = BlockEmbed(net.embed_dim, block_zyx=block_zyx)  # has a bias even where the 2D one has none
        keep = prefix_tokens != "none"
        self.register_parameter("cls_token", net.cls_token if keep else None)
        self.register_parameter("reg_token", net.reg_token if keep else None)
        tokens = [token for token in (self.cls_token, self.reg_token) if token is not None]
        self.prefix = sum(token.shape[1] for token in tokens)
        # some tables have entries for the prefix tokens too, others only for patches
        self.table_prefix = 0 if net.no_embed_class else self.prefix
        self.register_parameter("pos_embed", self._new_table(net))
        learned = torch.zeros(grid_zyx[0], net.embed_dim) if depth_position == "learned" else None
        self.register_parameter("depth_embed", None if learned is None else nn.Parameter(learned))
        self.rope = _rope(net, rotary=depth_position == "rotary")
        self.norm_pre = net.norm_pre
        self.blocks = nn.ModuleList(list(net.blocks)[: max(self.features)])
        for block in self.blocks:
            if isinstance(block, EvaBlock):
                block.attn.num_prefix_tokens = 0  # the rope's table has entries for them, which turn nothing
        self.norm = net.norm

    def _new_table(self, net: Vit2d) -> nn.Parameter | None:
        if net.pos_embed is None:
            return None
        z, y, x = self.grid_zyx
        length = self.table_prefix + y * x * (z if self.depth_position == "full" else 1)
        table = torch.empty(1, length, net.embed_dim)
        return nn.Parameter(nn.init.trunc_normal_(table, std=INIT_STD))

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the normalized tokens of the chosen blocks on their grid, each [B, E, Z/bz, Y/by, X/bx].

        Args:
            image: [B, 1, Z, Y, X], normalized, divisible by the block.
        """
        grid_tokens = self.patch_embed(image)
        grid = cast("Grid", tuple(grid_tokens.shape[2:]))
        tokens = self.norm_pre(self.place(grid_tokens))
        prefix = tokens.shape[1] - grid[0] * grid[1] * grid[2]
        rope = None if self.rope is None else self.rope(grid, prefix=prefix)
        maps = []
        for number, block in enumerate(self.blocks, start=1):
            tokens = self._run(block, tokens, rope)
            if number in self.features:
                maps.append(self.norm(tokens)[:, prefix:].transpose(1, 2).unflatten(2, grid))
        return maps

    def place(self, grid_tokens: Tensor) -> Tensor:
        """Add positions to tokens on their grid [B, E, Z, Y, X], flatten them and put the prefix tokens first."""
        batch, _, depth, *_ = grid_tokens.shape
        prefix_place, patch_place = self._places(cast("Grid", tuple(grid_tokens.shape[2:])))
        patches = grid_tokens.flatten(2).transpose(1, 2)
        patches = patches if patch_place is None else patches + patch_place
        tokens = [token for token in (self.cls_token, self.reg_token) if token is not None]
        if not tokens:
            return patches
        prefix = torch.cat(tokens, dim=1)
        prefix = prefix if prefix_place is None else prefix + prefix_place
        copies = depth if self.prefix_tokens == "per_slice" else 1
        return torch.cat([prefix.repeat(batch, copies, 1), patches], dim=1)

    def _places(self, grid: Grid) -> tuple[Tensor | None, Tensor | None]:
        """Return what is added to prefix tokens [1, P, E] and to patches [1, Z * Y * X, E]; None for nothing."""
        place = None
        depth, rows, columns = grid
        prefix, patches = None, self.pos_embed
        if self.pos_embed is not None:
            if self.depth_position == "full":
                patches = resample_volume(self.pos_embed, old=self.grid_zyx, new=grid, prefix=self.table_prefix)
            else:
                old, new = self.grid_zyx[1:], (rows, columns)
                patches = resample_plane(self.pos_embed, old_yx=old, new_yx=new, prefix=self.table_prefix)
            prefix = patches[:, : self.table_prefix] if self.table_prefix else None
            place = patches[:, self.table_prefix :]
            place = place if self.depth_position == "full" else place.repeat(1, depth, 1)
        slices = self._slices(depth)
        if slices is not None:
            along = slices.repeat_interleave(rows * columns, dim=0).unsqueeze(0)
            place = along if place is None else place + along
        return prefix, place

    def _slices(self, depth: int) -> Tensor | None:
        """Return what each slice's depth adds, [Z, E]."""
        if self.depth_embed is not None:
            return resample_depth(self.depth_embed, depth)
        if self.depth_position != "sinusoid":
            return None
        # as strong as the table in the plane, or as a fresh one where the positions are rotations
        strength = INIT_STD if self.pos_embed is None else self.pos_embed.detach().square().mean().sqrt()
        like = next(self.parameters())
        return depth_sinusoid(depth, self.embed_dim).to(like) * strength

    def _run(self, block: nn.Module, tokens: Tensor, rope: Tensor | None) -> Tensor:
        extra = () if rope is None else (rope,)
        if self.checkpointing and self.training:
            return cast("Tensor", checkpoint(block, tokens, *extra, use_reentrant=False))
        return block(tokens, *extra)


def _rope(net: Vit2d, *, rotary: bool) -> AxialRope3d | None:
    rope = getattr(net, "rope", None)
    if rope is None:
        return None
    return AxialRope3d(rope.periods, rotate_half=rope.rotate_half, rotary=rotary)
