"""What students cost beside MONAI's networks of as many parameters, and what tubes cost a ViT."""

import pytest
import torch
import torch.nn.functional as F
from monai.networks.nets.basic_unet import BasicUNet
from monai.networks.nets.dynunet import DynUNet
from monai.networks.nets.unet import UNet
from monai.networks.nets.unetr import UNETR
from rows import peak_gib

from distill3d.students.convnet3d import ConvNet3d, ConvNet3dConfig
from distill3d.students.unet3d import UNet3d, UNet3dConfig
from distill3d.students.vit3d import Vit3d, Vit3dConfig
from distill3d.transfer.tubular import Tubular, TubularConfig

CUBE, PATCH, ROUNDS = (96, 96, 96), (32, 96, 96), 5
STRIDES = [(1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2)]
PAIRS = {  # all have 8 channels at full resolution, but DynUNet, whose parameters are all in convolutions
    "unet3d-basic": (UNet3d, UNet3dConfig(), lambda: BasicUNet(3, 1, 1, features=(8, 8, 16, 32, 48, 8))),
    "unet3d-residual": (UNet3d, UNet3dConfig(), lambda: UNet(3, 1, 1, (8, 16, 32, 64), (2, 2, 2), num_res_units=2)),
    "convnet3d": (
        ConvNet3d,
        ConvNet3dConfig(depth_strides=(1, 2, 2, 2, 2)),
        lambda: DynUNet(3, 1, 1, [(3, 3, 3)] * 4, STRIDES, STRIDES[1:], filters=[14, 28, 56, 112]),
    ),
    "vit3d": (
        Vit3d,
        Vit3dConfig(block_zyx=(16, 16, 16), input_zyx=PATCH, depth=12),
        lambda: UNETR(1, 1, PATCH, feature_size=8, hidden_size=192, mlp_dim=768, num_heads=3),
    ),
}


def build(arm):
    """Build a network of embedding 384 and 12 blocks for 96 x 96 x 96 voxels in blocks of 16."""
    torch.manual_seed(0)
    if arm == "unetr":
        return UNETR(1, 1, CUBE, feature_size=16, hidden_size=384, mlp_dim=4 * 384, num_heads=6)
    config = Vit3dConfig(
        encoder="vit_small_patch16_224", block_zyx=(16, 16, 16), input_zyx=CUBE, decoder=(16, 32, 64, 128)
    )
    student = Vit3d(config)
    if arm == "tubular":
        Tubular(TubularConfig()).adapt(student)
    return student


def down(net, image):
    """Forward and backward."""
    out = net(image)
    logits = out if isinstance(out, torch.Tensor) else out.logits
    F.binary_cross_entropy_with_logits(logits, torch.zeros_like(logits)).backward()


def step(net, optimizer, image):
    """A step of training."""
    optimizer.zero_grad()
    down(net, image)
    optimizer.step()


def parameters(net):
    return sum(p.numel() for p in net.parameters()) / 1e6


def prepare(arm):
    """Return what takes memory, for `peak_gib`."""
    net, image = build(arm).train(), torch.rand(1, 1, *CUBE)
    return lambda: down(net, image)


@pytest.mark.rows("step-{name}")
@pytest.mark.parametrize("name", PAIRS)
def test_a_training_step_against_monais_network_of_as_many_parameters(bench, name):
    torch.manual_seed(0)
    student, config, other = PAIRS[name]
    nets = {"ours": student(config).train(), "monai": other().train()}
    sizes = {arm: parameters(net) for arm, net in nets.items()}
    assert sizes["ours"] == pytest.approx(sizes["monai"], rel=0.1)
    optimizers = {arm: torch.optim.AdamW(net.parameters()) for arm, net in nets.items()}
    image = torch.rand(2, 1, *PATCH)
    calls = {arm: lambda arm=arm: step(nets[arm], optimizers[arm], image) for arm in nets}
    seconds = bench.seconds(calls, rounds=ROUNDS)
    bench.row(
        f"step-{name}",
        f"a training step of {student.__name__}, against MONAI's {type(nets['monai']).__name__}",
        "2x1x32x96x96",
        ours=seconds["ours"],
        other=seconds["monai"],
        at_most=1,
        note=f"{sizes['ours']:.2f} and {sizes['monai']:.2f} M parameters",
    )


@pytest.mark.rows("vit-unetr", "vit-unetr-memory", "vit-tubular")
def test_the_vit_against_unetr_and_tubes_against_blocks(bench):
    nets = {arm: build(arm).train() for arm in ("vit3d", "tubular", "unetr")}
    image, size = torch.rand(1, 1, *CUBE), {arm: f"{parameters(net):.1f}" for arm, net in nets.items()}
    seconds = bench.seconds({arm: lambda net=net: down(net, image) for arm, net in nets.items()}, rounds=ROUNDS)
    peak = {arm: peak_gib(prepare, arm)[0] for arm in ("vit3d", "unetr")}
    shared = {"shapes": "1x1x96x96x96", "note": f"{size['vit3d']} and {size['unetr']} M parameters", "at_most": 1}
    what = "vit3d of ViT-S, forward and backward, against UNETR"
    assert bench.row("vit-unetr", what, ours=seconds["vit3d"], other=seconds["unetr"], **shared) < 2
    bench.row("vit-unetr-memory", f"{what}: peak", ours=peak["vit3d"], other=peak["unetr"], unit="GiB", **shared)
    shared |= {"note": f"{size['tubular']} and {size['vit3d']} M parameters", "at_most": 1.15}
    what = "vit3d with tubes, against blocks"
    assert bench.row("vit-tubular", what, ours=seconds["tubular"], other=seconds["vit3d"], **shared) < 2
