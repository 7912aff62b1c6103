"""Linear CKA: its unbiased estimate against a slow one, what it is blind to, and what it says of unrelated layers."""

import numpy as np
import pytest
import torch
from feature_maps import as_rows, by_seed, features, rotation
from hypothesis import given, settings
from hypothesis import strategies as st

from distill3d.transfer.matching import alignment, relations
from distill3d.transfer.matching.alignment import cka, linear_cka, linear_cka_table


def slow_hsic(k, m):
    """The unbiased estimate of Song et al. 2012 as a sum over all quadruples of different examples, float64.

    Of (i, j, q, r), in every order: K_ij (M_ij + M_qr - 2 M_iq).
    """
    n, total, count = len(k), 0.0, 0
    for i in range(n):
        for j in set(range(n)) - {i}:
            for q in set(range(n)) - {i, j}:
                for r in set(range(n)) - {i, j, q}:
                    total += k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q])
                    count += 1
    return total / count


def slow_cka(a, b):
    k, m = a @ a.T, b @ b.T
    return slow_hsic(k, m) / np.sqrt(slow_hsic(k, k) * slow_hsic(m, m))


@by_seed
@pytest.mark.parametrize(("n", "p", "q"), [(12, 3, 7), (6, 9, 5), (6, 3, 9), (5, 5, 5), (4, 2, 2)])
def test_linear_cka_is_that_of_all_quadruples_of_examples_on_either_side(n, p, q, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(n, p)) + 3, rng.normal(size=(n, q))
    b[:, 0] += a[:, 0]
    got = linear_cka(torch.from_numpy(a), torch.from_numpy(b))
    assert got.dtype == torch.float64
    assert got.item() == pytest.approx(slow_cka(a, b), rel=1e-9)
    assert linear_cka(torch.from_numpy(a).float(), torch.from_numpy(b)).dtype == torch.float64
    swapped = linear_cka(torch.from_numpy(b).float(), torch.from_numpy(a).float())
    assert swapped.item() == pytest.approx(got.item(), rel=1e-3, abs=1e-4)


def test_fewer_places_than_channels_tell_unrelated_maps_from_a_rotation():
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 1, 768, 4, 16, 16, generator=generator)  # 1024 places
    sides = [side.flatten(2)[0].T for side in (student, teacher)]
    kernels = [centered @ centered.T for centered in (side - side.mean(0) for side in sides)]
    biased = (kernels[0] * kernels[1]).sum().item() / (kernels[0].norm() * kernels[1].norm()).item()
    assert biased == pytest.approx(768 / (768 + 1024), abs=0.01)  # what Kornblith's estimate would say
    assert cka(student=student, teacher=teacher).item() == pytest.approx(1, abs=0.01)
    mirror = torch.nn.functional.normalize(torch.randn(768, generator=generator), dim=0).view(1, 768, 1, 1, 1)
    turned = (teacher - 2 * mirror * (mirror * teacher).sum(1, keepdim=True)).roll(1, dims=1)
    assert cka(student=3 * turned + 1, teacher=teacher).item() == pytest.approx(0, abs=1e-4)
    half = teacher + student  # shares half of its variance: the square of a correlation of 1 / sqrt(2)
    assert cka(student=half, teacher=teacher).item() == pytest.approx(0.5, abs=0.03)


@by_seed
def test_as_a_loss_it_is_one_minus_that_of_the_sampled_places(seed):
    student, teacher = (features(s, channels=c) for s, c in ((seed, 4), (seed + 100, 6)))
    index = relations._sample(student, places=10, seed=seed).numpy()
    golden = 1 - slow_cka(as_rows(student)[index], as_rows(teacher)[index])
    assert cka(student=student, teacher=teacher, places=10, seed=seed).item() == pytest.approx(golden, rel=1e-4)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 12), p=st.integers(1, 12), q=st.integers(1, 12))
def test_it_is_symmetric_in_its_range_and_one_of_a_thing_with_itself(seed, n, p, q):
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(n, size, generator=generator, dtype=torch.float64) for size in (p, q))
    value = linear_cka(a, b).item()
    assert -1 - 1e-9 <= value <= 1 + 1e-9
    assert value == pytest.approx(linear_cka(b, a).item(), abs=1e-9)
    assert linear_cka(a, a @ rotation(p, seed).double() * 7 + 1).item() == pytest.approx(float(n > 3), abs=1e-4)


def test_what_tells_no_pair_of_examples_from_another_aligns_with_nothing():
    # On both sides of the choice between features and kernels: a constant whose mean rounds, and one that is different.
    for rows in (24, 1000):
        constant = torch.full((rows, 40), 1000.3)
        assert (constant - constant.mean(0)).norm() > relations.TINY
        single = torch.nn.functional.one_hot(torch.arange(rows) // (rows - 1), 40).float()
        varied = torch.randn(rows, 50, generator=torch.Generator().manual_seed(0))
        for flat in (constant, single):
            assert abs(linear_cka(flat, varied).item()) < 1e-3
            assert abs(linear_cka(flat, flat).item()) < 0.05


def test_it_takes_the_cheap_side():
    # The other one would need a matrix of 160 GB.
    tall = torch.arange(800_000.0).sin().view(200_000, 4)
    wide = tall.view(4, 200_000)
    assert 0.5 < linear_cka(tall, tall.exp()).item() < 1
    assert 0.5 < linear_cka(wide, wide.exp()).item() < 1


def test_a_table_has_the_value_of_each_pair(monkeypatch):
    monkeypatch.setattr(alignment, "_STRIP", 7)
    generator = torch.Generator().manual_seed(0)
    first = [torch.randn(20, width, generator=generator) for width in (3, 50)] + [torch.full((20, 4), 0.1)]
    second = [first[0] @ torch.randn(3, 5, generator=generator), first[1] + 3, torch.randn(20, 30, generator=generator)]
    expected = [[linear_cka(a, b).item() for b in second] for a in first]
    assert linear_cka_table(first, second).tolist() == [pytest.approx(row, abs=1e-5) for row in expected]
    assert expected[1][1] == pytest.approx(1)
    assert max(map(abs, expected[2])) < 1e-3
    assert linear_cka_table([first[0][:3]], [second[0][:3]]).tolist() == [[0]]


@pytest.mark.parametrize(("a", "b"), [((3, 2), (4, 2)), ((3,), (3, 2)), ((0, 2), (0, 2))])
def test_it_refuses_what_has_no_examples_in_common(a, b):
    with pytest.raises(ValueError, match="no examples in common"):
        linear_cka(torch.ones(a), torch.ones(b))


def test_three_places_are_too_few():
    with pytest.raises(ValueError, match="places=3 is too small; accepted: 4 or more"):
        cka(student=features(0), teacher=features(1), places=3)
