"""Small trees for tests, random ones, and slow versions of their scores: one pair of point and segment at a time."""

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from distill3d.volumes.tree import Tree

EMPTY = Tree.empty()


def make(xyz, parents, orphans=()) -> Tree:
    n = len(parents)
    points = np.array(xyz, float).reshape(n, 3)[:, ::-1]
    return Tree(points, np.ones(n), np.array(parents), np.full(n, 3), np.array(orphans, np.int64))


def straight(length: float, y: float = 0.0) -> Tree:
    return make([(0, y, 0), (length, y, 0)], [-1, 0])


def moved(tree: Tree, shift_zyx) -> Tree:
    return replace(tree, points_zyx_um=tree.points_zyx_um + np.array(shift_zyx, float))


def slow_gap(point, a, b) -> float:
    along = b - a
    t = 0.0 if not along.any() else min(max(float(np.dot(point - a, along) / np.dot(along, along)), 0.0), 1.0)
    return float(np.linalg.norm(point - (a + t * along)))


def slow_edges(tree: Tree, compat: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    p = tree.points_zyx_um
    edges = [(p[i], p[parent]) for i, parent in enumerate(tree.parents) if parent >= 0]
    if compat:
        edges += [(p[i], p[0]) for i in tree.orphans]
    return edges or [(point, point) for point in p]


def slow_points(edges) -> list[np.ndarray]:
    points = []
    for a, b in edges:
        n = int(1 + np.linalg.norm(b - a) + 0.5)
        points += [a] if n <= 1 else [a + (b - a) * j / (n - 1) for j in range(n)]
    return points


def slow_vaa3d(pred: Tree, gold: Tree, compat: bool = False) -> tuple[float, float, float]:
    one, other = slow_edges(pred, compat), slow_edges(gold, compat)
    means, apart, shares = [], [], []
    for mine, yours in ((one, other), (other, one)):
        distances = [min(slow_gap(point, a, b) for a, b in yours) for point in slow_points(mine)]
        different = [d for d in distances if d >= 2.0 - 1e-9]
        means.append(sum(distances) / len(distances))
        shares.append(len(different) / len(distances))
        apart += [sum(different) / len(different)] if different else []
    return sum(means) / 2, sum(apart) / len(apart) if apart else 0.0, sum(shares) / 2


def slow_share(tree: Tree, of: Tree, tolerance: float) -> float:
    right = total = 0.0
    edges = slow_edges(tree, compat=False)
    all_points = all(np.linalg.norm(b - a) == 0 for a, b in edges)
    for a, b in edges:
        length = float(np.linalg.norm(b - a))
        pieces = max(1, int(np.ceil(length)))
        for j in range(pieces):
            middle = a + (b - a) * (j + 0.5) / pieces
            weight = 1.0 if all_points else length / pieces
            near = min(slow_gap(middle, c, d) for c, d in slow_edges(of, compat=False)) <= tolerance + 1e-9
            right, total = right + weight * near, total + weight
    return right / total


@st.composite
def trees(draw) -> Tree:
    """Several roots, orphans, and, as coordinates are few, edges without length and edges that lie on each other."""
    n = draw(st.integers(1, 14))
    coordinate = draw(st.sampled_from([st.integers(0, 3), st.integers(-9, 9), st.floats(-20, 20, width=32)]))
    xyz = draw(st.lists(st.tuples(coordinate, coordinate, coordinate), min_size=n, max_size=n))
    parents = [draw(st.integers(-1, i - 1)) for i in range(n)]
    roots = [i for i, parent in enumerate(parents) if parent < 0]
    return make(xyz, parents, [i for i in roots if draw(st.booleans())])
