"""The same comparison as a report on W&B, whose panels stay live. It computes nothing and needs no server."""

# ruff: noqa: PLC0415 - wandb-workspaces is optional, and only this report wants it

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from distill3d.errors import InputError, first_line
from distill3d.evaluation.scores import Score
from distill3d.report.content import Comparison
from distill3d.report.numerals import titled
from distill3d.storage.run_folder import RunFolder

if TYPE_CHECKING:
    from wandb_workspaces.reports.v2.interface import BarPlot, Layout, LinePlot, Report, Runset

PANEL_HEIGHT = 10  # in cells of W&B's grid of panels
PANEL_WIDTH = 12  # half a row


def wandb_report(
    comparison: Comparison,
    folders: Mapping[str, Sequence[Path]],
    *,
    text: str,
    project: str,
    entity: str = "",
) -> Report:
    """Lay out a comparison with W&B's own blocks: the verdicts as text, and panels over the runs of every arm.

    An arm is a set of runs, found by the ids that its run folders keep, grouped so that seeds and folds become one
    curve with a band. ``save()`` of what is returned sends it and wants a key; nothing here does.

    Args:
        comparison: to show.
        folders: the run folders of every arm, by its name.
        text: of the comparison, in Markdown.
        project: on W&B, where the runs are.
        entity: user or team; the default one of the key where empty.

    Returns:
        The report, not yet sent.

    Raises:
        InputError: wandb-workspaces is not installed, or a run was never logged to W&B.
    """
    try:
        from wandb_workspaces.reports.v2.interface import H2, MarkdownBlock, PanelGrid, Report
    except ImportError as err:
        raise InputError(
            "wandb-report needs wandb-workspaces; accepted: pip install 'distill3d[wandb-report]'"
        ) from err
    runsets = [_runset(arm.name, folders[arm.name], project, entity) for arm in comparison.arms]
    return Report(
        project=project,
        entity=entity,
        title=comparison.title,
        description=f"compared with {comparison.baseline}; made by distill3d, {comparison.created}",
        blocks=[
            MarkdownBlock(text=text),
            H2(text="Runs"),
            PanelGrid(runsets=runsets, panels=[*_curves(), *_bars(comparison.scores, first=2)]),
        ],
        width="fluid",
    )


def save(report: Report) -> str:
    """Send a report to W&B; returns its address.

    Raises:
        InputError: W&B knows no key, or cannot be reached.
    """
    import wandb

    try:
        if not wandb.login(prompt=False, verify=False):
            raise InputError("W&B knows no key; accepted: wandb login, or WANDB_API_KEY")
        report.save()
    except (wandb.Error, OSError) as err:
        raise InputError(f"W&B did not take the report: {first_line(err)}; accepted: a key and a network") from err
    return report.url


def _runset(name: str, folders: Sequence[Path], project: str, entity: str) -> Runset:
    from wandb_workspaces.expr import And, Metric
    from wandb_workspaces.reports.v2.interface import Runset

    files = [RunFolder(folder).wandb_id for folder in folders]
    if absent := [file.parent for file in files if not file.is_file()]:
        accepted = "accepted: runs that were logged, online or offline and then synced"
        raise InputError(*(f"{folder}: was never logged to W&B; {accepted}" for folder in absent))
    ids = [file.read_text().strip() for file in files]
    # all runs of a set share their experiment's name, so that grouping by it makes one group of them
    return Runset(
        entity=entity, project=project, name=name, filters=And(Metric("ID").isin(ids)), groupby=["config.name"]
    )


def _curves() -> list[LinePlot]:
    from wandb_workspaces.reports.v2.interface import LinePlot

    return [
        LinePlot(
            title=title,
            x="trainer/global_step",
            y=[metric],
            groupby_aggfunc="mean",
            groupby_rangefunc="minmax",
            title_x="optimizer step",
            layout=_place(number),
        )
        for number, (title, metric) in enumerate(
            (("Dice of validation", "val/dice"), ("loss of training", "train/loss"))
        )
    ]


def _bars(scores: Iterable[Score], *, first: int) -> list[BarPlot]:
    from wandb_workspaces.reports.v2.interface import BarPlot, SummaryMetric

    return [
        BarPlot(
            title=titled(score),
            metrics=[SummaryMetric(f"test/{score.key}")],
            groupby_aggfunc="mean",
            groupby_rangefunc="stddev",
            layout=_place(number),
        )
        for number, score in enumerate(scores, start=first)
    ]


def _place(number: int) -> Layout:
    from wandb_workspaces.reports.v2.interface import Layout

    row, column = divmod(number, 2)
    return Layout(x=column * PANEL_WIDTH, y=row * PANEL_HEIGHT, w=PANEL_WIDTH, h=PANEL_HEIGHT)
