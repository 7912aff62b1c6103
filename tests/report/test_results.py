"""The table of results beside the experiments."""

from comparisons import compared

from distill3d.report.numerals import NONE
from distill3d.report.text.results import updated_results, write_results


def rows(text):
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")
    ]
    head, _, *body = cells
    return head, {row[0]: row for row in body}


def test_every_arm_has_a_row_with_its_means_over_seeds():
    comparison = compared()
    head, table = rows(updated_results("", comparison))
    assert set(table) == {f"`{arm.name}`" for arm in comparison.arms}
    for arm in comparison.arms:
        row = dict(zip(head, table[f"`{arm.name}`"], strict=True))
        dice = arm.scores["dice"]
        assert (row["seeds"], row["cases"]) == ("3", "8")
        assert row["Dice"].split(" ± ")[0] == f"{dice.mean:.3f}"
        assert row["clDice"] == NONE  # no run has it


def test_a_report_replaces_its_own_rows_and_keeps_all_else(tmp_path):
    path = tmp_path / "RESULTS.md"
    path.write_text("# Results\n\nOurs.\n")
    write_results(path, compared({"op_scratch": 0.0, "op_old": 0.1}))
    text = path.read_text()
    path.write_text(text + "\nBelow.\n")
    write_results(path, compared({"op_scratch": 0.2, "op_new": 0.1}, random_seed=1))
    _, after = rows(path.read_text())
    assert list(after) == ["`op_new`", "`op_old`", "`op_scratch`"]
    assert after["`op_old`"] == rows(text)[1]["`op_old`"]
    assert after["`op_scratch`"] != rows(text)[1]["`op_scratch`"]
    assert path.read_text().startswith("# Results\n\nOurs.\n")
    assert path.read_text().endswith("\nBelow.\n")


def test_an_arm_with_a_bar_in_its_name_has_one_row():
    text = ""
    for seed in range(2):
        text = updated_results(text, compared({"scratch data.root=a|b": 0.0, "kd": 0.1}, random_seed=seed))
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    assert [line.split(" | ")[0] for line in lines] == ["| `kd`", "| `scratch data.root=a\\|b`"]
