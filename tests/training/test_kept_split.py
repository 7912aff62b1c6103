"""A run keeps its split: cases that come or go later move none from training to the test."""

import json
import shutil

import numpy as np
import pytest

from distill3d.errors import InputError
from distill3d.evaluation.run_scores import evaluate
from distill3d.evaluation.view import case_layers
from distill3d.storage.run_folder import RunFolder
from distill3d.training.fit import fit
from distill3d.training.reproduce import reproduce
from distill3d.training.trace_tuning import tune_trace
from distill3d.volumes.raster import rasterize
from distill3d.volumes.swc import Tree, write_swc
from distill3d.volumes.volume import Volume, write_volume

pytestmark = pytest.mark.usefixtures("undrawn")
SPLIT = {"train": ["n2"], "val": ["n0"], "test": ["n1", "n3"]}
WITH_N4 = {"train": ["n0"], "val": ["n3", "n4"], "test": ["n1", "n2"]}
MOVED = r"n4 from none to val, n0 from val to train, n2 from train to test and 1 more\); accepted: the cases"
STEP = ("trainer.validate_every=1", "trainer.log_every=1")


def add_case(folder, name):
    tree = Tree(np.array([[8.0, 10, x] for x in range(4, 44)]), np.full(40, 2.0), np.arange(-1, 39), np.full(40, 3))
    image = rasterize(tree, (16, 48, 48)) * 180 + np.random.default_rng(len(name)).integers(0, 20, (16, 48, 48))
    write_volume(folder / f"{name}.tif", Volume(image.astype(np.uint8)))
    write_swc(folder / f"{name}.swc", tree)


@pytest.fixture
def neurons(tmp_path):
    """A folder of four neurons; a fifth deals them out otherwise."""
    for name in ("n0", "n1", "n2", "n3"):
        add_case(tmp_path / "stacks", name)
    return tmp_path / "stacks"


def test_a_run_is_trained_on_and_scored_with_the_cases_that_it_began_with(tiny, neurons, tmp_path):
    settings = (f"data={{name: neurons, folder: {neurons}, folds: 3}}", *STEP)
    folder = RunFolder(fit(tiny(*settings, "trainer.steps=1")))
    assert json.loads(folder.split.read_text()) == SPLIT
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    add_case(neurons, "n4")
    verbs = (
        lambda: fit(tiny(*settings, "trainer.steps=2"), resume=True),
        lambda: evaluate(folder.path),
        lambda: tune_trace(folder.path, trials=1),
        lambda: case_layers(folder.path),
        lambda: reproduce(folder.path),
    )
    for verb in verbs:
        with pytest.raises(InputError, match=MOVED):
            verb()
    assert {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()} == before
    for end in (".tif", ".swc"):
        (neurons / f"n4{end}").rename(tmp_path / f"n4{end}")
    assert list(evaluate(folder.path)["cases"]) == SPLIT["test"]
    fit(tiny(*settings, "trainer.steps=2"), resume=True)
    assert json.loads(folder.split.read_text()) == SPLIT


def test_a_run_of_an_older_version_goes_on_and_one_that_begins_anew_takes_what_is_there(tiny, neurons):
    settings = (f"data={{name: neurons, folder: {neurons}, folds: 3}}", *STEP)
    folder = RunFolder(fit(tiny(*settings, "trainer.steps=1")))
    add_case(neurons, "n4")
    fit(tiny(*settings, "trainer.steps=1"), overwrite=True)
    assert json.loads(folder.split.read_text()) == WITH_N4
    folder.split.unlink()
    (neurons / "n4.swc").unlink()
    shutil.copy(folder.prob("n1"), folder.prob("n3"))
    assert list(evaluate(folder.path)["cases"]) == SPLIT["test"]
