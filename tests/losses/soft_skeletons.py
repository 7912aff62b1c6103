"""The soft skeleton as it is usually written, to compare that of the package with."""

import torch
import torch.nn.functional as F


def through_pooling(prob, iterations):
    """As usually written, through max pooling and with autograd; all voxels known."""

    def erode(value):
        sizes = [(3, 1, 1), (1, 3, 1), (1, 1, 3)]
        pooled = [-F.max_pool3d(-value, size, 1, tuple(n // 2 for n in size)) for size in sizes]
        return torch.stack(pooled).amin(0)

    skeleton = torch.zeros_like(prob)
    for _ in range(iterations + 1):
        following = erode(prob)
        rest = F.relu(prob - F.max_pool3d(following, 3, 1, 1))
        skeleton = skeleton + F.relu(rest - skeleton * rest)
        prob = following
    return skeleton
