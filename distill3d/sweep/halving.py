"""Which trials of a sweep are stopped early: at each bracket the best share goes on."""

from __future__ import annotations

from typing import Any, cast, final

import optuna
from optuna.trial import FrozenTrial

from distill3d.sweep.schema import Hyperband


def pruner(settings: Hyperband | None) -> optuna.pruners.BasePruner:
    """Return the rule that stops laggards: at each bracket, the best 1/eta so far go on."""
    if settings is None:
        return optuna.pruners.NopPruner()
    return _Halving(min_resource=settings.first, reduction_factor=settings.eta)


@final
class _Halving(optuna.pruners.SuccessiveHalvingPruner):
    """Lets every trial of the sweep compete once, however often it was begun."""

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Say whether to stop a trial."""
        return super().prune(cast("optuna.Study", _Newest(study)), trial)


@final
class _Newest:
    """A study of which of every trial only the newest attempt that reported anything is seen."""

    def __init__(self, study: optuna.Study) -> None:
        self._study = study

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - of the study
        return getattr(self._study, name)

    def get_trials(self, *args: Any, **kwargs: Any) -> list[FrozenTrial]:  # noqa: ANN401 - as the study takes them
        """Return them in the order of the sweep."""
        newest: dict[int, FrozenTrial] = {}
        for trial in self._study.get_trials(*args, **kwargs):
            number = trial.user_attrs.get("number", -1 - trial.number)
            if trial.intermediate_values or number not in newest:
                newest[number] = trial
        return list(newest.values())
