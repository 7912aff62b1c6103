"""What counts as neuron."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.filters import threshold_otsu

from distill3d.config.trace import TraceConfig
from distill3d.errors import InputError
from distill3d.tracing.foreground import as_prob, find_foreground, grow_to

CORNERS = np.ones((3, 3, 3))


def foreground(data, **options):
    config = TraceConfig(**{"min_voxels": 1, **options})
    return find_foreground(data, as_prob(data, config), config)


def test_255_is_probability_1_and_128_is_above_one_half():
    data = np.array([[[0, 127, 128, 255]]], np.uint8)
    np.testing.assert_allclose(as_prob(data, TraceConfig())[0, 0], [0, 127 / 255, 128 / 255, 1], rtol=1e-6)
    assert foreground(data)[0, 0].tolist() == [False, False, True, True]


def test_the_threshold_itself_is_foreground():
    assert foreground(np.array([[[0.49, 0.5, 0.51]]], np.float32))[0, 0].tolist() == [False, True, True]


def test_a_mask_is_all_that_is_not_0():
    data = np.array([[[0, 1, 7, 60_000]]], np.uint16)
    assert foreground(data, input="mask")[0, 0].tolist() == [False, True, True, True]


def test_an_image_is_scaled_to_0_and_1_and_thresholded_by_otsu():
    rng = np.random.default_rng(0)
    data = rng.integers(0, 60, (8, 30, 30)).astype(np.uint8)
    data[4, 10:20, 10:20] = rng.integers(150, 250, (10, 10))
    prob = as_prob(data, TraceConfig(input="image"))
    assert (prob.min(), prob.max()) == (0, 1)
    np.testing.assert_array_equal(foreground(data, input="image"), data > threshold_otsu(data))
    np.testing.assert_array_equal(foreground(data, input="image", method="fixed", threshold=0.7), prob >= 0.7)


def test_otsu_sees_the_bright_voxels_that_scaling_clips():
    """Like OP_5: a sparse neuron above the upper percentile, Otsu at 42 as stored, at 25 as scaled."""
    data = np.zeros((20, 100, 100), np.uint8)
    data[10, 50] = np.linspace(1, 255, 100)  # the brightest 20 of them are clipped
    mask = foreground(data, input="image")
    np.testing.assert_array_equal(mask, data > threshold_otsu(data))
    prob = as_prob(data, TraceConfig(input="image"))
    assert mask.sum() < (prob > threshold_otsu(prob)).sum()


def test_a_constant_volume_has_no_foreground_by_otsu():
    for value in (0, 200):
        assert not foreground(np.full((3, 4, 5), value, np.uint8), input="image").any()


@pytest.mark.parametrize(
    "data",
    [
        np.array([[[0, 300]]], np.uint16),
        np.array([[[0, 1]]], np.uint16),
        np.array([[[-0.1, 0.5]]], np.float32),
        np.array([[[0, 1.5]]], np.float32),
    ],
)
def test_what_cannot_be_a_probability_is_refused_with_the_way_out(data):
    with pytest.raises(InputError, match=r"no probabilities.*input=image or input=mask"):
        as_prob(data, TraceConfig())


def test_a_mean_of_probabilities_may_be_a_rounding_beyond_one():
    data = np.array([[[-1e-9, 0.5, 1 + np.finfo(np.float32).eps]]], np.float32)
    assert as_prob(data, TraceConfig()).tolist() == [[[0, 0.5, 1]]]
    with pytest.raises(InputError, match=r"from 0 to 1\.00001 are no probabilities"):
        as_prob(np.array([[[0, 1.00001]]]), TraceConfig())


@pytest.mark.parametrize("kind", ["prob", "image", "mask"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_refused(kind, value):
    with pytest.raises(InputError, match="NaN or infinite"):
        as_prob(np.array([[[0.2, value]]], np.float32), TraceConfig(input=kind))


@given(seed=st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_hysteresis_keeps_weak_pieces_that_hold_a_strong_voxel(seed):
    prob = np.random.default_rng(seed).random((7, 8, 9)).astype(np.float32)
    labels, count = ndimage.label(prob >= 0.8, structure=CORNERS)
    strong = [k for k in range(1, count + 1) if (prob[labels == k] >= 0.95).any()]
    mask = foreground(prob, method="hysteresis", threshold=0.95, low_threshold=0.8)
    np.testing.assert_array_equal(mask, np.isin(labels, strong))


def test_hysteresis_without_a_strong_voxel_finds_nothing():
    assert not grow_to(np.zeros((3, 3, 3), bool), np.ones((3, 3, 3), bool)).any()
