"""Profiles and ranks of a comparison: whose numbers they are, where they are drawn, and when not."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
from comparisons import SCORES, compared, hostile, read_runs

from distill3d.report.comparison.across import profiles_of, rankings_of
from distill3d.report.comparison.compare import as_json, compare
from distill3d.report.page.across_charts import MOST_BANDS, profile_chart, rank_chart, rank_rows
from distill3d.report.page.charts import label
from distill3d.report.page.html import render
from distill3d.report.page.palette import look
from distill3d.report.text.markdown import as_markdown

DICE, HD95 = SCORES[:2]


def pairs(arm, key):
    return [value for run in arm.runs for row in run.cases.values() if (value := row[key]) is not None]


def found_in(comparison, key):
    return {one.arm: one for one in comparison.profiles if one.score == key}


def ranking_in(comparison, key):
    return next(one for one in comparison.rankings if one.score == key)


@pytest.mark.parametrize("score", [DICE, HD95], ids=["dice", "hd95"])
def test_a_profile_counts_the_pairs_of_its_arm(comparison, score):
    for arm in comparison.arms:
        entry, values = found_in(comparison, score.key)[arm.name], np.array(pairs(arm, score.key))
        slack = 1e-5 * np.abs(values).max()  # scores are rounded for the picture
        for tau, share in zip(entry.taus, entry.shares, strict=True):
            reached = values >= tau - slack if score.higher_is_better else values <= tau + slack
            assert share == pytest.approx(reached.mean(), abs=1e-4)
        assert entry.n_pairs == len(values)


def test_a_missed_case_is_no_pair_and_no_rank(comparison):
    missed = next(arm for arm in comparison.arms if len(pairs(arm, "hd95_um")) < 24)
    assert found_in(comparison, "hd95_um")[missed.name].n_pairs == 21
    assert ranking_in(comparison, "hd95_um").n_cases == 7
    assert ranking_in(comparison, "dice").n_cases == 8


def test_ranks_are_of_means_over_the_pairs_that_all_arms_have(comparison):
    first, *others = comparison.arms
    (case, *_) = first.runs[0].cases
    runs = list(first.runs)
    runs[1] = dataclasses.replace(runs[1], cases=runs[1].cases | {case: runs[1].cases[case] | {"dice": None}})
    gappy = (dataclasses.replace(first, runs=tuple(runs)), *others)
    (entry,) = rankings_of(gappy, [DICE])
    means = [[np.mean([arm.runs[k].cases[name]["dice"] for k in ((0, 2) if name == case else (0, 1, 2))])
              for arm in comparison.arms] for name in first.runs[0].cases]  # fmt: skip
    slow = np.mean([[1 + sum(b > a for b in row) for a in row] for row in means], axis=0)
    assert entry.ranks == pytest.approx(dict(zip([arm.name for arm in comparison.arms], slow, strict=True)))
    assert (entry.n_cases, entry.n_seeds) == (8, 3)


def test_ranks_come_best_first_and_less_is_better_where_it_is(comparison):
    for score in (DICE, HD95):
        entry = ranking_in(comparison, score.key)
        assert list(entry.ranks.values()) == sorted(entry.ranks.values())
        assert next(iter(entry.ranks)) == "op_kd_inflate"
        assert list(entry.ranks)[-1] == "op_shuffled"


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (
            {"gains": {"op_scratch": 0.0, "b": 0.1}},
            "2 arms with 8 cases and 3 seeds in common; ranks need 3 arms, 5 cas",
        ),
        ({"cases": 4}, "4 arms with 4 cases and 3 seeds in common"),
        ({"seeds": 2}, "4 arms with 8 cases and 2 seeds in common"),
    ],
)
def test_with_too_little_nothing_is_ranked_and_page_and_markdown_say_why(made, why):
    comparison = compared(**made)
    assert {one.ranks == {} and one.p is None for one in comparison.rankings} == {True}
    assert comparison.rankings[0].why.startswith(why)
    page, text = render(comparison), as_markdown(comparison)
    assert f"Ranks are not drawn: {comparison.rankings[0].why}." in page
    assert '"ranks-0"' not in page
    assert f"- Dice, HD95, length F1, ESA: {why}" in text


def test_arms_that_share_no_seed_are_not_ranked():
    first, second, *others = compared().arms
    moved = dataclasses.replace(second, runs=tuple(dataclasses.replace(run, seed=run.seed + 9) for run in second.runs))
    (entry,) = rankings_of((first, moved, *others), [DICE])
    assert "no cases and no seeds in common" in entry.why


def test_one_arm_has_a_profile_and_no_ranking():
    alone = compared({"op_scratch": 0.0})
    assert len(alone.profiles) == len(SCORES)
    assert alone.rankings == ()
    assert "Ranks" not in render(alone)


def test_a_report_of_runs_has_profiles_and_ranks_in_its_json(three_arms):
    comparison = compare(read_runs(three_arms))
    read = json.loads(json.dumps(as_json(comparison), allow_nan=False))
    assert len(read["profiles"]) == 3 * len(comparison.scores)
    dice = next(one for one in read["rankings"] if one["score"] == "dice")
    assert next(iter(dice["ranks"])) == "inflate"
    assert dice["p"] < 0.05
    assert dice["critical_difference"] == pytest.approx(2.343 * np.sqrt(3 * 4 / (6 * 6)), abs=2e-3)


def test_the_markdown_has_one_table_of_ranks(comparison):
    text = as_markdown(comparison)
    part = text[text.index("## Average ranks") :]
    for arm in comparison.arms:
        row = next(line for line in part.split("\n") if line.startswith(f"| {arm.name.replace('_', chr(92) + '_')} |"))
        assert row.count("|") == len(SCORES) + 2
        assert f"{ranking_in(comparison, 'dice').ranks[arm.name]:.2f}" in row
    assert f"{ranking_in(comparison, 'dice').critical_difference:.2f}" in part
    assert "verdicts above are what decides" in part


def traces(figure, arm):
    return [trace for trace in figure["data"] if trace.get("meta") == arm]


def test_the_curve_of_a_profile_goes_from_all_to_none_or_from_none_to_all(comparison):
    for score, first, last, shape in ((DICE, 1, 0, "vh"), (HD95, 0, 1, "hv")):
        figure = profile_chart(comparison, score)
        for place, arm in enumerate(comparison.arms):
            *_, line = traces(figure, arm.name)
            assert (line["y"][0], line["y"][-1], line["line"]["shape"]) == (first, last, shape)
            assert line["x"][1:-1] == list(found_in(comparison, score.key)[arm.name].taus)
            assert (line["line"]["color"], line["line"]["dash"]) == (look(place).color, look(place).dash)
            assert [line["x"][0], line["x"][-1]] == figure["layout"]["xaxis"]["range"]


def test_few_arms_have_bands_each_and_many_only_the_first_two(comparison):
    areas = [trace["meta"] for trace in profile_chart(comparison, DICE)["data"] if "fill" in trace]
    assert areas == [arm.name for arm in comparison.arms]
    many = compared({f"arm {k}": 0.01 * k for k in range(MOST_BANDS + 1)})
    areas = [trace["meta"] for trace in profile_chart(many, DICE)["data"] if "fill" in trace]
    assert areas == ["arm 0", f"arm {MOST_BANDS}"]
    assert f"of arm 0 and arm {MOST_BANDS}" in render(many)


def test_a_band_fills_what_is_between_two_lines_that_stand_side_by_side(comparison):
    data = profile_chart(comparison, DICE)["data"]
    for low, high in itertools.pairwise(data):
        if "fill" in high:
            assert low["meta"] == high["meta"]
            assert all(a <= b for a, b in zip(low["y"], high["y"], strict=True))


def test_one_case_has_curves_without_areas_and_the_page_names_none():
    one = compared(cases=2, seeds=1)
    assert [trace for trace in profile_chart(one, DICE)["data"] if "fill" in trace] == []
    assert "The area is its" not in render(one)
    assert "The area is its" in render(compared())


def test_every_arm_stands_at_its_rank_in_the_order_of_ranks(comparison):
    ranking = ranking_in(comparison, "dice")
    figure = rank_chart(comparison, ranking)
    for row, (arm, rank) in enumerate(ranking.ranks.items()):
        line, point = traces(figure, arm)
        assert (point["x"], point["y"]) == ([rank], [row])
        assert line["x"][:2] == [rank, rank]
        place = [one.name for one in comparison.arms].index(arm)
        assert point["marker"]["symbol"] == look(place).symbol
    assert [text.strip() for text in figure["layout"]["yaxis"]["ticktext"]] == list(ranking.ranks)


def test_bars_reach_over_their_groups_and_never_over_each_other():
    many = compared({f"arm {k:02}": 0.006 * k for k in range(14)}, cases=20)
    ranking = ranking_in(many, "dice")
    bars = [trace for trace in rank_chart(many, ranking)["data"] if trace["name"] == "not told apart"]
    assert len(bars) == len(ranking.groups) > 2
    for bar, group in zip(bars, ranking.groups, strict=True):
        assert bar["x"] == [ranking.ranks[group[0]], ranking.ranks[group[-1]]]
        assert ranking.ranks[group[-1]] - ranking.ranks[group[0]] < ranking.critical_difference
    for bar in bars:
        for other in bars:
            if bar is not other and bar["y"] == other["y"]:
                assert bar["x"][1] < other["x"][0] or other["x"][1] < bar["x"][0]


def test_the_critical_difference_is_drawn_as_long_as_it_is_and_fits():
    three = compared({"op_scratch": 0.0, "b": 0.05, "c": 0.1}, cases=5)
    ranking = ranking_in(three, "dice")
    figure = rank_chart(three, ranking)
    scale = figure["data"][-1]
    assert scale["x"] == [1, 1 + ranking.critical_difference]
    assert figure["layout"]["xaxis"]["range"][1] > max(3, scale["x"][1])


def test_the_table_says_which_bars_an_arm_is_under(comparison):
    ranking = ranking_in(comparison, "dice")
    rows = {row["name"]: row for row in rank_rows(ranking, comparison.arms)}
    for at, group in enumerate(ranking.groups, 1):
        assert {arm for arm, row in rows.items() if str(at) in row["groups"].split(", ")} == set(group)


def test_names_in_both_charts_are_escaped():
    comparison = hostile()
    arms = (*comparison.arms, dataclasses.replace(comparison.arms[0], name="third"))
    wider = dataclasses.replace(
        comparison, arms=arms, profiles=profiles_of(arms, SCORES), rankings=rankings_of(arms, SCORES)
    )
    assert wider.rankings[0].ranks
    for figure in (profile_chart(wider, DICE), rank_chart(wider, wider.rankings[0])):
        text = json.dumps([{**trace, "meta": "", "legendgroup": ""} for trace in figure["data"]] + [figure["layout"]])
        assert "<img" not in text
        assert label(comparison.arms[1].name).split("img")[0] in text
