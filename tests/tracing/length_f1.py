"""Length F1 of two trees by sampling, written apart from the package: dense points against dense points."""

import numpy as np
from scipy.spatial import cKDTree


def samples(points, edges, step):
    """Return points along edges, at most ``step`` apart, and the length each stands for."""
    places, weights = [np.empty((0, 3))], [np.empty(0)]
    for a, b in points[edges]:
        length = np.linalg.norm(b - a)
        n = max(int(np.ceil(length / step)), 1)
        places.append(a + (np.arange(n)[:, None] + 0.5) / n * (b - a))
        weights.append(np.full(n, length / n))
    return np.concatenate(places), np.concatenate(weights)


def share_near(a, b, tolerance):
    """Return the share of the length of ``a`` that lies within the tolerance of ``b``, both (points, edges)."""
    places, weights = samples(*a, 1.0)
    others, _ = samples(*b, 0.25)
    if not len(places) or not len(others):
        return 0.0
    return float(weights[cKDTree(others).query(places)[0] <= tolerance].sum() / weights.sum())


def length_scores(*, pred, gold, spacing_um=(1.0, 1.0, 1.0), tolerance_vox=4.0):
    """Return F1, precision and recall in index coordinates."""
    a, b = ((tree.points_zyx_um / np.asarray(spacing_um), tree.edges) for tree in (pred, gold))
    precision, recall = share_near(a, b, tolerance_vox), share_near(b, a, tolerance_vox)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0, precision, recall
