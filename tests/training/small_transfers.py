"""What tests of training share: settings of small students that take weights over, a batch, a power cut."""

import forked
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from undrawn import UNDRAWN

from distill3d.config.plain import as_plain
from distill3d.storage.run_folder import RunFolder, write_yaml
from distill3d.training import fit
from distill3d.types import Batch

VIT_SIZES = "encoder: test_vit, depth: 4, block_zyx: [8, 16, 16], input_zyx: [16, 32, 32], decoder: [4, 4, 4, 4]"
VIT = (
    f"student={{name: vit3d, {VIT_SIZES}, depth_position: learned}}",
    "teacher={name: timm2d, architecture: test_vit, weights: random}",
    "strategy={name: inflate, mode: center}",
)
CNN = (
    "student={name: convnet3d, encoder: test_efficientnet, stages: 2, decoder: [4, 4], encoder_norm: batch}",
    "teacher={name: timm2d, architecture: test_efficientnet, weights: random}",
    "strategy={name: inflate, mode: center}",
)


def make_batch(size=2):
    generator = torch.Generator().manual_seed(0)
    shape = (size, 1, 8, 16, 16)
    return Batch(
        image=torch.rand(shape, generator=generator),
        target=(torch.rand(shape, generator=generator) > 0.8).float(),
        known=torch.ones(shape, dtype=torch.bool),
        spacing_um=torch.ones(size, 3),
        origin_zyx_vox=torch.zeros(size, 3, dtype=torch.int64),
        cases=tuple(f"case{i}" for i in range(size)),
    )


def fit_on_two(experiment, folder, *, code=UNDRAWN, overrides=()):
    """Run an experiment's settings in two processes, its batch shared between them; returns the run's folder."""
    plain = {**as_plain(experiment), "runs": str(folder / "two")}
    file = folder / "settings" / f"{experiment.name}.yaml"
    write_yaml(file, {key: value for key, value in plain.items() if key != "name"})
    done = forked.run("fit", file, "trainer.devices=2", "patches.batch_size=1", *overrides, code=code)
    assert done.returncode == 0, done.stderr
    return RunFolder(folder / "two" / experiment.name / "seed0")


def weights(folder):
    return torch.load(folder.last, weights_only=True)["state_dict"]


def close(a, b, **tolerance):
    assert a.keys() == b.keys()
    return all(torch.allclose(a[k].double(), b[k].double(), **tolerance) for k in a)


class Crash(Callback):
    """A machine that dies at the start of the second epoch."""

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            raise RuntimeError("power cut")


def crash_in_second_epoch(experiment, monkeypatch):
    original = fit.make_trainer
    with monkeypatch.context() as patch:
        patch.setattr(fit, "make_trainer", lambda s, f, lo, callbacks: original(s, f, lo, [*callbacks, Crash()]))
        with pytest.raises(RuntimeError, match="power cut"):
            fit.fit(experiment)
