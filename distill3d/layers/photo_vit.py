"""The small 2D ViT that distill3d trains itself and ships; building it gives random weights."""

from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg, register_model
from timm.models.vision_transformer import VisionTransformer

PHOTO_VIT = "vit_photo_patch8_96"


def _cfg() -> dict[str, Any]:
    return {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, 96, 96),
        "pool_size": None,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "first_conv": "patch_embed.proj",
        "classifier": "head",
        "license": "mit",
    }


# timm looks its models' settings up under this name, in the module that registers them
default_cfgs = {PHOTO_VIT: _cfg()}


@register_model
def vit_photo_patch8_96(pretrained: bool = False, **changes: Any) -> VisionTransformer:  # noqa: ANN401 - timm's own
    """Build timm's ViT with blocks of 8 x 8 pixels, embedding 192, 8 blocks, 3 heads: 3.6 million parameters.

    Small enough to be trained on two cores in an hour and to ship inside the package. Blocks of 8 because neurites are
    a few voxels thick. Once this module is imported timm knows it by name, as a teacher and as a student's encoder.
    """
    settings = {"img_size": 96, "patch_size": 8, "embed_dim": 192, "depth": 8, "num_heads": 3, **changes}
    return build_model_with_cfg(VisionTransformer, PHOTO_VIT, pretrained, **settings)
