"""Works through a sweep's line of trials with some workers, and records what became of each. It proposes no values."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import final

import optuna
from optuna.trial import TrialState

from distill3d.config.paths import PLACES, data_root
from distill3d.config.plain import as_plain, flatten
from distill3d.errors import ConfigError, InputError, UserError
from distill3d.storage.achieved import LOGGED, best, scores
from distill3d.storage.curves import history
from distill3d.sweep.going_on import reached
from distill3d.sweep.halving import pruner
from distill3d.sweep.machine import Slot, owner
from distill3d.sweep.objective import objective
from distill3d.sweep.outcome import Outcome, outcome
from distill3d.sweep.plan import Trial, make_trial
from distill3d.sweep.progress import Show
from distill3d.sweep.schema import Sweep
from distill3d.sweep.search import attempts, draw, latest, put_back, sampler
from distill3d.sweep.trial_process import TrialProcess, end_survivors

POLL_SECONDS = 0.2
LOOK_SECONDS = 1.0  # between two looks at the curves of running trials
BEAT_SECONDS = 30.0  # between two signs of life
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(kw_only=True, slots=True)
class _Current:
    """A trial that runs, with its attempt in the study."""

    attempt: optuna.Trial
    trial: Trial
    process: TrialProcess
    started: float = field(default_factory=time.monotonic)
    reported: int = 0
    pruned: str = ""  # why it is being stopped early


def _is_done(trial: Trial, *, attempt: int, resumes: bool) -> bool:
    """Whether a trial's run is complete: one that is resumed, or one of the same settings that was brought here."""
    if not trial.run.done.is_file() or resumes:
        return trial.run.done.is_file()
    try:
        then, now = flatten(trial.run.read_config()), flatten(as_plain(trial.experiment))
    except InputError:
        return False  # the trial itself says what is in its way
    return attempt == 1 and all(_same(then.get(key), now.get(key)) for key in {*then, *now} - PLACES)


def _same(then: object, now: object) -> bool:
    """Whether settings are equal but for where the folder of all data lies, which is another place on each machine."""
    if isinstance(then, list) and isinstance(now, list):
        return len(then) == len(now) and all(map(_same, then, now))
    if isinstance(then, str) and isinstance(now, str) and now.startswith(f"{(root := data_root())}/"):
        return then.endswith(now.removeprefix(root))
    return then == now


@final
class Runner:
    """One machine's part of a sweep.

    Args:
        sweep: the sweep.
        study: where its trials wait and are recorded.
        folder: of the sweep.
        slots: one per worker.
        retries: how often a trial that failed is tried again.
        show: told of everything that happens.
    """

    def __init__(
        self, sweep: Sweep, study: optuna.Study, folder: Path, *, slots: list[Slot], retries: int, show: Show
    ) -> None:
        self.sweep, self.study, self.folder = sweep, study, folder
        self.slots, self.retries, self.show = slots, retries, show
        self.running: dict[int, _Current] = {}  # by the worker
        self.stopped_by: int | None = None  # a signal
        self.enough = reached(sweep, latest(study))
        self._looked = self._beaten = time.monotonic()
        study.pruner = pruner(sweep.early_terminate)

    def run(self) -> int:
        """Run until no trial waits; returns 0 if all finished, 1 if not, 128 + a signal that ended it.

        Raises:
            ConfigError: a finished run does not have the sweep's metric.
        """
        try:
            with self._signals():
                while self._fill() or self.running:
                    time.sleep(POLL_SECONDS)
                    for worker in list(self.running):
                        self._attend(worker)
                    self._keep_up()
        finally:
            for current in self.running.values():
                current.process.kill()
        if self.stopped_by is not None:
            return 128 + self.stopped_by
        unfinished = {attempt.state for attempt in latest(self.study)} & {"failed", "stopped"}
        return 1 if unfinished else 0

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Stop the trials on the first signal, kill them on the second."""

        def on_signal(signum: int, _frame: FrameType | None) -> None:
            again, self.stopped_by = self.stopped_by is not None, signum
            for current in self.running.values():
                current.process.kill() if again else current.process.stop()

        before = {signum: signal.signal(signum, on_signal) for signum in SIGNALS}
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)

    # ---------------------------------------------------------------- start

    def _fill(self) -> bool:
        """Give every free worker a trial; returns whether it gave any."""
        gave = False
        for worker, slot in enumerate(self.slots):
            while worker not in self.running and self.stopped_by is None and not self.enough:
                attempt = self._take()
                if attempt is None:
                    break
                self._start(worker, slot, attempt)
                gave = True
        return gave

    def _take(self) -> optuna.Trial | None:
        """Take the next trial in line; None if there is none."""
        while self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            attempt = self.study.ask()
            if any(known.optuna_number == attempt.number for known in attempts(self.study)):
                return attempt
            # another machine was faster, and Optuna made this one up; or both had put it in line
            self.study.tell(attempt, state=TrialState.FAIL)
        return None

    def _start(self, worker: int, slot: Slot, attempt: optuna.Trial) -> None:
        attempt.set_user_attr("owner", owner())
        number, attrs = attempt.user_attrs["number"], attempt.user_attrs
        self.study.sampler = sampler(self.sweep, number)
        values = draw(self.sweep, attempt)
        attempt.set_user_attr("values", values)
        try:
            trial = make_trial(self.sweep, number, values, self.folder)
        except UserError as err:  # a drawn point that no bound gave away
            self._record(attempt, Outcome("failed", "; ".join(err.lines)), number)
            return
        if attrs["attempt"] > 1:
            end_survivors(trial.folder)
        if _is_done(trial, attempt=attrs["attempt"], resumes=attrs["resumes"]):
            self._finished(attempt, trial, seconds=None)
            return
        flags = [] if attrs["attempt"] == 1 else ["--resume" if attrs["resumes"] else "--overwrite"]
        process = TrialProcess(self.sweep, trial, flags=flags, environment=slot.environment(trial.experiment))
        self.running[worker] = _Current(attempt=attempt, trial=trial, process=process)
        self.show.started(number, values, worker=worker, flags=flags)

    # ---------------------------------------------------------------- watch

    def _attend(self, worker: int) -> None:
        current = self.running[worker]
        code = current.process.poll()
        if code is None:
            return
        del self.running[worker]
        ending = outcome(current.process, code, pruned=current.pruned, runner_stopped=self.stopped_by is not None)
        if ending.state == "finished":
            self._report(current)
            self._finished(current.attempt, current.trial, seconds=time.monotonic() - current.started)
        else:
            self._record(current.attempt, ending, current.trial.number)
            if ending.for_all and not self.enough:
                self.enough = True
                self.show.note("no further trial is begun: it would end so too")

    def _keep_up(self) -> None:
        """Look at the curves, leave a sign of life, and show the state, each as often as it is worth it."""
        now = time.monotonic()
        if now - self._looked > LOOK_SECONDS:
            self._looked = now
            for current in self.running.values():
                self._report(current)
            self.show.state(self.study)
        if now - self._beaten > BEAT_SECONDS:
            self._beaten = now
            for current in self.running.values():
                current.attempt.set_user_attr("owner", owner())

    def _report(self, current: _Current) -> None:
        """Report new values of the metric, and stop the trial if it lags behind at a bracket."""
        rule, metric = self.sweep.early_terminate, self.sweep.metric
        if rule is None or metric.name not in LOGGED or current.pruned:
            return
        values = history(current.trial.run, metric.name)
        for iteration in range(current.reported + 1, len(values) + 1):
            current.reported = iteration
            value = (
                values[iteration - 1] if rule.strict else best(values[:iteration], highest=metric.goal == "maximize")
            )
            if value is None:
                continue
            current.attempt.report(value, iteration)
            within = rule.last is None or iteration <= rule.last
            if within and current.attempt.should_prune() and current.process.poll() is None:
                current.pruned = f"behind at iteration {iteration} with {metric.name} {value:.4g}"
                current.process.stop()
                return

    # ---------------------------------------------------------------- record

    def _finished(self, attempt: optuna.Trial, trial: Trial, *, seconds: float | None) -> None:
        value = objective(trial.run, self.sweep.metric)
        if value is None:
            missing = f"{trial.run.metrics} has no {self.sweep.metric.name}"
            self._record(attempt, Outcome("failed", missing), trial.number)
            raise ConfigError(f"sweep {self.sweep.name}: metric.name: {missing}")
        attempt.set_user_attr("scores", scores(trial.run))
        self.study.tell(attempt, value)
        self.enough = self.enough or self.sweep.metric.reaches(value)
        self.show.finished(trial.number, value, seconds=seconds, enough=self.enough)

    def _record(self, attempt: optuna.Trial, ending: Outcome, number: int) -> None:
        attempt.set_user_attr("reason", ending.reason)
        attempt.set_user_attr("stopped", ending.state == "stopped")
        attempt.set_user_attr("killed", ending.resumes)
        self.study.tell(attempt, state=TrialState.PRUNED if ending.state == "pruned" else TrialState.FAIL)
        retried = ending.state == "failed" and ending.may_help and attempt.user_attrs["failures"] < self.retries
        if retried:
            ended = next(known for known in attempts(self.study) if known.optuna_number == attempt.number)
            put_back(self.study, ended, reason=ending.reason, resumes=ending.resumes, failed=True)
        self.show.ended(number, ending, retried=retried)
