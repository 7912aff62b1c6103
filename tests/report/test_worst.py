"""The worst cases: the right ones, at one place, from the run's own data, or what the run left where that is gone."""

import base64
import dataclasses
import io

import numpy as np
import pytest
from comparisons import compared
from PIL import Image

from distill3d.config.plain import as_plain
from distill3d.data.datamodule import DistillDataModule
from distill3d.evaluation.figures.case import FALSE, LOST
from distill3d.evaluation.figures.tree import HIT
from distill3d.report.page.snapshots import WHOLE, Box, colored, scaled, with_trees, worst_place, wrong_pixels
from distill3d.report.page.worst import MOST_ARMS, MOST_BYTES, MOST_CASES, worst_cases, worst_names
from distill3d.storage.run_folder import RunFolder, write_yaml
from distill3d.volumes.prob import write_prob
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
def experiment(tiny):
    return tiny()


@pytest.fixture
def case(experiment):
    (found,) = DistillDataModule(experiment).cases("test")
    return found


def write_run(folder, experiment, case, prob, tree):
    run = RunFolder(folder)
    write_yaml(run.config, as_plain(experiment))
    run.prob(case.name).parent.mkdir()
    write_prob(run.prob(case.name), prob, case.spacing_um)
    write_swc(run.swc(case.name), tree)
    return folder


@pytest.fixture
def drawn(tmp_path, experiment, case):
    """An arm that is right and one that sees nothing but a block that is not there."""
    gold = np.asarray(case.mask, np.float32)
    block = np.zeros_like(gold)
    block[:, BLOCK, BLOCK] = 1
    folders = {
        "op_scratch": (write_run(tmp_path / "good", experiment, case, gold, case.tree()),),
        "op_bad": (write_run(tmp_path / "bad", experiment, case, block, no_tree()),),
    }
    comparison = compared(GAINS, seeds=1, case_names=[case.name, "other"])
    return comparison, folders


def no_tree():
    return Tree(np.zeros((0, 3)), np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int64))


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
    (shown,) = worst_cases(*drawn)
    assert shown.name == case.name
    assert [card.title for card in shown.cards] == ["Image", "Gold", "op_scratch", "op_bad"]
    assert [card.index for card in shown.cards] == [None, None, 0, 1]
    sizes = {(p.width, p.height) for card in shown.cards for p in card.pictures[:1]}
    assert sizes == {(WHOLE, round(WHOLE * case.shape[1] / case.shape[2]))}
    assert shown.place.endswith("all 16 slices")


def test_errors_have_the_color_of_their_kind(drawn, case):
    (shown,) = worst_cases(*drawn)
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
    (shown,) = worst_cases(comparison, folders)
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
    (shown,) = worst_cases(dataclasses.replace(comparison, arms=arms), twice)
    assert [card.note[-6:] for card in shown.cards[2:]] == ["seed 2", "seed 2"]


def test_the_figures_of_the_runs_stand_in_where_a_prediction_is_gone(drawn, case):
    comparison, folders = drawn
    RunFolder(folders["op_bad"][0]).prob(case.name).unlink()
    assert worst_cases(comparison, folders) == ()
    for (folder,) in folders.values():
        RunFolder(folder).figures.mkdir()
        Image.new("RGB", (1430, 800), (200, 30, 30)).save(RunFolder(folder).figures / f"{case.name}.png")
    (shown,) = worst_cases(comparison, folders)
    assert (shown.place, len(shown.cards)) == ("", 2)
    (picture,) = shown.cards[0].pictures
    assert (picture.width, picture.height) == (720, 403)


@pytest.mark.parametrize("harm", ["config", "swc", "prob"])
def test_a_broken_file_of_a_run_breaks_no_report(drawn, case, harm):
    comparison, folders = drawn
    run = RunFolder(folders["op_scratch"][0])
    broken = {"config": run.config, "swc": run.swc(case.name), "prob": run.prob(case.name)}[harm]
    broken.write_text("{] no such thing")
    shown = worst_cases(comparison, folders)
    assert len(shown) == (1 if harm == "swc" else 0)  # without a tree, the errors are enlarged instead


def test_no_more_cases_and_arms_are_drawn_than_a_page_bears(tmp_path, experiment, case):
    gains = {f"arm_{k}": 0.01 * k for k in range(MOST_ARMS + 3)}
    names = [case.name, *(f"gone_{k}" for k in range(MOST_CASES + 2))]
    comparison = compared(gains, seeds=1, case_names=names)
    folder = write_run(tmp_path / "run", experiment, case, np.asarray(case.mask, np.float32), case.tree())
    RunFolder(folder).figures.mkdir()
    for name in names:
        Image.new("RGB", (900, 500)).save(RunFolder(folder).figures / f"{name}.png")
    shown = worst_cases(comparison, dict.fromkeys(gains, (folder,)))
    assert [found.name for found in shown] == worst_names(comparison)[:MOST_CASES]
    assert all(sum(card.index is not None for card in found.cards) == MOST_ARMS for found in shown)


def test_pictures_that_do_not_compress_leave_the_page_its_size(tmp_path, monkeypatch):
    gains = {f"arm_{k}": 0.01 * k for k in range(MOST_ARMS)}
    comparison = compared(gains, seeds=1, cases=MOST_CASES)
    noise = np.random.default_rng(0).integers(0, 255, (800, 1430, 3), np.uint8)
    figures = RunFolder(tmp_path).figures
    figures.mkdir()
    for name in worst_names(comparison):
        Image.fromarray(noise).save(figures / f"{name}.png", compress_level=0)
    shown = worst_cases(comparison, dict.fromkeys(gains, (tmp_path,)))
    sizes = [sum(len(p.uri) for card in found.cards for p in card.pictures) for found in shown]
    assert 1 <= len(shown) < MOST_CASES
    assert sum(sizes) <= MOST_BYTES
    monkeypatch.setattr("distill3d.report.page.worst.MOST_BYTES", 1)
    assert len(worst_cases(comparison, dict.fromkeys(gains, (tmp_path,)))) == 1


def flat_errors(*parts):
    flat = np.zeros((200, 300, 3))
    for color, rows, columns in parts:
        flat[rows, columns] = color
    return colored(flat)


def test_a_thick_rim_counts_for_less_than_a_branch_that_is_missing():
    rim = [(ORANGE, slice(48, 58), slice(20, 280)), (GREEN, slice(50, 56), slice(20, 280))]
    branch = (BLUE, slice(150, 190), slice(200, 203))
    wrong = wrong_pixels(flat_errors(*rim, branch))
    assert wrong.sum() == 40 * 3
    box = worst_place(wrong.astype(float))
    assert box.top <= 150
    assert box.bottom >= 190
    assert box.left <= 200 < box.right
    assert wrong_pixels(flat_errors(*rim)).sum() == 4 * 260  # where the rim is all, it counts


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
