import warnings

import pytest
import torch

from distill3d.evaluation.metrics.voxel import voxel_scores
from distill3d.training.dice import DiceByCase


def patches(seed: int, n: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, 1, 4, 5, 6, generator=generator)
    target, known = (torch.rand(logits.shape, generator=generator) > limit for limit in (0.6, 0.2))
    return {"logits": logits, "target": target.float(), "known": known}


def test_dice_by_case_is_the_dice_of_all_patches_of_a_case_together():
    metric, names = DiceByCase(cases=("b", "a", "unseen")), ("a", "b", "a", "a")
    data = patches(0, 4)
    metric.update(**{k: v[:2] for k, v in data.items()}, cases=names[:2])
    metric.update(**{k: v[2:] for k, v in data.items()}, cases=names[2:])
    result = metric.compute()
    for i, case in enumerate(("b", "a")):
        rows = [j for j, name in enumerate(names) if name == case]
        pred, gold, known = (
            data[k][rows].numpy() > limit for k, limit in (("logits", 0), ("target", 0.5), ("known", 0.5))
        )
        flat = {"pred": pred, "gold": gold, "known": known}
        expected = voxel_scores(**{k: v.reshape(1, 1, -1) for k, v in flat.items()}).dice
        assert result.per_case[i].item() == pytest.approx(expected)
    assert result.seen.tolist() == [True, True, False]
    assert result.mean.item() == pytest.approx(result.per_case[:2].mean().item())


def test_a_case_without_gold_scores_one_if_nothing_was_predicted_and_zero_else():
    metric = DiceByCase(cases=("quiet", "noisy", "missed"))
    ones, zeros = torch.ones(1, 1, 2, 2, 2), torch.zeros(1, 1, 2, 2, 2)
    metric.update(logits=-ones, target=zeros, known=ones.bool(), cases=("quiet",))
    metric.update(logits=ones, target=zeros, known=ones.bool(), cases=("noisy",))
    metric.update(logits=-ones, target=ones, known=ones.bool(), cases=("missed",))
    assert metric.compute().per_case.tolist() == [1.0, 0.0, 0.0]
    assert metric.compute().mean.item() == pytest.approx(1 / 3)


def test_a_voxel_at_the_threshold_is_foreground_as_in_the_masks_of_test_cases():
    metric, logits = DiceByCase(cases=("a",), threshold=0.5), torch.tensor([-0.1, 0.0, 0.1]).reshape(1, 1, 1, 1, 3)
    gold = (logits.sigmoid().numpy() >= 0.5).astype("float32")
    metric.update(logits=logits, target=torch.from_numpy(gold), known=torch.ones_like(logits).bool(), cases=("a",))
    assert gold.sum() == 2
    assert metric.compute().mean.item() == 1.0


def test_a_metric_that_saw_nothing_is_zero_and_not_nan():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchmetrics warns of compute before update
        assert DiceByCase(cases=("a",)).compute().mean.item() == 0.0


def test_states_of_two_ranks_add_up_to_those_of_one():
    data, names = patches(3, 4), ("a", "b", "b", "a")
    one, ranks = DiceByCase(cases=("a", "b")), [DiceByCase(cases=("a", "b")) for _ in range(2)]
    one.update(**data, cases=names)
    for rank, metric in enumerate(ranks):
        metric.update(**{k: v[rank::2] for k, v in data.items()}, cases=names[rank::2])
    reduced = ranks[0]._reductions["counts"](torch.stack([metric.counts for metric in ranks]))
    torch.testing.assert_close(reduced, one.counts)


def test_reset_forgets_and_bf16_and_nan_logits_work():
    metric = DiceByCase(cases=("a",))
    metric.update(**patches(0, 1), cases=("a",))
    metric.reset()
    assert not metric.counts.any()
    data = patches(1, 1)
    metric.update(**{**data, "logits": data["logits"].bfloat16()}, cases=("a",))
    metric.update(**{**data, "logits": torch.full_like(data["logits"], torch.nan)}, cases=("a",))
    assert 0 < metric.compute().mean.item() < 1


def test_the_threshold_is_a_probability():
    ones = torch.ones(1, 1, 2, 2, 2)
    for threshold, expected in ((0.5, 1.0), (0.8, 0.0)):  # sigmoid(1) = 0.73
        metric = DiceByCase(cases=("a",), threshold=threshold)
        metric.update(logits=ones, target=ones, known=ones.bool(), cases=("a",))
        assert metric.compute().mean.item() == expected


def test_an_unknown_or_repeated_case_is_an_error():
    with pytest.raises(KeyError):
        DiceByCase(cases=("a",)).update(**patches(0, 1), cases=("typo",))
    with pytest.raises(ValueError, match="distinct"):
        DiceByCase(cases=("a", "a"))
