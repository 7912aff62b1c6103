"""From a sweep file's `command:` and the values of a trial to an argument vector, as W&B's agent builds it.

It starts nothing. Where the agent drops or leaves what it does not know, this is an error.

Source: W&B, "Sweep configuration options", section `command` (docs.wandb.ai/models/sweeps/sweep-config-keys).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distill3d.config.builder import unknown

DEFAULT_COMMAND = ("${env}", "${interpreter}", "${program}", "${args}")
MACROS = (
    "env",
    "interpreter",
    "program",
    "args",
    "args_no_hyphens",
    "args_no_boolean_flags",
    "args_no_equals",
    "args_json",
    "args_json_file",
    "args_append_hydra",
    "args_override_hydra",
)
ARGUMENTS = tuple(name for name in MACROS if name.startswith("args"))
_WHOLE = re.compile(r"\$\{([^{}]*)\}")
_VARIABLE = re.compile(r"\$\{envvar:([A-Z0-9_]*)\}")


def command_problems(command: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """Say what of a command cannot be expanded: unknown macros, those inside a word, variables that are not set."""
    problems = []
    for part in command:
        problems += [f"{part}: {name} is not set" for name in _VARIABLE.findall(part) if name not in environ]
        whole = _WHOLE.fullmatch(part)
        if whole and not _VARIABLE.fullmatch(part) and whole[1] not in MACROS:
            problems.append(unknown(part, [f"${{{name}}}" for name in MACROS] + ["${envvar:NAME}"], "unknown macro"))
        if not whole and (inside := [name for name in MACROS if f"${{{name}}}" in part]):
            problems.append(f"{part}: W&B expands ${{{inside[0]}}} only where it is an argument of its own")
    if not any(whole[1] in ARGUMENTS for part in command if (whole := _WHOLE.fullmatch(part))):
        problems.append("passes no parameter on; accepted: one of ${args}, ${args_no_hyphens}, ...")
    return problems


def build_argv(
    command: Sequence[str],
    *,
    program: str,
    args: Mapping[str, Any],
    json_file: Path,
    environ: Mapping[str, str],
) -> list[str]:
    """Expand a command that has no `command_problems`.

    Args:
        command: macros and words.
        program: what ``${program}`` becomes.
        args: parameters as W&B passes them: a nested one is a mapping under its top name.
        json_file: what ``${args_json_file}`` becomes; the caller writes it.
        environ: where ``${envvar:NAME}`` is looked up.

    Example:
        >>> command = ["${env}", "${program}", "fit", "scratch", "${args}"]
        >>> build_argv(command, program="distill3d", args={"seed": 1}, json_file=Path("x"), environ={})
        ['/usr/bin/env', 'distill3d', 'fit', 'scratch', '--seed=1']
    """
    expansions = {
        "env": ["/usr/bin/env"],
        "interpreter": ["python"],
        "program": [program],
        "args_json_file": [str(json_file)],
        **_arguments(args),
    }
    argv: list[str] = []
    for part in command:
        filled = _VARIABLE.sub(lambda match: environ[match[1]], part)
        whole = _WHOLE.fullmatch(filled)
        argv += expansions[whole[1]] if whole else [filled]
    return argv


def _arguments(args: Mapping[str, Any]) -> dict[str, list[str]]:
    pairs = [f"{key}={value}" for key, value in args.items()]
    flags = [
        f"--{key}={value}" if not isinstance(value, bool) else f"--{key}"
        for key, value in args.items()
        if value is not False
    ]
    return {
        "args": [f"--{pair}" for pair in pairs],
        "args_no_hyphens": pairs,
        "args_no_boolean_flags": flags,
        "args_no_equals": [word for key, value in args.items() for word in (f"--{key}", str(value))],
        "args_json": [json.dumps(dict(args))],
        "args_append_hydra": [f"+{pair}" for pair in pairs],
        "args_override_hydra": [f"++{pair}" for pair in pairs],
    }
