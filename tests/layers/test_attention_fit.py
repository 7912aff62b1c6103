"""Tubes that follow a ridge of attention: straight without one, on it with one, never steeper than allowed."""

import pytest
import torch

from distill3d.layers.tubes import attention_fit
from distill3d.layers.tubes.attention_fit import AttentionFit
from distill3d.layers.tubes.embed import TubularEmbed
from distill3d.layers.tubes.geometry import block_centers, curved_tube, tap_distances

BLOCKS = [(8, 8, 8), (4, 8, 8), (4, 14, 14), (1, 16, 16)]


def fit_of(block=(8, 8, 8), reach=8.0, extent=1.0):
    torch.manual_seed(0)
    return AttentionFit((0, 1, 2), block_zyx=block, reach=reach, hidden=4, extent=extent)


def ridge(line, shape=(32, 32, 32), width=1.0):
    """Log-attention of a straight neurite along x, at (z, y) = line(x), on cells of 2 x 2 x 2 voxels."""
    z, y, x = torch.meshgrid(*(torch.arange(0, size, 2.0) for size in shape), indexing="ij")
    at_z, at_y = line(x)
    away = (z - at_z) ** 2 + (y - at_y) ** 2
    return (4 - away / width).clamp(min=-4)[None, None]


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_without_a_ridge_tubes_are_straight(block, axis):
    fit = fit_of(block)
    shape = tuple(3 * edge for edge in block)
    curves = fit.curves(fit(torch.rand(2, 1, *shape)), axis)
    assert curves.shape == (2, 2, 3, 3, 3, 3)
    assert curves.abs().max() < 1e-4


@pytest.mark.parametrize(("slope_z", "slope_y"), [(0, 0), (0, 0.5), (-0.4, 0.3)])
@pytest.mark.parametrize("shift", [0.0, 2.5])
def test_a_tube_lies_on_the_ridge_near_its_block(slope_z, slope_y, shift):
    fit = fit_of()
    curves = fit.curves(ridge(lambda x: (12 + shift + slope_z * (x - 12), 12 + slope_y * (x - 12))), 2)
    z, y, x = curved_tube(2, block_centers((32, 32, 32), (8, 8, 8)), tap_distances(17, 1.0), curves)
    z, y, x = z[0, 3:14, 1, 1, 1], y[0, 3:14, 1, 1, 1], x[3:14, 0, 0, 1]
    assert (z - (12 + shift + slope_z * (x - 12))).abs().max() < 1
    assert (y - (12 + slope_y * (x - 12))).abs().max() < 1


def test_a_bend_is_followed():
    fit = fit_of()
    curves = fit.curves(ridge(lambda x: (12 + 0 * x, 10 + (x - 12) ** 2 / 16)), 2)
    _, y, x = curved_tube(2, block_centers((32, 32, 32), (8, 8, 8)), tap_distances(17, 1.0), curves)
    y, x = y[0, 2:15, 1, 1, 1], x[2:15, 0, 0, 1]
    assert (y - (10 + (x - 12) ** 2 / 16)).abs().max() < 1


def test_a_slope_is_the_same_however_far_tubes_reach(monkeypatch):
    monkeypatch.setattr(attention_fit, "RIDGE", 0.0)  # which weighs slopes of little mass down
    line = ridge(lambda x: (36 + 0 * x, 36 + 0.3 * (x - 36)), shape=(72, 72, 72))
    slopes = {}
    for reach in (3.0, 4.0, 5.0, 7.0, 8.0, 15.0):
        curves = fit_of(reach=reach, extent=1e9).curves(line, 2)
        slopes[reach] = float(curves[0, 1, 1, 4, 4, 4]) / reach
    assert slopes == pytest.approx(dict.fromkeys(slopes, slopes[8.0]), rel=0.03)


@pytest.mark.parametrize("extent", [0.25, 1.0])
def test_no_step_is_steeper_than_the_extent(extent):
    fit = fit_of(extent=extent)
    wild = 4 * torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0)).sign()
    _, y, _ = curved_tube(2, block_centers((32,) * 3, (8, 8, 8)), tap_distances(17, 1.0), fit.curves(wild, 2))
    assert y.diff(dim=1).abs().max() <= extent
    assert y.diff(dim=1).abs().max() > 0.1 * extent


def test_it_moves_with_the_image():
    fit = fit_of().double()
    torch.nn.init.normal_(fit.net[-1].weight)
    image = torch.rand(1, 1, 48, 48, 48, dtype=torch.float64)
    whole = fit.curves(fit(image), 1)
    moved = fit.curves(fit(image[:, :, 8:]), 1)
    torch.testing.assert_close(moved[..., 2:-2, 2:-2, 2:-2], whole[..., 3:-2, 2:-2, 2:-2])


def test_it_learns_from_the_first_step():
    embed = TubularEmbed(4, block_zyx=(8, 8, 8), taps=9)
    embed(torch.rand(1, 1, 16, 24, 24)).square().sum().backward()
    assert embed.offsets.net[-1].weight.grad.abs().max() > 0


def test_gradients_are_those_of_finite_differences():
    fit = fit_of((2, 4, 4), reach=3.0).double()
    map_ = torch.randn(1, 1, 4, 8, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda value: fit.curves(value, 1), map_)


def test_it_runs_under_autocast_and_keeps_its_precision():
    embed = TubularEmbed(4, block_zyx=(4, 8, 8), taps=9)
    torch.nn.init.normal_(embed.offsets.net[-1].weight)
    image = torch.rand(1, 1, 8, 16, 16)
    exact = embed.tap_points(image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(embed.tap_points(image), exact)
