"""Whether the cases that a run tests on are new to the weights it begins with or learns from."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from distill3d.config.plain import as_plain
from distill3d.config.registry import DATA
from distill3d.data.base import DataSource
from distill3d.data.datamodule import DistillDataModule
from distill3d.errors import InputError
from distill3d.storage.rank import is_main_process
from distill3d.storage.trained_on import Seen

_LOG = logging.getLogger(__name__)


def seen_here(data: DistillDataModule) -> Seen:
    """Return the cases that a run trains on, or chooses its weights by."""
    cases = (*data.case_names("train"), *data.case_names("val"))
    return Seen(where="", data=as_plain(data.experiment.data), cases=cases)


def check_unseen(data: DistillDataModule, seen: Iterable[Seen]) -> None:
    """Refuse to test on what other weights were trained on or chosen by; warn where nobody can tell.

    Args:
        data: of the run.
        seen: cases behind a teacher, or behind the weights that a student starts from.

    Raises:
        InputError: names the cases.
    """
    tested = data.case_names("test")
    for each in seen:
        both = tested if each.cases is None else tuple(name for name in tested if name in each.cases)
        same = _same_cases(data, each) if both else False
        if same and each.cases is not None:
            raise InputError(
                f"data.test: {', '.join(both)} trained or chose the weights of {each.where}, so scores on them would "
                f"say nothing; accepted: test cases but for {', '.join(each.cases)}, or weights trained without them"
            )
        if same is not False and is_main_process():
            _LOG.warning("%s: %s", each.where, _doubt(each, both))


def _same_cases(data: DistillDataModule, seen: Seen) -> bool | None:
    chosen = data.experiment.data
    if seen.data["name"] != chosen.name:
        return False
    source: type[DataSource] = DATA[chosen.name].cls
    return source.same_cases(chosen.config, seen.data)


def _doubt(seen: Seen, both: tuple[str, ...]) -> str:
    if seen.cases is None:
        return "it does not say on which cases it was trained, so whether this run tests on them is not known"
    return (
        f"it was trained on, or chosen by, cases of the same names as {', '.join(both)}, on which this run tests; "
        "whether they are the same neurons is not known"
    )
