"""What the end of a trial's process means. A trial has finished only if its ``done.json`` says so."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from distill3d.errors import FULL
from distill3d.sweep.trial_process import TrialProcess

EXIT_USAGE = 2
STOPS = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a trial ended.

    Attributes:
        state: of the trial.
        reason: why it did not finish.
        may_help: whether trying again may help.
        for_all: whether every other trial would end so too.
        resumes: whether the next try goes on with what was saved, since its process was ended from outside.
    """

    state: Literal["finished", "pruned", "stopped", "failed"]
    reason: str = ""
    may_help: bool = False
    for_all: bool = False
    resumes: bool = False


def outcome(process: TrialProcess, code: int, *, pruned: str, runner_stopped: bool) -> Outcome:
    """Interpret an exit code together with what the run left.

    Args:
        process: that ended.
        code: its exit code, negative for a signal that killed it.
        pruned: why the runner stopped it early, or empty.
        runner_stopped: the runner itself was told to stop.
    """
    if process.trial.run.done.is_file() and (code == 0 or not process.was_done):
        return Outcome("finished")
    if pruned:
        return Outcome("pruned", pruned)
    if runner_stopped:
        return Outcome("stopped", "its runner was stopped")
    return _of_code(code, process.trial.log)


def _of_code(code: int, log: Path) -> Outcome:
    for signum, name in STOPS.items():
        if code in {-signum, 128 + signum}:
            return Outcome("stopped", f"{name} (exit {128 + signum})")
    if code == 0:
        return Outcome("failed", "exit 0, but no done.json", may_help=True)
    if code < 0:
        return Outcome("failed", f"killed by {signal.Signals(-code).name}", may_help=True, resumes=True)
    reason = f"exit {code}: {_last_line(log)}"
    if any(os.strerror(number) in reason for number in FULL):
        return Outcome("stopped", reason, for_all=True)
    return Outcome("failed", reason, may_help=code != EXIT_USAGE)


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else "it printed nothing"
