"""Run folders as `distill3d fit` leaves them, written in milliseconds, and pages of reports in a real Chromium."""

import gc
import shutil
from pathlib import Path

import numpy as np
import pytest

from distill3d.config.plain import as_plain
from distill3d.config.schema import (
    BalanceConfig,
    EvaluationConfig,
    InferenceConfig,
    LoggingConfig,
    OptimizerConfig,
    PatchConfig,
    TrainerConfig,
)
from distill3d.config.trace import TraceConfig
from distill3d.storage.run_folder import RunFolder, write_json, write_yaml

CASES = tuple(f"case_{k}" for k in range(6))
NONE = {"architecture": "none", "weights": "none", "sha256": "0000000000000000", "random": False}
LITE0 = {"architecture": "tf_efficientnet_lite0", "weights": "package x 0.1.0", "sha256": "aa262b0e58d2a053"}
COST = {
    "parameters": 1007665,
    "trainable_parameters": 1009305,
    "flops_per_patch": 123456789,
    "fit_seconds": 295.7,
    "peak_memory_gib": 1.89,
    "steps": 240,
    "devices": 1,
    "seconds_per_step": 1.2,
    "predict_seconds": 26.7,
}
PROVENANCE = {
    "commit": "5a6342ce8896548f22d6eaae4eb485e600191fa9",
    "distill3d": "0.1.0",
    "python": "3.11.7",
    "packages": {"torch": "2.14.1", "numpy": "2.4.6"},
    "machine": {"system": "Linux-6.1-x86_64", "cpus": 2, "gpus": []},
}


def plain_settings(name, seed):
    """Settings as ``config.yaml`` holds them."""
    return {
        "name": name,
        "question": f"Does {name} help?",
        "data": {"name": "neurons", "folder": "data/pairs", "train": ["a", "b"], "val": ["c"], "test": list(CASES)},
        "student": {"name": "convnet3d", "encoder": "tf_efficientnet_lite0", "stages": 4},
        "teacher": {"name": "none"},
        "strategy": {"name": "none"},
        "neurons": {"name": "linear"},
        "losses": {"overlap": {"name": "overlap", "dice": 1.0, "cross_entropy": 1.0}},
        "balance": as_plain(BalanceConfig()),
        "patches": as_plain(PatchConfig()),
        "optimizer": as_plain(OptimizerConfig()),
        "trainer": as_plain(TrainerConfig()),
        "inference": as_plain(InferenceConfig()),
        "trace": as_plain(TraceConfig()),
        "evaluation": as_plain(EvaluationConfig()),
        "logging": as_plain(LoggingConfig()),
        "seed": seed,
        "runs": "runs",
        "cache": "~/.cache/distill3d",
        "plugins": [],
    }


def put(settings, dotted):
    """Set dotted keys; None deletes one."""
    for key, value in dotted.items():
        *path, last = key.split(".")
        inner = settings
        for name in path:
            inner = inner.setdefault(name, {})
        if value is None:
            inner.pop(last, None)
        else:
            inner[last] = value


def scores_of(dice):
    """All scores of a case that matter to a report, made up from one."""
    return {
        "dice": dice,
        "precision": dice,
        "recall": dice,
        "dice_tol": min(1.0, dice + 0.2),
        "hd95_um": 100.0 * (1.0 - dice),
        "cldice": min(1.0, dice + 0.1),
        "betti0_error": float(round(20 * (1.0 - dice))),
        "missed": 0.0,
        "tree_esa": 10.0 * (1.0 - dice),
        "tree_precision": dice,
        "tree_recall": dice,
        "tree_f1": min(1.0, dice + 0.15),
        "tree_missed": 0.0,
    }


def summed_up(cases):
    keys = list(dict.fromkeys(key for row in cases.values() for key in row if not key.endswith("missed")))
    columns = {key: [row[key] for row in cases.values() if key in row] for key in keys}
    return {
        "cases": cases,
        "mean": {key: float(np.mean(values)) for key, values in columns.items()},
        "sd": {key: float(np.std(values)) for key, values in columns.items()},
        "n_cases": len(cases),
        "n_missed": 0,
    }


def write_folder(
    root,
    name="scratch",
    seed=0,
    *,
    dice=None,
    settings=None,
    teacher=None,
    cost=None,
    kept=None,
    nonlinear_share=None,
    tubes=None,
    provenance=None,
    done=True,
):
    """Write ``root/name/seed<k>`` and return its path.

    Args:
        root: folder of runs.
        name: of the experiment.
        seed: of the run.
        dice: by case; other scores follow from it. Or rows of scores by case.
        settings: dotted keys that differ from the usual ones; None deletes a key.
        teacher: keys of the teacher's identity, a teacher with ImageNet weights unless they say otherwise.
        cost: keys of the cost that differ.
        kept: of the likeness to the teacher.
        nonlinear_share: of the neurons.
        tubes: shares of taps.
        provenance: likewise.
        done: whether the run is finished.
    """
    folder = RunFolder(Path(root) / name / f"seed{seed}")
    plain = plain_settings(name, seed)
    put(plain, settings or {})
    rows = {case: value if isinstance(value, dict) else scores_of(value) for case, value in (dice or made_up()).items()}
    command = ["distill3d", "fit", name, f"seed={seed}"]
    fitted = {
        "cost": COST | (cost or {}),
        "kept": kept,
        "nonlinear_share": nonlinear_share,
        "tubes": tubes,
        "teacher": NONE if teacher is None else {**LITE0, "random": False, **teacher},
        "provenance": {**PROVENANCE, "command": command, **(provenance or {})},
    }
    otsu = {case: scores_of(0.3) for case in rows}
    write_yaml(folder.config, plain)
    write_json(folder.fit, fitted)
    if done:
        head = {"experiment": name, "seed": seed, "components": {}, "trace": {}}
        write_json(folder.metrics, {**head, **summed_up(rows), "baselines": {"otsu": summed_up(otsu)}, **fitted})
        write_json(folder.done, {"finished_at": "2026-11-24T20:46:36+0000", "cases": len(rows)})
    return folder.path


def made_up(gain=0.0, seed=0, *, cases=CASES, noise=0.01):
    """Dice by case: cases differ much, runs little."""
    rng = np.random.default_rng(seed)
    return {
        case: float(np.clip(0.5 + 0.05 * k % 0.3 + gain + noise * rng.normal(), 0, 1)) for k, case in enumerate(cases)
    }


@pytest.fixture
def write_run(tmp_path):
    """Write one run folder under ``tmp_path/runs``; see `write_folder`."""
    return lambda *args, root=None, **kwargs: write_folder(root or tmp_path / "runs", *args, **kwargs)


@pytest.fixture(scope="module", autouse=True)
def _small_heap():
    """statsmodels collects garbage at every correction for several tests: all modules of a suite would be searched."""
    gc.freeze()


@pytest.fixture
def three_arms(write_run):
    """Nine runs of three arms: ``scratch`` (no strategy), ``inflate`` (better by 0.08) and ``kd`` (the same)."""
    collected = []
    for seed in range(3):
        collected += [
            write_run("scratch", seed, dice=made_up(0.0, seed)),
            write_run(
                "inflate",
                seed,
                dice=made_up(0.08, 10 + seed),
                settings={"strategy": {"name": "inflate", "mode": "center"}, "teacher": {"name": "timm2d", "seed": 0}},
                teacher={},
            ),
            write_run(
                "kd",
                seed,
                dice=made_up(0.0, 20 + seed),
                settings={"strategy": {"name": "features", "weight": 1.0}, "teacher": {"name": "timm2d", "seed": 0}},
                teacher={"random": True, "weights": "random"},
            ),
        ]
    return collected


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium; playwright downloads none. Its event loop ends with this module."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on PATH: the page is not tested in a browser (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        launched = play.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A page of four arms with everything a report can have."""
    from comparisons import compared
    from pages import curves_of, worst_of

    from distill3d.report.page.html import render

    folder = tmp_path_factory.mktemp("page")
    gains = {"op_scratch": 0.0, "op_kd_inflate": 0.06, "op_kd_cosine": 0.004, "op_shuffled": -0.08}
    labelled = {arm: 1 + place % 2 for place, arm in enumerate(gains)}  # so that there are low-data curves
    comparison = compared(gains, cases=12, labelled=labelled, missing=True)
    page = render(
        comparison,
        curves=curves_of(comparison, folder),
        worst=worst_of([arm.name for arm in comparison.arms]),
    )
    (folder / "index.html").write_text(page)
    return folder / "index.html"


@pytest.fixture(scope="module")
def comparison():
    from comparisons import compared

    return compared(missing=True)


@pytest.fixture(scope="module")
def small_file(tmp_path_factory):
    """A page of four arms with few charts."""
    from comparisons import compared

    from distill3d.report.page.html import render

    path = tmp_path_factory.mktemp("page") / "small.html"
    path.write_text(render(compared(cases=3)))
    return path


@pytest.fixture
def visit(browser):
    """Open a file as a reader who was never there."""
    from pages import visits

    with visits(browser) as go:
        yield go


@pytest.fixture(scope="module")
def _opened(browser, file):
    from pages import visits

    with visits(browser) as go:
        yield go(file)


@pytest.fixture
def page(_opened):
    """The page of four arms, which takes seconds to draw; what a test sets is set back, but for sorting and themes."""
    from pages import SET_BACK

    yield _opened
    _opened.evaluate(SET_BACK)
