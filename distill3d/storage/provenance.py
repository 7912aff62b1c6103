"""Where a result comes from: commit, versions, machine. It decides nothing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from distill3d.storage.secrets import without_secrets

PACKAGES = ("torch", "lightning", "timm", "monai", "numpy", "omegaconf", "torchmetrics", "wandb")


def provenance() -> dict[str, Any]:
    """Return commit (``+dirty`` with local changes, None outside git), versions, machine and the exact command."""
    return {
        "commit": _commit(Path(__file__).resolve()),
        "distill3d": importlib.metadata.version("distill3d"),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "machine": {"system": platform.platform(), "cpus": os.cpu_count(), "gpus": _gpus()},
        "command": [without_secrets(word) for word in sys.argv],
    }


def peak_memory_gib() -> float:
    """Largest memory of this process so far: of the GPU where there is one, else resident."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 2**30
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)  # bytes on macOS, KiB on Linux


def _gpus() -> list[str]:
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


def _commit(file: Path) -> str | None:
    """Return the commit of the repository that tracks a file; another one may surround an installed package."""
    try:
        _git(file.parent, "ls-files", "--error-unmatch", file.name)
        commit = _git(file.parent, "rev-parse", "HEAD")
        dirty = _git(file.parent, "status", "--porcelain", "-uno")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}+dirty" if dirty else commit


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=10).stdout.strip()  # noqa: S603 - fixed arguments
