"""The projection between student and teacher: empty at first, then built or filled by a checkpoint."""

import pytest
import torch
from torch import nn

from distill3d.layers.projection import Projection

MAPS = torch.rand(2, 3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
both_kinds = pytest.mark.parametrize("kind", ["linear", "mlp"])


def built(kind, seed=0):
    torch.manual_seed(seed)
    projection = Projection(kind)
    projection.build(3, 5)
    return projection


@both_kinds
def test_it_is_empty_until_it_is_built(kind):
    projection = Projection(kind)
    assert not projection.is_built
    assert not projection.state_dict()
    projection.build(3, 5)
    assert projection.is_built
    assert projection(MAPS).shape == (2, 5, 2, 4, 4)


def test_linear_is_a_matrix_at_every_place():
    projection = built("linear")
    weight, bias = projection.net[0].weight.flatten(1), projection.net[0].bias
    expected = torch.einsum("dc,bczyx->bdzyx", weight, MAPS) + bias.view(1, 5, 1, 1, 1)
    torch.testing.assert_close(projection(MAPS), expected)


def test_mlp_bends_and_linear_does_not():
    for kind, straight in (("linear", True), ("mlp", False)):
        projection = built(kind)
        middle = projection(5 * MAPS) + projection(-5 * MAPS)
        assert torch.allclose(middle, 2 * projection(0 * MAPS), atol=1e-5) is straight


@both_kinds
def test_a_place_is_projected_by_itself(kind):
    projection, other = built(kind), MAPS.clone()
    other[:, :, 1, 2, 3] += 1
    moved = (projection(other) != projection(MAPS)).any(dim=(0, 1))
    assert moved.nonzero().tolist() == [[1, 2, 3]]


@both_kinds
def test_an_empty_one_loads_anothers_weights_strictly_within_a_parent_too(kind):
    one, other = (nn.ModuleDict({"mid": nn.ModuleDict({"deep": Projection(kind)})}) for _ in range(2))
    one["mid"]["deep"].build(3, 5)
    other.load_state_dict(one.state_dict(), strict=True)
    assert torch.equal(other["mid"]["deep"](MAPS), one["mid"]["deep"](MAPS))


@both_kinds
def test_empty_loads_empty(kind):
    projection = Projection(kind)
    projection.load_state_dict(Projection(kind).state_dict(), strict=True)
    assert not projection.is_built


def test_weights_of_another_kind_or_size_are_refused():
    with pytest.raises(RuntimeError, match=r"net\.2\.weight"):
        Projection("linear").load_state_dict(built("mlp").state_dict(), strict=True)
    with pytest.raises(RuntimeError, match=r"net\.2\.weight"):
        Projection("mlp").load_state_dict(built("linear").state_dict(), strict=True)
    other = Projection("linear")
    other.build(4, 5)
    with pytest.raises(RuntimeError, match="size mismatch"):
        other.load_state_dict(built("linear").state_dict(), strict=True)


@both_kinds
def test_building_again_draws_anew(kind):
    projection = built(kind)
    before = projection(MAPS)
    projection.build(3, 7)
    assert projection(MAPS).shape[1] == 7
    projection.build(3, 5)
    assert not torch.allclose(projection(MAPS), before)


@both_kinds
def test_it_trains(kind):
    projection, target = built(kind), torch.cat([MAPS, MAPS[:, :2].square()], 1)
    optimizer = torch.optim.Adam(projection.parameters(), lr=0.05)
    losses = []
    for _ in range(60):
        loss = (projection(MAPS) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad.any() for p in projection.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 * losses[0]
