"""The picture for a README: a simulated neuron, of runs that still have their pictures, and of no other data."""

import dataclasses

import numpy as np
import pytest
from comparisons import compared
from PIL import Image

from distill3d.errors import InputError
from distill3d.evaluation.figures.canvas import FALSE, HIT, LOST
from distill3d.evaluation.projections import project, write_projections
from distill3d.report.picture import write_picture
from distill3d.storage.run_folder import RunFolder, write_yaml


def left(comparison, folder, data="simulated", **settings):
    """Give a comparison's arms runs of which the baseline misses what the other arm finds, with a false block."""
    gold = np.zeros((4, 40, 60), bool)
    gold[2, 10:14, 5:55] = True
    seen, known = np.zeros_like(gold), np.ones_like(gold)
    arms = []
    for arm in comparison.arms:
        run = RunFolder(folder / arm.name)
        write_yaml(run.config, {"data": {"name": data, **settings}})
        one = project(255.0 * gold, gold=gold, known=known, pred=seen, spacing_um=(2, 1, 1), tree=None)
        write_projections(run.projections("case_1"), one)
        arms.append(dataclasses.replace(arm, runs=(dataclasses.replace(arm.runs[0], folder=str(run.path)),)))
        seen = gold.copy()
        seen[:, 25:35, 20:40] = True
    return dataclasses.replace(comparison, arms=tuple(arms))


def colors(path):
    """Share of the four panels in each color of the legend."""
    rgb = np.asarray(Image.open(path).convert("RGB"), float) / 255
    quarter = rgb.shape[1] // 4
    panels = [rgb[40:-40, k * quarter : (k + 1) * quarter] for k in range(4)]
    near = [[np.abs(panel - color).max(axis=-1) < 0.02 for color in (HIT, FALSE, LOST)] for panel in panels]
    return np.array([[float(flags.mean()) for flags in panel] for panel in near])


def test_a_picture_shows_what_the_baseline_misses_and_what_the_other_arm_finds_and_makes_up(tmp_path):
    write_picture(tmp_path / "a" / "b.png", left(compared({"scratch": 0.0, "center": 0.1}, seeds=1), tmp_path))
    image, baseline, best, gold = colors(tmp_path / "a" / "b.png")
    assert image.max() == gold.max() == 0
    assert baseline[2] > 0.02
    assert baseline[:2].max() == 0
    assert best[2] == 0
    assert best[1] == pytest.approx(best[0], rel=0.25)  # 10 by 20 voxels, and 4 by 50
    assert best[0] == pytest.approx(baseline[2], rel=0.1)


@pytest.mark.parametrize("kind", ["other data", "somebody's trees", "kept", "one arm"])
def test_without_a_simulated_case_of_two_arms_nothing_is_drawn(kind, tmp_path):
    comparison = compared({"scratch": 0.0, "center": 0.1}, seeds=1)
    if kind == "one arm":
        comparison = dataclasses.replace(left(comparison, tmp_path), arms=comparison.arms[:1])
    else:
        trees = {"swc_folder": "swc"} if kind == "somebody's trees" else {"swc_folder": None}
        comparison = left(comparison, tmp_path, "neurons" if kind == "other data" else "simulated", **trees)
    if kind == "kept":
        RunFolder(tmp_path / "center").projections("case_1").unlink()
    with pytest.raises(InputError, match=r"--picture .*p\.png: no case with pictures of scratch and of another arm;"):
        write_picture(tmp_path / "p.png", comparison)
    assert not (tmp_path / "p.png").exists()
