"""What is taken by part is shared by processes: the trees and scores of one process, whoever dies."""

import functools
import json
import pickle
import socket

import numpy as np
import pytest
from forked import MAIN, run
from shapes import tube

from distill3d.cli import app
from distill3d.config.trace import TraceConfig
from distill3d.errors import InputError
from distill3d.evaluation import file_scores
from distill3d.evaluation.metrics import large
from distill3d.tracing import teasar_pieces, trace_large
from distill3d.tracing.trace import trace_file
from distill3d.volumes import cluster, parts
from distill3d.volumes.cluster import workers
from distill3d.volumes.lazy import LazyVolume
from distill3d.volumes.volume import Volume, open_volume, write_volume

SHAPE = (40, 90, 120)
SMALL = """
import functools
from distill3d.evaluation import file_scores
from distill3d.evaluation.metrics import large
from distill3d.tracing import teasar_pieces, trace_large
from distill3d.volumes import parts
parts.LARGE, teasar_pieces._GROUP, large._GROUP, large._AT_ONCE = 1000, 1000, 1000, 100
trace_large.Sizes = functools.partial(trace_large.Sizes, part=(8, 16, 20), most=100_000, tile=(20, 30, 30))
file_scores.find_pieces = functools.partial(file_scores.find_pieces, size=(8, 16, 20))
file_scores.large_mask_scores = functools.partial(file_scores.large_mask_scores, part=(8, 16, 20))
"""  # of the process that leads; it tells the others
AFTER = """
import os, signal, sys, psutil
from distill3d.volumes import calls
answers, result = [], calls.Workers.result
def counted(self, call):
    answers.append(result(self, call))
    if len(answers) == {count}:
        {act}
    return answers[-1]
calls.Workers.result = counted
"""
KILL_ONE = (
    "print('killed one', file=sys.stderr); "
    "next(c for c in psutil.Process().children() if 'spawn_main' in str(c.cmdline())).kill()"
)
NEAR = ("--mask-um", "2.5", "--json")


def masks(folder, shape=SHAPE):
    """Gold of a long neurite that is done in tiles, short ones and dust, and a prediction that lies beside it."""
    rng = np.random.default_rng(0)
    gold = tube([[5, 5, 4], [30, 50, 60], [35, 84, 114]], shape)
    for corner in rng.integers((4, 8, 8), np.array(shape) - (16, 30, 30), (12, 3)):
        gold |= tube([corner, corner + rng.integers(3, (12, 22, 22))], shape, radius=1.5)
    gold |= rng.random(shape) < 0.0005
    pred = np.roll(gold, (0, 1, 1), (0, 1, 2)) & (rng.random(shape) < 0.98)
    for name, mask in (("gold", gold), ("pred", pred)):
        write_volume(folder / f"{name}.zarr", Volume(mask.astype(np.uint8) * 255, (2.0, 1.0, 1.0)))
    return folder / "pred.zarr", folder / "gold.zarr"


@pytest.fixture
def small(monkeypatch):
    """What `SMALL` does, in this process."""
    monkeypatch.setattr(parts, "LARGE", 1000)
    for module in (teasar_pieces, large):
        monkeypatch.setattr(module, "_GROUP", 1000)
    monkeypatch.setattr(large, "_AT_ONCE", 100)
    sizes = {"part": (8, 16, 20), "most": 100_000, "tile": (20, 30, 30)}
    monkeypatch.setattr(trace_large, "Sizes", functools.partial(trace_large.Sizes, **sizes))
    for name, size in (("find_pieces", "size"), ("large_mask_scores", "part")):
        function = functools.partial(getattr(file_scores, name), **{size: (8, 16, 20)})
        monkeypatch.setattr(file_scores, name, function)


def again(content):
    return pickle.loads(pickle.dumps(content))  # noqa: S301 - of this test


class Posted:
    """Workers that make a call at once, of nothing but what was pickled for it."""

    def __init__(self):
        self.count = 0

    def made(self, function, shared, items):
        for item in items:
            self.count += 1
            work, own, one = again((function, shared, item))
            yield again(work(own, one))


@pytest.mark.parametrize(
    "settings",
    [
        {"input": "mask"},
        {"input": "mask", "fill_holes": True, "min_voxels": 2},
        {"input": "image"},
        {"input": "prob", "method": "hysteresis", "threshold": 0.8, "low_threshold": 0.3},
    ],
)
def test_a_tree_is_made_of_nothing_but_what_calls_are_given(settings, small, tmp_path):
    path, posted = masks(tmp_path)[1], Posted()
    texts = []
    for elsewhere in (None, posted):
        trace_file(path, tmp_path / "tree.swc", TraceConfig(**settings), workers=elsewhere)
        texts.append((tmp_path / "tree.swc").read_text())
    assert posted.count > 100
    assert texts[0].count("\n") > 100
    assert texts[0] == texts[1]


@pytest.mark.parametrize("most", [large.MOST, 1000])
def test_scores_are_made_of_nothing_but_what_calls_are_given(most, small, monkeypatch, tmp_path):
    files, posted = masks(tmp_path), Posted()
    monkeypatch.setattr(file_scores, "large_mask_scores", functools.partial(file_scores.large_mask_scores, most=most))
    alone, shared = (file_scores.score_files(*files, workers=elsewhere) for elsewhere in (None, posted))
    assert alone == shared
    assert 0.1 < alone["dice"] < 0.9
    assert ("cldice" in alone) == (most == large.MOST)
    assert posted.count > 100


def test_a_mask_that_is_scored_against_a_tree_is_traced_by_the_same_calls(small, tmp_path):
    pred, gold = masks(tmp_path)
    trace_file(gold, tmp_path / "gold.swc", TraceConfig(input="mask"))
    posted = Posted()
    alone, shared = (
        file_scores.score_files(pred, tmp_path / "gold.swc", threshold=0.4, workers=elsewhere)
        for elsewhere in (None, posted)
    )
    assert alone == shared
    assert posted.count > 100


def test_a_stack_is_opened_again_where_it_is_sent_and_another_one_is_refused(tmp_path):
    pred, gold = masks(tmp_path)
    volume = open_volume(pred)
    np.testing.assert_array_equal(again(volume.data)[2:9, :, :], volume.data[2:9, :, :])
    data = pickle.dumps(volume.data)
    np.save(tmp_path / "a.npy", np.arange(60_000, dtype=np.uint16).reshape(10, 60, 100))
    assert len(pickle.dumps(open_volume(tmp_path / "a.npy").data)) < 1000
    pred.rename(tmp_path / "old.zarr")
    with pytest.raises(InputError, match=r"pred\.zarr: a worker does not see what this process does; accepted: work"):
        pickle.loads(data)  # noqa: S301 - of this test
    gold.rename(pred)
    with pytest.raises(InputError, match=r"pred\.zarr: a worker does not see what this process does"):
        pickle.loads(data)  # noqa: S301 - of this test
    array = np.zeros((1, 1, 1), np.uint8)
    assert LazyVolume(array).data is array


VERBS = {
    "trace": ["trace", "cell.tif", "--out", "cell.swc"],
    "evaluate": ["evaluate", "--pred", "cell.tif", "--gold", "cell.swc"],
}


@pytest.mark.parametrize("verb", VERBS)
def test_what_is_no_cluster_is_refused_in_one_line(verb, monkeypatch):
    def refused(*options):
        with pytest.raises(InputError) as raised:
            app([*VERBS[verb], *options], standalone_mode=False)
        assert (raised.value.exit_code, len(raised.value.lines)) == (2, 1)
        return str(raised.value)

    monkeypatch.setattr(cluster, "_ANSWER_SECONDS", 0.2)
    monkeypatch.setattr("distill3d.volumes.inputs.expand", lambda places, **_: places)
    assert refused("--workers", "0") == "--workers 0; accepted: at least 1"
    both = "--workers and --scheduler are both given; accepted: one of them"
    assert refused("--workers", "2", "--scheduler", "tcp://10.0.0.1:8786") == both
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        assert refused("--scheduler", address).startswith(f"{address}: no Dask scheduler answers within")


def test_another_process_makes_the_tree_of_this_one_and_names_what_is_damaged(small, tmp_path):
    gold, config, out = masks(tmp_path)[1], TraceConfig(input="mask"), tmp_path / "tree.swc"
    trace_file(gold, out, config)
    alone = out.read_text()
    with workers(1) as elsewhere:
        trace_file(gold, out, config, workers=elsewhere)
        assert out.read_text() == alone
        volume = open_volume(gold)
        chunk = max((gold / "0").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
        chunk.write_bytes(chunk.read_bytes()[:50])
        with pytest.raises(InputError, match=f"^{chunk}: damaged"):
            trace_large.trace_by_part(volume, config, workers=elsewhere)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Two masks, and what one process traces and says of them."""
    pred, gold = masks(tmp_path_factory.mktemp("masks"))
    code, out = SMALL + MAIN, pred.with_name("alone.swc")
    assert run("trace", gold, "--out", out, code=code).returncode == 0
    return pred, gold, out.read_bytes(), run("evaluate", "--pred", pred, "--gold", gold, *NEAR, code=code)


@pytest.mark.slow
@pytest.mark.parametrize(("count", "killed_at"), [(1, None), (3, None), (3, 20), (3, 200)])
def test_any_number_of_workers_of_which_one_may_be_killed_give_the_bytes_of_one_process(
    alone, count, killed_at, tmp_path
):
    pred, gold, tree, scores = alone
    code = SMALL + (AFTER.format(count=killed_at, act=KILL_ONE) if killed_at else "") + MAIN
    killed = (["killed one"] if killed_at else []) * 2
    traced = run("trace", gold, "--out", tmp_path / "tree.swc", "--workers", count, code=code)
    assert traced.returncode == 0, traced.stderr
    assert (tmp_path / "tree.swc").read_bytes() == tree
    scored = run("evaluate", "--pred", pred, "--gold", gold, *NEAR, "--workers", count, code=code)
    assert scored.returncode == 0, scored.stderr
    assert [line for each in (traced, scored) for line in each.stderr.splitlines() if "killed" in line] == killed
    assert json.loads(scored.stdout) == json.loads(scores.stdout)
    assert json.loads(scored.stdout)["dice_tol_um"] > 0.5


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_ends_all_processes_and_leaves_no_tree(alone, signum, code, tmp_path):
    gold, act = (
        alone[1],
        f"os.killpg(0, signal.SIGINT) if {signum!r} == 'SIGINT' else os.kill(os.getpid(), signal.SIGTERM)",
    )
    program = SMALL + AFTER.format(count=50, act=act) + MAIN
    ended = run("trace", gold, "--out", tmp_path / "tree.swc", "--workers", "2", code=program)
    assert ended.returncode == code
    assert ended.stderr.splitlines()[-1] == "stopped; the same command begins anew"
    assert not list(tmp_path.iterdir())
