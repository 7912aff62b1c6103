"""Normalizations in 3D mean what they meant in 2D, and behave at batch size 2 as documented."""

import copy

import pytest
import torch
from timm.layers import BatchNormAct2d
from timm.layers.norm import LayerNorm2d
from torch import nn

from distill3d.layers.norm3d import ChannelLayerNorm3d, make_norm, synchronize_batch_norm

KINDS = ["batch", "frozen", "instance", "group"]


def test_frozen_statistics_are_used_in_training_and_stay():
    norm = make_norm("frozen", 3).train()
    norm.running_mean.fill_(2.0)
    norm.running_var.fill_(4.0)
    volume = torch.rand(2, 3, 4, 4, 4)
    torch.testing.assert_close(norm(volume), (volume - 2) / (4 + norm.eps) ** 0.5)
    assert norm.running_mean.tolist() == [2.0] * 3
    assert norm.num_batches_tracked == 0


def test_batch_statistics_are_learned_in_training_only():
    norm = make_norm("batch", 3).train()
    norm(torch.rand(2, 3, 4, 4, 4) + 5)
    learned = norm.running_mean.clone()
    assert (learned > 0.4).all()
    norm.eval()(torch.rand(2, 3, 4, 4, 4))
    assert torch.equal(norm.running_mean, learned)


@pytest.mark.parametrize("kind", ["instance", "group"])
def test_a_patch_is_normalized_alike_alone_in_company_and_in_evaluation(kind):
    norm = make_norm(kind, 8)
    volume = torch.rand(2, 8, 4, 4, 4)
    together, alone = norm(volume)[:1], norm(volume[:1])
    torch.testing.assert_close(together, alone)
    torch.testing.assert_close(norm.eval()(volume)[:1], alone)


def test_batch_depends_on_company_in_training():
    norm = make_norm("batch", 8)
    volume = torch.rand(2, 8, 4, 4, 4) * torch.tensor([1.0, 9.0]).view(2, 1, 1, 1, 1)
    assert not torch.allclose(norm(volume)[:1], norm(volume[:1]), atol=0.1)


def test_instance_is_torchs_instance_norm():
    volume = torch.rand(2, 5, 4, 4, 4)
    torch.testing.assert_close(make_norm("instance", 5)(volume), nn.InstanceNorm3d(5)(volume))


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_voxel_is_accepted_where_torchs_instance_norm_fails(kind):
    assert torch.isfinite(make_norm(kind, 4).train()(torch.rand(2, 4, 1, 1, 1))).all()


@pytest.mark.parametrize("kind", KINDS)
def test_activation_comes_last(kind):
    assert (make_norm(kind, 4, act=nn.ReLU())(torch.randn(2, 4, 3, 3, 3)) >= 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_names_are_those_of_the_2d_layer(kind):
    own = set(make_norm(kind, 4).state_dict())
    assert own == set(nn.BatchNorm2d(4).state_dict()) if kind in {"batch", "frozen"} else {"weight", "bias"}


def test_layer_norm_is_timms_slice_by_slice():
    flat, solid = LayerNorm2d(6), ChannelLayerNorm3d(6, eps=1e-6)
    volume = torch.rand(2, 6, 3, 4, 5)
    for z in range(3):
        torch.testing.assert_close(solid(volume)[:, :, z], flat(volume[:, :, z]))


def test_synchronized_batch_norm_keeps_parameters_names_activation_and_what_one_process_computes():
    torch.manual_seed(0)
    plain = nn.Sequential(
        make_norm("batch", 3, act=nn.ReLU()), nn.Sequential(nn.BatchNorm3d(3)), make_norm("frozen", 3)
    )
    shared = copy.deepcopy(plain)
    parameters = list(shared.parameters())
    assert synchronize_batch_norm(shared) == 2
    assert all(one is other for one, other in zip(shared.parameters(), parameters, strict=True))
    assert [isinstance(layer, nn.SyncBatchNorm) for layer in (shared[0], shared[1][0], shared[2])] == [
        True,
        True,
        False,
    ]
    assert shared.state_dict().keys() == plain.state_dict().keys()
    volume = torch.rand(2, 3, 4, 4, 4)
    for mode in (True, False):
        torch.testing.assert_close(shared.train(mode)(volume), plain.train(mode)(volume))
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(shared.state_dict()[name], value)
    assert synchronize_batch_norm(nn.Sequential(make_norm("instance", 3), make_norm("frozen", 3))) == 0


def test_synchronized_batch_norm_of_a_2d_network_of_timm_still_activates():
    plain = nn.Sequential(BatchNormAct2d(3, act_layer=nn.ReLU))
    shared = copy.deepcopy(plain)
    image = torch.randn(2, 3, 8, 8)

    assert synchronize_batch_norm(shared) == 1

    assert isinstance(shared[0], nn.SyncBatchNorm)
    for mode in (True, False):
        activated = plain.train(mode)(image)
        assert activated.min() == 0
        torch.testing.assert_close(shared.train(mode)(image), activated)


def test_statistics_that_are_held_stay_when_batch_norm_is_synchronized():
    network = nn.Sequential(make_norm("batch", 3).eval(), make_norm("batch", 3))
    assert synchronize_batch_norm(network) == 2

    network(torch.rand(2, 3, 4, 4, 4) + 5)

    assert [layer.training for layer in network] == [False, True]
    assert network[0].running_mean.tolist() == [0.0] * 3
    assert (network[1].running_mean != 0).all()
