"""Betti numbers of masks against their definition, by linear algebra."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from distill3d.evaluation.metrics.topology import topology_scores


def slow_homology(mask: np.ndarray) -> tuple[int, int, int]:
    """Betti numbers of the closed unit cubes by their definition: ranks of boundary matrices over the field of 2.

    A cell is where its middle is, on a lattice of twice the resolution: as many odd coordinates as it has dimensions.
    Its boundary is what one of them meets half a voxel up or down.
    """
    cells = {
        tuple(2 * v + d for v, d in zip(voxel, at, strict=True))
        for voxel in np.argwhere(mask).tolist()
        for at in itertools.product(range(3), repeat=3)
    }
    of_dim = [sorted(cell for cell in cells if sum(c % 2 for c in cell) == k) for k in range(4)]
    ranks = [0, 0, 0, 0, 0]
    for k in (1, 2, 3):
        number, pivots = {cell: n for n, cell in enumerate(of_dim[k - 1])}, {}
        for cell in of_dim[k]:
            ends = (
                (*cell[:axis], cell[axis] + d, *cell[axis + 1 :])
                for axis in range(3)
                if cell[axis] % 2
                for d in (-1, 1)
            )
            column = sum(1 << number[end] for end in ends)  # no two ends are one
            while column and column.bit_length() in pivots:
                column ^= pivots[column.bit_length()]
            if column:
                pivots[column.bit_length()] = column
        ranks[k] = len(pivots)
    return tuple(len(of_dim[k]) - ranks[k] - ranks[k + 1] for k in range(3))


@given(seed=st.integers(0, 10**6), share=st.sampled_from([0.1, 0.3, 0.5, 0.8, 0.95]))
@settings(max_examples=25, deadline=None)
def test_they_are_those_of_closed_unit_cubes(seed, share):
    mask = np.random.default_rng(seed).random((4, 4, 4)) < share
    scores = topology_scores(pred=mask, gold=np.zeros_like(mask))
    parts, tunnels, cavities = slow_homology(mask)
    assert (scores.betti0_pred, scores.betti1_pred, scores.euler_pred) == (parts, tunnels, parts - tunnels + cavities)


def test_a_ring_and_a_hollow_cube_have_the_numbers_one_can_count():
    ring, hollow = np.ones((1, 3, 3), bool), np.ones((3, 3, 3), bool)
    ring[0, 1, 1] = hollow[1, 1, 1] = False
    assert (slow_homology(ring), slow_homology(hollow)) == ((1, 1, 0), (1, 0, 1))
