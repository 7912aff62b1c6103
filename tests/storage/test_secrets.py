"""No password, key or token is in what a run or a sweep writes or says."""

import sys

import pytest
import yaml

from distill3d.errors import ConfigError, InputError
from distill3d.experiment import load_experiment
from distill3d.storage.provenance import provenance
from distill3d.storage.secrets import without_secrets
from distill3d.sweep.search import stored_text

SECRET = "hunter2hunter2"  # noqa: S105 - nobody's


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql://me:{SECRET}@host/db",
        f"postgresql+psycopg://me:{SECRET}/@x@host/db",  # no URL, for the slash is not quoted
        f"redis://:{SECRET}@host",
        f"postgres//me:{SECRET}@host",
        f"--storage=mysql://host/db?user=me&password={SECRET}&ssl=1",
        f"token={SECRET}",
        f"--api-key={SECRET}",
        f"anything {SECRET} else",
    ],
)
def test_secrets_are_hidden(text, monkeypatch):
    if text.startswith("anything"):
        monkeypatch.setenv("SOME_API_KEY", SECRET)
    assert SECRET not in without_secrets(text)
    assert "***" in without_secrets(text)


@pytest.mark.parametrize("text", ["student.class_token=false", "optimizer.lr=1e-3", "data={train: [a@b]}", "a.token=x"])
def test_settings_are_not_hidden(text):
    assert without_secrets(text) == text


def test_the_command_that_a_run_or_a_tuning_notes_has_no_password(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["distill3d", "sweep", "run", "x", f"--storage=postgresql://me:{SECRET}@host/db"])
    assert provenance()["command"][-1] == "--storage=postgresql://me:***@host/db"


@pytest.mark.parametrize("storage", [f"postgres//me:{SECRET}@host", f"nosuch://me:{SECRET}@host/db"])
def test_a_storage_that_cannot_be_used_is_named_without_its_password(storage):
    with pytest.raises(InputError, match=r"me:\*\*\*@host") as caught:
        stored_text("x", storage)
    assert SECRET not in str(caught.value)


def test_settings_that_take_a_key_from_the_environment_are_refused(tiny_file, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    with pytest.raises(ConfigError, match="tiny: a setting holds the value of WANDB_API_KEY") as caught:
        load_experiment(tiny_file, ["logging.project=${oc.env:WANDB_API_KEY}"])
    assert SECRET not in str(caught.value)
    assert SECRET not in yaml.safe_dump(load_experiment(tiny_file).logging.project)
