"""Neuron types compute their formulas, start as the layer they replace, and learn from the first step."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from distill3d.config.registry import NEURONS, Component
from distill3d.layers.conv3d import PlaneConv3d
from distill3d.neurons import conversion
from distill3d.neurons.algebraic import PolynomialConfig
from distill3d.neurons.base import NarrowConv3d, NeuronConfig
from distill3d.neurons.biological import SpikingConfig, firing_rate
from distill3d.neurons.functions import FUNCTIONS, ActivationConfig, TaskBasedConfig
from distill3d.neurons.layer import NeuronLayer

assert conversion  # registers the types
NAMES = [name for name in NEURONS.names() if NEURONS[name].module.startswith("distill3d.")]
TYPES = {
    "linear",
    "quadratic",
    "compact_quadratic",
    "t4_linear",
    "polynomial",
    "task_based",
    "activation",
    "dendritic",
    "spiking",
}
# Name -> the layer, and the padding a slow reference needs: (before, after) per axis, and how depth is padded.
GEOMETRIES = {
    "grouped": (lambda: nn.Conv3d(4, 6, 3, padding=1, groups=2), ((1, 1), (1, 1), (1, 1)), "constant"),
    "depthwise": (
        lambda: nn.Conv3d(4, 4, (1, 3, 3), padding=(0, 1, 1), groups=4),
        ((0, 0), (1, 1), (1, 1)),
        "constant",
    ),
    "dilated": (
        lambda: nn.Conv3d(4, 3, (1, 2, 3), stride=(1, 2, 1), padding=(0, 1, 0), dilation=(1, 1, 2), bias=False),
        ((0, 0), (1, 1), (0, 0)),
        "constant",
    ),
    # TensorFlow's "same" at size 6, kernel 3, stride 2: one voxel, at the end.
    "plane": (
        lambda: PlaneConv3d(
            4, 3, kernel_size=(3, 3, 3), stride=(2, 2, 2), plane_padding=None, depth_padding="replicate"
        ),
        ((1, 1), (0, 1), (0, 1)),
        "edge",
    ),
}


def build(name, conv, **settings):
    return NeuronLayer(conv, [Component(name, NEURONS[name].config(**settings))])


def layer(geometry, seed=0):
    torch.manual_seed(seed)
    return GEOMETRIES[geometry][0]().double()


def neuron_of(name, geometry, *, seed=1, **settings):
    """A neuron in double precision all of whose parameters are random."""
    neuron = build(name, layer(geometry), **settings).double()
    torch.manual_seed(seed)
    for parameter in neuron.parameters():
        nn.init.normal_(parameter, std=0.7)
    return neuron


def image_of(seed=2):
    return torch.randn(2, 4, 4, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Slow:
    """One response at a time, from the parameters of a neuron."""

    def __init__(self, neuron, geometry):
        conv = neuron.linear
        state = neuron.state_dict()
        self.state = {key.removeprefix("neurons.0."): value.detach().numpy() for key, value in state.items()}
        self.groups, self.stride, self.dilation = conv.groups, conv.stride, conv.dilation
        self.pads, self.mode = GEOMETRIES[geometry][1:]

    def conv(self, x, prefix):
        weight, bias = self.state[f"{prefix}.weight"], self.state.get(f"{prefix}.bias")
        return self.convolve(x, weight) + (0 if bias is None else bias.reshape(1, -1, 1, 1, 1))

    def convolve(self, x, weight):
        x = np.pad(x, [(0, 0), (0, 0), self.pads[0], (0, 0), (0, 0)], mode=self.mode)
        x = np.pad(x, [(0, 0), (0, 0), (0, 0), *self.pads[1:]])
        outs, ins, *kernel = weight.shape
        reach = [d * (k - 1) + 1 for d, k in zip(self.dilation, kernel, strict=True)]
        size = [(n - r) // s + 1 for n, r, s in zip(x.shape[2:], reach, self.stride, strict=True)]
        out = np.zeros((len(x), outs, *size))
        for o in range(outs):
            first = o // (outs // self.groups) * ins
            for place in itertools.product(*map(range, size)):
                corner = [p * s for p, s in zip(place, self.stride, strict=True)]
                part = tuple(slice(c, c + r, d) for c, r, d in zip(corner, reach, self.dilation, strict=True))
                out[(slice(None), o, *place)] = (x[:, first : first + ins][(..., *part)] * weight[o]).sum((1, 2, 3, 4))
        return out

    def norm(self, y, prefix):
        """Batch normalization in training: biased variance of the batch."""
        mean, var = y.mean((0, 2, 3, 4), keepdims=True), y.var((0, 2, 3, 4), keepdims=True)
        weight, bias = (self.channels(f"{prefix}.{key}") for key in ("weight", "bias"))
        return (y - mean) / np.sqrt(var + 1e-5) * weight + bias

    def channels(self, key):
        return self.state[key].reshape(1, -1, 1, 1, 1)


def spikes(current, steps):
    """The mean spike of one cell, a step at a time."""
    potential, total = 0.0, 0.0
    for _ in range(steps):
        potential = 0.9 * potential + current
        spike = (1 + math.tanh(5 * (potential - 1))) / 2  # the sigmoid, without overflow
        potential *= 1 - spike
        total += spike
    return total / steps


def quadratic(slow, x, start):
    return slow.conv(x, "linear") * slow.conv(x, "gate") + slow.conv(x * x, "square")


def compact_quadratic(slow, x, start):
    return slow.conv(x, "linear") + slow.conv(x * x, "square")


def t4_linear(slow, x, start):
    product = slow.norm(slow.conv(x, "left.0"), "left.1") * slow.norm(slow.conv(x, "right.0"), "right.1")
    linear = slow.conv(x, "linear")
    return linear + slow.channels("gain") * product if start == "identity" else slow.norm(linear, "norm") + product


def polynomial(slow, x, start):
    total = slow.conv(x, "linear")
    for index, order in enumerate((2, 2, 3, 3)):
        product = 1.0
        for factor in range(order):
            product = product * slow.conv(x, f"products.{index}.{factor}")
        total = total + slow.state["scales"][order - 2].reshape(1, -1, 1, 1, 1) * product
    return total


def task_based(slow, x, start):
    if start == "identity":
        return slow.conv(x, "linear") + slow.conv(x**2, "branches.0") + slow.conv(np.sin(x), "branches.1")
    return slow.conv(x**2, "linear") + slow.conv(np.sin(x), "branches.0")


def activation(slow, x, start):
    linear = slow.conv(x, "linear")
    active = linear / (1 + np.exp(-linear))  # silu
    return linear + slow.channels("gain") * active if start == "identity" else active


def dendritic(slow, x, start):
    first = slow.conv(x, "linear")
    total = np.tanh(first) + np.tanh(slow.conv(x, "dendrites.0")) + np.tanh(slow.conv(x, "dendrites.1"))
    return first + slow.channels("gain") * total if start == "identity" else total


def spiking(slow, x, start):
    current = slow.conv(x, "linear")
    rate = np.vectorize(lambda value: spikes(value, 5))(current)
    return current + slow.channels("gain") * rate if start == "identity" else rate


REFERENCES = {
    "linear": (lambda slow, x, start: slow.conv(x, "linear"), {}),
    "quadratic": (quadratic, {}),
    "compact_quadratic": (compact_quadratic, {}),
    "t4_linear": (t4_linear, {}),
    "polynomial": (polynomial, {"order": 3, "rank": 2}),
    "task_based": (task_based, {"functions": ("square", "sin")}),
    "activation": (activation, {"function": "silu"}),
    "dendritic": (dendritic, {"dendrites": 3}),
    "spiking": (spiking, {"steps": 5}),
}


def test_the_types_of_this_package_are_here():
    assert set(NAMES) == set(REFERENCES) == TYPES


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("start", ["identity", "random"])
@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_formula_one_response_at_a_time(name, start, geometry):
    reference, settings = REFERENCES[name]
    neuron, image = neuron_of(name, geometry, init=start, **settings), image_of()
    expected = reference(Slow(neuron, geometry), image.numpy(), start)
    np.testing.assert_allclose(neuron(image).detach().numpy(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_narrow_convolution_is_one_filter_with_a_gain_per_channel(geometry):
    conv, image = layer(geometry), image_of()
    narrow = NarrowConv3d(conv)
    kernel = narrow.gain.view(-1, 1, 1, 1, 1) * narrow.kernel.weight
    assert kernel.shape == conv.weight.shape
    assert sum(p.numel() for p in narrow.parameters()) == conv.out_channels + conv.weight[0].numel()
    slow = Slow(build("linear", conv), geometry)
    expected = slow.convolve(image.numpy(), kernel.detach().numpy())
    np.testing.assert_allclose(narrow(image).detach().numpy(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("match", ["width", "parameters"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("name", NAMES)
def test_at_first_it_is_the_layer_it_replaces(name, geometry, match):
    conv, image = layer(geometry), image_of()
    expected = conv(image)
    assert torch.equal(build(name, conv, match=match)(image), expected)


@pytest.mark.parametrize("name", sorted(TYPES - {"linear"}))
def test_a_random_start_is_not_the_layer(name):
    conv, image = layer("grouped"), image_of()
    expected = conv(image)
    response = build(name, conv, init="random").double()(image)
    assert response.shape == expected.shape
    assert (response - expected).abs().mean() > 0.01


@pytest.mark.parametrize("match", ["width", "parameters"])
@pytest.mark.parametrize("name", sorted(TYPES - {"linear"}))
def test_gates_learn_at_once_and_all_the_rest_once_they_are_open(name, match):
    neuron, image = build(name, layer("grouped"), match=match).double(), image_of()
    target = torch.randn(2, 6, 4, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    optimizer = torch.optim.SGD(neuron.parameters(), lr=0.1)
    gates = neuron.gates()
    closed = {key for key, p in neuron.named_parameters() if key in gates and not p.any()}
    for step in range(2):
        optimizer.zero_grad()
        (neuron(image) - target).square().mean().backward()
        moved = {key for key, p in neuron.named_parameters() if p.grad is not None and p.grad.any()}
        assert moved >= ({key for key, _ in neuron.named_parameters()} if step else closed)
        optimizer.step()
    assert closed


@pytest.mark.parametrize(
    ("name", "gates"),
    [
        ("linear", set()),
        ("quadratic", {"gate.weight", "gate.bias", "square.weight", "square.bias"}),
        ("compact_quadratic", {"square.weight"}),
        ("t4_linear", {"gain"}),
        ("polynomial", {"scales"}),
        ("task_based", {"branches.0.weight", "branches.1.weight"}),
        ("activation", {"gain"}),
        ("dendritic", {"gain"}),
        ("spiking", {"gain"}),
    ],
)
def test_gates_are_what_makes_the_neuron_more_than_linear(name, gates):
    neuron, image = neuron_of(name, "grouped"), image_of()
    assert neuron.gates() == {f"neurons.0.{gate}": neuron.neurons[0].gate_lr_ratio for gate in gates}
    for key, parameter in neuron.named_parameters():
        if key in neuron.gates():
            nn.init.constant_(parameter, float(key.endswith("gate.bias")))
    torch.testing.assert_close(neuron(image), neuron.linear(image))


@pytest.mark.parametrize("name", NAMES)
def test_a_layer_without_bias_gets_no_other_constant(name):
    neuron = build(name, nn.Conv3d(2, 3, 1, bias=False))
    biased = build(name, nn.Conv3d(2, 3, 1))
    assert set(biased.state_dict()) - set(neuron.state_dict()) <= {"linear.bias", "neurons.0.square.bias"}
    if name == "quadratic":
        assert "neurons.0.square.bias" in biased.state_dict()


@pytest.mark.parametrize("name", NAMES)
def test_branches_take_neither_shift_nor_values_of_the_layer(name):
    stem = PlaneConv3d(2, 3, kernel_size=(1, 1, 1), bias=False, shift=True)
    stem.shift.fill_(5)
    before = copy.deepcopy(stem.state_dict())
    neuron = build(name, stem)
    assert neuron.linear is stem
    assert all(torch.equal(stem.state_dict()[key], value) for key, value in before.items())
    assert [key for key in neuron.state_dict() if key.endswith("shift")] == ["linear.shift"]


@pytest.mark.parametrize("name", NAMES)
def test_bf16_autocast_keeps_the_type_and_about_the_value(name):
    neuron, image = build(name, layer("grouped").float()), image_of().float()
    for key, parameter in neuron.named_parameters():
        if key in neuron.gates():
            nn.init.normal_(parameter, std=0.3)
    exact = neuron(image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = neuron(image)
    assert (rough.float() - exact).abs().mean() < 0.03 * exact.abs().mean()
    assert rough.dtype == torch.bfloat16


@pytest.mark.parametrize("name", NAMES)
def test_settings_refuse_what_all_types_refuse(name):
    config = NEURONS[name].config
    assert issubclass(config, NeuronConfig)
    with pytest.raises(ValueError, match="ratio=0 is out of range; accepted: above 0, at most 1"):
        config(ratio=0)
    with pytest.raises(ValueError, match=r"channels=1.5 is out of range"):
        config(channels=1.5)
    with pytest.raises(ValueError, match="gate_lr_ratio=-1 is negative"):
        config(gate_lr_ratio=-1)


@pytest.mark.parametrize(
    ("config", "settings", "says"),
    [
        (PolynomialConfig, {"order": 1}, "order=1 is too small; accepted: 2 or more"),
        (PolynomialConfig, {"rank": 0}, "rank=0 is too small"),
        (TaskBasedConfig, {"functions": ("square", "sinus")}, "'sinus' is unknown; accepted: one or more of identity,"),
        (TaskBasedConfig, {"functions": ("sin", "sin")}, r"functions=\['sin', 'sin'\]: accepted: .*, each once"),
        (TaskBasedConfig, {"functions": ()}, r"functions=\[\]: accepted: one or more of"),
        (ActivationConfig, {"function": "sinus"}, "'sinus' is unknown; accepted: one of abs, cos, "),
        (ActivationConfig, {"function": "identity"}, "'identity' is unknown"),
        (NEURONS["dendritic"].config, {"dendrites": 0}, "dendrites=0 is too small"),
        (SpikingConfig, {"steps": 0}, "steps=0 is too small"),
        (SpikingConfig, {"leak": 1.1}, "leak=1.1 is out of range; accepted: 0 to 1"),
        (SpikingConfig, {"slope": 0}, "slope=0 is too small"),
    ],
)
def test_settings_out_of_range_are_one_line(config, settings, says):
    with pytest.raises(ValueError, match=says) as caught:
        config(**settings)
    assert "\n" not in str(caught.value)


def test_a_plain_x_among_the_functions_is_the_layers():
    for start in ("identity", "random"):
        neuron = build("task_based", layer("grouped"), functions=("square", "identity"), init=start)
        assert len(neuron.neurons[0].branches) == 1
        assert neuron.neurons[0].terms == [FUNCTIONS["square"]]


def test_every_function_is_numpys():
    x = np.linspace(-2, 2, 9)
    values = {"identity": x, "square": x**2, "cube": x**3} | {f"power{n}": x**n for n in (4, 5, 6)}
    values |= {"abs": np.abs(x), "cos": np.cos(x), "sin": np.sin(x), "tanh": np.tanh(x)}
    values |= {"relu": np.maximum(x, 0), "sigmoid": 1 / (1 + np.exp(-x)), "silu": x / (1 + np.exp(-x))}
    values |= {"elu": np.where(x > 0, x, np.exp(x) - 1)}
    values |= {"gelu": np.array([v * (1 + math.erf(v / math.sqrt(2))) / 2 for v in x])}
    assert values.keys() == FUNCTIONS.keys()
    for name, value in values.items():
        np.testing.assert_allclose(FUNCTIONS[name](torch.from_numpy(x)), value, rtol=1e-12, err_msg=name)


class TestBinarySpikes:
    CONFIG = SpikingConfig(spikes="binary", steps=8)

    def test_rates_are_whole_spikes_over_steps(self):
        rate = firing_rate(torch.linspace(-2, 3, 101), self.CONFIG) * 8
        assert torch.equal(rate, rate.round())
        assert (rate[0], rate[-1]) == (0, 8)

    def test_a_stronger_current_never_fires_less(self):
        rate = firing_rate(torch.linspace(-2, 3, 1001), self.CONFIG)
        assert (rate.diff() >= 0).all()

    def test_the_gradient_is_the_sigmoids(self):
        current = torch.tensor([0.95], requires_grad=True)
        firing_rate(current, SpikingConfig(spikes="binary", steps=1)).backward()
        sigmoid = torch.sigmoid(torch.tensor(10 * (0.95 - 1)))
        assert current.grad.item() == pytest.approx(10 * (sigmoid * (1 - sigmoid)).item(), rel=1e-5)


def test_all_types_in_a_row_compile_without_a_graph_break():
    torch.manual_seed(0)
    settings = [*((name, "width") for name in NAMES), ("quadratic", "parameters")]
    chain = nn.Sequential(
        *(build(name, nn.Conv3d(4, 4, 1, groups=2), match=match, init="random") for name, match in settings)
    )
    image = image_of().float()
    compiled = torch.compile(chain, fullgraph=True, backend="eager")
    assert torch.equal(compiled(image), chain(image))
