"""Outputs of inner layers by path: what is recorded, and that nothing of it stays behind."""

import pytest
import timm
import torch
from torch import nn

from distill3d.errors import ConfigError
from distill3d.layers.recording import check_paths, main_layers, record, shorten


class Pair(nn.Module):
    def forward(self, x):
        return x, x


def small(*more):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 1), nn.Sequential(nn.BatchNorm2d(2), nn.Tanh()), nn.Conv2d(2, 1, 1), *more)


def hooks(net):
    return [hook for module in net.modules() for hook in (*module._forward_hooks, *module._forward_pre_hooks)]


IMAGE = torch.rand(3, 1, 4, 4)


def test_the_recorded_value_is_the_layers_output_with_its_graph():
    net = small().eval()
    with record(net, ["1.0", "2"]) as outputs:
        out = net(IMAGE)
    assert list(outputs) == ["1.0", "2"]
    torch.testing.assert_close(outputs["1.0"], net[1][0](net[0](IMAGE)), rtol=0, atol=0)
    torch.testing.assert_close(outputs["2"], out, rtol=0, atol=0)
    outputs["1.0"].sum().backward()
    assert net[0].weight.grad is not None
    assert net[2].weight.grad is None


def test_recording_changes_no_output_and_asking_twice_for_a_layer_is_asking_once():
    net = small().eval()
    plain = net(IMAGE)
    with record(net, ["0", "0"]) as outputs:
        assert len(hooks(net)) == 1
        assert torch.equal(net(IMAGE), plain)
    assert list(outputs) == ["0"]


def test_a_layer_that_runs_in_place_does_not_change_what_was_recorded_before_it():
    net = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(inplace=True))
    with record(net, ["0"]) as outputs:
        net(IMAGE)
    assert (outputs["0"] < 0).any()
    torch.testing.assert_close(outputs["0"], net[0](IMAGE))


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext"])
def test_every_main_layer_of_a_convnet_is_recorded_as_it_left_the_layer(name):
    net = timm.create_model(name, pretrained=False).eval()
    copies = {}
    for path in main_layers(net):
        net.get_submodule(path).register_forward_hook(
            lambda _net, _args, out, path=path: copies.update({path: out.detach().clone()})
        )
    with torch.no_grad(), record(net, main_layers(net)) as outputs:
        net(torch.rand(1, 3, 32, 32))
    assert list(outputs) == list(copies)
    assert all(torch.equal(outputs[path], copies[path]) for path in copies)


def test_the_last_of_two_runs_counts_and_a_layer_that_does_not_run_is_not_there():
    net = small().eval()
    with record(net, ["0", "2"]) as outputs:
        net[0](IMAGE)
        net[0](2 * IMAGE)
    assert list(outputs) == ["0"]
    torch.testing.assert_close(outputs["0"], net[0](2 * IMAGE))


def test_no_hook_is_left_behind():
    net = small()
    with record(net, ["0", "1.1"]):
        assert len(hooks(net)) == 2
    assert not hooks(net)


def test_no_hook_is_left_behind_when_the_forward_fails():
    net = small()
    with pytest.raises(RuntimeError, match="channels"), record(net, ["0", "2"]):
        net(torch.rand(1, 7, 4, 4))
    assert not hooks(net)


def test_no_hook_is_left_behind_when_a_path_is_wrong():
    net = small()
    with pytest.raises(AttributeError, match="nowhere"), record(net, ["0", "nowhere"]):
        pass
    assert not hooks(net)


def test_a_layer_that_gives_no_tensor_is_one_line_and_leaves_no_hook():
    net = small(Pair())
    with pytest.raises(ConfigError) as caught, record(net, ["0", "3"]):
        net(IMAGE)
    assert caught.value.lines == ("layer '3' gives a tuple; accepted: layers that give one tensor",)
    assert not hooks(net)


def test_a_wrapped_network_is_recorded_by_its_own_paths():
    wrapper = nn.Module()
    wrapper.module = small().eval()  # as DistributedDataParallel holds it
    with record(wrapper.module, ["1.1"]) as outputs:
        out = wrapper.module(IMAGE)
    assert list(outputs) == ["1.1"]
    torch.testing.assert_close(wrapper.module[2](outputs["1.1"]), out)


def test_a_wrong_path_is_one_line_with_the_nearest_and_all_valid_ones():
    net = timm.create_model("test_efficientnet", pretrained=False)
    with pytest.raises(ConfigError) as caught:
        check_paths(net, ["blocks.2", "block.2"], owner="teacher")
    (line,) = caught.value.lines
    assert line.startswith("the teacher has no layer 'block.2'; did you mean 'blocks.2'?; accepted: conv_stem, bn1, ")
    assert ", blocks.0-4, " in line
    assert ", blocks.0-4.0.bn1, " in line
    assert line.endswith(", classifier")
    assert "\n" not in line
    assert len(line) < 2500


def test_every_wrong_path_has_its_line_and_the_empty_path_is_no_layer():
    with pytest.raises(ConfigError) as caught:
        check_paths(small(), ["0", "x", "", "x"], owner="student")
    assert caught.value.lines == (
        "the student has no layer 'x'; accepted: 0-2, 1.0-1",
        "the student has no layer ''; accepted: 0-2, 1.0-1",
    )


def test_all_paths_of_a_network_are_accepted():
    net = timm.create_model("test_vit", pretrained=False)
    paths = [path for path, _ in net.named_modules() if path]
    assert "blocks.0.attn.qkv" in paths
    check_paths(net, paths, owner="teacher")
    check_paths(net, [], owner="teacher")


@pytest.mark.parametrize(
    ("paths", "short"),
    [
        ([], []),
        (["stem"], ["stem"]),
        (["blocks.3"], ["blocks.3"]),
        (["blocks.9", "blocks.10", "blocks.11"], ["blocks.9-11"]),  # by number, not by letter
        (["a.0.conv.1", "a.2.conv.5"], ["a.0-2.conv.1-5"]),
        (["layer1.0", "layer2.0", "layer2.1"], ["layer1.0", "layer2.0-1"]),  # a digit within a name does not count
        (["0", "1.0", "10"], ["0-10", "1.0"]),
    ],
)
def test_paths_that_differ_in_numbers_are_joined(paths, short):
    assert shorten(paths) == short


@pytest.mark.parametrize(
    ("name", "first", "blocks", "last"),
    [
        ("test_efficientnet", "conv_stem", [f"blocks.{n}" for n in range(5)], "classifier"),
        ("resnet18", "conv1", [f"layer{n}.{k}" for n in (1, 2, 3, 4) for k in (0, 1)], "fc"),
        ("test_convnext", "stem.0", [f"stages.{n}" for n in range(4)], "head"),
        ("test_vit", "patch_embed", [f"blocks.{n}" for n in range(6)], "head"),
    ],
)
def test_main_layers_are_the_blocks_in_the_order_they_run(name, first, blocks, last):
    net = timm.create_model(name, pretrained=False).eval()
    layers = main_layers(net)
    assert (layers[0], layers[-1]) == (first, last)
    assert [path for path in layers if path in blocks] == blocks
    check_paths(net, layers, owner="teacher")
    with torch.no_grad(), record(net, layers) as outputs:
        net(torch.rand(1, 3, *net.default_cfg["input_size"][1:]))
    assert list(outputs) == [path for path in layers if path in outputs]
    assert set(blocks) <= set(outputs)


def test_main_layers_open_an_encoder_take_an_empty_sequence_as_one_and_leave_out_what_does_nothing():
    net = nn.Module()
    net.encoder = small()
    net.empty = nn.Sequential()
    net.steps = nn.ModuleList([nn.ReLU(), nn.ReLU(), nn.Identity()])
    net.head = nn.Conv2d(1, 1, 1)
    assert main_layers(net) == (
        "encoder.0",
        "encoder.1.0",
        "encoder.1.1",
        "encoder.2",
        "empty",
        "steps.0",
        "steps.1",
        "head",
    )
