"""Comparisons made up from seeded random scores, for tests of what lays them out; every number in them is computed."""

import dataclasses
import itertools

import numpy as np

from distill3d.evaluation.scores import Score
from distill3d.report.comparison.across import profiles_of, rankings_of
from distill3d.report.comparison.runs import read_run
from distill3d.report.content import Arm, BudgetCheck, Comparison, Difference, Estimate, RunEntry, Setting
from distill3d.report.costs import Cost

SCORES = (
    Score(key="dice", label="Dice", unit="", higher_is_better=True, digits=3),
    Score(key="hd95_um", label="HD95", unit="um", higher_is_better=False, digits=1),
    Score(key="tree_f1", label="length F1", unit="", higher_is_better=True, digits=3),
    Score(key="tree_esa", label="ESA", unit="vox", higher_is_better=False, digits=2),
)
GAINS = {"op_scratch": 0.0, "op_kd_inflate": 0.06, "op_kd_cosine": 0.004, "op_shuffled": -0.08}
HOSTILE = "</script><img src=x onerror=\"window.hacked=1\"> & 'quotes' <a href='javascript:window.hacked=1'>"


def tables(n, size, ratio, *, seed=0, gain=0.0):
    """Differences of n simulated studies, [n, C, S]."""
    rng, (cases, seeds) = np.random.default_rng(seed), size
    drawn = (rng.normal(size=(n, *shape)) for shape in ((cases, 1), (1, seeds), (cases, seeds)))
    return gain + sum(sd * part for sd, part in zip(ratio, drawn, strict=True))


def read_runs(folders):
    return [read_run(folder) for folder in folders]


def compared(gains=None, *, cases=8, seeds=3, labelled=None, case_names=None, random_seed=0, missing=False):
    """Build a comparison of arms whose true gains in Dice are given, the baseline first.

    Args:
        gains: by arm; the first one is the baseline.
        cases: number of cases.
        seeds: runs of an arm.
        labelled: by arm, the number of labelled volumes.
        case_names: instead of ``case_<k>``.
        random_seed: of the scores.
        missing: whether the first case of the last arm has no distance, as a missed case.
    """
    gains = gains or GAINS
    names = case_names or [f"case_{k}" for k in range(cases)]
    rng = np.random.default_rng(random_seed)
    base = rng.uniform(0.45, 0.75, len(names))
    dice = {arm: base + gain + rng.normal(0, 0.012, (seeds, len(names))) for arm, gain in gains.items()}
    arms = [arm_of(arm, table, names, (labelled or {}).get(arm, 2)) for arm, table in dice.items()]
    if missing:
        *arms, last = arms
        for run in last.runs:
            run.cases[names[0]]["hd95_um"] = None
        arms.append(
            dataclasses.replace(last, scores={score.key: estimate_of(last.runs, score.key) for score in SCORES})
        )
    first, *others = arms
    others.sort(key=lambda arm: -arm.scores["dice"].mean)
    return Comparison(
        title="Does transfer help on OP neurons?",
        created="2026-11-25T00:30:00+00:00",
        baseline=first.name,
        scores=SCORES,
        arms=(first, *others),
        references={"otsu": {name: rows_of(0.6 * value) for name, value in zip(names, base, strict=True)}},
        differences=tuple(difference_of(arm, first, score) for arm in others for score in SCORES),
        budget=tuple(budget_of(arm, first, unfair=k == 1) for k, arm in enumerate(others)),
        remarks=("runs/op_kd_cosine/seed3 is not finished and was left out.",),
        profiles=profiles_of((first, *others), SCORES),
        rankings=rankings_of((first, *others), SCORES),
        test="Paired t intervals over cases of the means over seeds, without correction: good enough for a test.",
    )


def rows_of(dice):
    return {"dice": dice, "hd95_um": 120 * (1 - dice), "tree_f1": min(1, dice + 0.2), "tree_esa": 9 * (1 - dice)}


def arm_of(name, table, cases, labelled):
    runs = tuple(
        RunEntry(
            folder=f"runs/{name}/seed{seed}",
            seed=seed,
            cases={case: rows_of(float(value)) for case, value in zip(cases, row, strict=True)},
            commit="46e36d6b0c9f",
            command=f"distill3d fit {name.split(' ')[0]} seed={seed}",
            packages={"torch": "2.14.1", "numpy": "2.4.6"},
            machine="Linux-6.18-x86_64, 2 CPUs, no GPU",
        )
        for seed, row in enumerate(table)
    )
    from_teacher = name != "op_scratch"
    return Arm(
        name=name,
        experiment=name.split(" ")[0],
        question="Does it help?",
        settings={"strategy.name": "features" if from_teacher else "none"},
        labelled=labelled,
        runs=runs,
        scores={score.key: estimate_of(runs, score.key) for score in SCORES},
        cost=Cost(
            parameters=1_007_665,
            trainable_parameters=1_009_305,
            flops_per_patch=3.1e9,
            seconds_per_step=1.1 + 0.4 * from_teacher,
            fit_seconds=260.0 + 110 * from_teacher,
            peak_memory_gib=1.7 + 0.2 * from_teacher,
            predict_seconds=41.0,
        ),
        teacher="tf_efficientnet_lite0, package efficientnet-lite0 0.1.0, sha256 aa262b0e58d2a053" * from_teacher,
        random_teacher=name == "op_shuffled",
    )


def estimate_of(runs, key):
    table = np.array([[scores[key] for scores in run.cases.values()] for run in runs], float)  # None becomes NaN
    known = table[:, ~np.isnan(table).all(axis=0)]
    mean, half = np.nanmean(known), 2.4 * np.nanmean(known, axis=0).std(ddof=1) / np.sqrt(known.shape[1])
    return Estimate(
        mean=float(mean),
        low=float(mean - half),
        high=float(mean + half),
        sd_seeds=float(np.nanmean(known, axis=1).std(ddof=1)) if len(runs) > 1 else None,
        n_cases=known.shape[1],
        n_seeds=len(runs),
        n_missing=int(np.isnan(table).sum()),
    )


def difference_of(arm, base, score):
    paired = [
        [
            arm_run.cases[case][score.key] - base_run.cases[case][score.key]
            for case in arm_run.cases
            if arm_run.cases[case][score.key] is not None
        ]
        for arm_run, base_run in zip(arm.runs, base.runs, strict=True)
    ]
    by_case = np.array(paired, float).mean(axis=0)
    mean, error = by_case.mean(), by_case.std(ddof=1) / np.sqrt(len(by_case))
    low, high = mean - 2.4 * error, mean + 2.4 * error
    better = (mean > 0) == score.higher_is_better
    decided = low > 0 or high < 0
    return Difference(
        arm=arm.name,
        score=score.key,
        mean=float(mean),
        low=float(low),
        high=float(high),
        p=0.004 if decided else 0.4,
        p_holm=0.012 if decided else 0.4,
        detectable=float(2.8 * error),
        n_cases=len(by_case),
        n_seeds=len(arm.runs),
        verdict=("BETTER" if better else "WORSE") if decided else "INCONCLUSIVE",
        why="the interval is on one side of zero" if decided else "the interval holds zero",
    )


def budget_of(arm, base, *, unfair):
    settings = [Setting(key="strategy.name", arm="features", baseline="none", fair=True)]
    if unfair:
        settings.append(Setting(key="trainer.steps", arm="480", baseline="240", fair=False))
    remarks = (f"{arm.name} ran at commit 46e36d6, {base.name} at 5a6342c.",) if unfair else ()
    return BudgetCheck(arm=arm.name, settings=tuple(settings), remarks=remarks, equal=not unfair)


def hostile():
    """Build a comparison whose arm, case, setting and remark are markup."""
    made = compared({"op_scratch": 0.0, HOSTILE: 0.1}, case_names=[HOSTILE, *(f"case_{k}" for k in range(6))])
    bad = Setting(key=HOSTILE, arm=HOSTILE, baseline="</style>", fair=False)
    budget = (BudgetCheck(arm=HOSTILE, settings=(bad,), remarks=(HOSTILE,), equal=False),)
    return dataclasses.replace(made, title=HOSTILE, remarks=(HOSTILE,), budget=budget)


def write_curves(folder, *, seed=0, steps=240, first_step=0, terms=("cross_entropy", "dice")):
    """Write a run's ``metrics.csv`` as Lightning's logger does: training every 5 steps, validation every 60."""
    rng = np.random.default_rng(seed)
    path = folder / "curves" / f"from_step{first_step}" / "metrics.csv"
    path.parent.mkdir(parents=True)
    columns = ["epoch", "step", *(f"train/{term}" for term in terms), "train/loss", "val/dice", "gradient/dice/norm"]
    lines = [",".join(columns)]
    for step in range(first_step + 4, steps, 5):
        values = [np.exp(-step / 80) + 0.05 * rng.random() for _ in terms]
        row = [0, step, *values, sum(values), "", 0.1]
        lines.append(",".join(map(str, row)))
        if step % 60 == 59:
            blanks = list(itertools.repeat("", len(terms) + 1))
            lines.append(
                ",".join(map(str, [0, step, *blanks, 0.6 * (1 - np.exp(-step / 60)) + 0.02 * rng.random(), ""]))
            )
    path.write_text("\n".join(lines) + "\n")
    return path
