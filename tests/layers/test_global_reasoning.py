"""The global reasoning unit: what it computes against the definition step by step, its start, precision and memory."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from distill3d.layers.global_reasoning import MOMENTUM, GlobalReasoning3d

EPS = 1e-4  # of the batch normalization in the authors' code, facebookresearch/GloRe


def unit_of(channels, nodes, *, seed=0, dtype=torch.float64):
    """A unit in which no parameter has its starting value, so that every part counts."""
    rng = torch.Generator().manual_seed(seed)
    unit = GlobalReasoning3d(channels, nodes).to(dtype)
    for value in (*unit.parameters(), unit.running_mean):
        value.data = torch.randn(value.shape, generator=rng, dtype=torch.float64).to(dtype)
    unit.running_var.copy_(torch.rand(channels, generator=rng) + 0.1)
    return unit


def features_of(shape, *, seed=1, dtype=torch.float64):
    rng = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=rng, dtype=torch.float64) + 0.5).to(dtype)


def by_definition(unit, image, *, training):
    """Form every map and every node, in loops, as the paper writes them; also returns the batch's statistics."""
    p = {name: value.detach().double().numpy() for name, value in unit.state_dict().items()}
    x = image.detach().double().numpy()
    batch, channels = x.shape[:2]
    maps = np.empty_like(x).reshape(batch, channels, -1)
    for b in range(batch):
        voxels = x[b].reshape(channels, -1)
        states = np.stack([p["to_states.weight"] @ v + p["to_states.bias"] for v in voxels.T], axis=1)
        nodes = np.stack([p["to_nodes.weight"] @ v + p["to_nodes.bias"] for v in voxels.T], axis=1)
        graph = sum(np.outer(states[:, i], nodes[:, i]) for i in range(voxels.shape[1])) / voxels.shape[1]
        mixed = np.empty_like(graph)
        for s in range(graph.shape[0]):
            for m in range(graph.shape[1]):
                neighbors = sum(p["adjacency.weight"][m, k] * graph[s, k] for k in range(graph.shape[1]))
                mixed[s, m] = neighbors + p["adjacency.bias"][m] + graph[s, m]
        reasoned = p["update.weight"] @ np.maximum(mixed, 0)
        maps[b] = p["extend.weight"] @ (reasoned @ nodes)
    mean, var = maps.mean(axis=(0, 2)), maps.var(axis=(0, 2))
    use_mean, use_var = (mean, var) if training else (p["running_mean"], p["running_var"])
    normalized = (maps - use_mean[:, None]) / np.sqrt(use_var + EPS)[:, None]
    out = x + (p["scale"][:, None] * normalized + p["shift"][:, None]).reshape(x.shape)
    return out, mean, var * maps[:, 0].size / (maps[:, 0].size - 1)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("last", [True, False])
@settings(max_examples=15, deadline=None)
@given(shape=st.tuples(*(st.integers(1, n) for n in (3, 5, 3, 4, 4))), nodes=st.integers(1, 6), seed=st.integers(0, 99))
def test_it_is_the_definition(training, last, shape, nodes, seed):
    if shape[0] * shape[2] * shape[3] * shape[4] == 1:
        shape = (2, *shape[1:])  # a single sample has no spread
    unit = unit_of(shape[1], nodes, seed=seed).train(training)
    image = features_of(shape, seed=seed + 1)
    expected, _, _ = by_definition(unit, image, training=training)
    given_as = image.contiguous(memory_format=torch.channels_last_3d) if last else image
    np.testing.assert_allclose(unit(given_as).detach().numpy(), expected, rtol=1e-9, atol=1e-9)


def test_running_statistics_move_as_in_batch_normalization():
    unit, image = unit_of(4, 3), features_of((2, 4, 3, 4, 5))
    before_mean, before_var = unit.running_mean.numpy().copy(), unit.running_var.numpy().copy()
    _, mean, var = by_definition(unit, image, training=True)
    unit.train()(image)
    np.testing.assert_allclose(unit.running_mean, (1 - MOMENTUM) * before_mean + MOMENTUM * mean)
    np.testing.assert_allclose(unit.running_var, (1 - MOMENTUM) * before_var + MOMENTUM * var)
    kept = unit.running_var.clone()
    unit.eval()(image)
    assert torch.equal(unit.running_var, kept)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_the_gradient_is_that_of_the_definition(layout):
    unit = unit_of(3, 2)
    image = features_of((2, 3, 2, 3, 2)).contiguous(memory_format=layout).requires_grad_()
    names, values = zip(*unit.named_parameters(), strict=True)

    def call(x, *parameters):
        out = torch.func.functional_call(unit, dict(zip(names, parameters, strict=True)), x)
        return torch.cat([out, x], dim=1)  # as a skip: its gradient is a part of a larger one

    # Not of the running statistics, which each call moves: in training they are not used.
    assert torch.autograd.gradcheck(call, (image, *(v.detach().clone().requires_grad_() for v in values)))
    assert torch.autograd.gradcheck(unit.eval(), (image,))
    assert torch.autograd.gradgradcheck(unit, (image,))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_new_unit_is_the_identity_to_the_bit(training, dtype):
    image = features_of((2, 8, 3, 4, 5), dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        out = GlobalReasoning3d(8, 4).train(training)(image)
    assert out.dtype == dtype
    assert torch.equal(out, image)


def test_a_new_unit_learns_its_scale_first_and_then_everything():
    torch.manual_seed(0)
    unit, image, wanted = GlobalReasoning3d(8, 4), torch.randn(2, 8, 3, 4, 5), torch.randn(2, 8, 3, 4, 5)
    optimizer = torch.optim.SGD(unit.parameters(), lr=1.0)
    moved = []
    for _ in range(2):
        optimizer.zero_grad()
        (unit(image) - wanted).square().mean().backward()
        moved.append({name for name, p in unit.named_parameters() if p.grad.any()})
        optimizer.step()
    assert moved[0] == {"scale", "shift"}
    assert moved[1] == {name for name, _ in unit.named_parameters()}


def test_every_voxel_sees_every_other_one():
    unit, image = unit_of(4, 3).eval(), features_of((1, 4, 3, 4, 5)).requires_grad_()
    (gradient,) = torch.autograd.grad(unit(image)[0, :, 0, 0, 0].sum(), image)
    assert (gradient[0].abs().sum(0) > 0).all()


def test_in_evaluation_a_patch_does_not_see_its_neighbors_in_the_batch():
    unit, image = unit_of(4, 3).eval(), features_of((2, 4, 3, 4, 5))
    torch.testing.assert_close(unit(image)[1:], unit(image[1:]))


@pytest.mark.parametrize("image_dtype", [torch.float32, torch.bfloat16])
def test_under_autocast_the_nodes_are_float32_and_the_result_is_near(image_dtype, monkeypatch):
    seen = []
    reason = GlobalReasoning3d._reason

    def spy(self, mean, moments):
        result = reason(self, mean, moments)
        seen.extend((mean.dtype, moments.dtype, result[0].dtype))
        return result

    monkeypatch.setattr(GlobalReasoning3d, "_reason", spy)
    image = features_of((2, 8, 4, 8, 8), dtype=torch.float32)
    torch.manual_seed(0)
    unit = GlobalReasoning3d(8, 4)
    nn.init.ones_(unit.scale)
    exact = unit(image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = unit(image.to(image_dtype))
    assert rough.dtype == image_dtype
    assert seen == [torch.float32] * 6
    assert (rough.float() - exact).abs().max() < 0.1
    assert (exact - image).abs().max() > 1  # the unit does something


@pytest.mark.parametrize(("grid", "mean", "deviation"), [((32, 64, 64), 0.0, 1.0), ((8, 16, 16), 50.0, 0.1)])
def test_large_maps_and_features_far_from_0_are_as_precise_as_double(grid, mean, deviation):
    torch.manual_seed(0)
    unit = GlobalReasoning3d(8, 8)
    nn.init.ones_(unit.scale)
    image = mean + deviation * nn.functional.leaky_relu(torch.randn(2, 8, *grid), 0.01)
    single = unit(image)
    torch.testing.assert_close(single, unit.double()(image.double()).float(), rtol=0, atol=2e-3)


def test_what_is_kept_for_the_gradient_does_not_grow_with_the_nodes():
    image = torch.rand(1, 8, 8, 16, 16, requires_grad=True)
    kept = {}
    for nodes in (2, 16):
        storages = {}

        def note(tensor, storages=storages):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            out = GlobalReasoning3d(8, nodes)(image)
        kept[nodes] = sum(size for size in storages.values() if size >= image.nbytes)
        assert out.shape == image.shape
    assert kept == {2: image.nbytes, 16: image.nbytes}


@pytest.mark.parametrize("nodes", [0, -3])
def test_no_node_is_refused(nodes):
    with pytest.raises(ValueError, match=f"nodes={nodes} is too small; accepted: 1 or more"):
        GlobalReasoning3d(8, nodes)


def test_it_compiles_without_a_graph_break():
    unit, image = unit_of(4, 3, dtype=torch.float32), features_of((2, 4, 3, 4, 5), dtype=torch.float32)
    graph = torch._dynamo.explain(unit)(image)
    assert graph.graph_break_count == 0
