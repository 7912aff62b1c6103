"""How nonlinear neurons are, on responses whose shares are known, and in a network."""

import math

import pytest
import torch
from torch import nn

from distill3d.config.registry import NEURONS, Component
from distill3d.neurons.conversion import convert_neurons
from distill3d.neurons.nonlinear import nonlinear_audit, nonlinear_share
from distill3d.students.base import Student

NAMES = [name for name in NEURONS.names() if NEURONS[name].module.startswith("distill3d.")]


def chosen(name, **settings):
    return Component(name, NEURONS[name].config(**settings))


class TestNonlinearShare:
    # Golden values for x uniform in [-1, 1], whose variance is 1/3.
    X = torch.linspace(-1, 1, 20001).view(1, 1, -1)

    def test_a_square_beside_the_layer(self):
        # x**2 is uncorrelated with x and has the variance 1/5 - 1/9 = 4/45; sqrt((4/45) / (1/3)).
        assert nonlinear_share(self.X + self.X**2, linear=self.X) == pytest.approx(math.sqrt(4 / 15), rel=1e-3)

    def test_a_rectifier(self):
        # Slope 1/2 explains 1/12 of the variance 1/6 - 1/16 = 5/48; the rest is 1/48, a quarter of it.
        assert nonlinear_share(self.X.relu(), linear=self.X) == pytest.approx(0.5, rel=1e-3)

    def test_channels_are_scaled_each_by_itself_and_weigh_by_their_variance(self):
        linear = torch.cat([self.X, self.X], dim=1)
        rescaled = torch.cat([-3 * self.X + 5, 0.1 * self.X], dim=1)
        assert nonlinear_share(rescaled, linear=linear) < 1e-5
        half = torch.cat([self.X + self.X**2, self.X], dim=1)
        assert nonlinear_share(half, linear=linear) == pytest.approx(math.sqrt(4 / 15 / 2), rel=1e-3)

    def test_a_silent_layer_has_none(self):
        assert nonlinear_share(torch.ones_like(self.X), linear=torch.zeros_like(self.X)) == 0


class Two(Student):
    """Two convolutions in a row, the first without any change of the image."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv3d(1, 2, 1, bias=False), nn.Conv3d(2, 1, 1))
        nn.init.ones_(self.encoder[0].weight)

    def segment(self, image):
        return self.encoder(image)


def uniform_image():
    return torch.linspace(-1, 1, 20000).view(1, 1, 20, 20, 50)


def test_a_network_is_as_nonlinear_as_the_median_of_its_layers_by_type():
    student = Two()
    square = chosen("compact_quadratic", where=("encoder.0",), ratio=1, channels=0.5)
    rectified = chosen("activation", where=("encoder.*",), ratio=1, channels=0.5, function="relu", init="random")
    convert_neurons(student, [square, rectified])
    nn.init.ones_(student.encoder[0].neurons[0].square.weight)
    assert [part.name for part in student.encoder[0].parts] == ["compact_quadratic", "activation"]
    student.train()
    audit = nonlinear_audit(student, uniform_image)
    assert audit["nonlinear_share_by_type"] == {
        "compact_quadratic": pytest.approx(math.sqrt(4 / 15), rel=1e-3),
        "activation": pytest.approx(0.5, rel=1e-3),  # the second layer has one channel, and half of it rounds to none
    }
    assert audit["nonlinear_share"] == pytest.approx((math.sqrt(4 / 15) + 0.5) / 2, rel=1e-3)
    assert student.training
    assert not student.encoder[0]._forward_hooks


@pytest.mark.parametrize("neurons", [None, chosen("linear", where=("encoder.*",))])
def test_a_network_of_linear_neurons_has_no_share(neurons):
    student = Two()
    if neurons:
        convert_neurons(student, neurons)
    audit = nonlinear_audit(student, uniform_image)
    assert audit == {"nonlinear_share": None, "nonlinear_share_by_type": {}}


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"linear"}))
def test_every_type_is_linear_at_first_and_measured_once_its_gates_are_open(name):
    student = Two()
    convert_neurons(student, chosen(name, ratio=1))
    assert nonlinear_audit(student, uniform_image)["nonlinear_share"] < 1e-5
    torch.manual_seed(0)
    for layer in student.encoder:
        for parameter in layer.neurons.parameters():
            nn.init.normal_(parameter, std=0.5)
    audit = nonlinear_audit(student, uniform_image)
    assert 0.001 < audit["nonlinear_share_by_type"][name] == audit["nonlinear_share"] < 1e4
