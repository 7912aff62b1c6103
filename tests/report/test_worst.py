"""The worst cases: the right ones, at one place, from what the runs left and nothing else."""

import base64
import dataclasses
import io
import shutil

import numpy as np
import pytest
from comparisons import compared
from PIL import Image

from distill3d.data.datamodule import DistillDataModule
from distill3d.evaluation.figures.canvas import FALSE, HIT, LOST
from distill3d.evaluation.figures.case import IS_FALSE, IS_HIT, IS_LOST
from distill3d.evaluation.projections import project, read_projections, write_projections
from distill3d.report.page.html import render
from distill3d.report.page.snapshots import WHOLE, Box, scaled, with_trees, worst_place, wrong_pixels
from distill3d.report.page.worst import MOST_ARMS, MOST_BYTES, MOST_CASES, MOST_WALL_BYTES, worst_cases, worst_names
from distill3d.storage.run_folder import RunFolder
from distill3d.volumes.swc import write_swc
from distill3d.volumes.tree import Tree

GAINS = {"op_scratch": 0.0, "op_bad": -0.2}
BLOCK = slice(4, 18)  # away from the frame of the close-up, which is the whole of so small an image
COLORS = BLACK, GREEN, ORANGE, BLUE = np.array([(0, 0, 0), HIT, FALSE, LOST])


def pixels(picture):
    code = base64.b64decode(picture.uri.removeprefix("data:image/webp;base64,"))
    return np.asarray(Image.open(io.BytesIO(code)).convert("RGB"), float) / 255


def kinds(picture, shape):
    """Color of every voxel of the projection [Y, X], as the place in COLORS of the nearest one; no frame."""
    small = Image.fromarray(np.rint(255 * pixels(picture)).astype(np.uint8)).resize(shape[::-1], Image.Resampling.BOX)
    flat = np.asarray(small, float) / 255
    return np.linalg.norm(flat[..., None, :] - COLORS, axis=-1).argmin(axis=-1)[2:-2, 2:-2]


@pytest.fixture
def case(tiny):
    (case,) = DistillDataModule(tiny()).cases("test")
    return case


def write_run(folder, case, pred, tree):
    """Leave in a folder what `evaluate` leaves of a case for the page."""
    run = RunFolder(folder)
    left = project(case.raw, gold=case.mask, known=case.known, pred=pred, spacing_um=case.spacing_um, tree=case.tree())
    write_projections(run.projections(case.name), left)
    write_swc(run.swc(case.name), tree)
    return folder


@pytest.fixture
def drawn(tmp_path, case):
    """An arm that is right and one that sees nothing but a block that is not there."""
    block = np.zeros_like(case.mask)
    block[:, BLOCK, BLOCK] = True
    folders = {
        "op_scratch": (write_run(tmp_path / "good", case, case.mask, case.tree()),),
        "op_bad": (write_run(tmp_path / "bad", case, block, Tree.empty()),),
    }
    comparison = compared(GAINS, seeds=1, case_names=[case.name, "other"])
    return comparison, folders


def test_the_worst_mean_over_arms_comes_first_and_a_case_nobody_found_before_it():
    comparison = compared(GAINS, cases=6)
    slow = {
        case: np.mean([run.cases[case]["dice"] for arm in comparison.arms for run in arm.runs])
        for case in comparison.arms[0].runs[0].cases
    }
    assert worst_names(comparison) == sorted(slow, key=slow.__getitem__)
    turned = dataclasses.replace(comparison, scores=comparison.scores[1:2])
    assert worst_names(turned) == sorted(slow, key=slow.__getitem__)  # HD95 falls as Dice grows
    best = max(slow, key=slow.__getitem__)
    for arm in comparison.arms:
        for run in arm.runs:
            run.cases[best]["hd95_um"] = None
    assert worst_names(turned)[0] == best


def test_arms_stand_side_by_side_after_image_and_gold(drawn, case):
    (shown,) = worst_cases(*drawn).cases
    assert shown.name == case.name
    assert [card.title for card in shown.cards] == ["Image", "Gold", "op_scratch", "op_bad"]
    assert [card.index for card in shown.cards] == [None, None, 0, 1]
    sizes = {(p.width, p.height) for card in shown.cards for p in card.pictures[:1]}
    assert sizes == {(WHOLE, round(WHOLE * case.shape[1] / case.shape[2]))}
    assert shown.place.endswith("all 16 slices")


def test_errors_have_the_color_of_their_kind(drawn, case):
    (shown,) = worst_cases(*drawn).cases
    gold = np.asarray(case.mask).any(axis=0)
    block = np.zeros_like(gold)
    block[BLOCK, BLOCK] = True
    right, wrong = (kinds(card.pictures[0], gold.shape) for card in shown.cards[2:])
    # A voxel of gold that the block's arm has somewhere along z is found, before all else.
    expected = np.select([gold & block, gold, block], [1, 3, 2], 0)[2:-2, 2:-2]
    assert (right == gold[2:-2, 2:-2]).mean() > 0.97
    assert (wrong == expected).mean() > 0.97
    assert (expected == 2).mean() > 0.03
    assert (expected == 3).mean() > 0.05


def test_the_note_has_the_scores_of_the_run_that_is_shown(drawn, case):
    comparison, folders = drawn
    (shown,) = worst_cases(comparison, folders).cases
    for card, arm in zip(shown.cards[2:], comparison.arms, strict=True):
        assert f"Dice {arm.runs[0].cases[case.name]['dice']:.3f}" in card.note
        assert card.note.endswith("seed 0")


def test_all_arms_are_shown_with_the_least_seed_they_share(drawn, case):
    comparison, folders = drawn
    base, bad = comparison.arms
    (run,) = bad.runs
    later = tuple(dataclasses.replace(run, seed=seed) for seed in (2, 1))
    arms = (
        dataclasses.replace(base, runs=(base.runs[0], dataclasses.replace(base.runs[0], seed=2))),
        dataclasses.replace(bad, runs=later),
    )
    twice = {name: 2 * paths for name, paths in folders.items()}
    (shown,) = worst_cases(dataclasses.replace(comparison, arms=arms), twice).cases
    assert [card.note[-6:] for card in shown.cards[2:]] == ["seed 2", "seed 2"]


def test_runs_without_projections_are_named_once_with_the_verb_that_makes_them(drawn, case):
    comparison, folders = drawn
    good, bad = (RunFolder(folder) for (folder,) in folders.values())
    for run in (good, bad):
        shutil.copy(run.projections(case.name), run.projections("other"))
    assert worst_cases(comparison, folders).remark == ""
    shutil.rmtree(bad.projections(case.name).parent)
    left = worst_cases(comparison, folders)
    assert [[card.title for card in case.cards] for case in left.cases] == 2 * [["Image", "Gold", "op_scratch"]]
    assert left.remark.count("distill3d evaluate RUN") == 1
    assert bad.path.as_posix() in left.remark
    assert good.path.as_posix() not in left.remark
    shutil.rmtree(good.projections(case.name).parent)
    assert worst_cases(comparison, folders).cases == ()
    page = render(comparison, worst=worst_cases(comparison, folders))
    assert page.count("distill3d evaluate RUN") == 1


def test_the_trees_of_an_arm_turn_before_what_its_run_left_of_the_image(drawn, case):
    comparison, folders = drawn
    (shown,) = worst_cases(comparison, folders).cases
    assert [card.scene is None for card in shown.cards] == [True, True, False, False]
    right, nothing = ({part["name"]: part["um"] for part in card.scene["parts"]} for card in shown.cards[2:])
    length_um = case.tree().length_um
    assert right["gold, found"] == right["predicted, right"] == pytest.approx(length_um, abs=0.1)
    assert nothing["gold, missed"] == pytest.approx(length_um, abs=0.1)
    assert list(shown.walls) == ["z", "y", "x"]
    assert all(200 < len(wall.uri) <= MOST_WALL_BYTES for wall in shown.walls.values())
    before = RunFolder(folders["op_scratch"][0]).projections(case.name)
    write_projections(before, dataclasses.replace(read_projections(before), along_y=None, along_x=None))
    (older,) = worst_cases(comparison, folders).cases
    assert list(older.walls) == ["z"]
    assert older.cards[2].scene == shown.cards[2].scene


@pytest.mark.parametrize("harm", ["swc", "projections", "shape"])
def test_a_broken_file_of_a_run_breaks_no_report(drawn, case, harm):
    comparison, folders = drawn
    run = RunFolder(folders["op_scratch"][0])
    if harm == "shape":
        small = np.zeros((2, 5, 6), bool)
        left = project(small, gold=small, known=~small, pred=small, spacing_um=(1.0, 1.0, 1.0), tree=None)
        write_projections(RunFolder(folders["op_bad"][0]).projections(case.name), left)
    else:
        getattr(run, harm)(case.name).write_text("{] no such thing")
    (shown,) = worst_cases(comparison, folders).cases
    titles = {"swc": ["op_scratch", "op_bad"], "projections": ["op_bad"], "shape": ["op_scratch"]}
    assert [card.title for card in shown.cards[2:]] == titles[harm]
    if harm == "swc":  # without a tree, the errors are enlarged instead
        assert "errors of op_scratch" in shown.cards[2].pictures[1].alt
        assert shown.cards[2].scene is None


def test_no_more_cases_and_arms_are_drawn_than_a_page_bears(tmp_path, case):
    gains = {f"arm_{k}": 0.01 * k for k in range(MOST_ARMS + 3)}
    comparison = compared(gains, seeds=1, cases=MOST_CASES + 2)
    folder = write_run(tmp_path / "run", case, case.mask, case.tree())
    for name in worst_names(comparison):
        shutil.copy(RunFolder(folder).projections(case.name), RunFolder(folder).projections(name))
    shown = worst_cases(comparison, dict.fromkeys(gains, (folder,))).cases
    assert [case.name for case in shown] == worst_names(comparison)[:MOST_CASES]
    assert all(sum(card.index is not None for card in case.cards) == MOST_ARMS for case in shown)


def test_pictures_that_do_not_compress_leave_the_page_its_size(tmp_path, monkeypatch):
    gains = {f"arm_{k}": 0.01 * k for k in range(MOST_ARMS)}
    comparison = compared(gains, seeds=1, cases=MOST_CASES)
    noise = np.random.default_rng(0).random((1, 460, 460))
    gold, pred = noise > 0.5, noise * 10 % 1 > 0.5
    left = project(noise, gold=gold, known=noise > -1, pred=pred, spacing_um=(1.0, 1.0, 1.0), tree=None)
    for name in worst_names(comparison):
        write_projections(RunFolder(tmp_path).projections(name), left)
    shown = worst_cases(comparison, dict.fromkeys(gains, (tmp_path,))).cases
    sizes = [sum(len(p.uri) for card in case.cards for p in card.pictures) for case in shown]
    assert 1 <= len(shown) < MOST_CASES
    assert sum(sizes) <= MOST_BYTES
    assert shown[0].walls == {}  # no trees to turn before them
    monkeypatch.setattr("distill3d.report.page.worst.MOST_BYTES", 1)
    assert len(worst_cases(comparison, dict.fromkeys(gains, (tmp_path,))).cases) == 1


def kinds_of(*parts):
    kinds = np.zeros((200, 300), np.uint8)
    for kind, rows, columns in parts:
        kinds[rows, columns] = kind
    return kinds


def test_a_thick_rim_counts_for_less_than_a_branch_that_is_missing():
    rim = [(IS_FALSE, slice(48, 58), slice(20, 280)), (IS_HIT, slice(50, 56), slice(20, 280))]
    branch = (IS_LOST, slice(150, 190), slice(200, 203))
    wrong = wrong_pixels(kinds_of(*rim, branch))
    assert wrong.sum() == 40 * 3
    box = worst_place(wrong.astype(float))
    assert box.top <= 150
    assert box.bottom >= 190
    assert box.left <= 200 < box.right
    assert wrong_pixels(kinds_of(*rim)).sum() == 4 * 260  # where the rim is all, it counts


@pytest.mark.parametrize("shape", [(10, 12), (64, 500), (512, 512)])
def test_the_place_lies_inside_also_in_small_images_and_without_errors(shape):
    for wrong in (np.zeros(shape), np.ones(shape)):
        box = worst_place(wrong)
        assert 0 <= box.top < box.bottom <= shape[0]
        assert 0 <= box.left < box.right <= shape[1]
        assert box.bottom - box.top == box.right - box.left


def test_trees_are_drawn_where_they_are_in_the_color_of_what_they_count_as():
    gold = Tree(np.array([[0.0, 20, 10], [0, 20, 90]]), np.ones(2), np.array([-1, 0]), np.ones(2, np.int64))
    pred = Tree(
        np.array([[0.0, 20, 10], [0, 20, 50], [0, 60, 50]]), np.ones(3), np.array([-1, 0, 1]), np.ones(3, np.int64)
    )
    box = Box(0, 0, 100, 100)
    canvas = scaled(np.zeros((100, 100, 3), np.uint8), 400)
    drawn = np.asarray(with_trees(canvas, box, gold=gold, pred=pred, spacing_um=(1.0, 1.0, 1.0)), float) / 255
    at = {"found": drawn[82, 120], "missed": drawn[82, 320], "spurious": drawn[200, 202], "nothing": drawn[300, 300]}
    expected = {"found": GREEN, "missed": BLUE, "spurious": ORANGE, "nothing": BLACK}
    for name, color in expected.items():
        assert at[name] == pytest.approx(color, abs=0.01), name
