"""Tables of results say what the runs say that are kept in experiments/results, to the last digit."""

import json
from pathlib import Path

import pytest

from distill3d.report.build import compare_places
from distill3d.report.comparison.compare import as_json
from distill3d.report.text.summary import BETWEEN, summary

ROOT = Path(__file__).resolve().parents[1]
KEPT = "experiments/results"
TABLES = [
    ("README.md", "evidence"),
    (f"{KEPT}/evidence_twins/README.md", "evidence_twins"),
    (f"{KEPT}/evidence_twins_240/README.md", "evidence_twins_240"),
]


@pytest.mark.parametrize(("file", "kept"), TABLES)
def test_a_table_is_that_of_its_report_and_this_that_of_the_runs(file, kept, monkeypatch):
    monkeypatch.chdir(ROOT)
    folder = Path(KEPT) / kept
    report = json.loads((folder / "report.json").read_text())
    pairs = [f"{pair['arm']}:{pair['baseline']}" for pair in report["contrasts"]]
    assert pairs
    table = BETWEEN.read(Path(file))[1].strip()
    assert table == summary(report)
    assert table == summary(as_json(compare_places([folder], baseline=report["baseline"], contrasts=pairs)))
