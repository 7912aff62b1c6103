"""The soft skeleton against its definition voxel by voxel, its gradient, symmetry, masking and memory."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from soft_skeletons import through_pooling

from distill3d.losses.soft_skeleton import soft_skeleton

FACES = [(0, 0, 0), (1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)]
CUBE = list(itertools.product((-1, 0, 1), repeat=3))


def over(value, known, offsets, pick):
    """Extreme over the known neighbors of every known voxel, in loops."""
    out = np.zeros_like(value)
    for place in zip(*np.nonzero(known), strict=True):
        near = [tuple(np.add(place, o)) for o in offsets]
        out[place] = pick(
            value[q] for q in near if all(0 <= i < n for i, n in zip(q, value.shape, strict=True)) and known[q]
        )
    return out


def by_definition(prob, known, iterations):
    """One minus the product over erosions of what their opening does not give back."""
    eroded, missing = prob * known, np.ones_like(prob)
    for _ in range(iterations + 1):
        following = over(eroded, known, FACES, min)
        missing *= 1 - np.maximum(eroded - over(following, known, CUBE, max), 0)
        eroded = following
    return (1 - missing) * known


def random_map(shape, seed, *, share_known=1.0, levels=None):
    rng = torch.Generator().manual_seed(seed)
    prob = torch.rand(1, 1, *shape, generator=rng, dtype=torch.float64)
    if levels:
        prob = (prob * levels).round() / levels
    return prob, torch.rand(1, 1, *shape, generator=rng) < share_known


SHAPES = st.tuples(*(st.integers(1, n) for n in (4, 5, 6)))


@settings(max_examples=25, deadline=None)
@given(
    shape=SHAPES,
    iterations=st.integers(0, 3),
    seed=st.integers(0, 999),
    share=st.sampled_from([0.6, 1.0]),
    levels=st.sampled_from([None, 1, 3]),
)
def test_it_is_the_definition(shape, iterations, seed, share, levels):
    prob, known = random_map(shape, seed, share_known=share, levels=levels)
    expected = by_definition(prob[0, 0].numpy(), known[0, 0].numpy(), iterations)
    np.testing.assert_allclose(soft_skeleton(prob, known, iterations=iterations)[0, 0].numpy(), expected, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(shape=SHAPES, iterations=st.integers(0, 3), seed=st.integers(0, 999))
def test_value_and_gradient_are_those_of_pooling_where_no_two_voxels_are_equal(shape, iterations, seed):
    prob, known = random_map(shape, seed)
    prob.requires_grad_()
    weight = torch.rand(prob.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    skeleton, usual = soft_skeleton(prob, known, iterations=iterations), through_pooling(prob, iterations)
    torch.testing.assert_close(skeleton, usual)
    (expected,) = torch.autograd.grad((usual * weight).sum(), prob)
    (gradient,) = torch.autograd.grad((skeleton * weight).sum(), prob)
    torch.testing.assert_close(gradient, expected)


def test_the_gradient_is_that_of_finite_differences_where_voxels_are_unknown():
    prob, known = random_map((3, 4, 5), 4, share_known=0.7)
    assert torch.autograd.gradcheck(lambda p: soft_skeleton(p, known, iterations=2), (prob.requires_grad_(),))


@pytest.mark.parametrize("axes", [(2,), (3,), (4,), (2, 3, 4)])
@pytest.mark.parametrize("levels", [None, 2])
def test_flipping_commutes_with_the_skeleton_and_its_gradient_also_on_plateaus(axes, levels):
    prob, known = random_map((4, 5, 6), 7, share_known=0.8, levels=levels)
    results = []
    for image, seen in ((prob, known), (prob.flip(axes), known.flip(axes))):
        leaf = image.clone().requires_grad_()
        value = soft_skeleton(leaf, seen, iterations=2)
        results += [value.detach(), torch.autograd.grad(value.square().sum(), leaf)[0]]
    torch.testing.assert_close(results[0].flip(axes), results[2])
    torch.testing.assert_close(results[1].flip(axes), results[3])


def test_a_thick_bar_becomes_thin_and_stays_in_one_piece():
    bar = torch.zeros(1, 1, 9, 9, 20)
    bar[..., 2:7, 2:7, 2:18] = 1
    skeleton = soft_skeleton(bar, bar >= 0, iterations=3)[0, 0]
    assert set(skeleton.unique().tolist()) == {0.0, 1.0}
    assert skeleton.sum() < 0.25 * bar.sum()
    assert (skeleton.amax((0, 1))[4:16] == 1).all()  # no gap along the bar
    assert (skeleton <= bar[0, 0]).all()


def test_a_map_cut_in_two_by_unknown_voxels_is_that_of_its_halves():
    prob, known = random_map((4, 5, 9), 3)
    known[..., 4] = False
    halves = [slice(0, 4), slice(5, 9)]
    whole = soft_skeleton(prob, known, iterations=3)
    for half in halves:
        torch.testing.assert_close(
            whole[..., half], soft_skeleton(prob[..., half], known[..., half], iterations=3), rtol=0, atol=0
        )


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_a_flat_map_has_no_skeleton_and_no_nan_in_its_gradient(value):
    prob = torch.full((1, 1, 4, 5, 6), value, requires_grad=True)
    skeleton = soft_skeleton(prob, prob >= 0, iterations=2)
    assert not skeleton.any()
    (gradient,) = torch.autograd.grad(skeleton.sum(), prob)
    assert torch.isfinite(gradient).all()


def test_only_its_arguments_are_kept_for_the_gradient():
    kept = []
    prob = torch.rand(1, 1, 8, 9, 10, requires_grad=True)

    def note(tensor):
        kept.append(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        soft_skeleton(prob, prob >= 0, iterations=5)
    assert kept == [prob.shape, prob.shape]


def test_a_second_derivative_is_refused():
    prob = torch.rand(1, 1, 3, 4, 5, requires_grad=True)
    value = soft_skeleton(prob, prob >= 0, iterations=1).square().sum()
    (gradient,) = torch.autograd.grad(value, prob, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
