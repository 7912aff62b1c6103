"""A picture of a comparison for a README: a simulated neuron, what two arms found of it, and gold."""

from __future__ import annotations

import itertools
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from distill3d.errors import InputError
from distill3d.evaluation.figures.canvas import FALSE, HIT, LOST, save
from distill3d.evaluation.projections import Projections, read_projections
from distill3d.report.content import Arm, Comparison, RunEntry
from distill3d.report.numerals import number
from distill3d.report.page.snapshots import colored, shaded
from distill3d.storage.run_folder import RunFolder

SIMULATED = "simulated"  # pictures of other data, or of somebody's tree, may not be anybody's to show


def write_picture(path: Path, comparison: Comparison) -> None:
    """Draw image, baseline, best other arm and gold along z, of the first simulated case that both have.

    Args:
        path: PNG to write; its folder is made.
        comparison: of runs whose pictures are still there.

    Raises:
        InputError: no simulated case has pictures of both arms, or the file cannot be written.
    """
    baseline, best = comparison.arms[0], next(iter(comparison.arms[1:]), None)
    shared = None if best is None else _shared(baseline, best)
    if best is None or shared is None:
        raise InputError(
            f"--picture {path}: no case with pictures of {baseline.name} and of another arm; accepted: whole runs on "
            "simulated neurons that were grown, not read from files (data.swc_folder)"
        )
    case, of_baseline, of_best = shared
    score = comparison.scores[0]
    seen = [read_projections(RunFolder(Path(run.folder)).projections(case)) for run in (of_baseline, of_best)]
    titles = [
        f"{arm.name}, {score.label} {number(run.cases[case].get(score.key), score.digits)}"
        for arm, run in ((baseline, of_baseline), (best, of_best))
    ]
    try:
        save(_drawn(seen, titles), path, dpi=110)
    except OSError as error:
        raise InputError(f"--picture {path}: cannot be written ({error.strerror})") from error


def _drawn(seen: list[Projections], titles: list[str]) -> Figure:
    first, second = seen
    panels = {
        "image, simulated": shaded(first.image),
        titles[0]: colored(first.errors),
        titles[1]: colored(second.errors),
        "gold": shaded(255 * first.gold),
    }
    height, width = first.gold.shape
    figure = Figure(figsize=(12, 3 * height / width + 0.7), layout="constrained")
    for ax, (title, flat) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        ax.imshow(flat, interpolation="nearest", aspect=first.spacing_um[1] / first.spacing_um[2])
        ax.set_title(title, fontsize=9)
        ax.axis("off")
    kinds = [Patch(color=HIT, label="found"), Patch(color=FALSE, label="false"), Patch(color=LOST, label="missed")]
    figure.legend(handles=kinds, loc="outside lower center", ncols=len(kinds), fontsize=9, frameon=False)
    return figure


def _shared(one: Arm, other: Arm) -> tuple[str, RunEntry, RunEntry] | None:
    """Return a case with pictures of both arms, and their runs of one seed."""
    for of_one, of_other in itertools.product(one.runs, other.runs):
        if of_one.seed == of_other.seed:
            cases = sorted(_pictured(of_one) & _pictured(of_other))
            if cases:
                return cases[0], of_one, of_other
    return None


def _pictured(run: RunEntry) -> set[str]:
    folder = RunFolder(Path(run.folder))
    data = folder.read_config()["data"]
    if data["name"] != SIMULATED or data.get("swc_folder"):
        return set()
    return {case for case in run.cases if folder.projections(case).is_file()}
