"""Reads a W&B sweep file into frozen settings, or into all that is wrong with it. It runs and draws nothing.

Source: W&B, "Sweep configuration options" (docs.wandb.ai/models/sweeps/sweep-config-keys). What W&B would ignore, such
as a key it does not know, is an error here.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Hashable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import yaml

from distill3d.config.builder import unknown
from distill3d.config.catalog import find_file
from distill3d.errors import ConfigError
from distill3d.experiment import is_outside
from distill3d.sweep.command import DEFAULT_COMMAND, command_problems
from distill3d.sweep.distributions import Choice, exponent_warning, grid_values, number, read_distribution
from distill3d.sweep.schema import Hyperband, Method, Metric, Parameter, Sweep

_LOG = logging.getLogger(__name__)
KEYS = ("program", "command", "method", "metric", "parameters", "early_terminate", "run_cap")
_PLUGINS = re.compile(r"(--)?plugins\b")
LABELS = ("project", "entity")
SHOWN = ("name", "description")  # by W&B; to this runner a sweep is called as its file
_CHANGED = tuple(f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "bool", "timestamp"))
ELSEWHERE = ("controller", "scheduler", "metrics", "job", "image_uri", "resource", "queue", "launch", "imports")


def sweep_files() -> dict[str, Path]:
    """Name -> file of every sweep under ``./sweeps``, then of the checkout this package runs from."""
    checkout = Path(__file__).resolve().parents[2] / "sweeps"
    files = {path.stem: path for folder in (checkout, Path("sweeps")) for path in folder.glob("[!.]*.yaml")}
    return dict(sorted(files.items()))


def find_sweep(name: str | Path) -> Path:
    """Return the file of a sweep given by name or by path.

    Raises:
        ConfigError: there is none; names the nearest and lists all.
    """
    return find_file(name, sweep_files, kind="sweep")


def read_sweep(path: Path, *, name: str = "", allow_plugins: bool = False) -> Sweep:
    """Read a sweep file.

    Args:
        path: of the file.
        name: of the sweep; the file's own if it is empty.
        allow_plugins: see `Sweep`.

    Raises:
        ConfigError: it is not YAML, or all that is wrong with it, one line each.
    """
    try:
        text = path.read_text(encoding="utf-8")
        sweep = parse_sweep(text, name or path.stem, origin=str(path), allow_plugins=allow_plugins)
    except (OSError, UnicodeDecodeError) as err:
        raise ConfigError(f"{path}: not readable: {err}") from err
    swept = [parameter.path[0] for parameter in sweep.parameters]
    if not allow_plugins and is_outside(path) and any(_PLUGINS.match(word) for word in (*swept, *sweep.command)):
        raise ConfigError(
            f"{path}: is outside of this project and names plugins; accepted: --allow-plugins if you trust it"
        )
    return sweep


def parse_sweep(text: str, name: str, *, origin: str, allow_plugins: bool = False) -> Sweep:
    """Read a sweep from the text of its file.

    Args:
        text: YAML.
        name: of the sweep.
        origin: what error lines begin with.
        allow_plugins: see `Sweep`.

    Raises:
        ConfigError: all that is wrong with it, one line each.
    """
    try:
        content = yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as err:
        raise ConfigError(f"{origin}: not readable as YAML: {' '.join(str(err).split())}") from err
    if not isinstance(content, Mapping):
        raise ConfigError(f"{origin}: must be a mapping, such as 'method: grid'")
    reader = _Reader(content)
    values = {key: getattr(reader, key)() for key in (*KEYS, *LABELS)}
    for key in SHOWN:
        reader.text(key)
    reader.top_level()
    if not reader.problems:
        reader.together(**values)
    if reader.problems:
        raise ConfigError(*(f"{origin}: {problem}" for problem in reader.problems))
    return Sweep(name=name, text=text, allow_plugins=allow_plugins, **values)


class _StrictLoader(yaml.SafeLoader):
    """Read as W&B does, but refuse a key that is there twice, and keep the words of a value that is a list.

    In ``values: [[17302_00001, 001]]`` YAML sees numbers. The experiment reads them, and knows whether they are text.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is there twice", node.start_mark)
        for key, (_, value) in zip(keys, node.value, strict=True):
            if isinstance(value, yaml.SequenceNode) and key in {"value", "values"}:
                _keep_words([value] if key == "value" else value.value)
        return super().construct_mapping(node, deep)


def _keep_words(nodes: Iterable[yaml.Node]) -> None:
    """Make text of the items of lists that are no longer what they were once they are read."""
    for item in (item for node in nodes if isinstance(node, yaml.SequenceNode) for item in node.value):
        if not isinstance(item, yaml.ScalarNode) or item.style or item.tag not in _CHANGED:
            continue
        if str(yaml.safe_load(item.value)) != item.value and not item.value.startswith(("0x", "0b")):
            item.tag = "tag:yaml.org,2002:str"


class _Reader:
    """Reads key by key and gathers problems instead of stopping at the first."""

    def __init__(self, content: Mapping[Any, Any]) -> None:
        self.content = content
        self.problems: list[str] = []

    def complain(self, text: str) -> None:
        self.problems.append(text)

    def top_level(self) -> None:
        for key in self.content:
            if key in ELSEWHERE:
                self.complain(f"{key}: only W&B's servers and schedulers know it; the local runner does not support it")
            elif key not in (*KEYS, *LABELS, *SHOWN):
                self.complain(unknown(str(key), [*KEYS, *LABELS, *SHOWN]))

    def text(self, key: str, *, required: bool = False) -> str | None:
        given = self.content.get(key)
        if given is None and not required:
            return None
        if not isinstance(given, str) or not given:
            self.complain(f"{key}: {'is missing' if given is None else f'must be text, got {given!r}'}")
            return ""
        return given

    def program(self) -> str:
        return self.text("program", required=True) or ""

    def project(self) -> str | None:
        return self.text("project")

    def entity(self) -> str | None:
        return self.text("entity")

    def command(self) -> tuple[str, ...]:
        given = self.content.get("command", list(DEFAULT_COMMAND))
        if not isinstance(given, list) or not given:
            self.complain(f"command: must be a list of arguments, got {given!r}")
            return ()
        command = tuple(str(part) for part in given)
        self.problems += [f"command: {problem}" for problem in command_problems(command, os.environ)]
        return command

    def method(self) -> Method:
        given = self.content.get("method")
        if given not in {"grid", "random", "bayes"}:
            self.complain(f"method: {given!r} is unknown; accepted: grid, random, bayes")
        return cast("Method", given)

    def metric(self) -> Metric | None:
        given = self.section("metric", ("name", "goal", "target"), "{name: test/dice, goal: maximize}")
        if given is None:
            return None
        name, goal, target = given.get("name"), given.get("goal", "minimize"), given.get("target")
        if not isinstance(name, str) or not name:
            self.complain(f"metric.name: {name!r} is no name; accepted: such as test/dice")
        if goal not in {"minimize", "maximize"}:
            self.complain(f"metric.goal: {goal!r} is unknown; accepted: minimize, maximize")
        if target is not None:
            self.checked("metric", lambda: number("target", target))
        return Metric(name=str(name), goal=cast("Any", goal), target=target)

    def section(self, key: str, known: tuple[str, ...], such_as: str, *, required: bool = True) -> Mapping | None:
        """Return a mapping with known keys only, or None after complaining (or where it may be missing)."""
        given = self.content.get(key)
        if given is None:
            if required:
                self.complain(f"{key}: is missing; accepted: such as {such_as}")
            return None
        if not isinstance(given, Mapping):
            self.complain(f"{key}: must be a mapping such as {such_as}, got {given!r}")
            return None
        for name in given:
            if known and name not in known:
                self.complain(f"{key}.{name}: {unknown(str(name), list(known))}")
        return given

    def checked(self, key: str, read: Any) -> Any:  # noqa: ANN401 - a function and what it returns
        try:
            return read()
        except (ValueError, TypeError, OverflowError) as err:
            self.complain(f"{key}: {err}")
            return None

    def whole(self, key: str, given: Any, *, least: int = 1) -> int:  # noqa: ANN401 - what a file holds
        if isinstance(given, bool) or not isinstance(given, int) or given < least:
            self.complain(f"{key}={given!r} is not accepted; accepted: a whole number of {least} or more")
            return least
        return given

    def run_cap(self) -> int | None:
        given = self.content.get("run_cap")
        return None if given is None else self.whole("run_cap", given)

    def early_terminate(self) -> Hyperband | None:
        known = ("type", "min_iter", "max_iter", "s", "eta", "strict")
        given = self.section("early_terminate", known, "{type: hyperband, min_iter: 3}", required=False)
        if given is None:
            return None
        if given.get("type") != "hyperband":
            self.complain(f"early_terminate.type: {given.get('type')!r} is unknown; accepted: hyperband")
        if ("min_iter" in given) == ("max_iter" in given) or ("s" in given) != ("max_iter" in given):
            self.complain("early_terminate: needs either min_iter, or max_iter and s")
            return None
        eta = self.whole("early_terminate.eta", given.get("eta", 3), least=2)
        strict = given.get("strict", False)
        if not isinstance(strict, bool):
            self.complain(f"early_terminate.strict: must be true or false, got {strict!r}")
        if "min_iter" in given:
            first = self.whole("early_terminate.min_iter", given["min_iter"])
            return Hyperband(first=first, last=None, eta=eta, strict=bool(strict))
        highest = self.whole("early_terminate.max_iter", given["max_iter"])
        count = self.whole("early_terminate.s", given["s"])
        if highest < eta**count:
            self.complain(f"early_terminate: max_iter={highest} is too small for s={count} brackets with eta={eta}")
        return Hyperband(first=max(1, highest // eta**count), last=highest // eta, eta=eta, strict=bool(strict))

    def parameters(self) -> tuple[Parameter, ...]:
        given = self.section("parameters", (), "{optimizer.lr: {values: [0.001, 0.01]}}")
        parameters = tuple(self.leaves(given or {}, ()))
        if given is not None and not parameters and not self.problems:
            self.complain("parameters: {} is empty; accepted: one or more")
        keys = [parameter.key for parameter in parameters]
        for key in sorted({key for key in keys if keys.count(key) > 1}):
            self.complain(f"parameters.{key}: is there twice, dotted and nested")
        return parameters

    def leaves(self, given: Mapping[Any, Any], above: tuple[str, ...]) -> Iterator[Parameter]:
        for name, spec in given.items():
            path = (*above, str(name))
            key = f"parameters.{'.'.join(path)}"
            if not isinstance(spec, Mapping):
                self.complain(f"{key}: must be a mapping such as {{values: [1, 2]}}, got {spec!r}")
            elif "parameters" in spec and isinstance(spec["parameters"], Mapping):
                if extra := [str(other) for other in spec if other != "parameters"]:
                    self.complain(f"{key}: has nested parameters and {', '.join(extra)}; accepted: one of them")
                yield from self.leaves(spec["parameters"], path)
            elif (distribution := self.checked(key, lambda spec=spec: read_distribution(spec))) is not None:
                if warning := exponent_warning(spec):
                    _LOG.warning("%s: %s", key, warning)
                yield Parameter(path=path, distribution=distribution)

    def together(self, *, method: Method, parameters: tuple[Parameter, ...], run_cap: int | None, **_: object) -> None:
        """Complain of what is right by itself but not in company."""
        for parameter in parameters:
            key, distribution = f"parameters.{parameter.key}", parameter.distribution
            if method == "grid":
                self.checked(key, lambda d=distribution: grid_values(d))
            elif method == "bayes" and isinstance(distribution, Choice) and distribution.probabilities:
                self.complain(f"{key}: probabilities go with method random only")
        if method != "grid" and run_cap is None:
            self.complain(f"run_cap: is missing, and {method} has no end; accepted: such as 20")
