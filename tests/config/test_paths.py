"""Paths in settings: kept as written, expanded wherever they are used."""

import os
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from distill3d.config.paths import ConfigPath
from distill3d.config.plain import as_plain, from_plain
from distill3d.config.registry import REGISTRIES
from distill3d.config.schema import Experiment, Pretraining
from distill3d.errors import ConfigError
from distill3d.experiment import load_experiment

NAMES = {"folder", "swc_folder", "path", "model", "run", "runs", "cache", "backgrounds", "hard_backgrounds"}


def settings(config, above=""):
    """Yield dotted name, type hint of every setting below a config class."""
    hints = get_type_hints(config)
    for each in fields(config):
        inner = [hints[each.name], *get_args(hints[each.name])]
        yield f"{above}{each.name}", inner
        for hint in inner:
            if isinstance(hint, type) and is_dataclass(hint) and "registry" not in each.metadata:
                yield from settings(hint, f"{above}{each.name}.")


def test_every_path_of_every_section_is_of_the_type_that_expands():
    classes = [Experiment, Pretraining]
    classes += [registry[name].config for registry in REGISTRIES.values() for name in registry.names()]
    seen = {name: ConfigPath in hints for config in classes for name, hints in settings(config) if bool not in hints}
    paths = {name for name in seen if name.rpartition(".")[2] in NAMES}
    assert {"folder", "hard.backgrounds", "patches.augment.hard_backgrounds", "path", "run", "runs", "cache"} <= paths
    assert {name for name, is_path in seen.items() if is_path} == paths


@pytest.mark.parametrize("written", ["~/x", "$PLACE/x", "${PLACE}/x"])
def test_a_path_is_kept_as_written_and_leads_to_the_users_folder(written, monkeypatch, tiny_file):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("PLACE", "/home/me")
    path = ConfigPath(written)
    assert (Path(path), str(path), path) == (Path("/home/me/x"), written, ConfigPath(written))
    if not written.startswith("${"):
        patches = f"patches.augment={{hard: 0.5, hard_backgrounds: [{written}]}}"
        experiment = load_experiment(tiny_file, [f"runs={written}", f"data.swc_folder={written}", patches])
        used = (experiment.runs, experiment.data.config.swc_folder, *experiment.patches.augment.hard_backgrounds)
        assert [os.fspath(each) for each in used] == ["/home/me/x"] * 3
        plain = as_plain(experiment)
        assert (plain["runs"], plain["patches"]["augment"]["hard_backgrounds"]) == (written, [written])
        assert from_plain(plain) == experiment


@pytest.mark.parametrize(
    ("written", "why"), [("$NOWHERE/x", "variable NOWHERE is not set"), ("~nobody-here/x", "HOME")]
)
def test_a_path_that_leads_nowhere_is_no_folder_of_that_name(written, why, monkeypatch):
    monkeypatch.delenv("NOWHERE", raising=False)
    with pytest.raises(ConfigError, match=why):
        Path(ConfigPath(written))
