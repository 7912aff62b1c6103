"""Does a frozen 2D network know what the teacher knows? A linear probe says."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GroupKFold
from torch import Tensor

from distill3d.config.schema import PROBE_FOLDS
from distill3d.training.pretrain.module import ExplainedVariance, PhotoModule
from distill3d.training.pretrain.photos import Crops, photos

RIDGES = np.logspace(0, 8, 9)


@dataclass(frozen=True, slots=True)
class _Gathered:
    """Tokens [M, E], the targets [M, C] of each map, and the photo [M] each comes from."""

    tokens: Tensor
    maps: list[Tensor]
    photo: NDArray[np.integer]


def probe(module: PhotoModule) -> list[float]:
    """Fit a ridge regression from frozen tokens to the teacher's feature maps; return what it explains elsewhere.

    The regression sees crops of the training photos only, and chooses its strength by leaving out some of those
    photos. The score is that on the crops of held-out photos.

    Args:
        module: its ViT is probed, its teacher and statistics give the targets.

    Returns:
        Explained variance of each map in (-inf, 1].
    """
    config = module.settings.crops
    fitted = _gather(module, Crops(photos("train"), config, seed=0, augment=False), config.probe_crops)
    held_out = _gather(module, Crops(photos("val"), config, seed=0, augment=False), config.val_crops)
    folds = list(GroupKFold(PROBE_FOLDS).split(fitted.tokens, groups=fitted.photo))
    explained = ExplainedVariance(len(fitted.maps))
    for index, (target, truth) in enumerate(zip(fitted.maps, held_out.maps, strict=True)):
        ridge = RidgeCV(RIDGES, cv=folds).fit(fitted.tokens.numpy(), target.numpy())
        explained.update(index, pred=torch.from_numpy(ridge.predict(held_out.tokens.numpy())), target=truth)
    return explained.compute()


@torch.no_grad()
def _gather(module: PhotoModule, source: Crops, count: int) -> _Gathered:
    size = module.settings.crops.batch_size
    tokens: list[Tensor] = []
    maps: list[list[Tensor]] = []
    for start in range(0, count, size):
        batch = torch.stack([source[index] for index in range(start, min(start + size, count))])
        tokens.append(module.tokens(batch)[:, 1:])
        maps.append([each.flatten(0, 1) for each in module.targets(batch)[0]])
    photo = np.repeat([source.photo_of(index) for index in range(count)], tokens[0].shape[1])
    joined = [torch.cat(parts) for parts in zip(*maps, strict=True)]
    return _Gathered(torch.cat(tokens).flatten(0, 1), joined, photo)
