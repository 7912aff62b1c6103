"""Charts and curves: every value where it belongs, seeds joined rightly, lost steps read once."""

import dataclasses
import json

import numpy as np
import pytest
from comparisons import HOSTILE, SCORES, compared, hostile, write_curves
from hypothesis import given
from hypothesis import strategies as st

from distill3d.report.comparison.score_tables import case_means, cases_that_gain
from distill3d.report.page.case_charts import case_changes, case_scatter
from distill3d.report.page.charts import forest, label
from distill3d.report.page.curves import band, curve_charts
from distill3d.report.page.low_data import low_data, low_data_lines
from distill3d.report.page.palette import DARK, LIGHT, look
from distill3d.storage.curves import read_curves

DICE, HD95 = SCORES[:2]


def luminance(color):
    parts = np.array([int(color[k : k + 2], 16) for k in (1, 3, 5)]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def contrast(a, b):
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize(("colors", "page"), [(LIGHT, "#ffffff"), (DARK, "#171b21")])
def test_arms_stand_out_from_the_page_and_from_each_other(colors, page):
    assert min(contrast(color, page) for color in colors) >= 3
    assert len(set(colors)) == len(colors)


def test_two_arms_of_one_hue_have_another_dash_and_no_arm_takes_the_baselines_gray():
    looks = [look(k) for k in range(36)]
    assert len({(how.color, how.dash) for how in looks}) == len(looks)
    assert [how.color for how in looks].count("var(--arm-0)") == 1


def test_a_forest_draws_every_difference_interval_and_what_would_be_missed(comparison):
    shade, *points = forest(comparison, DICE)["data"]
    rows = [row for row in comparison.differences if row.score == "dice"]
    for place, (row, point) in enumerate(zip(rows, points, strict=True)):
        assert (point["meta"], point["x"], point["y"]) == (row.arm, [row.mean], [place])
        bar = point["error_x"]
        assert row.mean + bar["array"][0] == pytest.approx(row.high)
        assert row.mean - bar["arrayminus"][0] == pytest.approx(row.low)
        assert (shade["base"][place], shade["x"][place]) == (-row.detectable, 2 * row.detectable)


def test_a_forest_reaches_as_far_on_both_sides_of_zero_and_holds_all_intervals(comparison):
    low, high = forest(comparison, HD95)["layout"]["xaxis"]["range"]
    rows = [row for row in comparison.differences if row.score == "hd95_um"]
    assert low == -high
    assert all(low < row.low and row.high < high for row in rows)


def test_a_difference_without_an_interval_is_a_point_alone(comparison):
    rows = tuple(dataclasses.replace(row, low=None, high=None, detectable=None) for row in comparison.differences)
    shade, *points = forest(dataclasses.replace(comparison, differences=rows), DICE)["data"]
    assert all(point["error_x"]["array"] == point["error_x"]["arrayminus"] == [0.0] for point in points)
    assert not shade["showlegend"]


def test_an_axis_has_the_unit_of_its_score(comparison):
    for make in (forest, case_changes):
        assert "µm" in make(comparison, HD95)["layout"]["xaxis"]["title"]["text"]
    layout = case_scatter(comparison, HD95)["layout"]
    assert "µm" in layout["xaxis"]["title"]["text"]
    assert "µm" in layout["yaxis"]["title"]["text"]


def test_a_case_is_a_point_of_baseline_and_arm(comparison):
    _, *traces = case_scatter(comparison, DICE)["data"]
    base = case_means(comparison.arms[0], "dice")
    for arm, trace in zip(comparison.arms[1:], traces, strict=True):
        assert trace["x"] == list(base.values())
        assert trace["y"] == list(case_means(arm, "dice").values())
        slow = [np.mean([run.cases[case]["dice"] for run in arm.runs]) for case in base]
        assert trace["y"] == pytest.approx(slow)


def test_a_case_that_one_side_missed_is_no_point(comparison):
    last = comparison.arms[-1]
    missed = [arm for arm in comparison.arms if arm.runs[0].cases["case_0"]["hd95_um"] is None]
    assert len(missed) == 1
    points = {trace["meta"]: len(trace["x"]) for trace in case_scatter(comparison, HD95)["data"][1:]}
    assert points.pop(missed[0].name) == 7
    assert set(points.values()) == {8}
    assert last.name in {*points, missed[0].name}


def test_the_case_that_gains_most_is_on_top_also_where_less_is_better(comparison):
    for score in (DICE, HD95):
        figure = case_changes(comparison, score)
        rows = {}
        for trace in figure["data"]:
            for x, y in zip(trace["x"], trace["y"], strict=True):
                rows.setdefault(y, []).append(x)
        means = [np.mean(rows[y]) for y in sorted(rows)]
        assert means == sorted(means, reverse=score.higher_is_better)
        first, last = figure["layout"]["yaxis"]["range"]
        assert first > last  # row 0 is on top


def test_points_of_25_arms_look_different():
    assert len({(look(place).color, look(place).symbol) for place in range(25)}) == 25


def test_gains_are_counted_in_the_direction_of_the_score(comparison):
    base, arms = comparison.arms[0], {arm.name: arm for arm in comparison.arms}
    for score in (DICE, HD95):
        assert cases_that_gain(arms["op_kd_inflate"], base, score) == (8, 8)
        assert cases_that_gain(arms["op_shuffled"], base, score)[1] == 0
    assert cases_that_gain(base, base, DICE) == (8, 0)


def test_low_data_lines_join_arms_that_differ_in_labelled_volumes_only():
    names = {f"{kind} {n}": 0.02 * n for n in (4, 1, 2) for kind in ("op_scratch", "op_kd")}
    comparison = compared(names, labelled={name: int(name.split()[1]) for name in names})
    lines = low_data_lines(comparison)
    assert sorted(line.name for line in lines) == ["op_kd", "op_scratch"]
    assert all([arm.labelled for arm in line.arms] == [1, 2, 4] for line in lines)
    traces = low_data(lines, DICE)["data"]
    for line, trace in zip(lines, traces, strict=True):
        assert trace["x"] == [1, 2, 4]
        assert trace["y"] == [arm.scores["dice"].mean for arm in line.arms]


def test_two_low_data_lines_of_one_experiment_are_told_apart_by_their_settings():
    names = ("op_kd 1", "op_kd 2", "op_kd 1 cosine", "op_kd 2 cosine")
    comparison = compared(dict.fromkeys(names, 0.0), labelled={name: int(name.split()[1]) for name in names})
    arms = [
        dataclasses.replace(
            arm, experiment="op_kd", settings={"strategy.name": "cosine" if "cosine" in arm.name else "match"}
        )
        for arm in comparison.arms
    ]
    lines = low_data_lines(dataclasses.replace(comparison, arms=tuple(arms)))
    assert sorted(line.name for line in lines) == ["op_kd [strategy.name=cosine]", "op_kd [strategy.name=match]"]


def test_there_are_no_low_data_curves_where_all_arms_have_as_many_labels(comparison):
    assert low_data_lines(comparison) == ()


def test_names_reach_plotly_escaped():
    made = hostile()
    for figure in (forest(made, DICE), case_scatter(made, DICE), case_changes(made, DICE)):
        texts = json.dumps([{**trace, "meta": ""} for trace in figure["data"]]) + json.dumps(figure["layout"])
        assert "<img" not in texts
        assert "<a href" not in texts
    assert label(HOSTILE).startswith("&lt;/script&gt;")


def test_a_run_gives_the_steps_and_values_of_its_file(tmp_path):
    path = write_curves(tmp_path, steps=240)
    header, *rows = [line.split(",") for line in path.read_text().splitlines()]
    curves = read_curves(tmp_path)
    assert set(curves) == {"train/cross_entropy", "train/dice", "train/loss", "val/dice"}
    column = header.index("train/loss")
    assert curves["train/loss"] == [(int(row[1]), float(row[column])) for row in rows if row[column]]
    assert [step for step, _ in curves["val/dice"]] == [59, 119, 179, 239]


def test_steps_that_were_lost_and_taken_again_are_read_from_the_newer_file(tmp_path):
    write_curves(tmp_path, seed=1, steps=200)
    newer = write_curves(tmp_path, seed=2, first_step=100, steps=240)
    curve = read_curves(tmp_path)["train/loss"]
    steps = [step for step, _ in curve]
    assert steps == list(range(4, 240, 5))
    kept = [float(line.split(",")[4]) for line in newer.read_text().splitlines()[1:] if line.split(",")[4]]
    assert [value for step, value in curve if step >= 100] == kept


def test_a_line_that_is_being_written_breaks_nothing(tmp_path):
    path = write_curves(tmp_path)
    whole = read_curves(tmp_path)
    path.write_text(path.read_text() + "0,2")
    assert read_curves(tmp_path) == whole
    path.write_text(path.read_text() + "44,0.1")  # of 0.123, for all we know
    assert read_curves(tmp_path) == whole


def test_values_that_are_no_finite_number_are_left_out(tmp_path):
    path = write_curves(tmp_path)
    whole = read_curves(tmp_path)
    path.write_text(path.read_text() + "0,244,0.1,nan,inf,oops,\n")
    assert read_curves(tmp_path) == whole | {"train/cross_entropy": [*whole["train/cross_entropy"], (244, 0.1)]}


def test_a_run_without_curves_has_none(tmp_path):
    assert read_curves(tmp_path) == {}
    assert curve_charts({"a": (tmp_path,)}, ["a"]) == []


curves = st.lists(
    st.dictionaries(st.integers(0, 300), st.floats(-10, 10), min_size=1, max_size=40), min_size=1, max_size=4
)


@given(curves)
def test_a_band_without_bins_is_the_mean_and_range_of_the_seeds_at_every_step(seeds):
    curve = band([sorted(seed.items()) for seed in seeds], points=10_000)
    steps = sorted({step for seed in seeds for step in seed})
    assert list(curve.steps) == steps
    for place, step in enumerate(steps):
        there = [seed[step] for seed in seeds if step in seed]
        assert curve.mean[place] == pytest.approx(np.mean(there), abs=2e-6)
        assert curve.low[place] == pytest.approx(min(there), abs=2e-6)
        assert curve.high[place] == pytest.approx(max(there), abs=2e-6)
    assert curve.n_runs == len(seeds)


@given(curves, st.integers(1, 12))
def test_bins_stay_within_what_they_hold(seeds, points):
    curve = band([sorted(seed.items()) for seed in seeds], points=points)
    values = [value for seed in seeds for value in seed.values()]
    assert len(curve.steps) <= points
    assert min(values) - 1e-5 <= min(curve.low)
    assert max(curve.high) <= max(values) + 1e-5
    assert all(a - 1e-5 <= b <= c + 1e-5 for a, b, c in zip(curve.low, curve.mean, curve.high, strict=True))


def test_validation_comes_first_and_colors_are_those_of_the_arms(tmp_path):
    folders = {}
    for name in ("a", "b"):
        folders[name] = tuple(tmp_path / name / str(seed) for seed in range(3))
        for seed, folder in enumerate(folders[name]):
            write_curves(folder, seed=seed, terms=("cross_entropy", *(["match"] if name == "b" else [])))
    charts = curve_charts(folders, ["a", "b"])
    assert [chart.term for chart in charts] == ["val/dice", "train/loss", "train/cross_entropy", "train/match"]
    only = charts[-1].figure["data"]
    assert {trace["meta"] for trace in only} == {"b"}
    assert only[1]["line"]["color"] == look(1).color
    (name, mean, spread), *_ = charts[0].last
    ends = [read_curves(folder)["val/dice"][-1][1] for folder in folders["a"]]
    assert (name, mean) == ("a", f"{np.mean(ends):.3f}")
    assert spread == f"{min(ends):.3f} to {max(ends):.3f}"
