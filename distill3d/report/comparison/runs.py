"""Reads what a report needs of a finished run."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from distill3d.config.plain import flatten
from distill3d.config.schema import EvaluationConfig
from distill3d.errors import InputError
from distill3d.storage.run_folder import RunFolder

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
        untraced: cases without scores of trees, and why, one line each.
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
    untraced: tuple[str, ...] = ()


def read_run(path: Path) -> Run:
    """Read a finished run.

    Raises:
        InputError: a file is missing, is not what it should be, or lacks what no report can do without.
    """
    folder = RunFolder(path)
    settings = _read(folder.config)
    metrics = _read(folder.metrics)
    fit = {**metrics, **(_read(folder.fit) if folder.fit.is_file() else {})}
    cases = _rows(metrics.get("cases"), folder.metrics)
    baselines = metrics.get("baselines")
    references = baselines if isinstance(baselines, Mapping) else {}
    seed = settings.get("seed")
    if not isinstance(seed, int) or not isinstance(settings.get("name"), str):
        raise InputError(f"{folder.config}: has no seed or no name; accepted: a config.yaml that `fit` wrote")
    at = _mapping(metrics.get("tolerances"))  # of the last `evaluate`, which may have been told others than `fit`
    taken = {f"evaluation.{f.name}": at[f.name] for f in dataclasses.fields(EvaluationConfig) if f.name in at}
    parts = {key: fit.get(key) for key in ("cost", "teacher", "provenance")}
    return Run(
        folder=path,
        settings=flatten(settings) | taken,
        seed=seed,
        cases=cases,
        references={name: _rows(_mapping(ref).get("cases"), folder.metrics) for name, ref in references.items()},
        cost=_mapping(parts["cost"]),
        kept=_number(fit.get("kept")),
        nonlinear_share=_number(fit.get("nonlinear_share")),
        tubes={key: _number(value) for key, value in _mapping(fit.get("tubes")).items()},
        teacher=_mapping(parts["teacher"]),
        provenance=_mapping(parts["provenance"]),
        lacks=tuple(key for key, value in parts.items() if not isinstance(value, Mapping)),
        untraced=tuple(
            f"{method}: {case} was not traced and has no scores of trees: {why}"
            for method, scored in {f"{settings['name']}, seed {seed}": metrics, **references}.items()
            for case, why in _mapping(_mapping(scored).get("untraced")).items()
        ),
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except FileNotFoundError as err:
        raise InputError(f"{path}: missing, though the run has done.json; accepted: a run that `fit` finished") from err
    except (OSError, ValueError, yaml.YAMLError) as err:
        raise InputError(f"{path}: not readable: {' '.join(str(err).split())[:200]}") from err
    if not isinstance(content, dict):
        raise InputError(f"{path}: must hold a mapping, has {type(content).__name__}")
    return content


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _rows(cases: object, path: Path) -> Rows:
    if not isinstance(cases, Mapping) or not all(isinstance(row, Mapping) for row in cases.values()):
        raise InputError(f"{path}: cases must map each case to its scores; accepted: what `evaluate` writes")
    return {str(case): {str(key): _number(value) for key, value in row.items()} for case, row in cases.items()}


def _number(value: object) -> float | None:
    """A finite number, or None: a missing value must not become a good or a bad one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None
