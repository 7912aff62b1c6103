"""Reads what a report needs of a finished run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill3d.config.paths import below_variable, data_root
from distill3d.config.plain import flatten
from distill3d.config.schema import EvaluationConfig, Experiment
from distill3d.errors import InputError, printable
from distill3d.report.costs import Cost, Tubes
from distill3d.storage.record import Record, as_text, read_plain
from distill3d.storage.run_folder import RunFolder

COMPONENTS = ("data", "student", "teacher", "strategy")
SECTIONS = tuple(
    field.name
    for field in dataclasses.fields(Experiment)
    if field.name not in {"name", "question", "neurons", "seed", "runs", "cache", "plugins"}
)  # mappings all
MOST_FOLDS = 100_000
Rows = dict[str, dict[str, float | None]]  # case -> score -> value


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """What a finished run left.

    Attributes:
        folder: of the run.
        settings: resolved, dotted keys.
        seed: of the run.
        cases: scores of the held-out cases.
        references: classical methods on the same cases.
        cost: as ``fit.json`` has it.
        kept: share of its likeness to the teacher that it has left; None where nothing was transferred or unknown.
        nonlinear_share: of its neurons, relative to their linear part; None where all are linear or unknown.
        tubes: how closely they follow neurites, as ``fit.json`` has it; empty without tubes.
        teacher: its identity; empty without one.
        provenance: commit, packages, machine, command.
        lacks: keys that a run of this version has and this one has not.
        untraced: by method: cases without a tree -> why.
    """

    folder: Path
    settings: Mapping[str, Any]
    seed: int
    cases: Rows
    references: Mapping[str, Rows]
    cost: Mapping[str, Any]
    kept: float | None = None
    nonlinear_share: float | None = None
    tubes: Mapping[str, float | None] = field(default_factory=dict)
    teacher: Mapping[str, Any]
    provenance: Mapping[str, Any]
    lacks: tuple[str, ...] = ()
    untraced: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def read_run(path: Path) -> Run:
    """Read a finished run.

    Raises:
        InputError: a file is missing or damaged, or lacks what no report can do without.
    """
    folder = RunFolder(path)
    Record(folder.done, read_plain(folder.done)).whole("cases")
    settings, metrics = (Record(file, read_plain(file)) for file in (folder.config, folder.metrics))
    fitted = read_plain(folder.fit) if folder.fit.is_file() else {}
    fit = Record(folder.fit if fitted else folder.metrics, {**metrics.content, **fitted})
    seed, name = _require_settings(settings)
    scored = {f"{name}, seed {seed}": metrics, **_parts(metrics.part("baselines"))}
    root = fit.text("data_root") or data_root()
    at = metrics.part("tolerances")  # of the last `evaluate`, which may have been told others than `fit`
    taken = {f"evaluation.{f.name}": at.number(f.name) for f in dataclasses.fields(EvaluationConfig) if f.name in at}
    return Run(
        folder=path,
        settings=flatten(below_variable(as_text(settings.content), root)) | taken | _tuned_trace(settings, metrics),
        seed=seed,
        cases=_rows(metrics),
        references={method: _rows(of) for method, of in list(scored.items())[1:]},
        cost=_numbers(fit.part("cost"), Cost),
        kept=fit.number("kept"),
        nonlinear_share=fit.number("nonlinear_share"),
        tubes=_numbers(fit.part("tubes"), Tubes),
        teacher=_teacher(fit.part("teacher")),
        provenance=_provenance(fit.part("provenance")),
        lacks=tuple(key for key in ("cost", "teacher", "provenance") if fit.content.get(key) is None),
        untraced={
            method: {printable(case): str(of.part("untraced").text(case)) for case in of.part("untraced")}
            for method, of in scored.items()
        },
    )


def _tuned_trace(settings: Record, metrics: Record) -> dict[str, str]:
    """Return as a setting that `tune-trace` chose how trees were traced; what it chose may differ from seed to seed."""
    said, used = (each.part("trace").content for each in (settings, metrics))
    is_tuned = any(used[key] != said[key] for key in used.keys() & said.keys())
    return {"trace.chosen_by": "tune-trace"} if is_tuned else {}


def _require_settings(settings: Record) -> tuple[int, str]:
    """Return seed and name; every setting that a report reads must be of its kind."""
    seed, name = settings.whole("seed"), settings.text("name")
    if seed is None or name is None:
        raise InputError(f"{settings.path}: has no seed or no name; accepted: a config.yaml that `fit` wrote")
    settings.text("question")
    for section in SECTIONS:
        settings.part(section)
    for section in COMPONENTS:
        settings.part(section).text("name")
    data, tuned = settings.part("data"), settings.part("tuned")
    for key in ("fold", "folds"):
        data.whole(key, most=MOST_FOLDS)
    if isinstance(data.content.get("train"), int | float):
        data.whole("train", most=10**9)
    tuned.whole("trials", most=10**9)
    tuned.texts("keys")
    for key in ("metric", "sweep", "file"):
        tuned.text(key)
    return seed, name


def _parts(record: Record) -> dict[str, Record]:
    return {printable(key): record.part(key) for key in record}


def _rows(scored: Record) -> Rows:
    """Scores by case; a score that is null is missing, which is neither good nor bad."""
    if scored.content.get("cases") is None:
        raise InputError(f"{scored.path}: {scored.place}cases is missing; accepted: what `evaluate` writes")
    return {case: row.numbers() for case, row in _parts(scored.part("cases")).items()}


def _numbers(record: Record, kind: type[Cost | Tubes]) -> dict[str, float | None]:
    return {field.name: record.number(field.name) for field in dataclasses.fields(kind)}


def _teacher(record: Record) -> dict[str, Any]:
    words = {key: record.text(key) for key in ("architecture", "weights", "sha256")}
    known = {key: word for key, word in words.items() if word is not None}
    return known | {"random": True} if record.flag("random") else known


def _provenance(record: Record) -> dict[str, Any]:
    packages, machine = record.part("packages"), record.part("machine")
    system, cpus = machine.text("system"), machine.whole("cpus")
    known = {"commit": record.text("commit"), "command": record.texts("command")}
    known["packages"] = {printable(name): packages.text(name) for name in packages}
    if machine.content:
        known["machine"] = {"system": system, "cpus": cpus, "gpus": machine.texts("gpus")}
    return {key: value for key, value in known.items() if value}
