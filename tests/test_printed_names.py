"""What is printed is text: rich reads no markup in it, whichever verb prints."""

import io
import re
from pathlib import Path

import pytest
from rich.table import Table

import distill3d
from distill3d.terminal import progress_bar, stderr, stdout

NAMES = ["p/cell[gfp]_prob.tif", "p/[/x] t.swc", "[bold]cell.tif", "cell:smile:.tif", r"cell\[gfp].tif"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("console", [stdout, stderr])
def test_a_path_is_printed_as_it_is_on_a_line_and_in_a_table(name, console):
    table = Table("file", title=name)
    table.add_row(name)
    out = console()
    out.file = io.StringIO()
    out.print(name, table, soft_wrap=True)
    assert out.file.getvalue().count(name) == 3


@pytest.mark.parametrize("name", NAMES)
def test_a_bar_shows_the_name_of_a_case_as_it_is(name):
    console = stderr()
    bar = progress_bar(console)
    bar.add_task(name, info=name)
    with console.capture() as capture:
        console.print(bar, soft_wrap=True)
    assert capture.get().count(name) == 2


def test_every_console_of_the_package_is_made_by_one_hand():
    """Another would read markup by default."""
    package = Path(distill3d.__file__).parent
    making = {str(path.relative_to(package)) for path in package.rglob("*.py") if "Console(" in path.read_text()}
    assert making == {"terminal.py"}
    text = (package / "terminal.py").read_text()
    assert set(re.findall(r"(\w*)Console\(", text)) == {"_Text"}
    assert "super().__init__(markup=False, emoji=False" in text
    columns = [text for path in package.rglob("*.py") for text in re.findall(r"TextColumn\(.*", path.read_text())]
    assert all("markup=False" in text or "{" not in text for text in columns)
