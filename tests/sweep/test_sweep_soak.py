"""Two hundred trials in one runner: what it opens, starts and keeps does not grow with those that are done."""

import json
from statistics import median

import forked
import pytest

TRIALS, EVERY = 200, 5  # trials, and how many lie between two looks: one takes longer than a trial
SOAK = """
import ctypes, gc, json, sys, threading, time
from pathlib import Path
import psutil
import distill3d.__main__ as program
from distill3d.sweep.progress import Show

here, finished = psutil.Process(), Show.finished
give_back = getattr(ctypes.CDLL(None), "malloc_trim", lambda _: 0)  # what is free is not in use
study = Path(sys.argv[sys.argv.index("--runs") + 1]) / "sweeps" / "soak" / "study.db"

def measured(self, number, *words, **more):
    finished(self, number, *words, **more)
    if (number + 1) % int(every):
        return
    seconds = time.process_time()
    gc.collect()
    give_back(0)
    left = {
        "memory": here.memory_full_info().uss,
        "files": here.num_fds(),
        "threads": threading.active_count(),
        "tasks": here.num_threads(),
        "processes": len(here.children(recursive=True)),
        "study": study.stat().st_size,
        "objects": len(gc.get_objects()),
    }
    measured.seconds += time.process_time() - seconds  # not the runner's own
    print(json.dumps(left | {"seconds": time.process_time() - measured.seconds}), flush=True)

measured.seconds = 0.0
Show.finished = measured
every = sys.argv.pop()
program.main()
"""
BODY = f"""
method: grid
metric: {{name: test/dice, goal: maximize}}
parameters:
  seed: {{values: {list(range(TRIALS))}}}
"""


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_hundred_trials_of_a_sweep_leave_nothing_in_its_runner(sweep_file, tmp_path, record_property):
    words = ("sweep", "run", sweep_file(BODY, name="soak"), "--workers", "1", "--runs", tmp_path / "runs", EVERY)
    done = forked.run(*words, code=SOAK, seconds=3000)
    assert done.returncode == 0, done.stderr[-2000:]
    left = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(left) == TRIALS // EVERY
    tenth, last = left[1], left[-1]
    record_property("left", [tenth, left[len(left) // 2], last])
    for what in ("files", "threads", "tasks", "processes"):
        assert max(after[what] for after in left[2:]) <= tenth[what], what
    assert last["objects"] <= 1.01 * tenth["objects"]
    early, late = left[1:11], left[-10:]
    assert median(after["memory"] for after in late) - median(after["memory"] for after in early) < 20 << 20
    assert _growth(late, "seconds") <= 1.5 * _growth(early, "seconds")
    assert _growth(late, "study") <= 1.5 * _growth(early, "study")
    assert last["study"] < TRIALS * 4096  # bytes


def _growth(left, what):
    return left[-1][what] - left[0][what]
