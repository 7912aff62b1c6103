"""A map says where the image is bright, on whatever axes a family of networks keeps it, for images of any size."""

import pytest
import timm
import torch
from timm.models.volo import VOLO
from torch import nn

from distill3d.errors import ConfigError
from distill3d.layers.recording import main_layers
from distill3d.teachers.base import Teacher, TeacherIdentity
from distill3d.teachers.maps import at_size, find_layouts, run


def small_volo():
    """No argument makes timm's smallest smaller."""
    settings = {"layers": (1, 1, 1, 1), "embed_dims": (16, 32, 32, 32), "num_heads": (1, 1, 1, 1), "img_size": 64}
    cfg = {"fixed_input_size": True, "input_size": (3, 64, 64)}
    return timm.models.build_model_with_cfg(VOLO, "volo_d1_224", False, pretrained_cfg=cfg, **settings)


SWIN = {"embed_dim": 16, "depths": (1, 2, 1, 1), "num_heads": (1, 1, 1, 1)}
HIERA = {"embed_dim": 16, "stages": (1, 1, 2, 1), "img_size": 128}
SEQUENCER = {"layers": (1, 1, 1, 1), "embed_dims": (24, 32, 32, 32), "hidden_sizes": (4, 8, 8, 8)}
# family, what makes it small, layers, the size of the images
FAMILIES = {
    "mambaout": ("test_mambaout", {}, ["stem", "stages.0", "stages.2", "stages.3"], (128, 192)),
    "swin": ("swin_tiny_patch4_window7_224", SWIN, ["layers.0", "layers.1", "layers.3", "norm"], (128, 192)),
    "sequencer": ("sequencer2d_s", {**SEQUENCER, "img_size": 112}, ["stages.0", "stages.3"], (112, 112)),
    "volo": (small_volo, {}, ["network.0", "network.2", "network.4"], (64, 64)),
    "beit": (
        "beit_base_patch16_224",
        {"embed_dim": 32, "depth": 2, "num_heads": 2},
        ["blocks.0", "blocks.1"],
        (96, 64),
    ),
    "hiera": ("hiera_tiny_224", HIERA, ["blocks.0", "blocks.1", "blocks.2", "blocks.4"], (128, 128)),
    "eva": (
        "eva02_tiny_patch14_336",
        {"embed_dim": 24, "depth": 1, "num_heads": 2},
        ["patch_embed", "blocks.0"],
        (56, 84),
    ),
    "dinov3": (
        "vit_small_patch16_dinov3",
        {"embed_dim": 64, "depth": 1, "num_heads": 2},
        ["patch_embed", "blocks.0"],
        (64, 96),
    ),
    "vit": ("test_vit", {}, ["patch_embed.proj", "blocks.0.norm1", "blocks.5", "norm"], (64, 96)),
    "twins": (
        "twins_svt_small",
        {"embed_dims": (16, 16, 16, 16), "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1)},
        ["blocks.0.0"],
        (224, 224),
    ),
    "convnext": ("test_convnext", {}, ["stem.0", "stages.3"], (128, 192)),
    "resnet": ("test_resnet", {}, ["conv1.0", "layer4"], (128, 192)),
}


class Small(Teacher):
    def __init__(self, name, **changes):
        torch.manual_seed(0)
        net = name() if callable(name) else timm.create_model(name, pretrained=False, **changes)
        identity = TeacherIdentity(architecture=type(net).__name__, weights="random", sha256="", random=True)
        super().__init__(net, identity=identity, input_mean=(0.5,) * 3, input_std=(0.5,) * 3)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_bright_spot_that_moves_moves_in_every_map(family):
    name, changes, layers, (height, width) = FAMILIES[family]
    teacher = Small(name, **changes)
    spots = [(height // 8, 5 * width // 8), (7 * height // 8 - 1, width // 8)]
    images = torch.full((3, 1, height, width), 0.3)
    for image, (y, x) in zip(images[1:], spots, strict=True):
        image[0, y - 3 : y + 4, x - 3 : x + 4] = 1.0
    maps = teacher.maps(images, layers)
    for layer, values in maps.items():
        response = (values[1:] - values[:1]).abs().sum(1)
        rows, columns = response.shape[1:]
        assert rows * width == columns * height, layer
        for (y, x), each in zip(spots, response, strict=True):
            at = divmod(int(each.argmax()), columns)
            assert abs((at[0] + 0.5) * height / rows - y) <= max(1.5 * height / rows, 8), (layer, at)
            assert abs((at[1] + 0.5) * width / columns - x) <= max(1.5 * width / columns, 8), (layer, at)
    assert set(layers) & set(main_layers(teacher.net)) <= set(teacher.map_layers())


def test_a_map_with_as_many_channels_as_rows_is_told_from_one_that_is_channels_last():
    first = Small("test_convnext", dims=(16, 32, 48, 64)).maps(torch.rand(1, 1, 64, 64), ["stages.0"])["stages.0"]
    teacher = Small("test_mambaout", dims=(16, 32, 48, 64))
    image = torch.rand(1, 1, 64, 64)
    raw = teacher.net.stages[0](teacher.net.stem(teacher.normalize(image).expand(-1, 3, -1, -1)))
    assert first.shape == raw.shape == (1, 16, 16, 16)
    torch.testing.assert_close(teacher.maps(image, ["stages.0"])["stages.0"], raw.permute(0, 3, 1, 2))


def test_a_network_of_one_image_size_says_so_in_one_line_and_slices_are_padded_to_it():
    teacher = Small("hiera_tiny_224", **HIERA)
    assert teacher.multiple == 128
    with pytest.raises(ConfigError) as caught:
        teacher.maps(torch.rand(1, 1, 64, 64), ["blocks.0"])
    (line,) = caught.value.lines
    assert line == (
        "the teacher 'hiera_tiny_224' cannot run on slices of 64 x 64 pixels: it takes 128 x 128 only; "
        "accepted: a network that takes any size, such as a ViT, a ConvNeXt or an EfficientNet"
    )


def test_a_map_that_loses_cells_at_the_border_is_none_since_its_cells_lie_beside_those_of_the_image():
    class Unpadded(nn.Sequential):
        feature_info = ({"reduction": 4},)

    net = Unpadded(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3, stride=2))
    assert list(find_layouts(net, ["0", "1", "2"], {})) == ["0"]


@pytest.mark.parametrize(
    ("name", "changes", "layer", "says"),
    [
        ("hiera_tiny_224", HIERA, "blocks.0.attn", "gives .* which is no feature map"),  # in units of the mask
        ("swin_tiny_patch4_window7_224", SWIN, "layers.0.blocks.0.attn", "which is no feature map"),  # window by window
        ("test_vit", {}, "fc_norm", "which is no feature map"),
    ],
)
def test_what_gives_no_map_is_refused_by_name_in_one_line(name, changes, layer, says):
    teacher = Small(name, **changes)
    with pytest.raises(ConfigError, match=says) as caught:
        teacher.maps(torch.rand(1, 1, teacher.multiple, teacher.multiple), [layer])
    assert len(caught.value.lines) == 1
    assert "\n" not in str(caught.value)


def test_the_copy_for_another_size_keeps_what_a_swin_computes_at_its_own():
    teacher = Small("swin_tiny_patch4_window7_224", **SWIN)
    assert at_size(teacher.net, (224, 224), teacher._sized) is teacher.net
    assert at_size(teacher.net, (64, 96), teacher._sized) is not teacher.net
    assert teacher.net.patch_embed.img_size == (224, 224)


@pytest.mark.parametrize("family", ["vit", "dinov3", "eva", "beit", "swin"])
def test_networks_for_many_sizes_share_their_weights_and_give_what_one_alone_does(family):
    name, changes, layers, (height, width) = FAMILIES[family]
    teacher, layer = Small(name, **changes), layers[-1]
    images = torch.rand(1, 1, height, width, generator=torch.Generator().manual_seed(0))
    first = teacher.maps(images, [layer])[layer]
    for step in range(1, 20):
        teacher.maps(torch.zeros(1, 1, height, width + step * teacher.multiple), [layer])
    again = teacher.maps(images, [layer])[layer]
    assert torch.equal(first, again)
    assert torch.equal(first, Small(name, **changes).maps(images, [layer])[layer])
    assert len(teacher._sized) >= 20
    tables = ("pos_embed", "bias_table")
    own = dict(teacher.net.named_parameters())
    for net in teacher._sized.values():
        shared = {key for key, parameter in net.named_parameters() if parameter is own[key]}
        assert {key for key in own if not key.endswith(tables)} <= shared


def test_twenty_sizes_take_less_than_a_fifth_more_memory_than_one():
    teacher = Small("vit_tiny_patch16_224", depth=6)
    for step in range(1, 21):
        teacher.maps(torch.zeros(1, 1, 32, 16 * step), ["blocks.0"])
    assert len(teacher._sized) >= 20
    nets = (teacher.net, *teacher._sized.values())
    storages = {
        value.untyped_storage().data_ptr(): value.untyped_storage().nbytes()
        for net in nets
        for value in (*net.parameters(), *net.buffers())
    }
    assert sum(storages.values()) < 1.2 * sum(4 * p.numel() for p in teacher.net.parameters())


def test_a_copy_follows_its_network_to_another_device():
    teacher = Small("test_vit")
    teacher.maps(torch.zeros(1, 1, 32, 48), ["blocks.0"])
    teacher.to("meta")
    net = at_size(teacher.net, (32, 48), teacher._sized)
    assert {value.device.type for value in (*net.parameters(), *net.buffers())} == {"meta"}


def test_an_image_that_the_network_fails_on_is_one_line():
    net = nn.Sequential(nn.AvgPool2d(8), nn.Conv2d(3, 4, 1))
    with pytest.raises(
        ConfigError, match=r"^the teacher 'Sequential' cannot run on slices of 4 x 4 pixels: .*; accepted"
    ):
        run(net, torch.rand(1, 3, 4, 4))
