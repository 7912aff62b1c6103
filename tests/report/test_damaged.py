"""Damaged runs: named in one line, left out, and the report is made of the others."""

import functools
import json
import math
import random

import pytest
from report.conftest import made_up
from typer.testing import CliRunner

from distill3d.cli import app
from distill3d.errors import InputError
from distill3d.report import build
from distill3d.report.build import compare_places, write_numbers
from distill3d.report.comparison import verdict
from distill3d.report.comparison.runs import read_run
from distill3d.report.page.html import render
from distill3d.storage.record import read_plain

FILES = ("metrics.json", "config.yaml", "fit.json", "done.json")


def change(path, **values):
    """Put values into a JSON file of a run, by key."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.fixture(autouse=True)
def few_draws(monkeypatch, request):
    """What becomes of numbers is tested here, not how good they are."""
    if request.node.get_closest_marker("slow") is None:
        monkeypatch.setattr(verdict, "draw_means", functools.partial(verdict.draw_means, draws=200))


@pytest.fixture
def runs(write_run, tmp_path):
    """Six runs of two arms, with the settings that a report looks at and two more sections."""
    fewer = dict.fromkeys(("balance", "patches", "optimizer", "inference", "trace", "logging", "losses"))
    for seed in range(3):
        write_run("scratch", seed, dice=made_up(0.0, seed), settings=fewer)
        settings = {**fewer, "strategy": {"name": "features"}}
        write_run("kd", seed, dice=made_up(0.05, 9 + seed), settings=settings, teacher={}, kept=0.5)
    return tmp_path / "runs"


DAMAGE = {
    "a number too large for a float": (
        "metrics.json",
        lambda text: text.replace('"dice": 0.', '"dice": 1e999, "x": 0.', 1),
    ),
    "a whole number too large": ("metrics.json", lambda text: text.replace('"seed": 1', f'"seed": {10**400}')),
    "a number of no score": ("metrics.json", lambda text: text.replace('"dice": 0.', '"dice": 1e300, "x": 0.', 1)),
    "NaN": ("fit.json", lambda text: text.replace('"parameters": 1007665', '"parameters": NaN')),
    "infinity": ("fit.json", lambda text: text.replace('"kept": 0.5', '"kept": -Infinity')),
    "infinity in YAML": ("config.yaml", lambda text: text + "late: .inf\n"),
    "a list where a mapping was": ("metrics.json", lambda text: json.dumps(json.loads(text) | {"cases": [1]})),
    "a list where a case was": ("metrics.json", lambda text: json.dumps(json.loads(text) | {"cases": {"a": []}})),
    "a list where the cost was": ("fit.json", lambda text: json.dumps(json.loads(text) | {"cost": [1]})),
    "a text where a number was": (
        "fit.json",
        lambda text: text.replace('"parameters": 1007665', '"parameters": "many"'),
    ),
    "true where a number was": ("fit.json", lambda text: text.replace('"kept": 0.5', '"kept": true')),
    "a number where names were": ("fit.json", lambda text: text.replace('"gpus": []', '"gpus": 3')),
    "a list where a section was": (
        "config.yaml",
        lambda text: text.replace("strategy:\n  name: features", "strategy: []"),
    ),
    "a text where the seed was": ("config.yaml", lambda text: text.replace("seed: 1", "seed: one")),
    "a truth where the seed was": ("config.yaml", lambda text: text.replace("seed: 1", "seed: true")),
    "a date": ("config.yaml", lambda text: text + "when: 2026-01-01\n"),
    "a key that is no text": ("config.yaml", lambda text: text + "1: 2\n"),
    "a list in itself": ("config.yaml", lambda text: text + "late: &a [*a]\n"),
    "a code to run": ("config.yaml", lambda text: text + "late: !!python/name:os.system\n"),
    "folds without end": ("config.yaml", lambda text: text.replace("data:\n", "data:\n  folds: 99999999999999\n", 1)),
    "cut short": ("metrics.json", lambda text: text[: len(text) // 2]),
    "nothing": ("config.yaml", lambda text: ""),
    "brackets without end": ("metrics.json", lambda text: "[" * 100_000),
    "no text": ("fit.json", lambda text: "\udcff"),
    "done by a list": ("done.json", lambda text: "[]"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_run_is_named_in_one_line_and_left_out(runs, what):
    path = runs / "kd" / "seed1"
    file, spoil = DAMAGE[what]
    before = (path / file).read_text()
    (path / file).write_bytes(spoil(before).encode(errors="surrogateescape"))
    assert (path / file).read_bytes() != before.encode()
    comparison = compare_places([runs])
    assert len(comparison.damaged) == 1
    assert comparison.damaged[0].startswith(f"{path.as_posix()}: damaged, left out: {file}: ")
    assert len(comparison.damaged[0].splitlines()) == 1
    assert len(comparison.damaged[0]) < 450
    assert comparison.damaged[0] in comparison.remarks
    assert [[run.seed for run in arm.runs] for arm in comparison.arms] == [[0, 1, 2], [0, 2]]


def test_report_and_compare_say_so_and_exit_with_1(runs, tmp_path, monkeypatch):
    monkeypatch.setattr("distill3d.report.build.write_report", write_numbers)
    command = [["report", str(runs), "--out", str(tmp_path / "out")], ["compare", "scratch", "kd", "--runs", str(runs)]]
    assert [CliRunner().invoke(app, words).exit_code for words in command] == [0, 0]
    (runs / "kd" / "seed1" / "fit.json").write_text("{")
    for words in command:
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 1
        assert "seed1: damaged, left out: fit.json" in " ".join(result.stdout.split())
    assert json.loads((tmp_path / "out" / "report.json").read_text())["damaged"]


def test_only_damaged_runs_is_an_error_with_a_line_for_each(runs):
    for seed in range(3):
        (runs / "kd" / f"seed{seed}" / "fit.json").write_text("{")
    with pytest.raises(InputError, match="damaged") as refused:
        compare_places([runs / "kd"])
    assert len(refused.value.lines) == 3


# ---------------------------------------------------------------- mutations

NUMBERS = (
    "1e999",
    "-1e999",
    "NaN",
    "-Infinity",
    "1e300",
    "1e-320",
    "-1",
    "99999999999999999999999",
    "0.0",
    "true",
)
WORDS = (
    "[]",
    "{}",
    "null",
    '"x"',
    '"\\ud800"',
    '"\\u2028"',
    '[{"a": [1]}]',
    ".inf",
    ".nan",
    "~",
    "2026-01-01",
    "*a",
    "!!str",
)


def mutate(rng, text):
    """Change a text by one to three edits: bytes, words, numbers, lines, and its end."""
    for _ in range(rng.randint(1, 3)):
        places = [k for k, c in enumerate(text) if c.isdigit() or c in '"[{tfn:']
        at = rng.choice(places) if places and rng.random() < 0.8 else rng.randrange(len(text) + 1)
        end = at
        while end < len(text) and text[end] not in ",\n}]: ":
            end += 1
        kind = rng.randrange(8)
        if kind < 3:
            text = text[:at] + rng.choice(NUMBERS) + text[end:]
        elif kind < 5:
            text = text[:at] + rng.choice(WORDS) + text[end:]
        elif kind == 5:
            text = text[:at] + chr(rng.choice((0, 9, 10, 27, 91, 123, 0x2028, 0x85, 0x202E))) + text[at + 1 :]
        elif kind == 6:
            text = text[:at] + text[at + rng.randint(1, 40) :]
        else:
            text = text[:at] if rng.random() < 0.3 else text[:at] + text[at : at + 60] + text[at:]
    return text


def damaged_reports(runs, out, count, *, every, page=False):
    """Read a run of which one file is mutated, and report on it and five others; return faults, and how often it fell.

    Args:
        runs: folder of the six.
        out: folder for the reports.
        count: mutations.
        every: of the reports that leave the run out, which are all the same, one in so many is made.
        page: whether the page is made, too.
    """
    rng, faults, fallen, strange = random.Random(19), [], 0, []  # noqa: S311 - no secret
    paths = [runs / "kd" / "seed1" / file for file in FILES]
    honest = {path: path.read_text() for path in paths}
    for number in range(count):
        path = paths[number % 3] if number % 20 else paths[3]
        path.write_bytes(mutate(rng, honest[path]).encode(errors="surrogatepass"))
        try:
            fell = refused(path.parent)
            fallen += fell
            if fell and fallen % every:
                continue
            comparison = compare_places([runs], scores=["dice", "hd95_um"], baseline="scratch")
            report, text = write_numbers(comparison, out)
            numbers = json.loads(report.read_text(), parse_constant=strange.append)
            shown = render(comparison) if page else text.read_text()
            if len(comparison.damaged) != fell or not shown:
                faults.append((number, comparison.damaged))
            if any(len(line.splitlines()) != 1 for line in numbers["remarks"]):
                faults.append((number, numbers["remarks"]))
        except InputError as error:  # a run of another seed, name or strategy can be another arm, without a baseline
            if len(str(error).splitlines()) != 1:
                faults.append((number, str(error)))
        except Exception as error:  # noqa: BLE001 - each is a fault
            faults.append((number, path.name, repr(error)[:200]))
        finally:
            path.write_text(honest[path])
    return faults + strange, fallen


def refused(folder):
    """Whether a run is refused, in one line."""
    try:
        read_run(folder)
    except InputError as error:
        return len(str(error).splitlines()) == 1 or pytest.fail(str(error))
    return False


def test_a_changed_file_of_a_run_never_ends_a_report(runs, tmp_path, monkeypatch):
    honest = {path: read_run(path) for path in runs.glob("*/*") if path != runs / "kd" / "seed1"}
    monkeypatch.setattr(build, "read_run", lambda path: honest.get(path) or read_run(path))
    faults, fallen = damaged_reports(runs, tmp_path / "out", 300, every=50)
    assert faults == []
    assert 150 < fallen < 290


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_thousand_changed_files_of_a_run(runs, tmp_path):
    faults, fallen = damaged_reports(runs, tmp_path / "out", 2000, every=5, page=True)
    assert faults == []
    assert 1000 < fallen < 1900


def test_a_file_of_a_run_says_its_numbers_and_nothing_else(tmp_path):
    file = tmp_path / "a.json"
    file.write_text('{"a": [1, 2.5, null, {"b": "c"}], "d": true}')
    assert read_plain(file) == {"a": [1, 2.5, None, {"b": "c"}], "d": True}


def test_scores_are_finite_or_missing(runs):
    change(runs / "kd" / "seed1" / "metrics.json", cases={"a": {"dice": 0.5, "hd95_um": None}})
    assert read_run(runs / "kd" / "seed1").cases == {"a": {"dice": 0.5, "hd95_um": None}}
    assert math.isfinite(read_run(runs / "kd" / "seed1").cost["parameters"])
