"""Types share a layer's channels, and linear layers become neurons as convolutions do."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from distill3d.config.registry import NEURONS, Component
from distill3d.neurons import conversion
from distill3d.neurons.biological import SpikingConfig, firing_rate
from distill3d.neurons.layer import NeuronLayer

assert conversion  # registers the types
NAMES = [name for name in NEURONS.names() if NEURONS[name].module.startswith("distill3d.")]


def chosen(name, **settings):
    return Component(name, NEURONS[name].config(**settings))


def opened(layer):
    """Give all parameters of a layer's neurons random values."""
    for parameter in layer.neurons.parameters():
        nn.init.normal_(parameter, std=0.5)
    return layer


@pytest.fixture
def image():
    return torch.randn(2, 4, 3, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class TestSharedChannels:
    @torch.no_grad()
    def test_each_type_gets_its_share_in_order_and_the_rest_stays_linear(self, image):
        conv = nn.Conv3d(4, 10, 3, padding=1).double()
        types = [chosen("quadratic", channels=0.3), chosen("spiking", channels=0.4, init="random")]
        layer, linear = opened(NeuronLayer(conv, types)), conv(image)
        quadratic = layer.neurons[0]
        formula = linear[:, :3] * quadratic.gate(image) + quadratic.square(image * image)
        rate = firing_rate(linear[:, 3:7], SpikingConfig())
        torch.testing.assert_close(layer(image), torch.cat([formula, rate, linear[:, 7:]], dim=1))
        assert [(part.name, part.outputs) for part in layer.parts] == [
            ("quadratic", slice(0, 3)),
            ("spiking", slice(3, 7)),
        ]

    @torch.no_grad()
    def test_a_grouped_layer_is_shared_by_whole_groups_with_their_inputs(self, image):
        conv = nn.Conv3d(4, 8, 3, padding=1, groups=4).double()
        layer = opened(NeuronLayer(conv, [chosen("linear", channels=0.25), chosen("compact_quadratic", channels=0.5)]))
        square = layer.neurons[1].square
        assert (square.groups, tuple(square.weight.shape)) == (2, (4, 1, 3, 3, 3))
        expected = conv(image)
        expected[:, 2:6] += F.conv3d(image[:, 1:3] ** 2, square.weight, padding=1, groups=2)
        torch.testing.assert_close(layer(image), expected)

    def test_shares_that_fill_a_layer_leave_no_channel_over(self):
        thirds = [chosen("spiking", channels=1 / 3)] * 3
        ends = [part.outputs.stop for part in NeuronLayer(nn.Conv3d(1, 10, 1), thirds).parts]
        assert ends == [3, 7, 10]  # 3.33, 6.67 and 10, rounded
        halves = [chosen("spiking", channels=0.5), chosen("quadratic", channels=0.5)]
        assert [part.name for part in NeuronLayer(nn.Conv3d(1, 1, 1), halves).parts] == ["quadratic"]

    @pytest.mark.parametrize("name", NAMES)
    @torch.no_grad()
    def test_at_first_a_shared_layer_is_the_layer(self, name, image):
        for conv in (nn.Conv3d(4, 6, 3, padding=1).double(), nn.Conv3d(4, 4, 3, padding=1, groups=4).double()):
            layer = NeuronLayer(conv, [chosen(name, channels=0.5), chosen("task_based", channels=0.25)])
            assert torch.equal(layer(image), conv(image))


class TestLinearLayers:
    @pytest.mark.parametrize("shape", [(2, 5), (2, 9, 5), (2, 2, 3, 4, 5)])
    @torch.no_grad()
    def test_a_token_is_mapped_by_the_formula_with_matrices(self, shape):
        tokens, dense = torch.randn(shape).double(), nn.Linear(5, 7).double()
        layer = opened(NeuronLayer(dense, [chosen("quadratic")]))
        gate, square = ((part.weight[..., 0, 0, 0], part.bias) for part in layer.neurons[0].children())
        expected = F.linear(tokens, dense.weight, dense.bias) * F.linear(tokens, *gate) + F.linear(tokens**2, *square)
        torch.testing.assert_close(layer(tokens), expected)

    @pytest.mark.parametrize("match", ["width", "parameters"])
    @pytest.mark.parametrize("name", NAMES)
    @torch.no_grad()
    def test_at_first_it_is_the_layer_it_replaces(self, name, match):
        dense, tokens = nn.Linear(5, 8), torch.randn(2, 9, 5)
        assert torch.equal(NeuronLayer(dense, [chosen(name, match=match, channels=0.5)])(tokens), dense(tokens))
        assert NeuronLayer(dense, [chosen(name, init="random")])(tokens).shape == (2, 9, 8)
