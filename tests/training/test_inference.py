"""Whole stacks, window by window."""

from dataclasses import replace

import nibabel
import numpy as np
import pytest
import torch

from distill3d.errors import InputError
from distill3d.evaluation.file_scores import score_files
from distill3d.storage.run_folder import RunFolder
from distill3d.training.inference import mean_prob, predict_prob, total_windows, window_count
from distill3d.training.module import DistillModule, load_module
from distill3d.training.networks import networks_of, run_reading
from distill3d.training.predict import predict, predict_all
from distill3d.types import Prediction
from distill3d.volumes.intensity import scale_intensity
from distill3d.volumes.prob import read_prob, says_prob, write_prob
from distill3d.volumes.reading import Reading
from distill3d.volumes.volume import read_volume


class Brightness(torch.nn.Module):
    """A stand-in student whose probability of a voxel is known: it depends on the voxel alone."""

    def forward(self, image):
        return Prediction(logits=4 * image - 2)


@pytest.fixture
def module(tiny):
    module = DistillModule(tiny())
    module.student = Brightness()
    return module


@pytest.mark.parametrize(
    ("precision", "half"),
    [("auto", torch.bfloat16), ("bf16-mixed", torch.bfloat16), ("16-mixed", torch.float16), ("32-true", None)],
)
def test_a_gpu_predicts_in_the_precision_that_it_trained_in(tiny, monkeypatch, precision, half):
    module = DistillModule(tiny(f"trainer.precision={precision}"))
    module.student, asked, as_it_is = Brightness(), [], torch.autocast
    monkeypatch.setattr(DistillModule, "device", torch.device("cuda"))
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *_: self)
    monkeypatch.setattr(
        torch, "autocast", lambda *args, **how: asked.append((args, how)) or as_it_is("cpu", enabled=False)
    )

    predict_prob(module, np.random.default_rng(0).random((16, 32, 32), dtype=np.float32))

    assert asked
    assert all(each == (("cuda", half), {"enabled": half is not None}) for each in asked)


@pytest.mark.parametrize("shape", [(16, 32, 32), (20, 70, 33), (5, 40, 90)])
def test_windows_blend_to_the_value_of_each_voxel(module, shape):
    image = np.random.default_rng(0).random(shape, dtype=np.float32)
    expected = 1 / (1 + np.exp(-(4 * image - 2)))
    np.testing.assert_allclose(predict_prob(module, image), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        *[(shape, (16, 32, 32)) for shape in ((16, 32, 32), (20, 70, 33), (5, 40, 90), (64, 64, 64))],
        ((7, 40, 33), (1, 32, 32)),  # steps of no voxel are of one
    ],
)
def test_the_announced_number_of_windows_is_the_real_one(module, shape, size):
    module.experiment = replace(module.experiment, patches=replace(module.experiment.patches, size_zyx=size))
    seen = []
    predict_prob(module, np.zeros(shape, np.float32), on_window=seen.append)
    settings = module.experiment
    assert sum(seen) == window_count(shape, settings.patches.size_zyx, settings.inference.overlap)


def test_probabilities_survive_the_file_to_a_quantum_and_keep_the_threshold(tmp_path):
    prob = np.linspace(0, 1, 24 * 8 * 8, dtype=np.float32).reshape(24, 8, 8)
    write_prob(tmp_path / "p" / "case.tif", prob, (3.0, 1.0, 1.0))
    back = read_prob(tmp_path / "p" / "case.tif")
    assert np.abs(back - prob).max() <= 0.5 / 255 + 1e-6
    assert back.dtype == np.float32


def test_a_prediction_without_any_neuron_can_be_read_back(tmp_path):
    write_prob(tmp_path / "case.tif", np.zeros((4, 8, 8), np.float32), (1.0, 1.0, 1.0))
    assert read_prob(tmp_path / "case.tif").max() == 0


@pytest.fixture
def other_run(finished):
    """The finished run, as if its data were the second channel of files that state a wrong voxel size."""
    saved = torch.load(finished.best, weights_only=True)
    data = {"name": "neurons", "folder": "nowhere", "channel": 1, "spacing_um": [3.0, 1.0, 1.0]}
    saved["distill3d"]["experiment"] |= {"data": data}
    saved["distill3d"]["experiment"]["patches"] |= {"low_percentile": 5.0, "high_percentile": 95.0}
    saved["distill3d"]["trained_um"] = [[3.0, 1.0, 1.0]]
    torch.save(saved, finished.best)
    return finished.path


def two_channels(path):
    data = np.random.default_rng(0).integers(1, 200, (2, 16, 32, 32)).astype(np.uint8)
    np.save(path, data)
    return data


def test_a_stack_is_read_as_the_run_s_data_were_and_its_folder_need_not_be_there(other_run, tmp_path):
    data, module = two_channels(tmp_path / "two.npy"), load_module(RunFolder(other_run).best)
    for asked, read in ((None, 1), (0, 0), (1, 1)):
        written = predict(other_run, tmp_path / "two.npy", out=tmp_path / str(asked), channel=asked)
        right = predict_prob(module, scale_intensity(data[read], 5.0, 95.0))
        assert np.abs(read_prob(written) - right).max() <= 0.5 / 255 + 1e-6
        assert read_volume(written).spacing_um == pytest.approx((3.0, 1.0, 1.0))
        assert says_prob(written)


def test_several_networks_and_flips_are_averaged(finished_once, module):
    data = np.random.default_rng(0).integers(0, 200, (16, 32, 40)).astype(np.uint8)
    trained, seen = load_module(RunFolder(finished_once).best), []
    alone = [mean_prob([each], data) for each in (trained, module)]
    np.testing.assert_allclose(mean_prob([trained, module], data), np.mean(alone, axis=0), atol=1e-6)
    flipped = mean_prob([trained], data, flips=True, on_window=seen.append)
    assert sum(seen) == total_windows([trained], data.shape, flips=True) == 8 * 2
    assert np.abs(flipped - alone[0]).max() > 1e-4
    for axes in ((0,), (1, 2)):
        again = mean_prob([trained], np.flip(data, axes), flips=True)
        np.testing.assert_allclose(np.flip(again, axes), flipped, atol=1e-5)


def test_runs_that_read_stacks_differently_are_no_ensemble_unless_it_is_said_how(finished_once, other_run):
    with pytest.raises(InputError, match=r"reads stacks with channel 1, .* with 0; accepted: --channel"):
        networks_of([finished_once, other_run])
    networks = networks_of([finished_once, other_run], channel=1, spacing_um=(3.0, 1.0, 1.0))
    assert len(networks.modules()) == 2


def test_a_run_knows_the_voxels_it_was_trained_on(finished_once):
    right = Reading(percentiles=(0.5, 99.99), trained_um=((2.0, 1.0, 1.0),))
    assert run_reading(finished_once) == right


def test_a_prediction_is_scored_against_gold_of_its_space_in_whatever_order_that_is_stored(finished_once, tmp_path):
    def save(name, data_xyz, affine):
        image = nibabel.Nifti1Image(np.ascontiguousarray(data_xyz), affine)
        image.header.set_xyzt_units("micron")
        nibabel.save(image, tmp_path / name)

    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    stored = affine[:, [2, 1, 0, 3]] * (1, -1, 1, 1)  # z, y and x, y backwards from the last of 32 rows
    stored[1, 3] = 31
    save("image.nii", np.random.default_rng(0).integers(1, 200, (16, 32, 33)).astype(np.uint8), stored)
    written = predict(finished_once, tmp_path / "image.nii", out=tmp_path)
    prob = read_volume(written).data.transpose()
    level = np.quantile(prob, 0.9, method="nearest")
    save("gold.nii", (prob >= level).astype(np.uint8)[:, ::-1].transpose(), affine)
    scores = score_files(written, tmp_path / "gold.nii", threshold=float(level) / 255)
    assert (scores["dice"], scores["spacing_um"]) == (1.0, [2.0, 1.0, 1.0])


def test_two_stacks_of_one_name_are_refused_before_anything_is_predicted(finished_once, tmp_path):
    volumes = [tmp_path / "a" / "stack.tif", tmp_path / "c.tif", tmp_path / "b" / "stack.nii.gz"]
    with pytest.raises(InputError, match=r"a/stack\.tif and .*b/stack\.nii\.gz would both become .*stack_prob\.tif"):
        predict_all(networks_of([finished_once]), volumes, out=tmp_path)


def test_only_the_prediction_of_the_same_stack_channel_and_checkpoint_is_replaced(finished, tmp_path):
    data, out = two_channels(tmp_path / "2024.05.12_cell 1.npy"), tmp_path / "p"
    source, fresh = tmp_path / "2024.05.12_cell 1.npy", tmp_path / "fresh.npy"
    np.save(fresh, data)
    written = predict(finished.path, source, out=out)
    assert written.name == "2024.05.12_cell 1_prob.tif"
    first = written.read_bytes()
    assert predict(finished.path, source, out=out).read_bytes() == first

    def refused(**options):
        networks = networks_of([finished.path], **options)
        with pytest.raises(InputError, match=r"is there and did not come from .*; accepted: --overwrite"):
            predict_all(networks, [fresh, source], out=out)
        assert written.read_bytes() == first
        assert not (out / "fresh_prob.tif").exists()

    refused(channel=1)
    np.save(source, data[::-1])
    refused()
    np.save(source, data)
    saved = torch.load(finished.best, weights_only=True)
    torch.save(saved | {"epoch": 99}, finished.best)
    refused()
    assert predict(finished.path, source, out=out, overwrite=True) == written
