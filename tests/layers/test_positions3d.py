"""Blocks are embedded as a convolution does, and positions on a 3D grid are the 2D ones within a slice."""

import math

import numpy as np
import pytest
import torch
from timm.layers.pos_embed_sincos import RotaryEmbeddingDinoV3, apply_rot_embed_cat

from distill3d.layers.block_embed3d import BlockEmbed
from distill3d.layers.positions3d import (
    AxialRope3d,
    depth_sinusoid,
    resample_depth,
    resample_plane,
    resample_volume,
)

HEAD = 16  # channels per head


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


class TestBlockEmbed:
    @pytest.mark.parametrize(("block", "size"), [((8, 8, 8), (16, 8, 24)), ((4, 16, 16), (4, 48, 32))])
    def test_it_is_its_convolution(self, block, size):
        embed = BlockEmbed(5, block_zyx=block).double()
        image = torch.rand(2, 1, *size, dtype=torch.float64, requires_grad=True)
        one, other = embed(image), embed.proj(image)
        assert one.shape == (2, 5, *(n // b for n, b in zip(size, block, strict=True)))
        torch.testing.assert_close(one, other)
        inputs = (image, embed.proj.weight, embed.proj.bias)
        upstream = torch.randn_like(one)
        gradients = (torch.autograd.grad(out, inputs, upstream) for out in (one, other))
        for gradient, expected in zip(*gradients, strict=True):
            assert gradient.abs().sum() > 0
            torch.testing.assert_close(gradient, expected)

    def test_the_gradient_has_the_strides_of_the_weight(self):
        embed = BlockEmbed(5, block_zyx=(4, 16, 16))
        embed(torch.rand(2, 1, 4, 16, 32)).sum().backward()
        assert embed.proj.weight.grad.stride() == embed.proj.weight.stride()


class TestTables:
    """Tables are resampled as samples at the centers of cells that fill the same volume."""

    @staticmethod
    def linear(values, count):
        """Resample a numpy array along its first axis; what lies beyond the outer centers is the outermost value."""
        places = (np.arange(count) + 0.5) * len(values) / count - 0.5
        flat = values.reshape(len(values), -1)
        moved = np.stack([np.interp(places, np.arange(len(values)), column) for column in flat.T], axis=1)
        return moved.reshape(count, *values.shape[1:])

    def test_the_same_grid_gives_the_table_itself(self):
        plane, volume, depth = torch.rand(1, 1 + 12, 4), torch.rand(1, 2 + 24, 4), torch.rand(3, 4)
        assert resample_plane(plane, old_yx=(3, 4), new_yx=(3, 4), prefix=1) is plane
        assert resample_volume(volume, old=(2, 3, 4), new=(2, 3, 4), prefix=2) is volume
        assert resample_depth(depth, 3) is depth

    def test_as_many_places_in_another_arrangement_is_another_grid(self):
        table = torch.rand(1, 12, 4)
        assert not torch.allclose(resample_plane(table, old_yx=(3, 4), new_yx=(4, 3), prefix=0), table)
        assert not torch.allclose(resample_volume(table, old=(1, 3, 4), new=(3, 1, 4), prefix=0), table)

    @pytest.mark.parametrize("grid", [(1, 1, 1), (2, 5, 3), (7, 2, 9)])
    def test_constants_and_prefix_entries_stay(self, grid):
        constant = torch.rand(1, 1, 4)
        prefix = torch.rand(1, 2, 4)
        plane = torch.cat([prefix, constant.expand(1, 12, 4)], dim=1)
        volume = torch.cat([prefix, constant.expand(1, 24, 4)], dim=1)
        tables = {
            grid[1] * grid[2]: resample_plane(plane, old_yx=(3, 4), new_yx=grid[1:], prefix=2),
            math.prod(grid): resample_volume(volume, old=(2, 3, 4), new=grid, prefix=2),
        }
        for places, table in tables.items():
            assert torch.equal(table[:, :2], prefix)
            torch.testing.assert_close(table[:, 2:], constant.expand(1, places, 4))
        torch.testing.assert_close(resample_depth(constant[0].expand(3, 4), grid[0]), constant[0].expand(grid[0], 4))

    def test_known_values_along_depth(self):
        table = torch.tensor([[0.0, 5.0], [1.0, 5.0], [2.0, 5.0], [3.0, 5.0]])
        assert resample_depth(table, 2).tolist() == [[0.5, 5.0], [2.5, 5.0]]
        assert resample_depth(table[:2], 4)[:, 0].tolist() == [0.0, 0.25, 0.75, 1.0]
        assert resample_depth(table[:1], 3).tolist() == [[0.0, 5.0]] * 3

    @pytest.mark.parametrize("depth", [1, 2, 3, 7, 10])
    def test_depth_is_linear_between_centers(self, depth):
        table = torch.randn(5, 3, dtype=torch.float64)
        torch.testing.assert_close(resample_depth(table, depth).numpy(), self.linear(table.numpy(), depth))

    @pytest.mark.parametrize("new", [(4, 3, 4), (2, 6, 5), (3, 2, 7)])
    def test_volume_is_linear_along_each_axis_in_turn(self, new):
        old = (2, 3, 4)
        table = torch.randn(1, 1 + 24, 3, dtype=torch.float64)
        expected = table[0, 1:].reshape(*old, 3).numpy()
        for axis, count in enumerate(new):
            expected = np.moveaxis(self.linear(np.moveaxis(expected, axis, 0), count), 0, axis)
        resampled = resample_volume(table, old=old, new=new, prefix=1)
        torch.testing.assert_close(resampled[0, 1:].reshape(*new, 3).numpy(), expected)

    @staticmethod
    def bicubic(values, count):
        """Resample a numpy array along its first axis: Keys' kernel, a = -1/2, as wide as the coarser of both grids."""
        scale = len(values) / count
        wide = max(scale, 1.0)
        rows = []
        for i in range(count):
            away = np.abs(np.arange(len(values)) + 0.5 - (i + 0.5) * scale) / wide
            near, far = 1.5 * away**3 - 2.5 * away**2 + 1, -0.5 * away**3 + 2.5 * away**2 - 4 * away + 2
            weights = np.where(away < 1, near, np.where(away < 2, far, 0))
            rows.append(np.tensordot(weights / weights.sum(), values, axes=1))
        return np.stack(rows)

    @pytest.mark.parametrize("new", [(9, 4), (3, 5), (6, 13)])
    def test_a_plane_is_bicubic_along_each_axis_in_turn_and_does_not_alias(self, new):
        table = torch.randn(1, 1 + 42, 3)
        expected = table[0, 1:].reshape(6, 7, 3).numpy().astype(np.float64)
        for axis, count in enumerate(new):
            expected = np.moveaxis(self.bicubic(np.moveaxis(expected, axis, 0), count), 0, axis)
        resampled = resample_plane(table, old_yx=(6, 7), new_yx=new, prefix=1)[0, 1:].reshape(*new, 3)
        np.testing.assert_allclose(resampled.numpy(), expected, rtol=1e-4, atol=1e-5)

    def test_a_plane_that_changes_along_y_only_still_does(self):
        table = torch.arange(4.0).view(4, 1, 1).expand(4, 3, 2).reshape(1, 12, 2)
        plane = resample_plane(table, old_yx=(4, 3), new_yx=(6, 5), prefix=0).view(6, 5, 2)
        torch.testing.assert_close(plane, plane[:, :1].expand(6, 5, 2))
        assert (plane[1:, 0, 0] > plane[:-1, 0, 0]).all()


class TestDepthSinusoid:
    def test_it_is_the_formula(self):
        depth, width = 6, 10
        expected = torch.empty(depth, width)
        for z in range(depth):
            for pair in range(width // 2):
                angle = z / 10000 ** (pair / (width // 2))
                expected[z, pair] = math.sqrt(2) * math.sin(angle)
                expected[z, pair + width // 2] = math.sqrt(2) * math.cos(angle)
        torch.testing.assert_close(depth_sinusoid(depth, width), expected)

    @pytest.mark.parametrize("depth", [1, 2, 64])
    def test_root_mean_square_is_1_in_every_slice(self, depth):
        torch.testing.assert_close(depth_sinusoid(depth, 48).square().mean(1), torch.ones(depth))

    def test_no_two_slices_are_alike(self):
        table = depth_sinusoid(64, 48)
        distance = torch.cdist(table, table) + 10 * torch.eye(64)
        assert distance.min() > 0.5


class TestAxialRope3d:
    """The reference in 2D is timm's, for the embedding and for the rotation."""

    GRID = (3, 4, 5)

    @staticmethod
    def pair(*, half, rotary):
        flat = RotaryEmbeddingDinoV3(HEAD, rotate_half=half)
        return flat, AxialRope3d(flat.periods, rotate_half=half, rotary=rotary)

    def scores(self, rope, *, half):
        """Attention scores [Z, Y, X, Z, Y, X] of one query and one key that stand everywhere."""
        places = math.prod(self.GRID)
        q, k = (torch.randn(1, HEAD).expand(places, HEAD) for _ in range(2))
        turned = [apply_rot_embed_cat(each, rope, half=half) for each in (q, k)]
        return q[0], k[0], (turned[0] @ turned[1].T).view(*self.GRID, *self.GRID)

    @pytest.mark.parametrize("half", [True, False])
    @pytest.mark.parametrize("rotary", [True, False])
    def test_one_slice_is_turned_as_in_2d(self, half, rotary):
        flat, solid = self.pair(half=half, rotary=rotary)
        torch.testing.assert_close(solid((1, 5, 7), prefix=0), flat.get_embed([5, 7]))

    @pytest.mark.parametrize("half", [True, False])
    def test_prefix_tokens_are_not_turned(self, half):
        _, solid = self.pair(half=half, rotary=True)
        table = solid(self.GRID, prefix=3)
        assert table.shape == (3 + 60, 2 * HEAD)
        tokens = torch.randn(3, HEAD)
        assert torch.equal(apply_rot_embed_cat(tokens, table[:3], half=half), tokens)
        assert torch.equal(table[3:], solid(self.GRID, prefix=0))

    @pytest.mark.parametrize("half", [True, False])
    def test_without_rotary_all_slices_are_turned_alike(self, half):
        flat, solid = self.pair(half=half, rotary=False)
        for rows in solid(self.GRID, prefix=0).view(3, 20, -1):
            torch.testing.assert_close(rows, flat.get_embed([4, 5]))

    @pytest.mark.parametrize("half", [True, False])
    @pytest.mark.parametrize("rotary", [True, False])
    def test_scores_depend_on_differences_of_positions_only(self, half, rotary):
        _, solid = self.pair(half=half, rotary=rotary)
        *_, scores = self.scores(solid(self.GRID, prefix=0), half=half)
        depth, rows, columns = self.GRID
        inner = scores[: depth - 1, : rows - 1, : columns - 1, : depth - 1, : rows - 1, : columns - 1]
        for axis in range(3):
            start = [int(axis == a) for a in range(3)]
            moved = tuple(slice(s, s + n - 1) for s, n in zip(start * 2, self.GRID * 2, strict=True))
            torch.testing.assert_close(scores[moved], inner, rtol=1e-4, atol=1e-4)
        assert scores.std() > 0.1  # positions matter at all

    @pytest.mark.parametrize("half", [True, False])
    def test_scores_within_a_slice_are_those_of_2d_and_rotary_tells_slices_apart(self, half):
        flat, solid = self.pair(half=half, rotary=True)
        q, k, scores = self.scores(solid(self.GRID, prefix=0), half=half)
        table = flat.get_embed([4, 5])
        turned = [apply_rot_embed_cat(each.expand(20, HEAD), table, half=half) for each in (q, k)]
        expected = (turned[0] @ turned[1].T).view(4, 5, 4, 5)
        for z in range(3):
            torch.testing.assert_close(scores[z, :, :, z], expected, rtol=1e-4, atol=1e-4)
        across = scores[0, 0, 0, :, 0, 0]
        assert (across[1:] - across[0]).abs().min() > 0.1
        assert (across[1] - across[2]).abs() > 0.1

    def test_both_axes_of_the_plane_take_part_in_depth(self):
        _, flat = self.pair(half=True, rotary=False)
        _, solid = self.pair(half=True, rotary=True)
        moved = (solid(self.GRID, prefix=0) - flat(self.GRID, prefix=0))[0, :HEAD] != 0
        quarter = HEAD // 4
        assert moved[:quarter].tolist() == moved[quarter : 2 * quarter].tolist() == [False, True] * (quarter // 2)
