"""The table of a whole comparison that README holds."""

import pytest
from comparisons import compared, read_runs

from distill3d.errors import InputError
from distill3d.report.comparison.compare import as_json, compare
from distill3d.report.numerals import MINUS, NONE, number
from distill3d.report.text.markdown import CONTRASTS
from distill3d.report.text.summary import BETWEEN, FEWER, summary, write_summary

BEGIN, END = BETWEEN.begin, BETWEEN.end


def read_table(text):
    lines = [line for line in text.splitlines() if line.startswith("|")]
    head, _, *body = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return {row[0].strip("`"): dict(zip(head, row, strict=True)) for row in body}


def test_every_arm_has_its_scores_its_gain_with_interval_and_verdict_and_its_cost():
    comparison = compared()
    rows = read_table(summary(as_json(comparison)))
    assert list(rows) == [*(arm.name for arm in comparison.arms), "otsu"]
    gains = {each.arm: each for each in comparison.differences if each.score == "dice"}
    for arm in comparison.arms:
        row, gain = rows[arm.name], gains.get(arm.name)
        minutes = arm.cost.fit_seconds / 60
        assert row["Dice ↑"] == f"{arm.scores['dice'].mean:.3f}"
        assert float(row["min"]) == pytest.approx(minutes, abs=0.05)
        against = row["minus `op_scratch` (95 %)"].replace(MINUS, "-")
        if gain is None:
            assert (against, row["verdict"], row["gain / h"]) == (NONE, NONE, NONE)
            continue
        assert against == f"{gain.mean:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})"
        assert row["verdict"].strip("*") == gain.verdict
        if gain.verdict == "INCONCLUSIVE":
            assert row["gain / h"] == NONE
            continue
        assert float(row["gain / h"].replace(MINUS, "-")) == pytest.approx(gain.mean / minutes * 60, abs=0.05)
    otsu = comparison.references["otsu"]
    assert rows["otsu"]["Dice ↑"] == f"{sum(each['dice'] for each in otsu.values()) / len(otsu):.3f}"


@pytest.mark.parametrize(
    ("asked", "heads"),
    [
        ("hd95_um,cldice", ["HD95 (µm) ↓", "clDice ↑"]),
        ("tree_esa", ["ESA (voxels) ↓"]),
        ("", ["Dice ↑", "Dice within 2 vox ↑", "HD95 (µm) ↓", "length F1 ↑"]),
        ("recall,betti0_error,cldice,dice,tree_f1", ["recall ↑", "Betti 0 error ↓", "clDice ↑", "length F1 ↑"]),
    ],
)
def test_the_scores_are_those_of_the_report(three_arms, asked, heads):
    keys = asked.split(",") if asked else []
    found = compare(read_runs(three_arms), scores=keys, contrasts=["inflate:kd"])
    text = summary(as_json(found))
    lines = [line for line in text.splitlines() if line.startswith("| arm |")]
    head, of_contrasts = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    assert [head[1], *head[4:-3]] == heads
    assert len(of_contrasts) == 3 + len(heads)
    main, gain = found.scores[0], found.contrasts[0].differences[0]
    assert gain.score == main.key
    row = next(line for line in text.splitlines() if line.startswith("| `inflate` | `kd`"))
    assert number(gain.mean, main.digits, signed=True) in row
    assert read_table(text.partition(CONTRASTS)[0])["inflate"][heads[0]] == number(
        found.arms[1].scores[main.key].mean, main.digits
    )


def test_fewer_um_are_a_gain_and_an_unknown_time_is_a_dash(three_arms):
    found = as_json(compare(read_runs(three_arms), scores=["hd95_um"]))
    row, difference = read_table(summary(found))["inflate"], found["differences"][0]
    assert (difference["arm"], difference["verdict"]) == ("inflate", "BETTER")
    hours = next(arm for arm in found["arms"] if arm["name"] == "inflate")["cost"]["fit_seconds"] / 3600
    assert float(row["gain / h"]) == pytest.approx(-difference["mean"] / hours, abs=0.05)
    assert float(row["gain / h"]) > 0
    for arm in found["arms"]:
        arm["cost"]["fit_seconds"] = None
    text = summary(found)
    assert (read_table(text)["inflate"]["min"], read_table(text)["inflate"]["gain / h"]) == (NONE, NONE)
    assert f"; {NONE} h of training" in text


def test_a_mean_of_fewer_cases_says_so_and_remarks_stand_below():
    comparison = compared(missing=True)
    text = summary(as_json(comparison))
    rows, last = read_table(text), next(arm for arm in comparison.arms if arm.scores["hd95_um"].n_missing)
    assert rows[last.name]["HD95 (µm) ↓"] == f"{last.scores['hd95_um'].mean:.1f} (21/24)"
    assert sum("/24)" in cell for row in rows.values() for cell in row.values()) == 1
    assert text.splitlines()[-1] == rf"- {comparison.remarks[0]}".replace("_", r"\_")
    assert FEWER in text
    assert FEWER not in summary(as_json(compared()))


def test_the_table_is_replaced_between_its_markers_and_nothing_else(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(f"# Ours\n\n{BEGIN}\nold\n{END}\n\nBelow.\n")
    for gains in ({"a": 0.0, "b": 0.1}, {"a": 0.0, "c": 0.1}):
        report = as_json(compared(gains))
        write_summary(path, report)
    assert path.read_text() == f"# Ours\n\n{BEGIN}\n{summary(report)}\n{END}\n\nBelow.\n"


@pytest.mark.parametrize("text", [None, "# Ours\n", f"{BEGIN}\nno end\n", f"{END}\n{BEGIN}\n"])
def test_a_file_without_markers_is_left_as_it_is(tmp_path, text):
    path = tmp_path / "README.md"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=r"^--markdown: .*README\.md") as caught:
        write_summary(path, as_json(compared()))
    assert caught.value.exit_code == 2
    assert text is None or path.read_text() == text
