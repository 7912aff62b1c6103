"""A pretraining learns, resumes exactly, and leaves weights and a card; the shipped ViT is what its card says."""

import io
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from rich.console import Console
from safetensors.torch import load_file

from distill3d.config.schema import CropConfig
from distill3d.errors import ConfigError, InputError
from distill3d.experiment import load_experiment, load_pretraining
from distill3d.layers.photo_vit import PHOTO_VIT
from distill3d.storage.run_folder import RunFolder
from distill3d.teachers.base import hash_weights
from distill3d.teachers.timm2d import Timm2d, Timm2dConfig
from distill3d.teachers.weights import SHIPPED
from distill3d.training.pretrain import pretrain
from distill3d.training.pretrain.module import ExplainedVariance, PhotoModule, build_vit
from distill3d.training.pretrain.photos import PHOTOS, Crops, photos
from distill3d.training.pretrain.probe import probe

CROPS = CropConfig(pixels=64, teacher_pixels=64, batch_size=4, val_crops=8, workers=0)
TINY = """
question: does it learn?
architecture: test_vit
crops: {pixels: 64, teacher_pixels: 64, batch_size: 4, val_crops: 8, probe_crops: 20, workers: 0}
optimizer: {lr: 0.002, warmup_steps: 0, schedule: constant}
trainer: {steps: 4, validate_every: 2, accelerator: cpu}
logging: {wandb: disabled}
"""


FEW_RIDGES = ("distill3d.training.pretrain.probe.RIDGES", np.logspace(2, 6, 3))


def settings_in(folder):
    path = folder / "pretrain_tiny.yaml"
    path.write_text(f"{TINY}\nruns: {folder / 'runs'}\n")
    return lambda *overrides: load_pretraining(path, overrides)


@pytest.fixture
def settings(tmp_path):
    return settings_in(tmp_path)


@pytest.fixture(scope="module")
def finished_settings(tmp_path_factory):
    """How to load the settings of a finished run, which no test changes."""
    settings = settings_in(tmp_path_factory.mktemp("finished"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(*FEW_RIDGES)
        pretrain(settings())
    return settings


@pytest.fixture
def module(settings):
    torch.manual_seed(0)
    return PhotoModule(settings())


def batch(count=4):
    crops = Crops(photos("train"), CROPS, seed=1, augment=True)
    return torch.stack([crops[index] for index in range(count)])


def test_explained_variance_on_a_worked_example():
    explained = ExplainedVariance(2)
    target = torch.tensor([[0.0, 0.0], [2.0, 4.0]])  # variance around the mean: 2 + 8 = 10
    explained.update(0, pred=target, target=target)
    explained.update(1, pred=target[:1] + 1, target=target[:1])
    explained.update(1, pred=target[1:], target=target[1:])  # in parts; residual 2
    assert explained.compute() == pytest.approx([1.0, 0.8])


def test_targets_are_standardized_over_the_batches_that_were_measured(module):
    crops = batch(8)
    module.measure([crops[:4], crops[4:]])
    maps, logits = module.targets(crops)
    assert [each.shape for each in maps] == [(8, 16, width) for width in (24, 40, 112, 320)]
    assert logits.shape == (8, 1000)
    for each in maps[2:]:  # finer maps are averaged over a token, which narrows them
        assert each.mean().abs() < 0.1
        assert 0.8 < each.std() < 1.2


def test_a_few_steps_lower_every_term_and_leave_the_teacher_alone(module):
    crops = batch()
    module.measure([crops])
    before = hash_weights(dict(module.teacher.named_parameters()))
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=2e-3)
    values = []
    for _ in range(12):
        terms = module.terms(crops)
        values.append({name: term.value.item() for name, term in terms.items()})
        optimizer.zero_grad()
        torch.stack([term.weight * term.value for term in terms.values()]).sum().backward()
        optimizer.step()
    assert all(values[-1][name] < values[0][name] for name in values[0])
    assert hash_weights(dict(module.teacher.named_parameters())) == before


def test_a_run_leaves_half_precision_weights_that_timm_loads_and_a_card(finished_settings):
    folder = RunFolder(pretrain(finished_settings()))
    results = folder.read_json(folder.metrics)
    weights = load_file(folder.path / "test_vit.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float16}
    timm.create_model("test_vit", img_size=64).load_state_dict(weights, strict=True)
    assert hash_weights(weights) == results["weights"]["sha256"]
    card = (folder.path / "test_vit.md").read_text()
    for said in (results["weights"]["sha256"], "4 of 4 crops", *(photo.file for photo in PHOTOS)):
        assert said in card
    assert all(len(values) == 4 for values in results["explained_variance"].values())
    assert folder.state == "done"


def test_a_resumed_run_equals_an_uninterrupted_one(settings, finished_settings, monkeypatch):
    monkeypatch.setattr("distill3d.training.pretrain.fit.probe", lambda _: [0.0] * 4)  # what it takes most time for
    whole = pretrain(finished_settings())
    folder = RunFolder(pretrain(settings("trainer.steps=2")))
    saved = torch.load(folder.last, weights_only=True)
    torch.save({**saved, "teacher": {**saved["teacher"], "sha256": "0123"}}, folder.last)
    with pytest.raises(InputError, match=r"its teacher was .* sha256 0123\), now .* sha256 [0-9a-f]{16}\)"):
        pretrain(settings(), resume=True)
    torch.save(saved, folder.last)
    parts = pretrain(settings(), resume=True)
    one, other = (load_file(path / "test_vit.safetensors") for path in (whole, parts))
    # a constant learning rate, so that half a run is the first half of the whole
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_finished_run_is_not_repeated_and_another_is_refused(finished_settings):
    done = RunFolder(pretrain(finished_settings())).done
    written = done.stat().st_mtime_ns
    pretrain(finished_settings())
    assert done.stat().st_mtime_ns == written
    with pytest.raises(InputError, match=r"holds a run with other settings \(optimizer\.lr"):
        pretrain(finished_settings("optimizer.lr=0.1"))
    with pytest.raises(InputError, match="accepted: one of them"):
        pretrain(finished_settings(), resume=True, overwrite=True)
    assert done.stat().st_mtime_ns == written


def test_fewer_steps_than_were_trained_are_refused_before_anything_is_touched(finished_settings):
    folder = pretrain(finished_settings())
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=r"seed0: has trained 4 steps; accepted: trainer\.steps=4 or more"):
        pretrain(finished_settings("trainer.steps=2"), resume=True)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_second_process_knows_that_a_run_is_finished_and_says_nothing(finished_settings, monkeypatch):
    folder, said = pretrain(finished_settings()), Console(file=io.StringIO())
    monkeypatch.setattr("distill3d.training.pretrain.fit.is_main_process", lambda: False)
    monkeypatch.setattr("distill3d.training.claim.is_main_process", lambda: False)
    monkeypatch.setattr("distill3d.training.pretrain.fit.train", lambda *_, **__: pytest.fail("it trains"))
    assert pretrain(finished_settings(), console=said) == folder
    assert not said.file.getvalue()


@pytest.mark.parametrize(
    ("load", "name", "line"),
    [
        (load_experiment, "pretrain_vit", "pretrain_vit trains a 2D teacher on photos; accepted: distill3d pretrain"),
        (load_pretraining, "inflate", "inflate trains a 3D student; accepted: distill3d fit inflate"),
    ],
)
def test_each_verb_names_the_other_for_the_others_files(load, name, line):
    with pytest.raises(ConfigError, match=line):
        load(name)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("nobody", "not in timm"), ("resnet18", "is a ResNet"), ("test_vit.bogus", "Invalid pretrained tag")],
)
def test_an_architecture_that_is_no_vit_is_refused(name, kind):
    with pytest.raises(ConfigError, match=kind):
        build_vit(name, pixels=64)


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("crops.area=[1.0,0.1]", r"area\[1\]=0.1 is too small; accepted: 1.0 or more"),
        ("trainer.strategy=fsdp", "trainer.strategy=fsdp: a 2D ViT has nothing to share; accepted: auto or ddp"),
    ],
)
def test_settings_that_fail_in_training_are_refused_as_they_are_read(settings, word, says):
    with pytest.raises(ConfigError, match=says):
        settings(word)


def test_layers_the_teacher_does_not_have_are_refused(settings):
    with pytest.raises(ConfigError, match=r"layers=\[7\]: the teacher has 5 feature maps; accepted: -5 to 4"):
        PhotoModule(settings("layers=[7]"))


class TestShipped:
    """The ViT inside the package."""

    def test_it_is_small(self):
        path = SHIPPED / f"{PHOTO_VIT}.safetensors"
        assert path.stat().st_size < 12e6
        assert sum(value.numel() for value in load_file(path).values()) < 6e6

    def test_its_card_is_about_these_weights_and_names_every_photo(self):
        card = (SHIPPED / f"{PHOTO_VIT}.md").read_text()
        assert hash_weights(load_file(SHIPPED / f"{PHOTO_VIT}.safetensors")) in card
        assert all(photo.file in card and photo.license in card for photo in PHOTOS)

    def test_it_loads_as_a_teacher_that_is_not_random(self):
        identity = Timm2d(Timm2dConfig(architecture=PHOTO_VIT)).identity
        assert not identity.random
        assert identity.weights.startswith("distill3d ")

    def test_it_knows_more_of_held_out_photos_than_a_random_vit(self, monkeypatch):
        monkeypatch.setattr(*FEW_RIDGES)
        small = CropConfig(val_crops=8, probe_crops=20)
        settings = replace(load_pretraining("pretrain_vit"), crops=small)
        torch.manual_seed(0)
        module = PhotoModule(settings).eval()
        crops = Crops(photos("train"), small, seed=1, augment=True)
        module.measure([torch.stack([crops[index] for index in range(16)])])
        random = probe(module)
        module.net.load_state_dict(load_file(SHIPPED / f"{PHOTO_VIT}.safetensors"))
        trained = probe(module)
        assert sum(trained) > sum(random) + 0.5
        assert trained[0] > random[0] + 0.2
