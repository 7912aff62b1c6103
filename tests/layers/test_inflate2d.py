"""Inflated kernels mean in 3D what they meant in 2D."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from distill3d.errors import ConfigError
from distill3d.layers.inflate2d import (
    channel_shift,
    gray_statistics,
    inflate_average,
    inflate_center,
    inflate_center_noise,
    inflate_multi_axis,
    merge_channels,
    resample_patch,
    shuffle_control,
    splat_matrix,
)

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


@pytest.fixture
def kernel():
    return torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_average_gives_the_2d_response_on_a_constant_volume(kernel, depth):
    image = torch.rand(1, 3, 9, 9)
    volume = image.unsqueeze(2).expand(1, 3, depth, 9, 9)
    torch.testing.assert_close(F.conv3d(volume, inflate_average(kernel, depth))[:, :, 0], F.conv2d(image, kernel))


def test_center_gives_the_2d_response_slice_by_slice(kernel):
    volume = torch.rand(1, 3, 6, 9, 9)
    out = F.conv3d(volume, inflate_center(kernel, 3), padding=(1, 0, 0))
    for z in range(6):
        torch.testing.assert_close(out[:, :, z], F.conv2d(volume[:, :, z], kernel))


def test_values_are_those_of_the_definition_bit_for_bit(kernel):
    # Average: W / D in every slice. Center: W in slice D // 2 and nothing elsewhere.
    for depth in (2, 3, 4, 7):
        average, center = inflate_average(kernel, depth), inflate_center(kernel, depth)
        for d in range(depth):
            assert torch.equal(average[:, :, d], kernel / depth)
            assert torch.equal(center[:, :, d], kernel if d == depth // 2 else torch.zeros_like(kernel))


def test_center_of_an_even_kernel_is_the_upper_middle(kernel):
    assert torch.equal(inflate_center(kernel, 4)[:, :, 2], kernel)


@pytest.mark.parametrize("size", [(8, 8), (5, 3), (2, 11), (28, 20)])
def test_a_resampled_kernel_responds_as_the_kernel_does_to_the_resized_patch(size):
    kernel = torch.randn(4, 3, 14, 14, generator=torch.Generator().manual_seed(0))
    patch = torch.rand(2, 3, *size)
    resized = F.interpolate(patch, size=(14, 14), mode="bicubic", antialias=True)
    resampled = resample_patch(kernel, size)
    assert resampled.shape == (4, 3, *size)
    torch.testing.assert_close(F.conv2d(patch, resampled), F.conv2d(resized, kernel), rtol=1e-4, atol=1e-4)


def test_a_kernel_of_the_right_size_is_not_resampled(kernel):
    assert resample_patch(kernel, (5, 5)) is kernel


def test_center_noise_keeps_the_center_and_scales_with_the_kernel(kernel):
    noisy = inflate_center_noise(kernel, 3, noise_std=0.1, generator=torch.Generator().manual_seed(0))
    assert torch.equal(noisy[:, :, 1], kernel)
    assert noisy[:, :, 0].std().item() == pytest.approx(0.1 * kernel.std().item(), rel=0.15)
    assert torch.equal(
        inflate_center_noise(kernel, 3, noise_std=0, generator=torch.Generator()), inflate_center(kernel, 3)
    )


def test_multi_axis_of_a_cubic_kernel_is_the_mean_of_three_placements():
    kernel = torch.arange(9.0).view(1, 1, 3, 3)
    expected = torch.zeros(3, 3, 3)
    for a in range(3):  # slow and independent: one tap at a time
        for b in range(3):
            expected[1, a, b] += kernel[0, 0, a, b] / 3
            expected[a, 1, b] += kernel[0, 0, a, b] / 3
            expected[a, b, 1] += kernel[0, 0, a, b] / 3
    torch.testing.assert_close(inflate_multi_axis(kernel, 3)[0, 0], expected)


@given(side=st.integers(1, 7), depth=st.integers(1, 7))
def test_multi_axis_keeps_the_sum_at_every_depth(side, depth):
    kernel = torch.randn(2, 1, side, side, dtype=torch.float64)
    inflated = inflate_multi_axis(kernel, depth)
    assert inflated.shape == (2, 1, depth, side, side)
    torch.testing.assert_close(inflated.sum((2, 3, 4)), kernel.sum((2, 3)))


def test_multi_axis_refuses_a_kernel_that_is_not_square():
    with pytest.raises(ConfigError, match="a kernel's plane is 3 x 5; accepted: square ones"):
        inflate_multi_axis(torch.zeros(1, 1, 3, 5), 3)


@given(source=st.integers(1, 9), target=st.integers(1, 9))
def test_splatting_loses_nothing(source, target):
    matrix = splat_matrix(source, target)
    assert matrix.shape == (target, source)
    torch.testing.assert_close(matrix.sum(0), torch.ones(source))


def test_shuffle_changes_the_order_and_nothing_else(kernel):
    shuffled = shuffle_control(kernel, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(shuffled, kernel)
    assert torch.equal(shuffled.flatten().sort().values, kernel.flatten().sort().values)
    assert torch.equal(shuffled, shuffle_control(kernel, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_inflation_keeps_the_dtype(dtype):
    kernel = torch.randn(2, 3, 3, 3).to(dtype)
    generator = torch.Generator()
    results = [
        inflate_average(kernel, 3),
        inflate_center(kernel, 3),
        inflate_center_noise(kernel, 3, noise_std=0.1, generator=generator),
        inflate_multi_axis(kernel, 3),
        merge_channels(kernel, rule="sum", gains=(1.0, 1.0, 1.0)),
        channel_shift(kernel, rule="sum", offsets=(0.1, 0.2, 0.3)),
    ]
    assert {result.dtype for result in results} == {dtype}


def test_one_gray_channel_stands_in_for_three_normalized_ones(kernel):
    gray = torch.rand(2, 1, 9, 9)
    mean, std = (torch.tensor(IMAGENET[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    expected = F.conv2d((gray - mean) / std, kernel)
    stats = gray_statistics(**IMAGENET)
    merged = merge_channels(kernel, rule="sum", gains=stats.gains)
    shift = channel_shift(kernel, rule="sum", offsets=stats.offsets)
    out = F.conv2d((gray - stats.mean) / stats.std, merged, shift)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)


def test_mean_over_channels_is_a_third_of_the_sum(kernel):
    total, mean = (merge_channels(kernel, rule=rule, gains=(1.0, 2.0, 3.0)) for rule in ("sum", "mean"))
    torch.testing.assert_close(total, 3 * mean)
