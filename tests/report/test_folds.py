"""Folds are cases of an arm: pooled, paired by case and seed, and named where one is missing."""

import pytest
from comparisons import read_runs

from distill3d.report.build import compare_two
from distill3d.report.comparison.compare import compare, run_folders
from distill3d.report.comparison.grouping import group_runs
from distill3d.report.numerals import NONE
from distill3d.report.text.markdown import as_markdown
from distill3d.report.text.terminal import renderables

NEURONS = ("OP_1", "OP_3", "OP_5", "OP_6")
# Dice of the baseline by case, and by how much seed 1 is above seed 0 in each
BASE, SHIFT = (0.2, 0.4, 0.6, 0.7), (0.02, 0.04, 0.0, 0.1)
GAIN = (0.1, 0.0, 0.2, -0.1)  # of the arm, by case, in both seeds: 0.05 on average


def by_lists(place):
    """Test one neuron, validate on the next, train on the others."""
    test, val = NEURONS[place], NEURONS[(place + 1) % 4]
    train = [name for name in NEURONS if name not in {test, val}]
    return {"data.train": train, "data.val": [val], "data.test": [test]}


def by_number(place):
    return {"data.train": [], "data.val": [], "data.test": [], "data.folds": 4, "data.fold": place}


@pytest.fixture
def write_folds(write_run, tmp_path):
    """Write the runs of an arm, each in a folder of its own as a sweep's trials are."""

    def write(name, gains=(0.0,) * 4, *, split=by_lists, without=(), **settings):
        return [
            write_run(
                name,
                seed,
                root=tmp_path / name / f"{place}_{seed}",
                dice={NEURONS[place]: BASE[place] + seed * SHIFT[place] + gains[place]},
                settings={**split(place), **settings},
            )
            for place in range(4)
            for seed in range(2)
            if (place, seed) not in without
        ]

    return write


@pytest.fixture
def two_arms(write_folds):
    """Write the baseline and an arm; ``without`` are folds and seeds that the arm lacks."""

    def write(split=by_lists, without=()):
        arm = write_folds("arm", GAIN, split=split, without=without, **{"strategy.name": "inflate"})
        return write_folds("scratch", split=split) + arm

    return write


@pytest.mark.parametrize("split", [by_lists, by_number])
def test_the_folds_of_an_arm_are_pooled_and_paired_by_case_and_seed(two_arms, split):
    comparison = compare(read_runs(two_arms(split)), scores=["dice"])
    assert [(arm.name, len(arm.runs)) for arm in comparison.arms] == [("scratch", 8), ("arm", 8)]
    (difference,) = comparison.differences
    assert (difference.n_cases, difference.n_seeds, difference.mean) == (4, 2, pytest.approx(0.05))
    assert difference.p_cases == 0.75  # of the eight flips of 0.1, 0.2 and -0.1 six go as far: neurons are the units
    scratch = comparison.arms[0].scores["dice"]
    assert scratch.mean == pytest.approx((0.21 + 0.42 + 0.6 + 0.75) / 4)
    assert scratch.sd_seeds == pytest.approx(0.04 / 2**0.5)  # means of the seeds: 0.475 and 0.515
    assert (scratch.n_cases, scratch.n_seeds, scratch.n_missing) == (4, 2, 0)
    assert comparison.budget[0].equal
    assert not any("no finished run" in line for line in comparison.remarks)
    first = comparison.arms[0].runs[0]
    assert (first.seed, first.fold) == (0, "OP_1 held out" if split is by_lists else "fold 0 of 4")


def test_texts_count_seeds_and_folds(two_arms):
    comparison = compare(read_runs(two_arms()), scores=["dice"])
    text = as_markdown(comparison)
    assert "| scratch | 2 x 4 folds |" in text
    assert r"| scratch | 0, OP\_1 held out |" in text
    assert list(next(iter(renderables(comparison))).columns[1].cells) == ["2 x 4 folds", "2 x 4 folds", NONE]


@pytest.mark.parametrize(
    ("split", "name"), [(by_lists, "OP_5 held out"), (by_number, "fold 2 of 4 (OP_5)")], ids=["lists", "number"]
)
def test_a_fold_that_one_arm_lacks_is_named_and_makes_it_unequal(two_arms, split, name):
    lacking = compare(read_runs(two_arms(split, without=[(2, 0), (2, 1)])), scores=["dice"])
    assert f"arm: no finished run: {name}" in lacking.remarks
    assert not lacking.budget[0].equal
    assert "cases that the baseline alone has: OP_5" in lacking.budget[0].remarks
    assert lacking.differences[0].mean == pytest.approx(0.0)  # of 0.1, 0.0 and -0.1: what both have


def test_a_seed_that_one_fold_lacks_is_named(two_arms):
    lacking = compare(read_runs(two_arms(without=[(2, 1)])), scores=["dice"])
    assert "arm: no finished run: OP_5 held out, seed 1" in lacking.remarks
    assert lacking.budget[0].remarks == ("pairs that the baseline alone has: OP_5 with seed 1",)
    assert not lacking.budget[0].equal


def test_a_fold_that_no_arm_ran_is_known_by_its_number(write_folds):
    runs = write_folds("scratch", split=by_number, without=[(3, 0), (3, 1)])
    assert "scratch: no finished run: fold 3 of 4" in compare(read_runs(runs), scores=["dice"]).remarks


def test_arms_that_lack_the_same_fold_share_a_line(write_folds):
    lacking = [(3, 0), (3, 1)]
    runs = [run for arm in ("scratch", "arm") for run in write_folds(arm, split=by_number, without=lacking)]
    remarks = compare(read_runs(runs), baseline="scratch", scores=["dice"]).remarks
    assert [line for line in remarks if "no finished run" in line] == ["scratch, arm: no finished run: fold 3 of 4"]


def test_folds_of_several_cases_are_remarked_on(write_run, tmp_path, two_arms):
    runs = [
        write_run(root=tmp_path / str(fold), dice=dict.fromkeys(names, 0.5), settings=by_number(fold))
        for fold, names in enumerate((("OP_1", "OP_3"), ("OP_5", "OP_6")))
    ]
    remarks = [
        [line for line in compare(read_runs(each), scores=["dice"]).remarks if "share" in line]
        for each in (runs, two_arms())
    ]
    assert remarks == [
        ["cases of one fold share their training neurons; if it matters which, intervals are too short"],
        [],
    ]


def test_arms_with_other_numbers_of_training_neurons_stay_apart(write_run, tmp_path):
    runs = []
    for count in (1, 2, 3):
        for test in ("OP_5", "OP_6"):
            train = [*(name for name in ("OP_5", "OP_6") if name != test), "OP_1", "OP_3"][:count]
            lists = {"data.train": train, "data.val": ["OP_2"], "data.test": [test]}
            runs.append(write_run(root=tmp_path / f"{count}{test}", settings=lists, dice={test: 0.5}))
    groups, _ = group_runs(read_runs(runs))
    assert [(group.name, len(group.runs)) for group in groups] == [
        ("scratch [data.train=1 case]", 2),
        ("scratch [data.train=2 cases]", 2),
        ("scratch [data.train=3 cases]", 2),
    ]
    comparison = compare(read_runs(runs), baseline="scratch [data.train=1 case]", scores=["dice"])
    assert sorted(arm.labelled for arm in comparison.arms) == [1, 2, 3]


def test_a_case_learned_from_several_lists_counts_once_per_seed(write_run, tmp_path):
    runs = [
        write_run(root=tmp_path / name, dice={"OP_5": dice}, settings={"data.train": [name], "data.test": ["OP_5"]})
        for name, dice in (("OP_1", 0.4), ("OP_3", 0.6))
    ]
    again = write_run(
        root=tmp_path / "again", dice={"OP_5": 0.0}, settings={"data.train": ["OP_1"], "data.test": ["OP_5"]}
    )
    comparison = compare(read_runs([*runs, again]), scores=["dice"])
    (arm,) = comparison.arms
    assert (arm.scores["dice"].mean, arm.scores["dice"].n_cases, arm.scores["dice"].n_seeds) == (0.5, 1, 1)
    assert any("seed 0 of scratch again, left out" in line for line in comparison.remarks)


def test_patterns_name_who_knows_how_many_and_stay_settings(write_run, tmp_path):
    runs = [write_run(root=tmp_path / name, settings={"data.test": [f"{name}__*"]}) for name in ("fly", "mouse")]
    assert len(group_runs(read_runs(runs))[0]) == 2


def test_pairs_that_were_learned_from_different_neurons_are_unequal(write_run):
    lists = {"data.test": ["OP_5"], "strategy.name": "inflate", "data.train": ["OP_1", "OP_6"]}
    runs = [
        write_run(dice={"OP_5": 0.5}, settings={"data.test": ["OP_5"], "data.train": ["OP_1", "OP_3"]}),
        write_run("arm", dice={"OP_5": 0.6}, settings=lists),
    ]
    (check,) = compare(read_runs(runs), scores=["dice"]).budget
    assert check.remarks == ("cases that both learned from different neurons: OP_5",)
    assert not check.equal


def test_two_places_of_folds_are_compared_and_all_runs_of_an_arm_are_one_set(two_arms, tmp_path):
    two_arms()
    comparison = compare_two(str(tmp_path / "scratch"), str(tmp_path / "arm"), scores=["dice"])
    assert comparison.differences[0].mean == pytest.approx(0.05)
    assert {arm: len(paths) for arm, paths in run_folders(comparison).items()} == {"scratch": 8, "arm": 8}
