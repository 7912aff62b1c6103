"""A run shrunk to one file: it predicts the same, says what it is, and nothing else is taken for it."""

import hashlib
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from distill3d.config.trace import TraceConfig
from distill3d.errors import InputError
from distill3d.storage.checkpoint import read_checkpoint, write_model
from distill3d.storage.run_folder import RunFolder
from distill3d.training.export import export
from distill3d.training.inference import mean_prob
from distill3d.training.networks import networks_of, run_reading

DATA = np.random.default_rng(0).integers(0, 60000, (16, 40, 40)).astype(np.uint16)


@pytest.fixture(scope="module")
def model(finished_once, tmp_path_factory):
    out = tmp_path_factory.mktemp("model") / "cells.safetensors"
    export(finished_once, out, note="Not for vessels.")
    return out


def test_it_predicts_what_the_run_does_but_for_half_precision(finished_once, model):
    probs = [mean_prob(networks_of([place]).modules(), DATA) for place in (finished_once, model)]
    assert probs[0].std() > 0
    assert np.abs(probs[0] - probs[1]).max() < 2e-3


def test_stacks_are_read_and_traced_as_the_run_does(finished, tmp_path):
    finished.tuned.write_text(json.dumps({"best": {"threshold": 0.375, "gap_um": 7.0}}))
    export(finished.path, tmp_path / "m.safetensors")
    one, other = (networks_of([place]) for place in (finished.path, tmp_path / "m.safetensors"))
    assert other.trace == one.trace == TraceConfig(threshold=0.375, gap_um=7.0)
    assert (other.reading, other.gold, other.threshold) == (one.reading, one.gold, one.threshold)
    assert run_reading(tmp_path / "m.safetensors").trained_um == one.reading.trained_um


def test_it_takes_half_the_bytes_and_a_run_is_not_changed_by_it(finished_once, model):
    state = read_checkpoint(RunFolder(finished_once).best)["state_dict"]
    halves = load_file(model)
    assert halves.keys() == state.keys()
    floating = [name for name, value in state.items() if value.is_floating_point()]
    assert {halves[name].dtype for name in floating} == {torch.float16}
    assert all(torch.equal(halves[name], state[name]) for name in state.keys() - set(floating))


def test_whom_the_umask_lets_read_a_run_may_read_its_model(finished_once, model):
    assert model.stat().st_mode == RunFolder(finished_once).config.stat().st_mode


def test_what_half_precision_cannot_hold_stays_as_it_is(finished_once, tmp_path):
    checkpoint = dict(read_checkpoint(RunFolder(finished_once).best))
    checkpoint["state_dict"] = {"large": torch.tensor([1e6]), "small": torch.tensor([0.5])}
    write_model(tmp_path / "m.safetensors", checkpoint)
    back = read_checkpoint(tmp_path / "m.safetensors")["state_dict"]
    assert [float(back[name]) for name in ("large", "small")] == [1e6, 0.5]


def test_the_card_says_what_it_is_from_the_runs_own_files(finished_once, model):
    card = model.with_suffix(".md").read_text()
    metrics = RunFolder(finished_once).read_json(RunFolder(finished_once).metrics)
    assert f"| Dice | {metrics['mean']['dice']:.3f} | {metrics['sd']['dice']:.3f} |" in card
    assert f"| steps | {metrics['cost']['steps']} of 2 patches" in card
    assert f"| commit | {metrics['provenance']['commit']} |" in card
    assert hashlib.sha256(model.read_bytes()).hexdigest() in card
    assert "Not for vessels." in card
    assert "name: simulated" in card


def test_a_run_that_is_unfinished_or_without_scores_and_another_suffix_are_one_line(finished, tmp_path):
    with pytest.raises(InputError, match=r"cells\.pt: not the name of a model; accepted: a name that ends in \.saf"):
        export(finished.path, tmp_path / "cells.pt")
    finished.done.unlink()
    with pytest.raises(InputError, match=r"seed0: no finished run; accepted: the folder of one"):
        export(finished.path, tmp_path / "cells.safetensors")
    finished.done.touch()
    finished.metrics.unlink()
    with pytest.raises(InputError, match="has no scores, and nobody should use what was not tested"):
        export(finished.path, tmp_path / "cells.safetensors")
    assert not list(tmp_path.glob("*cells*"))


@pytest.mark.parametrize("there", ["m.safetensors", "m.md"])
def test_what_is_there_is_not_replaced_without_being_told(finished_once, tmp_path, there):
    (tmp_path / there).write_text("mine")
    with pytest.raises(InputError, match=rf"/{there}: there already; accepted: --overwrite, or another --out"):
        export(finished_once, tmp_path / "m.safetensors")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]
    assert export(finished_once, tmp_path / "m.safetensors", overwrite=True) == tmp_path / "m.md"
    with pytest.raises(InputError, match=r"m\.md: cannot be written \(File exists\); accepted: another --out"):
        export(finished_once, tmp_path / "m.md" / "m.safetensors")


def test_weights_that_say_nothing_of_themselves_or_are_damaged_are_one_line(model, tmp_path):
    save_file(load_file(model), tmp_path / "bare.safetensors")
    with pytest.raises(InputError, match=r"bare\.safetensors: weights without what `distill3d export` says of them"):
        networks_of([tmp_path / "bare.safetensors"])
    (tmp_path / "cut.safetensors").write_bytes(model.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"cut\.safetensors: not a readable checkpoint"):
        networks_of([tmp_path / "cut.safetensors"])
