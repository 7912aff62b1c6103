"""A run is run again from its own files, and what came out otherwise is said."""

import json

import pytest
from typer.testing import CliRunner

from distill3d.cli import app
from distill3d.errors import InputError
from distill3d.storage.run_folder import write_json
from distill3d.training import reproduce as module
from distill3d.training.reproduce import Reproduction, reproduce


def test_a_run_comes_out_the_same_again_and_one_changed_value_is_named(finished, tmp_path):
    metrics = finished.read_json(finished.metrics)
    dice = metrics["mean"]["dice"]
    metrics["mean"]["dice"] = dice + 1e-12
    metrics["cost"]["fit_seconds"] += 1
    metrics["provenance"]["commit"] = "another"
    write_json(finished.metrics, metrics)
    before = {path: path.read_bytes() for path in finished.path.rglob("*") if path.is_file()}
    result = reproduce(finished.path, out=tmp_path / "again")
    assert result.values == (("mean.dice", dice + 1e-12, dice),)
    assert [key for key, *_ in result.code] == ["provenance.commit"]
    assert before == {path: path.read_bytes() for path in finished.path.rglob("*") if path.is_file()}
    again = tmp_path / "again" / "tiny" / "seed0"
    assert json.loads((again / "metrics.json").read_text())["mean"]["dice"] == dice
    with pytest.raises(InputError, match="again/tiny/seed0 holds a run"):
        reproduce(finished.path, out=tmp_path / "again")


@pytest.mark.parametrize("file", ["done.json", "metrics.json"])
def test_a_run_without_scores_is_refused(finished, file):
    (finished.path / file).unlink()
    with pytest.raises(InputError, match="no finished run with scores"):
        reproduce(finished.path)


@pytest.mark.parametrize(("values", "code"), [((), 0), ((("mean.dice", 0.5, 0.6),), 1)])
def test_the_verb_shows_what_differs_and_exits_by_it(monkeypatch, tmp_path, values, code):
    monkeypatch.setattr(module, "reproduce", lambda run, out, allow_plugins: Reproduction(values))
    result = CliRunner().invoke(app, ["reproduce", str(tmp_path)])
    assert result.exit_code == code
    assert ("mean.dice" in result.stdout) == bool(values)
    assert ("every value is the same" in result.stdout) != bool(values)


def test_a_later_evaluation_is_done_again_at_its_tolerances(finished, monkeypatch, tmp_path):
    before = finished.read_json(finished.metrics)
    asked = []
    monkeypatch.setattr(module, "fit", lambda experiment, console: finished.path)
    monkeypatch.setattr(
        module, "evaluate", lambda run, tolerances_um, allow_plugins: asked.append(tolerances_um) or before
    )
    again = type(finished)(tmp_path / "again")
    write_json(again.metrics, before)
    assert module._scored_alike(finished, again, before, allow_plugins=False) == before
    assert asked == []
    later = before | {"tolerances": {**before["tolerances"], "mask_um": 3.0}}
    module._scored_alike(finished, again, later, allow_plugins=False)
    assert asked[0]["mask_um"] == 3.0
