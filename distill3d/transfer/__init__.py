"""How knowledge gets from a 2D teacher into a 3D student; importing this package registers the strategies.

Other rooms import `base`, `view` (the teacher's maps during training) and `matching` (how maps are compared):
strategies are built by name.
"""

from distill3d.transfer import (
    base,
    combine,
    features,
    inflate,
    logits,
    none,
    requests,
    tubular,
    view,
    warm_start,
    weights,
)

__all__ = [
    "base",
    "combine",
    "features",
    "inflate",
    "logits",
    "none",
    "requests",
    "tubular",
    "view",
    "warm_start",
    "weights",
]
