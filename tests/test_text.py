"""Text of files is shown as text: one line each, and nothing that steers a terminal, a page or a reader's eye."""

import json
import logging
import re
import unicodedata
from dataclasses import replace

import forked
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text

from distill3d.config.tables import with_origins
from distill3d.errors import InputError, printable
from distill3d.terminal import _LogLine, echo, stdout

HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
MARKS = ("\x1b", "\r", "\n", "\x00", "\x85", "\u2028", "\u2029", "\u202e", "\u2066", "\u200b", "\ufeff", "\udc80")
NASTY = "[red]q" + "q".join(MARKS) + "q<b>&[/red]:smile:"


def steers(text):
    return [char for char in text if unicodedata.category(char) in HIDDEN and char != "\n"]


@settings(max_examples=100, derandomize=True, deadline=None)
@given(st.text(st.characters()))
def test_printable_text_is_one_line_and_steers_nothing(text):
    shown = printable(text)
    assert len(shown.splitlines()) <= 1
    assert not steers(shown)
    assert "\n" not in shown
    assert printable(shown) == shown
    shown.encode()


def test_what_is_text_stays_as_it_is():
    words = "größe 5 µm, 3/3, «神経» \N{NO-BREAK SPACE}[bold] \\x1b 🧠"
    assert printable(words) == words


def test_an_error_has_a_line_for_each_problem_whatever_a_file_says():
    error = InputError(f"a: {NASTY}", f"b: {NASTY}")
    assert len(error.lines) == len(str(error).splitlines()) == 2
    assert not steers(str(error))
    assert "\\x1b" in error.lines[0]
    assert "\\u202e" in error.lines[1]


def test_a_console_prints_names_and_tables_as_text(capsys):
    table = Table(title=NASTY)
    table.add_column(NASTY)
    table.add_row(Text(NASTY))
    table.add_row(NASTY)
    stdout().print(f"runs/{NASTY}/seed0", soft_wrap=True)
    stdout().print(table)
    first, *rest = capsys.readouterr().out.split("\n")
    assert first == f"runs/{printable(NASTY)}/seed0"
    assert not steers("".join(rest))
    assert "".join(rest).count("[red]") == 4


def test_settings_are_shown_as_text(capsys):
    echo(with_origins({"parts": {NASTY: {"name": NASTY}}, "question": NASTY}, {"question": f"a/{NASTY}.yaml"}))
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) == 4
    assert not steers(shown)


def test_a_log_line_is_one_line_and_a_traceback_keeps_its_own():
    record = logging.LogRecord("a", logging.WARNING, "a.py", 1, "%s: odd", (NASTY,), None)
    shown = _LogLine().format(record)
    assert shown == f"{printable(NASTY)}: odd"
    error = ValueError(NASTY.replace("\n", ""))
    record.exc_info = (ValueError, error, None)
    lines = _LogLine().format(record).split("\n")
    assert lines[1].startswith("ValueError")
    assert not steers("".join(lines))


def test_a_command_refuses_a_file_of_any_name_in_one_line(tmp_path):
    name = NASTY.replace("\x00", "").replace("/", "") + ".tif"
    (tmp_path / name).write_bytes(b"no stack")
    done = forked.run("trace", tmp_path / name, "--out", tmp_path / "a.swc")
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert not steers(done.stderr)
    assert "[red]q\\x1bq" in done.stderr


def test_a_figure_takes_names_with_dollars_as_names(tmp_path):
    from matplotlib.figure import Figure

    from distill3d.evaluation.figures.canvas import save

    figure = Figure(figsize=(2, 2))
    figure.suptitle("5$ \\frac{$ a\x1b\u202e")
    ticks = figure.subplots()
    ticks.semilogy([1, 1000])
    assert save(figure, tmp_path / "a.png", dpi=30).stat().st_size
    assert figure.get_suptitle() == "5$ \\frac{$ a\\x1b\\u202e"
    assert any("mathdefault" in label.get_text() for label in ticks.get_yticklabels())


def test_wandb_gets_text(tiny, monkeypatch, tmp_path):
    from distill3d.storage.run_folder import RunFolder
    from distill3d.training import loggers

    class Run:
        def __init__(self, **given):
            self.given = given

        def define_metric(self, *names, **how):
            pass

    started = []
    monkeypatch.setattr(loggers.wandb, "init", lambda **given: started.append(Run(**given)) or started[-1])
    monkeypatch.setattr(loggers, "WandbLogger", lambda experiment: experiment)
    experiment = replace(tiny(), name=NASTY, question=NASTY)
    loggers._wandb_logger(experiment, RunFolder(tmp_path / "run"), "offline", {})
    given = started[0].given
    sent = [given["name"], given["group"], *given["tags"], given["config"]["question"], given["config"]["name"]]
    assert sent.count(printable(NASTY)) == 3
    assert not steers(json.dumps(given["config"], ensure_ascii=False) + "".join(sent))


@pytest.mark.parametrize("kind", ["page", "markdown", "numbers", "terminal"])
def test_a_report_shows_what_runs_say_as_text(kind, made, capsys):
    from distill3d.report.comparison.compare import as_json
    from distill3d.report.page.html import render
    from distill3d.report.text.markdown import as_markdown
    from distill3d.report.text.terminal import renderables

    if kind == "page":
        shown = render(made)
        shown = re.sub(r"<(script|style).*?</\1>", "", shown, flags=re.DOTALL)
        assert "[red]q\\x1bq" in shown
        assert "q<b>" not in shown
    elif kind == "markdown":
        shown = as_markdown(made)
        assert "q<b>" not in shown
    elif kind == "numbers":
        shown = json.dumps(as_json(made), ensure_ascii=False)
    else:
        for part in renderables(made):
            stdout().print(part)
        shown = capsys.readouterr().out
    assert not steers(shown)
    assert "x1b" in shown


@pytest.fixture
def made(tmp_path):
    """A comparison of two arms whose files say what they should not."""
    from distill3d.report.build import compare_places
    from distill3d.storage.run_folder import write_json, write_yaml

    runs = tmp_path / "runs"
    for arm, strategy in (("a", "none"), ("b", NASTY)):
        folder = runs / arm / "seed0"
        settings = {"name": arm + NASTY, "question": NASTY, "seed": 0, "strategy": {"name": strategy, NASTY: NASTY}}
        cases = {"cases": {NASTY: {"dice": 0.5}}, "untraced": {NASTY: NASTY}}
        teacher = {"architecture": NASTY, "weights": NASTY, "sha256": NASTY}
        provenance = {"commit": NASTY, "packages": {NASTY: NASTY}, "machine": {"system": NASTY}, "command": [NASTY]}
        write_yaml(folder / "config.yaml", settings)
        write_json(folder / "metrics.json", {**cases, "baselines": {NASTY: cases}})
        write_json(folder / "fit.json", {"cost": {}, "teacher": teacher, "provenance": provenance})
        write_json(folder / "done.json", {})
    return compare_places([runs])
