"""The table of results beside the experiments."""

import pytest
from comparisons import compared
from typer.testing import CliRunner

from distill3d.errors import InputError
from distill3d.report import build
from distill3d.report.numerals import NONE
from distill3d.report.text import summary
from distill3d.report.text.results import BETWEEN, updated, write_results
from distill3d.report.verbs import report_app


def rows(text):
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")
    ]
    head, _, *body = cells
    return head, {row[0]: row for row in body}


def test_every_arm_has_a_row_with_its_means_over_seeds():
    comparison = compared()
    head, table = rows(updated("", comparison))
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


def test_a_table_without_its_last_line_is_left_as_it_is_with_all_below_it(tmp_path):
    path = tmp_path / "RESULTS.md"
    write_results(path, compared())
    path.write_text(path.read_text().replace(BETWEEN.end, "") + "\nBelow.\n")
    before = path.read_text()
    with pytest.raises(InputError, match=r"^--results: .*RESULTS\.md lacks the lines .*<!-- end -->"):
        write_results(path, compared())
    assert path.read_text() == before
    path.write_bytes(b"caf\xe9")
    with pytest.raises(InputError, match=r"^--results: .*RESULTS\.md: .*accepted: a Markdown file"):
        write_results(path, compared())


@pytest.mark.parametrize("option", ["out", "results", "markdown", "picture", "keep"])
def test_what_cannot_be_written_is_found_before_the_work_and_nothing_is_left(tmp_path, monkeypatch, option):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    monkeypatch.setattr("distill3d.report.build.compare_places", lambda *_, **__: pytest.fail("it works"))
    done = CliRunner().invoke(report_app, ["report", "runs", f"--{option}", "file/below/x.md"])
    assert isinstance(done.exception, InputError)
    assert str(done.exception) == f"file: cannot be written (File exists); accepted: another --{option}"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("option", ["results", "markdown", "keep"])
def test_what_cannot_be_written_at_the_end_is_a_line(tmp_path, monkeypatch, option):
    path = tmp_path / "x"
    if option == "markdown":
        path.write_text(f"{summary.BETWEEN.begin}{summary.BETWEEN.end}")
    monkeypatch.setattr(build, "write_report", lambda *_: [])

    def full(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("distill3d.report.text.between.write_text", full)
    monkeypatch.setattr(build, "keep_runs", full)
    with pytest.raises(InputError, match=rf"x: cannot be written \(Permission denied\); accepted: another --{option}"):
        build.Outputs(out=tmp_path, **{option: path}).write(compared())


def test_an_arm_with_a_bar_in_its_name_has_one_row():
    text = ""
    for seed in range(2):
        text = updated(text, compared({"scratch data.root=a|b": 0.0, "kd": 0.1}, random_seed=seed))
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    assert [line.split(" | ")[0] for line in lines] == ["| `kd`", "| `scratch data.root=a\\|b`"]
