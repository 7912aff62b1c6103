"""Feature maps to compare, and every way to compare them."""

from typing import get_args

import numpy as np
import pytest
import torch

from distill3d.transfer.matching import places
from distill3d.transfer.matching.places import FeatureKind, FeatureLossConfig, feature_loss, needs_same_channels

KINDS = get_args(FeatureKind)
MEASURES = {kind: feature_loss(FeatureLossConfig(kind=kind)) for kind in KINDS}
MEASURES["mse, raw"] = feature_loss(FeatureLossConfig(kind="mse", standardize=False))
MEASURES["similarity, batch"] = feature_loss(FeatureLossConfig(kind="similarity", examples="batch"))
by_measure = pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES.keys())
by_seed = pytest.mark.parametrize("seed", [0, 1, 2])
any_channels = pytest.mark.parametrize("kind", [kind for kind in KINDS if not needs_same_channels(kind)])


def features(seed, channels=5, batch=2, grid=(2, 3, 4)):
    generator = torch.Generator().manual_seed(seed)
    # Channels of different scale and mean, as of a real network.
    spread = torch.rand(channels, 1, 1, 1, generator=generator) * 3 + 0.2
    return (torch.randn(batch, channels, *grid, generator=generator) + 0.5) * spread


def rotation(size, seed=0):
    return torch.from_numpy(np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0]).float()


def turned(maps, seed=0):
    return torch.einsum("dc,bczyx->bdzyx", rotation(maps.shape[1], seed), maps)


def as_rows(maps):
    """Places of the whole batch as examples, float64 [B * Z * Y * X, C]."""
    return np.moveaxis(maps.double().numpy(), 1, -1).reshape(-1, maps.shape[1])


def ideal(kind, teacher):
    """What the student should be."""
    return places._standardized(teacher) if kind == "mse" else teacher.clone()
