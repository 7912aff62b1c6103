import os
import socket
import warnings
from dataclasses import asdict

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from distill3d.evaluation.metrics.by_case import SCORE_NAMES, ScoresByCase, mask_scores, summarize
from distill3d.evaluation.metrics.topology import topology_scores
from distill3d.evaluation.metrics.voxel import voxel_scores

CASES = ("a", "b", "c", "empty")
SPACING = (3.0, 1.0, 0.5)


def volume(case: str) -> dict[str, torch.Tensor]:
    """Two masks of a case; of one case nothing is predicted."""
    rng = np.random.default_rng(CASES.index(case))
    pred, gold, known = (rng.random((6, 7, 8)) < share for share in (0.2, 0.3, 0.9))
    found = {"pred": pred & (case != "empty"), "gold": gold, "known": known}
    return {name: torch.from_numpy(mask) for name, mask in found.items()}


def expected(case: str) -> dict[str, float]:
    masks = {name: mask.numpy() for name, mask in volume(case).items()}
    return mask_scores(**masks, spacing_um=SPACING)


def fed(metric: ScoresByCase, *cases: str) -> ScoresByCase:
    for case in cases:
        metric.update(**volume(case), case=case, spacing_um=SPACING)
    return metric


def table(*cases: str) -> torch.Tensor:
    return torch.tensor([[expected(case)[name] for name in SCORE_NAMES] for case in cases], dtype=torch.float64)


def test_rows_are_those_of_the_functions():
    masks = {name: mask.numpy() for name, mask in volume("b").items()}
    row = expected("b")
    voxel, topology = voxel_scores(**masks, spacing_um=SPACING), topology_scores(**masks)
    assert row["hd95_um"] == voxel.hd95_um
    assert row["recall_tol"] == voxel.recall_tol
    assert (row["cldice"], row["betti1_error"]) == (topology.cldice, topology.betti1_error)
    metric = fed(ScoresByCase(cases=CASES), *CASES)
    torch.testing.assert_close(metric.compute().per_case, table(*CASES), rtol=0, atol=0)
    assert metric.named(metric.compute().per_case[1]) == row


def test_the_mean_is_that_of_summarize_and_counts_the_missed_case():
    found = fed(ScoresByCase(cases=CASES), *CASES).compute()
    scores = {
        case: asdict(voxel_scores(**{name: mask.numpy() for name, mask in volume(case).items()}, spacing_um=SPACING))
        for case in CASES
    }
    summary, mean = summarize(scores), ScoresByCase.named(found.mean)
    assert found.n_missed.item() == summary.n_missed == 1
    assert {name: mean[name] for name in summary.mean} == pytest.approx(summary.mean)
    assert torch.isfinite(found.per_case).all()


def test_a_case_nobody_scored_is_not_in_the_mean():
    found = fed(ScoresByCase(cases=CASES), "c").compute()
    assert found.seen.tolist() == [False, False, True, False]
    torch.testing.assert_close(found.mean, table("c")[0])
    assert found.n_missed.item() == 0


def test_a_metric_that_saw_nothing_is_zero_and_not_nan():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchmetrics warns of compute before update
        found = ScoresByCase(cases=CASES).compute()
    assert not found.mean.any()
    assert (found.n_missed.item(), found.seen.any().item()) == (0, False)


def test_states_of_two_ranks_add_up_to_those_of_one():
    """The second rank scores "a" again, as a distributed sampler does to give every rank as many cases."""
    ranks = [fed(ScoresByCase(cases=CASES), "a", "empty", "c"), fed(ScoresByCase(cases=CASES), "b", "a", "empty")]
    merged = ScoresByCase(cases=CASES)
    for name, reduce in merged._reductions.items():
        setattr(merged, name, reduce(torch.stack([getattr(rank, name) for rank in ranks])))
    merged._update_count = 1
    one = fed(ScoresByCase(cases=CASES), *CASES).compute()
    for mine, other in zip(merged.compute(), one, strict=True):
        torch.testing.assert_close(mine, other)


def test_reset_forgets():
    metric = fed(ScoresByCase(cases=CASES), "a")
    metric.reset()
    assert not metric.times.any()
    assert not metric.sums.any()


def test_an_unknown_or_repeated_case_is_an_error():
    with pytest.raises(KeyError):
        ScoresByCase(cases=CASES).update(**volume("a"), case="typo")
    with pytest.raises(ValueError, match="distinct"):
        ScoresByCase(cases=("a", "a"))


def work(rank: int, port: int, queue) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    metric = fed(ScoresByCase(cases=CASES), *(("a", "empty"), ("b", "a"))[rank])
    found = metric.compute()
    queue.put((rank, found.mean.tolist(), found.seen.tolist(), found.n_missed.item()))
    dist.destroy_process_group()


@pytest.mark.slow  # two more imports of torch
@pytest.mark.timeout(600)
def test_two_real_processes_compute_the_same_on_both():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = mp.get_context("spawn")
    queue = context.SimpleQueue()
    processes = [context.Process(target=work, args=(rank, port, queue), daemon=True) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(280)
    assert [process.exitcode for process in processes] == [0, 0]
    found = sorted(queue.get() for _ in processes)
    assert found[0][1:] == found[1][1:]
    one = fed(ScoresByCase(cases=CASES), "a", "b", "empty").compute()
    assert found[0][1] == pytest.approx(one.mean.tolist())
    assert found[0][2:] == (one.seen.tolist(), 1)
