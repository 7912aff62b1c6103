"""Fixtures every test may use."""

import gc
import os
import shutil
from pathlib import Path

import pytest

# They hold no doctest; two of one name, collected as modules, would be taken for each other.
collect_ignore_glob = ["*/conftest.py"]

# As the command line does, before anything imports torch.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Two workers on two cores (a third made it slower): one thread each, also for the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
REPO = Path(__file__).resolve().parents[1]
# The real client, but never a server: W&B would otherwise look for credentials.
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("WANDB_SILENT", "true")


def pytest_collection_finish():
    """Leave all that was imported out of every later search for garbage: a tenth of the suite's time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of real stacks and trees; tests that need it are skipped, loudly, where it is missing."""
    folder = Path(os.environ.get("DISTILL3D_DATA", REPO.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data not found at {folder}; set DISTILL3D_DATA to the folder that holds pairs/ and swc/")
    return folder


TINY = """
question: does it run?
data: {name: simulated, train: 2, val: 1, test: 1, shape_zyx: [16, 48, 48]}
student: {name: unet3d, channels: [4, 8], depth_strides: [1]}
patches: {size_zyx: [16, 32, 32], batch_size: 2, val_patches: 2, workers: 0}
trainer: {steps: 4, validate_every: 2, accelerator: cpu}
logging: {wandb: disabled}
"""


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    """One cache of prepared volumes for the whole session."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def tiny_file_in(cache):
    """Write an experiment file that trains in seconds; its runs stay in the folder it is in."""

    def write(folder: Path) -> Path:
        path = folder / "tiny.yaml"
        path.write_text(f"{TINY}\nruns: {folder / 'runs'}\ncache: {cache}\n")
        return path

    return write


@pytest.fixture
def tiny_file(tmp_path, tiny_file_in) -> Path:
    """An experiment file that trains in seconds, in ``tmp_path``."""
    return tiny_file_in(tmp_path)


@pytest.fixture
def tiny(tiny_file):
    """Load the tiny experiment with overrides."""
    from distill3d.experiment import load_experiment

    return lambda *overrides: load_experiment(tiny_file, overrides)


@pytest.fixture
def undrawn(monkeypatch):
    """Let runs in this process draw no figures."""
    from undrawn import apply

    apply(monkeypatch.setattr)


@pytest.fixture(scope="session")
def finished_once(tmp_path_factory, tiny_file_in) -> Path:
    """One finished run of the tiny experiment, for all tests that only look at it."""
    from distill3d.training.fit import fit

    return fit(tiny_file_in(tmp_path_factory.mktemp("finished")))


@pytest.fixture
def finished(finished_once, tmp_path):
    """A copy of it where `tiny` has its runs, to be changed."""
    from distill3d.storage.run_folder import RunFolder

    return RunFolder(shutil.copytree(finished_once, tmp_path / "runs" / "tiny" / "seed0"))
