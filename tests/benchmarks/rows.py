"""What a benchmark measures with, and the rows it leaves: calls in turns, pinned threads, a table, a file."""

import contextlib
import functools
import gc
import math
import os
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from unittest import mock

import torch
from rich.table import Table
from rich.text import Text
from threadpoolctl import threadpool_limits

from distill3d.errors import InputError
from distill3d.storage.provenance import provenance
from distill3d.storage.record import read_plain
from distill3d.storage.run_folder import write_json
from distill3d.terminal import WIDTH

source = functools.cache(provenance)  # git takes its time
now = functools.partial(time.strftime, "%Y-%m-%dT%H:%M:%S%z")
CAPTION = "ratio: ours / other, or other / ours where at least (≥) is asked; the median over rounds"


class Bench:
    """What the fixture ``bench`` gives a test.

    Args:
        names: of the rows that the test leaves.
        rows: where they go, by name.
        most_rounds: no measurement takes more of them.
    """

    def __init__(self, names, rows, most_rounds):
        self.names, self._rows, self._most_rounds = names, rows, most_rounds

    def turns(self, calls, *, rounds, fewer=None, warm_up=True):
        """Make calls in turns, so that whatever else the machine does meets all.

        Args:
            calls: by name.
            rounds: how often, beside the first one, which warms up and is left out.
            fewer: rounds of the slow ones.
            warm_up: False for calls that need no such round.

        Returns:
            Lists of what the calls returned, by name.
        """
        limits = {name: min(self._most_rounds, (fewer or {}).get(name, rounds)) for name in calls}
        results = {name: [] for name in calls}
        for number in range(-int(warm_up), max(limits.values())):
            for name, call in calls.items():
                if number < limits[name]:
                    result = call()
                    results[name] += [result] if number >= 0 else []
        return results

    def seconds(self, calls, *, rounds, clock=time.perf_counter, **how):
        """Return lists of the seconds of calls that take turns, see `turns`; `time.process_time` leaves waits out."""

        def timed(call):
            started = clock()
            call()
            return clock() - started

        return self.turns({name: lambda call=call: timed(call) for name, call in calls.items()}, rounds=rounds, **how)

    def row(self, name, what, shapes="", *, ours, other=None, unit="s", at_most=None, at_least=None, note=""):
        """Leave a row.

        Args:
            name: one of those in the test's marker.
            what: is measured, and against what.
            shapes: of its input.
            ours: a cost, so the smaller the better: a number, or a list of rounds.
            other: likewise; None: there is nothing to compare with.
            unit: of both.
            at_most: what is asked of ours / other, or of ours.
            at_least: what is asked of other / ours instead.
            note: what else to know.

        Returns:
            What is held against what is asked. A row that falls short fails no test: a test asserts what must hold on a
            busy machine too.
        """
        assert name in self.names, f"row {name!r} is not among those of the test's marker: {self.names}"
        above, below = (ours, other) if at_least is None else (other, ours)
        ratio, target = None if other is None else _ratio(above, below), at_most if at_least is None else at_least
        value = _median(ours) if ratio is None else ratio
        short = target is not None and (value > target if at_least is None else value < target)
        self._rows[name] = {
            "name": name,
            "what": what,
            "shapes": shapes,
            "note": note,
            "unit": unit,
            "ours": _median(ours),
            "other": None if other is None else _median(other),
            "ratio": ratio,
            "target": target,
            "bound": "at most" if at_least is None else "at least",
            "verdict": None if target is None else "short" if short else "pass",
            "threads": torch.get_num_threads(),
            "rounds": len(ours) if isinstance(ours, list) else 1,
            "commit": source()["commit"],
            "date": now(),
        }
        return value


def _median(values):
    return float(statistics.median(values) if isinstance(values, list) else values)


def _ratio(above, below):
    """Median of the ratios of two that took turns, else the ratio of the medians."""
    if isinstance(above, list) and isinstance(below, list) and len(above) == len(below):
        return float(statistics.median(a / b for a, b in zip(above, below, strict=True)))
    return _median(above) / _median(below)


@contextlib.contextmanager
def pinned(threads):
    """Let torch, BLAS, OpenMP and the processes that are started meanwhile have so many threads."""
    before = torch.get_num_threads()
    with mock.patch.dict(os.environ, OMP_NUM_THREADS=str(threads)), threadpool_limits(threads):
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def peak_gib(prepare, *args):
    """Measure memory in a process of its own; Linux only.

    Args:
        prepare: function of a module that returns what is to be called; what it makes and warms up does not count.
        args: its arguments.

    Returns:
        GiB that the call takes at its peak beside what was there before, and in all; and its seconds.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_peak, prepare, args, torch.get_num_threads()).result()


def _peak(prepare, args, threads):
    torch.set_num_threads(threads)
    call = prepare(*args)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _kib("VmRSS")
    started = time.perf_counter()
    call()
    seconds = time.perf_counter() - started
    return (_kib("VmHWM") - before) / 2**20, _kib("VmHWM") / 2**20, seconds


def _kib(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(key)))


def write_rows(path, rows, *, missing, some):
    """Write the rows, and the machine they are of, to a JSON file, whole or not at all.

    Args:
        path: of the file.
        rows: measured now.
        missing: names of those that should have been.
        some: whether not all were to be measured; the file's others then stay, if they are of this machine.
    """
    cpu = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    machine = {"cpu": cpu[0] if cpu else None, "cores": len(os.sched_getaffinity(0)), **source()["machine"]}
    machine |= {"python": source()["python"], "packages": source()["packages"]}
    before = {}
    if some and path.is_file():
        with contextlib.suppress(InputError):  # damaged
            before = read_plain(path)
    kept = before["rows"] if before.get("machine") == machine else []
    rows = list({row["name"]: row for row in (*kept, *rows)}.values())
    short = [row["name"] for row in rows if row["verdict"] == "short"]
    head = {"date": now(), "commit": source()["commit"], "machine": machine}
    write_json(path, {**head, "short": short, "missing": missing, "rows": rows})


def table(rows):
    """Lay rows out, at most 100 columns wide: text is folded, numbers are not."""
    result = Table(box=None, pad_edge=False, width=WIDTH, caption=CAPTION, caption_justify="left")
    result.add_column("row", ratio=1)
    for head in ("ours", "other", "ratio", "asked", ""):
        result.add_column(head, justify="right", no_wrap=True)
    for row in rows:
        unit, ratio, bad = row["unit"], row["ratio"], row["verdict"] == "short"
        asked = _shown(row["target"], "" if ratio else unit)
        what = "; ".join(filter(None, (row["what"], row["shapes"], row["note"])))
        result.add_row(
            Text.assemble((row["name"], "bold red" if bad else "bold"), f": {what}"),
            _shown(row["ours"], unit),
            _shown(row["other"], unit),
            _shown(ratio, ""),
            asked and f"{'≤' if row['bound'] == 'at most' else '≥'} {asked}",
            Text(row["verdict"] or "", "bold red" if bad else "green"),
        )
    return result


def _shown(value, unit):
    """Write a figure with three digits and its unit, seconds below one as milliseconds; nothing for None."""
    if value is None:
        return ""
    if unit == "s" and value < 1:
        value, unit = 1e3 * value, "ms"
    places = 2 - math.floor(math.log10(abs(value))) if value else 0
    return f"{value:.{max(0, places)}f} {unit}".rstrip()
