"""A case as layers of napari: in um, in the colors of the figures, and the worst places first."""

import shutil
import subprocess
import sys

import numpy as np
import pytest

from distill3d.errors import InputError
from distill3d.evaluation.figures.canvas import FALSE, HIT, LOST, RIGHT
from distill3d.evaluation.figures.layers import WORST, image_layer, tree_layers
from distill3d.evaluation.napari_reader import get_reader
from distill3d.evaluation.view import case_layers
from distill3d.storage.run_folder import RunFolder
from distill3d.volumes.tree import Tree

SPACING = (2.0, 1.0, 1.0)


def line(start, stop, n=31):
    return Tree(np.linspace(start, stop, n), np.ones(n), np.arange(n) - 1, np.full(n, 2))


GOLD = line((4, 10, 0), (4, 10, 60), 61)
HALF = line((4, 10, 0), (4, 10, 30))


def by_name(layers):
    return {settings["name"]: (data, settings, kind) for data, settings, kind in layers}


def test_a_tree_that_ends_half_way_is_right_there_and_misses_the_rest():
    layers = by_name(tree_layers(gold=GOLD, pred=HALF, spacing_um=SPACING))
    lengths = {
        name: np.linalg.norm(data[:, 1], axis=1).sum() for name, (data, _, kind) in layers.items() if kind == "vectors"
    }
    assert lengths["gold, found"] == pytest.approx(34.0, abs=1)  # within the tolerance of 4 voxels
    assert lengths["gold, missed"] == pytest.approx(26.0, abs=1)
    assert lengths["predicted, right"] == pytest.approx(30.0, abs=0.5)
    assert lengths["predicted, spurious"] == 0
    colors = {name: settings["edge_color"][0][:3] for name, (_, settings, kind) in layers.items() if kind == "vectors"}
    assert colors == {
        "predicted, right": RIGHT,
        "predicted, spurious": FALSE,
        "gold, found": HIT,
        "gold, missed": LOST,
    }
    missed = layers["gold, missed"][0]
    assert (missed[:, 0, :2] == (4, 10)).all()  # um, not voxels
    points, settings, kind = layers[WORST]
    assert kind == "points"
    assert points[0] == pytest.approx([4, 10, 47], abs=1)
    assert (settings["features"]["kind"][0], settings["features"]["voxels"][0]) == ("missed", pytest.approx(26, abs=1))


def test_the_worst_places_come_longest_first_and_leave_out_what_is_shorter_than_the_tolerance():
    far = line((4, 40, 0), (4, 40, 50), 51)
    points, settings, _ = by_name(tree_layers(gold=GOLD, pred=far, spacing_um=SPACING))[WORST]
    assert list(settings["features"]["kind"]) == ["missed", "spurious"]
    assert settings["features"]["voxels"] == pytest.approx([60, 50])
    assert points[:, 1] == pytest.approx([10, 40])
    points, *_ = by_name(tree_layers(gold=GOLD, pred=line((4, 10, 0), (4, 10, 53)), spacing_um=SPACING))[WORST]
    assert points.shape == (0, 3)  # 3 voxels are missed


def test_without_gold_a_tree_is_drawn_and_nothing_is_wrong():
    ((data, settings, kind),) = tree_layers(gold=None, pred=HALF, spacing_um=SPACING)
    assert (kind, settings["name"]) == ("vectors", "predicted (there is no gold tree)")
    assert np.linalg.norm(data[:, 1], axis=1).sum() == pytest.approx(30)


def test_an_image_keeps_its_values_and_has_its_voxels_in_um():
    stack = np.arange(6 * 8 * 8, dtype=np.uint16).reshape(6, 8, 8)
    data, settings, kind = image_layer("cell", stack, SPACING)
    assert data is stack
    assert (kind, settings["scale"], settings["units"]) == ("image", SPACING, ("um", "um", "um"))


def test_a_case_of_a_run_has_its_image_probability_and_trees(finished_once):
    layers = by_name(case_layers(finished_once))
    scores = RunFolder(finished_once).read_json(RunFolder(finished_once).metrics)["cases"]
    worst = min(scores, key=lambda name: scores[name]["dice"])
    assert list(layers)[:2] == [worst, "probability"]
    assert layers[worst][0].shape == layers["probability"][0].shape
    assert {"gold, found", "gold, missed", "predicted, right", WORST} <= set(layers)
    with pytest.raises(InputError, match=rf"no test case 'sim_99[0-9]?'; (did you mean|accepted: ).*{worst[:4]}"):
        case_layers(finished_once, "sim_99")


def test_the_reader_takes_a_file_at_a_time(data_dir):
    assert get_reader(["a.swc", "b.swc"]) is None
    swc = data_dir / "pairs" / "OP_1.swc"
    ((data, settings, kind),) = get_reader(str(swc))(str(swc))
    assert (kind, settings["name"]) == ("vectors", "OP_1")
    assert len(data) > 300


VIEW = """
import sys
import numpy as np
from qtpy.QtWidgets import QApplication
from distill3d.evaluation.view import case_layers, open_viewer

run, swc = sys.argv[1:]
layers = case_layers(run)
viewer = open_viewer(layers, "case")
viewer.open(swc, plugin="distill3d")
keys = {str(key): bound for key, bound in viewer.keymap.items()}
places = viewer.layers["worst places"]
for key, there in (("N", 0), ("N", 1), ("P", 0), ("P", len(places.data) - 1)):
    keys[key](viewer)
    assert places.selected_data == {there % len(places.data)}, (key, places.selected_data)
    assert np.allclose(viewer.camera.center, places.data[there % len(places.data)])
for _ in range(20):
    QApplication.processEvents()
picture = viewer.screenshot(canvas_only=True, flash=False)
assert picture[..., :3].std() > 1, "black"
assert viewer.dims.ndisplay == 3
print(len(viewer.layers) - len(layers), viewer.status)
viewer.close()
"""


@pytest.mark.skipif(not shutil.which("xvfb-run"), reason="needs a screen, if one of memory: apt-get install xvfb")
def test_napari_shows_it_steps_through_the_worst_places_and_opens_trees_by_itself(finished_once, tmp_path):
    (tmp_path / "tree.swc").write_text("1 2 0 0 0 1 -1\n2 2 9 9 3 1 1\n")
    command = ["xvfb-run", "-a", "-s", "-screen 0 800x600x24", sys.executable, "-c", VIEW]
    files = [str(finished_once), str(tmp_path / "tree.swc")]
    done = subprocess.run([*command, *files], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1].startswith("1 ")
    assert "voxels long" in done.stdout
