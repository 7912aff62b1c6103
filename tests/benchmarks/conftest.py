"""Benchmarks leave rows (`rows.Bench`): a table at the end and ``bench.json``. None fails for being slow.

A test names its rows in its marker, ``@pytest.mark.rows("name", ...)``, where ``{parameter}`` is filled in; `--row`
chooses among them. Files are in the order of the table.
"""

from pathlib import Path

import pytest
import rows

from distill3d.terminal import stdout

ROWS = pytest.StashKey[dict[str, dict]]()
WANTED = pytest.StashKey[list[str]]()


def pytest_addoption(parser):
    group = parser.getgroup("benchmarks")
    group.addoption("--row", default="", help="only rows whose name begins so")
    group.addoption("--rounds", type=int, default=1000, help="at most so many rounds of each measurement")
    group.addoption("--bench-json", type=Path, default=Path("bench.json"), help="file that the rows are written to")


def pytest_configure(config):
    config.addinivalue_line("markers", "rows(*names): the rows that a benchmark leaves")
    config.stash[ROWS] = {}


def names_of(item):
    """Names of the rows that a test leaves."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    return [name.format(**parameters) for mark in item.iter_markers("rows") for name in mark.args]


def pytest_collection_modifyitems(config, items):
    prefix = config.getoption("row")
    everything = [name for item in items for name in names_of(item)]
    if twice := {name for name in everything if everything.count(name) > 1}:
        raise pytest.UsageError(f"rows of one name: {', '.join(sorted(twice))}; accepted: names that are unique")
    config.stash[WANTED] = [name for name in everything if name.startswith(prefix)]
    if prefix and not config.stash[WANTED]:
        raise pytest.UsageError(f"ROW={prefix}: no row begins so; accepted: {', '.join(everything)}")
    chosen = [item for item in items if any(name.startswith(prefix) for name in names_of(item))]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen
    for item in items:
        item.add_marker(pytest.mark.timeout(1800))


@pytest.fixture
def bench(request):
    """Measure and leave rows, with one thread unless the test says otherwise."""
    with rows.pinned(1):
        config = request.config
        yield rows.Bench(names_of(request.node), config.stash[ROWS], config.getoption("rounds"))


def pytest_terminal_summary(config):
    wanted = config.stash.get(WANTED, [])
    measured = [config.stash[ROWS][name] for name in wanted if name in config.stash[ROWS]]
    if not measured:
        return
    missing = [name for name in wanted if name not in config.stash[ROWS]]
    console = stdout()
    console.print("", rows.table(measured))
    if missing:
        console.print(f"not measured, their tests were skipped or failed: {', '.join(missing)}", style="bold red")
    path = config.getoption("bench_json")
    rows.write_rows(path, measured, missing=missing, some=bool(config.getoption("row")))
    console.print(f"written to {path}", soft_wrap=True)
