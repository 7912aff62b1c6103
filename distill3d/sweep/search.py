"""Proposes the values of trials and remembers what became of them, in an Optuna study. It starts no process.

Every trial of a sweep waits in the study from the start, a grid's with its values, so that several runners on one
storage take each exactly once: Optuna hands a waiting trial out atomically, while its GridSampler may hand one out
twice. An attempt of a trial is one Optuna trial: what failed or was stopped stays on record, and a new attempt waits in
its place. Runners that begin or resume at once may put the same attempt in line: the first counts, `attempts` shows no
other, and none runs. Whoever only reads puts nothing in line.
"""

from __future__ import annotations

import contextlib
import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from distill3d.errors import InputError, TrainingError, printable
from distill3d.storage.secrets import without_secrets
from distill3d.sweep.distributions import Choice, Distribution, Span
from distill3d.sweep.plan import Values, grid
from distill3d.sweep.schema import Sweep

State = Literal["waiting", "running", "finished", "pruned", "stopped", "failed"]
SWEEP, READY = "sweep", "ready"  # attributes of the study
_STATES: dict[TrialState, State] = {
    TrialState.WAITING: "waiting",
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}
STORAGE_ERRORS = (StorageInternalError, SQLAlchemyError)  # a full disk, a server that is gone

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One try at a trial, as the study remembers it.

    Attributes:
        number: of the trial in the sweep.
        attempt: from 1.
        optuna_number: of the attempt in the study.
        value: of the metric; for a pruned one the last it reported.
        reason: why it did not finish.
        before: why the attempt before it did not.
        resumes: whether it goes on where the one before it stopped.
        failures: how many attempts before it failed, not counting those that were stopped.
        killed: whether it failed since its process was ended from outside.
    """

    number: int
    attempt: int
    optuna_number: int
    state: State
    values: Values
    value: float | None
    reason: str
    before: str
    resumes: bool
    failures: int
    seconds: float | None
    scores: Mapping[str, float] = field(default_factory=dict)
    owner: Mapping[str, Any] = field(default_factory=dict)  # the runner, see `machine.owner`
    started: float = 0.0  # seconds since the epoch
    killed: bool = False


def default_storage(folder: Path) -> str:
    """Return the address of the SQLite file in a sweep's folder."""
    return f"sqlite:///{folder / 'study.db'}"


def open_study(sweep: Sweep, storage: str) -> optuna.Study:
    """Create the study of a sweep to run it, or open it, and put every trial in line that is not there yet.

    Raises:
        InputError: the storage cannot be used.
    """
    try:
        study = optuna.create_study(
            study_name=sweep.name, storage=_engine(storage), direction=sweep.metric.goal, load_if_exists=True
        )
    except Exception as err:
        raise _unusable(storage, err) from err
    if study.user_attrs.get(READY):
        return study
    study.set_user_attr(SWEEP, sweep.text)
    there = {trial.user_attrs.get("number") for trial in study.get_trials(deepcopy=False)}
    for number, values in enumerate(planned(sweep)):
        if number not in there:  # a runner that was killed here may have been through some of them
            fixed = {key: drawn_from(sweep, key, value) for key, value in values.items()}
            study.enqueue_trial(fixed, user_attrs={"number": number, "attempt": 1, "failures": 0, "resumes": False})
    study.set_user_attr(READY, value=True)
    return study


def planned(sweep: Sweep) -> list[Values]:
    """What is known of every trial before the first starts: all of a grid, nothing of a random or bayes sweep."""
    return grid(sweep) if sweep.method == "grid" else [{} for _ in range(sweep.run_cap or 0)]


def stored_text(name: str, storage: str) -> str | None:
    """The sweep file that a study was begun with; None if there is no such study.

    Raises:
        InputError: the storage cannot be used.
    """
    if storage.startswith("sqlite:///") and not Path(storage.removeprefix("sqlite:///")).is_file():
        return None
    try:
        known = optuna.get_all_study_names(_engine(storage))
    except Exception as err:
        raise _unusable(storage, err) from err
    return load_study(name, storage).user_attrs.get(SWEEP) if name in known else None


def load_study(name: str, storage: str) -> optuna.Study:
    """Open the study of a sweep to read it; perhaps not all of its trials are in line yet.

    Raises:
        InputError: the storage cannot be used.
    """
    try:
        return optuna.load_study(study_name=name, storage=_engine(storage))
    except Exception as err:
        raise _unusable(storage, err) from err


def _engine(storage: str) -> optuna.storages.RDBStorage:
    if storage.startswith("sqlite:///"):
        Path(storage.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        return optuna.storages.RDBStorage(storage, engine_kwargs={"connect_args": {"timeout": 60}})
    return optuna.storages.RDBStorage(storage, engine_kwargs={"pool_pre_ping": True})


def lost(resume: str, storage: str, err: Exception) -> TrainingError:
    """Say that a study cannot be written any more, and with which command to go on: what ran is in line again then."""
    error = err if isinstance(err, SQLAlchemyError) else err.__cause__ or err
    cause = getattr(error, "orig", None) or error
    why = str(cause).strip().split("\n")[0]
    told = f"storage {without_secrets(storage)} cannot be written ({without_secrets(why)}); its trials were ended"
    return TrainingError(printable(f"{told}; mend it, then: {resume}"))


def _unusable(storage: str, err: Exception) -> InputError:
    if isinstance(err.__cause__, ModuleNotFoundError):  # what SQLAlchemy talks to a server with
        missing = (
            f"{err.__cause__}; accepted: pip install 'psycopg[binary]' for postgresql://, mysqlclient for mysql://"
        )
        return InputError(f"storage {without_secrets(storage)} cannot be used: {missing}")
    first = without_secrets(str(err).strip().split("\n")[0])
    return InputError(
        f"storage {without_secrets(storage)} cannot be used: {first}; accepted: sqlite:///FILE, postgresql://, mysql://"
    )


# ---------------------------------------------------------------- what a trial is called with


def draw(sweep: Sweep, trial: optuna.Trial) -> Values:
    """Draw the values of a trial; those it waits with, as a grid's do, are what they are."""
    with warnings.catch_warnings():
        # a value that waits with the trial is given back whatever the sampler says
        warnings.filterwarnings("ignore", message="Fixed parameter .* out of range")
        return {
            parameter.key: value_of(parameter.distribution, _suggest(trial, parameter.key, parameter.distribution))
            for parameter in sweep.parameters
        }


def _suggest(trial: optuna.Trial, key: str, distribution: Distribution) -> Any:  # noqa: ANN401 - what Optuna draws
    wanted = space(distribution)
    if isinstance(wanted, CategoricalDistribution):
        return trial.suggest_categorical(key, wanted.choices)
    if isinstance(wanted, IntDistribution):
        return trial.suggest_int(key, wanted.low, wanted.high)
    assert isinstance(wanted, FloatDistribution)  # noqa: S101 - there is no fourth
    return trial.suggest_float(key, wanted.low, wanted.high, log=wanted.log)


def space(distribution: Distribution) -> BaseDistribution:
    """Return where Optuna draws: texts of choices, numbers in a span, else the quantile in [0, 1]."""
    if isinstance(distribution, Choice) and not distribution.probabilities:
        return CategoricalDistribution([str(value) for value in distribution.values])
    if isinstance(distribution, Span) and distribution.integer:
        return IntDistribution(int(distribution.low), int(distribution.high))
    if isinstance(distribution, Span):
        return FloatDistribution(distribution.low, distribution.high, log=distribution.log)
    return FloatDistribution(0.0, 1.0)


def value_of(distribution: Distribution, drawn: Any) -> Any:  # noqa: ANN401 - what Optuna drew, what the file lists
    """Turn what Optuna drew into the value a trial is called with."""
    if isinstance(distribution, Choice) and not distribution.probabilities:
        return next(value for value in distribution.values if str(value) == drawn)
    return distribution.at(drawn)


def drawn_from(sweep: Sweep, key: str, value: Any) -> Any:  # noqa: ANN401 - as above, the other way
    """Turn a grid's value into what Optuna would have drawn."""
    distribution = next(parameter.distribution for parameter in sweep.parameters if parameter.key == key)
    return str(value) if isinstance(distribution, Choice) else value


def sampler(sweep: Sweep, number: int) -> optuna.samplers.BaseSampler:
    """Return what draws trial ``number``: the same every time, so that a resumed sweep repeats no draw.

    Bayes is the tree-structured Parzen estimator; it counts trials that run elsewhere as bad, so that they spread out.
    """
    seed = int.from_bytes(hashlib.sha256(f"{sweep.name} {number}".encode()).digest()[:4], "big")
    if sweep.method == "bayes":
        return optuna.samplers.TPESampler(seed=seed, constant_liar=True)
    return optuna.samplers.RandomSampler(seed=seed)


# ---------------------------------------------------------------- what became of it


def attempts(study: optuna.Study) -> list[Attempt]:
    """Every attempt of every trial, in the order they were put in line; of one that two runners did, the first."""
    first: dict[tuple[int, int], FrozenTrial] = {}
    for trial in study.get_trials(deepcopy=False):
        if "number" in trial.user_attrs:
            first.setdefault((trial.user_attrs["number"], trial.user_attrs["attempt"]), trial)
    return [_attempt(trial) for trial in first.values()]


def latest(study: optuna.Study) -> list[Attempt]:
    """The last attempt of every trial, in the order of the sweep."""
    return [newest for _, newest in sorted({attempt.number: attempt for attempt in attempts(study)}.items())]


def _attempt(trial: FrozenTrial) -> Attempt:
    attrs = trial.user_attrs
    state: State = "stopped" if attrs.get("stopped") else _STATES[trial.state]
    return Attempt(
        number=attrs["number"],
        attempt=attrs["attempt"],
        optuna_number=trial.number,
        state=state,
        values=attrs.get("values", {}),
        value=_value(trial),
        reason=attrs.get("reason", ""),
        before=attrs.get("before", ""),
        resumes=attrs["resumes"],
        failures=attrs["failures"],
        killed=attrs.get("killed", False),
        seconds=trial.duration.total_seconds() if trial.duration else None,
        scores=attrs.get("scores", {}),
        owner=attrs.get("owner", {}),
        started=trial.datetime_start.timestamp() if trial.datetime_start else 0.0,
    )


def _value(trial: FrozenTrial) -> float | None:
    if trial.state is TrialState.COMPLETE:
        return trial.value
    return trial.intermediate_values[max(trial.intermediate_values)] if trial.intermediate_values else None


def put_back(study: optuna.Study, attempt: Attempt, *, reason: str, resumes: bool, failed: bool) -> None:
    """Put a new attempt in line for a trial whose last one ended early.

    Args:
        study: of the sweep.
        attempt: the one that ended.
        reason: why.
        resumes: go on where it stopped, rather than anew.
        failed: it counts against the limit of retries.
    """
    frozen = study.get_trials(deepcopy=False)[attempt.optuna_number]
    study.enqueue_trial(
        {**frozen.system_attrs.get("fixed_params", {}), **frozen.params},
        user_attrs={
            "number": attempt.number,
            "attempt": attempt.attempt + 1,
            "before": reason,
            "resumes": resumes,
            "failures": attempt.failures + int(failed),
        },
    )


def mark_lost(study: optuna.Study, attempt: Attempt) -> None:
    """Record that an attempt ended with its runner, and put its trial back in line."""
    reason = "its runner was killed"
    with contextlib.suppress(ValueError, UpdateFinishedTrialError):  # another machine did so meanwhile
        study.tell(attempt.optuna_number, state=TrialState.FAIL)
    put_back(study, attempt, reason=reason, resumes=True, failed=False)
