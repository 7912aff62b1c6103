"""Relations between places: golden values, and how places are sampled."""

import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from feature_maps import as_rows, by_seed, features

from distill3d.transfer.matching import relations
from distill3d.transfer.matching.alignment import cka
from distill3d.transfer.matching.relations import relational, similarity_preserving


def huber(difference):
    return np.where(np.abs(difference) < 1, difference**2 / 2, np.abs(difference) - 0.5)


def slow_relational(s, t, vertices, distance_weight=1.0, angle_weight=2.0):
    """Of rows in the order in which they were sampled."""
    n = len(s)
    pairs = list(itertools.combinations(range(n), 2))
    apart = [np.array([np.linalg.norm(side[i] - side[j]) for i, j in pairs]) for side in (s, t)]
    distance = huber(apart[0] / apart[0].mean() - apart[1] / apart[1].mean()).mean()

    def cosine_at(side, i, j, k):
        a, b = side[i] - side[j], side[k] - side[j]
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    triplets = [(i, j, k) for i, j, k in itertools.permutations(range(n), 3) if j < vertices]
    angle = np.mean([huber(cosine_at(s, *ijk) - cosine_at(t, *ijk)) for ijk in triplets])
    return distance_weight * distance + angle_weight * angle


def slow_similarity(s, t):
    total = 0.0
    for i in range(len(s)):
        row_s, row_t = np.array([s[i] @ other for other in s]), np.array([t[i] @ other for other in t])
        total += np.sum((row_s / np.linalg.norm(row_s) - row_t / np.linalg.norm(row_t)) ** 2)
    return total / len(s)


@by_seed
def test_relational_over_all_triplets_is_that_of_the_slow_version(seed):
    student, teacher = (features(s, channels=c, grid=(1, 2, 3)) for s, c in ((seed, 4), (seed + 100, 6)))
    golden = slow_relational(as_rows(student), as_rows(teacher), vertices=12, distance_weight=0.5, angle_weight=3.0)
    got = relational(student=student, teacher=teacher, distance_weight=0.5, angle_weight=3.0)
    assert got.item() == pytest.approx(golden, rel=1e-5)


@by_seed
def test_relational_over_many_places_measures_angles_at_the_first_sixteen_drawn(seed):
    student, teacher = (features(s, channels=c) for s, c in ((seed, 4), (seed + 100, 6)))  # 48 places
    index = relations._sample(student, places=20, seed=seed).numpy()
    golden = slow_relational(as_rows(student)[index], as_rows(teacher)[index], vertices=16)
    assert relational(student=student, teacher=teacher, places=20, seed=seed).item() == pytest.approx(golden, rel=1e-5)


def test_relational_by_hand():
    # Three places on a line at 0, 1, 2 against a right triangle with legs 1. Distances 1, 2, 1 over their mean 4 / 3;
    # 1, 1, sqrt 2. Cosines at the places: 1, -1, 1 against (at the right angle, first) 0, and 1 / sqrt 2 twice.
    line = torch.tensor([[0.0, 1.0, 2.0], [0.0, 0.0, 0.0]]).view(1, 2, 1, 1, 3)
    triangle = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]).view(1, 2, 1, 1, 3)  # right angle at the second place
    root = math.sqrt(2)
    mean = (2 + root) / 3
    distances = [3 / 4 - 1 / mean, 3 / 2 - root / mean, 3 / 4 - 1 / mean]
    angles = [1 - 1 / root, -1.0, 1 - 1 / root]
    golden = sum(d**2 / 2 for d in distances) / 3 + 2 * sum(a**2 / 2 for a in angles) / 3
    assert relational(student=line, teacher=triangle).item() == pytest.approx(golden, rel=1e-5)


def test_a_cloud_of_one_point_has_distances_and_cosines_of_zero():
    # At each corner of a regular triangle the cosine is 1 / 2; all relative distances are 1.
    triangle = torch.eye(3).view(1, 3, 1, 1, 3)
    value = relational(student=torch.zeros(1, 2, 1, 1, 3), teacher=triangle, distance_weight=1.0, angle_weight=4.0)
    assert value.item() == pytest.approx(1 / 2 + 4 * (1 / 2) ** 2 / 2, rel=1e-5)


def test_a_weight_of_zero_leaves_the_other_relation():
    student, teacher = features(0), features(1)
    parts = [
        relational(student=student, teacher=teacher, distance_weight=d, angle_weight=a).item()
        for d, a in ((1, 0), (0, 1), (1, 1))
    ]
    assert parts[0] + parts[1] == pytest.approx(parts[2], rel=1e-6)
    assert min(parts) > 0.01


@by_seed
def test_similarity_of_places_and_of_patches_are_those_of_the_slow_version(seed):
    student, teacher = (features(s, channels=c, batch=4) for s, c in ((seed, 4), (seed + 100, 6)))
    index = relations._sample(student, places=30, seed=seed).numpy()
    got = similarity_preserving(student=student, teacher=teacher, places=30, seed=seed).item()
    assert got == pytest.approx(slow_similarity(as_rows(student)[index], as_rows(teacher)[index]), rel=1e-5)
    patches = [maps.double().numpy().reshape(4, -1) for maps in (student, teacher)]
    got = similarity_preserving(student=student, teacher=teacher, examples="batch").item()
    assert got == pytest.approx(slow_similarity(*patches), rel=1e-5)


def test_similarity_of_a_batch_of_one_says_nothing():
    student, teacher = features(0, batch=1).requires_grad_(), features(1, batch=1)
    value = similarity_preserving(student=student, teacher=teacher, examples="batch")
    (gradient,) = torch.autograd.grad(value, student)
    assert (value.item(), gradient.abs().max().item()) == (pytest.approx(0, abs=1e-12), pytest.approx(0, abs=1e-6))


SAMPLED = {
    "relational": partial(relational, places=8),
    "cka": partial(cka, places=8),
    "similarity": partial(similarity_preserving, places=8),
}
by_sampled = pytest.mark.parametrize("measure", SAMPLED.values(), ids=SAMPLED.keys())


@by_sampled
def test_the_seed_alone_decides_the_sample_and_the_global_generator_is_left_alone(measure):
    student, teacher = features(0), features(1)
    values = []
    for state in (0, 1):
        torch.manual_seed(state)
        before = torch.get_rng_state()
        values.append(measure(student=student, teacher=teacher, seed=5).item())
        assert torch.equal(torch.get_rng_state(), before)
    assert values[0] == values[1]
    assert len({measure(student=student, teacher=teacher, seed=seed).item() for seed in range(4)}) == 4


@by_sampled
def test_both_sides_are_read_at_the_same_places(measure):
    teacher = features(1)
    assert all(measure(student=teacher, teacher=teacher, seed=seed).item() < 1e-6 for seed in range(5))


@by_sampled
def test_only_the_sampled_places_get_a_gradient(measure):
    student, teacher = features(0).requires_grad_(), features(1)
    (gradient,) = torch.autograd.grad(measure(student=student, teacher=teacher, seed=2), student)
    touched = np.flatnonzero(np.abs(as_rows(gradient)).sum(1))
    assert touched.tolist() == sorted(relations._sample(student, places=8, seed=2).tolist())


def test_a_sample_holds_distinct_places_of_all_patches_and_all_where_there_are_fewer():
    maps = features(0, batch=3)
    places = [relations._sample(maps, places=20, seed=seed) for seed in range(50)]
    assert all(len(set(index.tolist())) == 20 for index in places)
    assert set(torch.cat(places).tolist()) == set(range(3 * 24))
    assert sorted(relations._sample(maps, places=1000, seed=0).tolist()) == list(range(3 * 24))
    rows = relations._rows(maps, places[0])
    assert torch.equal(rows.double(), torch.from_numpy(as_rows(maps)[places[0].numpy()]))


@by_sampled
def test_too_few_places_are_refused(measure):
    with pytest.raises(ValueError, match="places=2"):
        measure(student=features(0), teacher=features(1), places=2)
