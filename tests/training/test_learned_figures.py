"""A run leaves figures of what it learned, compared with where it started, also when it was resumed."""

import pytest
import torch
from safetensors.torch import load_file
from undrawn import apply

from distill3d.data.datamodule import DistillDataModule
from distill3d.storage.run_folder import RunFolder
from distill3d.training import fit
from distill3d.training.module import load_module
from distill3d.training.tubes import tube_shares

TUBULAR = (
    "student={name: vit3d, encoder: test_vit, block_zyx: [8, 16, 16], input_zyx: [16, 32, 32], decoder: [4, 4, 4, 4]}",
    "teacher={name: timm2d, architecture: test_vit, weights: random}",
    "strategy={name: tubular, taps: 32}",
)


def test_filters_and_tubes_are_drawn_also_when_a_run_goes_on(tiny, monkeypatch):
    apply(monkeypatch.setattr, keep="_input_figures")
    for settings in (("trainer.steps=2",), ()):
        folder = RunFolder(fit.fit(tiny(*TUBULAR, *settings), resume=not settings))
        for name in ("filters", "tubes"):
            assert (folder.figures / f"{name}.png").read_bytes().startswith(b"\x89PNG")
            (folder.figures / f"{name}.png").unlink()
    start = load_file(folder.start)["encoder.patch_embed.tubes"]
    trained = load_module(folder.last).student.state_dict()["encoder.patch_embed.tubes"]
    assert start.shape == trained.shape == (3, 64, 32)
    assert not torch.equal(start, trained)
    data = DistillDataModule(tiny(*TUBULAR))
    data.prepare_data()
    again = tube_shares(load_module(folder.best), data.cases("test"))
    assert folder.read_json(folder.metrics)["tubes"] == pytest.approx(again)
    assert 0 < again["on_neurite_straight"] < again["followed_straight"] < 1


def test_a_student_that_mirrors_nothing_has_no_filters_to_compare(finished):
    folder = finished
    assert not folder.start.exists()
    assert not (folder.figures / "filters.png").exists()
    assert folder.read_json(folder.metrics)["tubes"] is None
