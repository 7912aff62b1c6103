"""How small a piece is dropped: the size with the best Dice on the cases it is chosen on."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill3d.evaluation.cleaning import SIZES, Segmented, choose_min_voxels, dice_by_size
from distill3d.evaluation.metrics.voxel import voxel_scores
from distill3d.volumes.components import drop_small


def line(*pieces):
    """A row of 200 voxels with pieces of foreground, each from a first voxel to before a last one."""
    mask = np.zeros((1, 1, 200), bool)
    for first, last in pieces:
        mask[..., first:last] = True
    return mask


KNOWN = ~line()


def chosen(cases):
    return choose_min_voxels([dice_by_size(case, 50) for case in cases], 50)


@pytest.mark.parametrize(
    ("pieces", "size"),
    [
        ([(0, 60)], 50),  # nothing to drop: the default stays
        ([(0, 60), (70, 130)], 50),  # as large as the true one
        ([(0, 60), (100, 155)], 50),  # between 50 and 60 no size is tried, so both stay
        ([(0, 30), (31, 60)], 1),  # the default would drop what is true
        ([(0, 30), (31, 60), (100, 104)], 5),
        ([(0, 30), (31, 60), (100, 115)], 20),
    ],
)
def test_the_size_is_the_one_with_the_best_dice(pieces, size):
    assert chosen([Segmented(line(*pieces), line((0, 60)), KNOWN)]) == size


def test_every_case_counts_the_same():
    small, large = line((0, 8)), line((0, 120))  # a true piece of 8 voxels, a false one of 15
    cases = [Segmented(small, small, KNOWN), Segmented(large | line((150, 165)), large, KNOWN)]
    assert chosen(cases) == 1
    assert chosen(cases[1:]) == 50


@given(seed=st.integers(0, 10**6), share=st.sampled_from([0.0, 0.1, 0.2]))
@settings(max_examples=30, deadline=None)
def test_no_size_that_is_tried_gives_a_better_dice(seed, share):
    rng = np.random.default_rng(seed)
    cases = [Segmented(*(rng.random((6, 9, 9)) < part for part in (share, 0.1, 0.8))) for _ in range(2)]

    def dice(size):
        scores = [voxel_scores(pred=drop_small(c.pred, size), gold=c.gold, known=c.known).dice for c in cases]
        return float(np.mean(scores))

    assert dice(chosen(cases)) == pytest.approx(max(map(dice, SIZES)))
