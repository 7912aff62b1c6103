"""The example of a plugin in experiments/README.md works as it is pasted."""

import json
import re
import sys
from pathlib import Path

import pytest

from distill3d.config.registry import STRATEGIES
from distill3d.storage.run_folder import RunFolder
from distill3d.training import fit

README = Path(__file__).resolve().parents[1] / "experiments" / "README.md"


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """The code under "Add a strategy" as a module of the user's."""
    section = README.read_text().split("## Add a strategy\n")[1].split("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    (tmp_path / "readme_plugin.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(STRATEGIES, "_entries", dict(STRATEGIES._entries))
    yield "readme_plugin"
    sys.modules.pop("readme_plugin", None)


@pytest.mark.usefixtures("undrawn")
def test_the_strategy_of_the_readme_trains_a_student_as_pasted(plugin, tiny):
    settings = (f"plugins=[{plugin}]", "strategy={name: confident, weight: 0.5}", "trainer.steps=1")
    folder = RunFolder(fit.fit(tiny(*settings, "trainer.validate_every=1")))
    (measured,) = json.loads(folder.gradients.read_text())["history"]
    assert 0 < measured["terms"]["confident"]["value"] <= 0.25
    assert measured["terms"]["confident"]["weight"] == 0.5
    assert measured["terms"]["confident"]["norm"] > 0
    assert folder.state == "done"


def test_the_readme_imports_its_names_from_the_package_alone(plugin, tmp_path):
    lines = re.findall(r"^(?:from|import) .*", (tmp_path / f"{plugin}.py").read_text(), flags=re.MULTILINE)
    assert lines
    assert all(line.startswith(("from dataclasses ", "from distill3d import ")) for line in lines)
