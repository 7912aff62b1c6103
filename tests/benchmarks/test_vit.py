"""What the 3D ViT and its tubes cost, beside MONAI's UNETR and a plain block embedding. Ratios, measured in one run."""

import statistics
import subprocess
import sys
import time

import pytest
import torch
import torch.nn.functional as F

SIZE, BLOCK, EMBED, HEADS, DEPTH, ROUNDS = 96, 16, 384, 6, 12, 5
ARMS = ("vit3d", "tubular", "unetr")


def build(arm):
    """Build a network of embedding 384 and 12 blocks for 96 x 96 x 96 voxels in blocks of 16."""
    from monai.networks.nets.unetr import UNETR

    from distill3d.students.vit3d import Vit3d, Vit3dConfig
    from distill3d.transfer.tubular import Tubular, TubularConfig

    torch.manual_seed(0)
    cube = (SIZE,) * 3
    if arm == "unetr":
        return UNETR(1, 1, cube, feature_size=16, hidden_size=EMBED, mlp_dim=4 * EMBED, num_heads=HEADS)
    config = Vit3dConfig(
        encoder="vit_small_patch16_224", block_zyx=(BLOCK,) * 3, input_zyx=cube, decoder=(16, 32, 64, 128)
    )
    student = Vit3d(config)
    if arm == "tubular":
        Tubular(TubularConfig()).adapt(student)
    return student


def step(net, image):
    """Forward and backward."""
    out = net(image)
    logits = out if isinstance(out, torch.Tensor) else out.logits
    F.binary_cross_entropy_with_logits(logits, torch.zeros_like(logits)).backward()
    net.zero_grad()


MEASURE = """
from pathlib import Path
import torch
from tests.benchmarks.test_vit import SIZE, build, step

def kib(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(key)))

net = build({arm!r})
Path("/proc/self/clear_refs").write_text("5")  # resets the peak, which a child process else takes over from its parent
before = kib("VmRSS")
step(net, torch.rand(1, 1, SIZE, SIZE, SIZE))
print((kib("VmHWM") - before) / 2**20)
"""


def peak_of(arm):
    """GiB that one step takes at its peak, in a process of its own; Linux only."""
    command = [sys.executable, "-c", MEASURE.format(arm=arm)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


@pytest.mark.timeout(1800)
def test_the_vit_against_unetr_and_tubes_against_blocks():
    nets = {arm: build(arm).train() for arm in ARMS}
    image = torch.rand(1, 1, SIZE, SIZE, SIZE)
    seconds = {arm: [] for arm in ARMS}
    for number in range(ROUNDS + 1):
        for arm, net in nets.items():
            start = time.perf_counter()
            step(net, image)
            if number:  # the first one warms up
                seconds[arm].append(time.perf_counter() - start)
    middle = {arm: statistics.median(values) for arm, values in seconds.items()}
    peak = {arm: peak_of(arm) for arm in ARMS}
    size = {arm: sum(p.numel() for p in net.parameters()) / 1e6 for arm, net in nets.items()}
    lines = [
        f"{arm:8} {middle[arm] * 1e3:6.0f} ms forward + backward, {peak[arm]:.2f} GiB, {size[arm]:.1f} M parameters"
        for arm in ARMS
    ]
    sys.stdout.write(
        "\n" + "\n".join(lines) + "\n"
        f"vit3d / UNETR: time {middle['vit3d'] / middle['unetr']:.2f}, memory {peak['vit3d'] / peak['unetr']:.2f}"
        " (asked: at most 1)\n"
        f"tubular / vit_center: time {middle['tubular'] / middle['vit3d']:.2f} (asked: at most 1.15)\n"
    )
    assert middle["vit3d"] < 2 * middle["unetr"]
    assert middle["tubular"] < 2 * middle["vit3d"]
