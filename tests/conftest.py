"""Fixtures every test may use."""

import os
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
# The real client, but never a server: W&B would otherwise look for credentials.
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("WANDB_SILENT", "true")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of real stacks and trees; tests that need it are skipped, loudly, where it is missing."""
    folder = Path(os.environ.get("DISTILL3D_DATA", REPO.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data not found at {folder}; set DISTILL3D_DATA to the folder that holds pairs/ and swc/")
    return folder
