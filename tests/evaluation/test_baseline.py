"""Otsu's scores of a case are computed once, and again wherever they could differ."""

import numpy as np
import pytest

from distill3d.config.schema import EvaluationConfig, PatchConfig
from distill3d.data.base import Case, DataSource
from distill3d.data.prepared import prepare
from distill3d.evaluation import baseline
from distill3d.evaluation.baseline import otsu_dice_by_size, otsu_scores
from distill3d.evaluation.cleaning import SIZES, Clean
from distill3d.storage import whole_folder
from distill3d.volumes.swc import Tree
from distill3d.volumes.volume import Volume

EVALUATION = EvaluationConfig()


class Line(DataSource):
    """A bright line of 2 x 2 x 90 voxels, of which gold has the first 60, and a speck of eight voxels."""

    def splits(self):
        return {"train": (), "val": (), "test": ("line",)}

    def key(self, name):
        return "1"

    def load(self, name):
        data = np.zeros((12, 16, 100), np.uint8)
        mask = np.zeros(data.shape, bool)
        data[4:6, 4:6, 5:95] = data[9:11, 12:14, 50:52] = 200
        mask[4:6, 4:6, 5:65] = True
        tree = Tree(np.array([[4.5, 4.5, 5], [4.5, 4.5, 64]]), np.ones(2), np.array([-1, 0]), np.array([1, 3]))
        return Case(name=name, volume=Volume(data, (1.0, 1.0, 1.0)), mask=mask, known=np.ones_like(mask), tree=tree)


@pytest.fixture
def case(tmp_path):
    return prepare(Line(None, cache=tmp_path / "cache"), "line", PatchConfig())


@pytest.fixture
def masks_made(monkeypatch):
    """How often the stack was segmented."""
    calls = []

    def above_otsu(values):
        calls.append(values.shape)
        return real(values)

    real = baseline.above_otsu
    monkeypatch.setattr(baseline, "above_otsu", above_otsu)
    return calls


def test_its_scores_are_those_of_the_mask_and_of_the_tree(case):
    scores, untraced = otsu_scores(case, Clean(50), EVALUATION)
    assert untraced == ""
    assert scores["dice"] == pytest.approx(2 * 240 / (368 + 240))  # gold has 4 x 60, Otsu 4 x 90 and the speck
    assert scores["dice_clean"] == pytest.approx(2 * 240 / (360 + 240))
    assert scores["tree_recall"] == 1
    assert scores["tree_precision"] == pytest.approx(63.5 / 89, abs=0.02)  # up to four voxels past the end of gold
    whole, pieces = 2 * 240 / (368 + 240), 2 * 240 / (360 + 240)
    expected = [pieces] + [whole if size <= 8 else pieces if size <= 360 else 0 for size in SIZES]
    assert otsu_dice_by_size(case) == pytest.approx(expected)


def test_a_second_run_takes_what_the_first_one_computed(case, masks_made):
    first = otsu_scores(case, Clean(50), EVALUATION), otsu_dice_by_size(case).tolist()
    again = otsu_scores(case, Clean(50), EVALUATION), otsu_dice_by_size(case).tolist()
    assert again == first
    assert len(masks_made) == 2


def test_what_could_differ_is_computed_anew(case, masks_made, monkeypatch):
    wide = EvaluationConfig(mask_um=40.0)
    by_um = [otsu_scores(case, Clean(50), evaluation)[0].get("dice_tol_um") for evaluation in (EVALUATION, wide)]
    assert by_um == [None, 1.0]
    clean = [otsu_scores(case, Clean(size), EVALUATION)[0]["dice_clean"] for size in (1, 50)]
    assert clean[0] < clean[1]
    monkeypatch.setattr(baseline, "code_hash", lambda *_: "other")
    otsu_scores(case, Clean(50), EVALUATION)
    assert len(masks_made) == 4  # 50, 50 within 40 um, 1, and 50 by other code


def test_a_cut_off_copy_is_computed_anew(case, masks_made):
    first = otsu_scores(case, Clean(50), EVALUATION)
    (meta,) = (case.folder.parent.parent / "baselines").glob("*/meta.json")
    meta.write_text(meta.read_text()[:40])
    assert otsu_scores(case, Clean(50), EVALUATION) == first
    assert otsu_scores(case, Clean(50), EVALUATION) == first
    assert len(masks_made) == 2


def test_a_cache_that_cannot_be_written_loses_no_score(case, masks_made, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(whole_folder.tempfile, "mkdtemp", full)
    assert otsu_scores(case, Clean(50), EVALUATION) == otsu_scores(case, Clean(50), EVALUATION)
    assert len(masks_made) == 2
