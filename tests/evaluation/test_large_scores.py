"""Scores of masks that are read by part are those of the masks in memory."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from distill3d.evaluation.file_scores import score_files
from distill3d.evaluation.metrics.large import NEED_THE_WHOLE, large_mask_scores
from distill3d.evaluation.scores import mask_scores
from distill3d.volumes import parts
from distill3d.volumes.pieces import find_pieces
from distill3d.volumes.volume import Volume, write_volume

SHAPE = (14, 23, 31)
PART = (5, 8, 9)
MASK = (gaussian_filter(np.random.default_rng(1).standard_normal(SHAPE), 1.3) > 0.2).astype(bool)
MASK[4:9, 4:9, 4:9] = True
MASK[6, 6, 6] = False
OTHER = np.roll(MASK, (1, 0, 2), (0, 1, 2)) & (np.random.default_rng(2).random(SHAPE) < 0.97)
BLANK = np.zeros(SHAPE, bool)


def by_part(pred, gold, **how):
    pieces = [find_pieces(SHAPE, lambda box, m=mask: (m[box], None), size=PART) for mask in (pred, gold)]
    return large_mask_scores(pred=pieces[0], gold=pieces[1], part=PART, **how)


@pytest.mark.parametrize("pred", [OTHER, BLANK, MASK])
@pytest.mark.parametrize("gold", [MASK, BLANK])
def test_every_score_is_that_of_the_whole_masks(pred, gold):
    how = {"spacing_um": (2.0, 1.0, 0.5), "tolerance_um": 2.5, "surface_um": 1.0}
    whole = mask_scores(pred=pred, gold=gold, **how)
    assert by_part(pred, gold, **how) == pytest.approx(whole, abs=1e-9)
    assert list(by_part(pred, gold, **how)) == list(whole)


def test_scores_that_need_a_piece_whole_are_left_out_aloud_where_it_is_too_large(caplog):
    scores, whole = by_part(OTHER, MASK, most=100), mask_scores(pred=OTHER, gold=MASK)
    assert set(whole) - set(scores) == set(NEED_THE_WHOLE)
    assert scores == pytest.approx({key: whole[key] for key in scores}, abs=1e-9)
    assert "left out: cldice" in caplog.text


def test_large_files_are_scored_by_part(tmp_path, monkeypatch):
    for name, mask in (("pred", OTHER), ("gold", MASK)):
        write_volume(tmp_path / f"{name}.zarr", Volume(mask.astype(np.uint8) * 255, (2.0, 1.0, 1.0)))
    files = tmp_path / "pred.zarr", tmp_path / "gold.zarr"
    whole = score_files(*files)
    monkeypatch.setattr(parts, "LARGE", 1000)
    monkeypatch.setattr("distill3d.evaluation.file_scores.mask_scores", None)
    assert score_files(*files) == whole | {"asd": pytest.approx(whole["asd"]), "hd95": pytest.approx(whole["hd95"])}
