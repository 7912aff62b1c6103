"""No run tests on a case that trained or chose the weights it starts from or learns from."""

import shutil

import pytest
import torch

from distill3d.config.plain import as_plain
from distill3d.data.datamodule import DistillDataModule
from distill3d.errors import InputError
from distill3d.experiment import load_experiment
from distill3d.storage.checkpoint import read_checkpoint
from distill3d.storage.run_folder import RunFolder
from distill3d.storage.trained_on import Seen, seen_by
from distill3d.training import fit
from distill3d.training.export import export
from distill3d.training.unseen import check_unseen

pytestmark = pytest.mark.usefixtures("undrawn")
OTHER_SPLIT = ("data.train=1", "data.val=1", "data.test=2")  # tests on sim_002, which validated `finished`, and sim_003


def started_from(place):
    return ("strategy.name=warm_start", f"strategy.model={place}")


@pytest.fixture
def elsewhere(tiny, tmp_path):
    """Load the tiny experiment, its runs in a folder of its own."""
    return lambda name, *overrides: tiny(f"runs={tmp_path / name}", *overrides)


def test_a_run_that_tests_on_what_chose_its_start_is_refused_before_anything_is_written(
    finished_once, elsewhere, tmp_path
):
    file = tmp_path / "cells.safetensors"
    export(finished_once, file)
    for place, weights in ((finished_once, RunFolder(finished_once).best), (file, file)):
        with pytest.raises(InputError, match=r"accepted: test cases but for sim_000, sim_001, sim_002, or") as caught:
            fit.fit(elsewhere("a", *started_from(place), *OTHER_SPLIT))
        (line,) = caught.value.lines
        assert line.startswith(f"data.test: sim_002 trained or chose the weights of {weights}, so")
    assert not (tmp_path / "a" / "tiny" / "seed0" / "config.yaml").exists()


def test_what_weights_have_seen_is_handed_on(finished_once, elsewhere, caplog):
    first = fit.fit(elsewhere("a", *started_from(finished_once)))
    both = [("sim_000", "sim_001", "sim_002")] * 2
    assert [each.cases for each in seen_by(read_checkpoint(RunFolder(first).best), first)] == both
    second = fit.fit(elsewhere("b", *started_from(finished_once), *OTHER_SPLIT, "data.seed=1"))
    assert not caplog.messages  # numbers of another simulation are other neurons
    with pytest.raises(InputError, match=r"^data\.test: sim_002 trained"):
        fit.fit(elsewhere("c", *started_from(second), *OTHER_SPLIT))
    resumed = fit.fit(elsewhere("a", *started_from(finished_once), "trainer.steps=6"), resume=True)
    assert [each.cases for each in seen_by(read_checkpoint(RunFolder(resumed).last), resumed)] == both


def test_weights_that_do_not_say_what_they_have_seen_leave_a_remark(finished, elsewhere, caplog):
    saved = torch.load(finished.best, weights_only=True)
    del saved["distill3d"]["seen"]
    torch.save(saved, finished.best)
    old = shutil.copytree(finished.path, finished.path.parent / "old")
    run = fit.fit(elsewhere("a", *started_from(old), *OTHER_SPLIT))
    (message,) = caplog.messages
    assert message.startswith(f"{RunFolder(old).best}: it does not say on which cases it was trained")
    assert [each.cases for each in seen_by(read_checkpoint(RunFolder(run).best), run)] == [("sim_000", "sim_001"), None]
    caplog.clear()
    fit.fit(elsewhere("b", *started_from(old), "data.seed=1"))
    assert not caplog.messages


def test_the_shipped_model_starts_runs_on_other_simulations_and_on_real_neurons(caplog, tmp_path):
    from distill3d.storage.models import SHIPPED

    file = SHIPPED / "simulated_only.safetensors"
    seen = seen_by(read_checkpoint(file), file)
    for name in ("simulated", "op_scratch"):
        (tmp_path / "pairs").mkdir(exist_ok=True)
        data = DistillDataModule(load_experiment(name, ["data.folder=x"] if name == "op_scratch" else []))
        data.__dict__["splits"] = {"train": ("sim_001",), "val": ("sim_002",), "test": ("sim_000",)}
        check_unseen(data, seen)
    assert not caplog.messages
    again = DistillDataModule(load_experiment("simulated_only", ["data.test=1"]))
    check_unseen(again, seen)
    assert "does not say" in caplog.text


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({}, True),
        ({"train": 4, "test": 1}, True),
        ({"seed": 1}, False),
        ({"shape_zyx": [32, 64, 64]}, False),
        ({"swc_folder": "trees"}, False),
    ],
)
def test_grown_neurons_are_the_same_where_all_but_their_number_is(tiny, change, same):
    data = DistillDataModule(tiny())
    other = as_plain(tiny().data) | change
    assert data.source.same_cases(data.experiment.data.config, other) is same


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"microscope": {}}, True),
        ({"train": 9}, True),
        ({"seed": 1}, None),
        ({"swc_folder": "copy"}, None),
        ({"swc_folder": None}, False),
    ],
)
def test_real_trees_are_the_same_where_they_are_drawn_alike(change, same):
    from distill3d.data.simulate import Simulated, SimulatedConfig

    config = SimulatedConfig(swc_folder="trees")
    assert Simulated.same_cases(config, as_plain(config) | change) is same
    kept = SimulatedConfig(swc_folder="trees", swc_test=("hers/*",))
    assert Simulated.same_cases(kept, as_plain(kept) | {"train": 9}) is None


def test_neurons_of_one_folder_are_refused_and_those_of_a_copy_leave_a_remark(tiny, tmp_path, caplog):
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    data = DistillDataModule(tiny(f"data={{name: neurons, folder: {pairs}}}"))
    data.__dict__["splits"] = {"train": ("OP_1",), "val": ("OP_6",), "test": ("OP_5", "OP_3")}
    (tmp_path / "link").symlink_to(pairs)

    def look(folder, *cases):
        settings = {"name": "neurons", "folder": str(folder), "radius_um": 3.0}
        check_unseen(data, [Seen(where="there", data=settings, cases=cases)])
        return caplog.messages

    with pytest.raises(InputError, match=r"^data\.test: OP_3 trained or chose the weights of there, so"):
        look(tmp_path / "link", "OP_3", "OP_4")
    assert not look(pairs, "OP_1", "OP_6")
    assert not look(tmp_path / "copy", "OP_1")
    assert not look("$NO_SUCH_VARIABLE/pairs", "OP_1")
    (message,) = look(tmp_path / "copy", "OP_5", "OP_1")
    assert message.startswith("there: it was trained on, or chosen by, cases of the same names as OP_5, on which")
    check_unseen(data, [Seen(where="grown", data={"name": "simulated"}, cases=("OP_5",))])
    assert len(caplog.messages) == 1
