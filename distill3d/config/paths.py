"""The type of every path that settings hold."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, final

from distill3d.errors import ConfigError

PLACES = frozenset({"runs", "cache", "data.origin"})  # settings that say where things lie, and nothing of what is done
DATA_VARIABLE = "DISTILL3D_DATA"  # names the folder of all data, which is another place on each machine


def data_root() -> str:
    """Return the folder of all data as experiments write it."""
    return os.environ.get(DATA_VARIABLE, "../shared/data").rstrip("/")


def below_variable(value: Any, root: str) -> Any:  # noqa: ANN401 - walks any plain value
    """Return plain values with the variable in place of the folder of all data.

    >>> below_variable(["/scratch/data/pairs", 3], "/scratch/data")
    ['$DISTILL3D_DATA/pairs', 3]
    """
    if isinstance(value, str) and value.startswith(f"{root}/"):
        return f"${DATA_VARIABLE}{value.removeprefix(root)}"
    if isinstance(value, Mapping):
        return {key: below_variable(each, root) for key, each in value.items()}
    return [below_variable(each, root) for each in value] if isinstance(value, list) else value


@final
class ConfigPath(os.PathLike[str]):
    """A path as settings write it; ``~`` and ``$VARIABLES`` are replaced wherever it is used, by ``Path(path)``.

    What is kept is what was written: a run's settings are the same for every user and job, and a path below
    ``$SLURM_TMPDIR`` leads to the folder of the job that reads it.

    Args:
        written: as in the settings.

    Example:
        >>> str(ConfigPath("~/data"))
        '~/data'
        >>> os.fspath(ConfigPath("~/data")) == os.path.expanduser("~/data")
        True
    """

    __slots__ = ("written",)

    def __init__(self, written: str) -> None:
        self.written = written

    def __fspath__(self) -> str:
        """Return the path with ``~`` and variables replaced.

        Raises:
            ConfigError: a variable is not set, or there is no such home folder.
        """
        names = (braced or bare for braced, bare in re.findall(r"\$(?:\{(\w+)\}|(\w+))", self.written))
        if unset := [name for name in names if name not in os.environ]:
            raise ConfigError(f"{self.written}: the variable {unset[0]} is not set; accepted: a path, or set it")
        path = os.path.expanduser(os.path.expandvars(self.written))  # noqa: PTH111 - that of pathlib raises for no user
        if path.startswith("~"):
            raise ConfigError(f"{self.written}: no home folder is known for it; accepted: a path, or set HOME")
        return path

    def __str__(self) -> str:
        return self.written

    def __repr__(self) -> str:
        return f"ConfigPath({self.written!r})"

    def __eq__(self, other: object) -> bool:
        return self.written == other.written if isinstance(other, ConfigPath) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.written)
