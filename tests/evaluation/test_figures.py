"""Pictures and tables: the right color at the right place, at most 100 columns."""

import errno
import io
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from rich.console import Console

from distill3d.evaluation.figures import canvas
from distill3d.evaluation.figures.case import IS_FALSE, IS_HIT, IS_LOST, IS_UNKNOWN, NOTHING, case_figure, error_kinds
from distill3d.evaluation.tables import learned_lines, learned_warnings, little_kept, score_table, tubes_line


def masks(*places):
    mask = np.zeros((2, 4, 4), bool)
    for place in places:
        mask[place] = True
    return mask


def test_each_kind_of_voxel_has_its_place():
    pred, gold = masks((0, 0, 0), (0, 1, 1)), masks((0, 0, 0), (1, 2, 2))
    known = ~masks((slice(None), 3, 3))
    flat = error_kinds(pred=pred, gold=gold, known=known, axis=0)
    assert [*flat.diagonal(), flat[0, 3]] == [IS_HIT, IS_FALSE, IS_LOST, IS_UNKNOWN, NOTHING]


def test_a_hit_in_front_hides_the_error_behind_it():
    flat = error_kinds(pred=masks((0, 0, 0), (1, 0, 0)), gold=masks((0, 0, 0)), known=np.ones((2, 4, 4), bool), axis=0)
    assert flat[0, 0] == IS_HIT


def test_unknown_voxels_are_never_errors():
    nothing = np.zeros((2, 4, 4), bool)
    assert error_kinds(pred=masks((0, 1, 1)), gold=nothing, known=nothing, axis=0)[1, 1] == IS_UNKNOWN


@pytest.mark.parametrize("shape", [(4, 64, 64), (64, 16, 16)])
def test_a_picture_is_written_for_flat_and_for_deep_stacks(tmp_path, shape):
    rng = np.random.default_rng(0)
    path = case_figure(
        tmp_path / "new" / "case.png",
        "case",
        image=rng.random(shape, np.float32),
        gold=rng.random(shape) > 0.9,
        known=np.ones(shape, bool),
        prob=rng.random(shape, np.float32),
        threshold=0.5,
        spacing_um=(3.0, 1.0, 1.0),
    )
    assert path.read_bytes().startswith(b"\x89PNG")


def results(random):
    scores = {"dice": 0.5, "dice_tol": 0.6, "precision": 0.7, "recall": 0.4, "hd95_um": 123.45, "hd95_um_clean": 98.76}
    scores |= {"cldice": 0.5, "tree_precision": 0.5, "tree_recall": 0.5, "tree_f1": 0.5, "tree_esa": 123.45}
    clean = {"min_voxels": 50, "chosen_on": ["sim_008", "sim_009"]}
    cases = {"a_rather_long_name_of_a_case_file_in_a_folder": scores}
    scored = {"cases": cases, "mean": scores, "n_missed": 1, "clean": clean}
    teacher = {"architecture": "resnet18", "weights": "random", "random": random}
    return {"experiment": "x" * 30, "seed": 0, **scored, "baselines": {"otsu": scored}, "teacher": teacher}


def rendered(content):
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(score_table(content))
    return console.export_text()


def test_the_table_fits_100_columns_and_counts_missed_cases():
    text = rendered(results(random=False))
    assert max(map(len, text.splitlines())) <= 100
    assert "1 missed" in text
    assert re.search(r"123\.5\s*│\s*98\.8", text)  # of the whole mask, of the clean one
    assert "otsu: without pieces below 50 voxels (chosen on sim_008, sim_009)" in " ".join(text.split())
    assert "otsu" in text


def test_a_random_teacher_is_shouted():
    assert "THE TEACHER'S WEIGHTS ARE RANDOM" in rendered(results(random=True))
    assert "RANDOM" not in rendered(results(random=False)).replace("random", "")


def test_the_table_says_what_a_run_kept_of_its_teacher_where_it_took_something():
    assert "kept: 0.43 of the likeness to the teacher" in rendered(results(random=False) | {"kept": 0.43})
    assert max(map(len, rendered(results(random=False) | {"kept": 0.43}).splitlines())) <= 100
    assert "kept" not in rendered(results(random=False) | {"kept": None})
    assert "kept" not in rendered(results(random=False))


def test_keeping_less_than_half_is_said_with_the_options_that_change_it():
    assert [little_kept(share) for share in (None, 0.5, 1.0)] == [None, None, None]
    line = little_kept(0.49)
    assert line.startswith("kept 0.49 ")
    assert "optimizer.transferred_lr_ratio" in line
    assert "optimizer.layer_decay" in line
    assert "\n" not in line


def test_how_nonlinear_neurons_are_is_said_and_warned_of_by_type_below_a_hundredth():
    alone = {"nonlinear_share": 0.131, "nonlinear_share_by_type": {"quadratic": 0.131}}
    assert learned_lines(alone) == ["neurons: nonlinear part 0.13 of the linear one (median of layers)"]
    assert learned_warnings(alone) == []
    mixed = {"nonlinear_share": 0.2, "nonlinear_share_by_type": {"quadratic": 0.3, "spiking": 0.0099}}
    assert learned_lines(mixed)[0].endswith("0.2 of the linear one (median of layers): quadratic 0.3; spiking 0.0099")
    (warning,) = learned_warnings(mixed)
    assert warning.startswith("the nonlinear part of spiking neurons is 0.0099 of the linear one")
    assert "neurons.gate_lr_ratio" in warning
    assert "\n" not in warning
    for without in ({}, {"nonlinear_share": None, "nonlinear_share_by_type": {}}):
        assert learned_lines(without) == learned_warnings(without) == []


BENT = {
    "on_neurite": 0.0812,
    "on_neurite_straight": 0.017,
    "followed": 0.4,
    "followed_straight": 0.176,
    "saturated": 0.02,
    "bend_vox": 2.0,
}


def test_how_closely_tubes_follow_is_said_in_one_line():
    assert tubes_line(BENT) == (
        "tubes: 8.1 % of taps on neurites, 1.7 % if straight (of tubes that start on one 40 %, 18 %); "
        "2 % of steps saturated"
    )
    assert tubes_line(None) == ""
    static = BENT | {"on_neurite": 0.017, "followed": 0.176, "saturated": None, "bend_vox": 0.0}
    assert tubes_line(static) == "tubes: 1.7 % of taps on neurites"
    none_starts_on_one = BENT | dict.fromkeys(("followed", "followed_straight", "saturated", "bend_vox"))
    assert tubes_line(none_starts_on_one) == "tubes: 8.1 % of taps on neurites, 1.7 % if straight"


def test_tubes_that_bend_in_vain_are_said_to():
    assert "NO NEARER" not in tubes_line(BENT)
    for share in (0.017, 0.01):
        assert tubes_line(BENT | {"on_neurite": share}).endswith("; BENDING BRINGS THEM NO NEARER")


def test_a_picture_that_cannot_be_written_whole_leaves_the_old_one(tmp_path, monkeypatch):
    def full(self, content):
        self.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    canvas.save(Figure(figsize=(1, 1)), tmp_path / "a.png", dpi=50)
    before = (tmp_path / "a.png").read_bytes()
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        canvas.save(Figure(figsize=(1, 1)), tmp_path / "a.png", dpi=80)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == before
