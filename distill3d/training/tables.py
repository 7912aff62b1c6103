"""Lays out what training did, for the terminal: transfer audits, the teacher cache, tuned traces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from distill3d.errors import InputError
from distill3d.evaluation.tables import add_teacher
from distill3d.storage.checkpoint import read_about
from distill3d.storage.models import HOW
from distill3d.storage.trained_on import trained_um
from distill3d.terminal import WIDTH
from distill3d.training.audit import AuditReport
from distill3d.training.start import Start
from distill3d.training.teacher_maps import CacheReport
from distill3d.transfer.base import Fate, TransferAudit
from distill3d.volumes.reading import range_in_words

FATES: dict[Fate, str] = {
    "copied": "the teacher's values as they are",
    "inflated": "a 2D kernel brought to 3D: placed in depth, or unrolled",
    "averaged": "a 2D kernel spread evenly over depth, or a mean over channels",
    "interpolated": "resampled to the student's size",
    "new": "nothing of the teacher: as a student from scratch has it",
}


def models_table(models: Mapping[str, Path]) -> Table:
    """Show what ready-made models there are, by what their files say of themselves."""
    table = Table(title="models: what --model can be", title_justify="left", width=WIDTH)
    table.caption_justify = "left"
    for column in ("name", "MB", "trained on", "voxels in um", "held-out Dice, F1"):
        table.add_column(column, overflow="fold", justify="right" if column == "MB" else "left")
    remarks = []
    for name, file in models.items():
        try:
            *row, remark = _model_row(read_about(file))
        except (InputError, KeyError, TypeError, AttributeError, ValueError) as error:  # whoever made that file
            row, remark = [], f"cannot be used: {error}"
        table.add_row(name, f"{file.stat().st_size / 1e6:.1f}", *map(Text, row))
        remarks += [f"{name}: {remark}"] if remark else []
    table.caption = Text("\n".join(remarks) if models else f"there is none yet; {HOW}")
    return table


def _model_row(about: Mapping[str, Any]) -> tuple[str, ...]:
    experiment, card = about["experiment"], about.get("card", {})
    steps = f", {card['steps']} steps" if "steps" in card else ""
    scores = [f"{value:.3f}" for key in ("dice", "tree_f1") if (value := card.get("mean", {}).get(key)) is not None]
    trained = f"{experiment['data']['name']} ({experiment['name']}{steps})"
    return trained, range_in_words(trained_um(about)), ", ".join(scores), card.get("note", "")


def tuning_table(result: Mapping[str, Any]) -> Table:
    """Show what tuning a trace gave."""
    table = Table(title=f"length F1 on {', '.join(result['cases'])}", title_justify="left")
    table.add_column("")
    table.add_column("F1", justify="right")
    names = list(result["best"])
    for name in names:
        table.add_column(name, justify="right")
    first = result["trials"][0]
    table.add_row("before", f"{result['f1_before']:.3f}", *(f"{first[name]:.3g}" for name in names))
    table.add_row("best", f"{result['f1']:.3f}", *(f"{result['best'][name]:.3g}" for name in names))
    return table


Changed = Sequence[tuple[str, object, object]]


def reproduction_table(values: Changed, code: Changed) -> Table:
    """Show which values of a run came out otherwise when it was run again, and what else was not the same."""
    title = f"{len(values)} values differ" if values else "every value is the same, but for times"
    table = Table(title=title, title_justify="left", width=WIDTH, box=SIMPLE_HEAD)
    for name in ("key", "then", "now"):
        table.add_column(name, overflow="fold")
    for key, then, now in [*values, *code]:
        table.add_row(Text(key), Text(str(then)), Text(str(now)))
    return table


def audit_table(audit: TransferAudit) -> Table:
    """Sum a transfer audit up: per fate, how many entries and values."""
    part = f": {audit.part}" if audit.part else ""
    title = f"transfer: {audit.copy_rate:.1%} of the student's trainable values come from the teacher{part}"
    table = Table(title=title, title_justify="left")
    table.add_column("fate")
    table.add_column("entries", justify="right")
    table.add_column("values", justify="right")
    table.add_column("what it means", overflow="fold")
    for fate, total in audit.totals().items():
        table.add_row(fate, str(total["entries"]), f"{total['values']:,}", FATES[fate])
    table.add_section()
    table.add_row("all", str(len(audit.rows)), f"{sum(row.size for row in audit.rows):,}", "parameters and buffers")
    return table


def start_parts(report: AuditReport) -> list[RenderableType]:
    """Return what an audit shows beside its rows and totals: how near the start is, and notes on tubes."""
    start = [] if report.start is None else [start_table(report.start)]
    return [*start, *(Text(f"note: {taps.note}") for taps in report.taps)]


def start_table(start: Start) -> Group:
    """Show how far a student starts from its teacher's function, per level, and what keeps it from there."""
    notes = [Text(f"note: {line}") for line in start.departures]
    if not start.levels:
        why = start.missing or "no map of the student is as large as its own in the teacher"
        return Group(Text(f"how far the start is from the teacher's function was not measured: {why}"), *notes)
    title = (
        f"start: the student in training against its teacher's function,\non {start.slices} slices of training patches"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("block", overflow="fold")
    table.add_column("the teacher's", overflow="fold")
    table.add_column("relative error", justify="right")
    table.add_column("linear CKA", justify="right")
    for level in start.levels:
        table.add_row(level.layer, level.source, f"{level.relative_error:.2g}", f"{level.cka:.3f}")
    return Group(table, *notes)


def audit_rows_table(report: Mapping[str, Any]) -> Table:
    """Lay a transfer audit out: a row per entry of the student, below it where its values are from if that is news."""
    table = Table(title=_audit_title(report), title_justify="left", width=WIDTH, box=SIMPLE_HEAD, title_style="bold")
    table.add_column("\nentry of the student", overflow="fold", ratio=1)
    table.add_column("\nshape", overflow="fold")
    table.add_column("\nfate")
    table.add_column("norm\nbefore", justify="right", min_width=9)
    table.add_column("norm\nafter", justify="right", min_width=9)
    for row in report["rows"]:
        shape = "x".join(map(str, row["shape"])) or "1 value"
        norms = (f"{row[key]:.4g}" for key in ("norm_before", "norm_after"))
        table.add_row(_entry(row), shape, row["fate"], *norms, style="dim" if row["fate"] == "new" else None)
    return table


def _audit_title(report: Mapping[str, Any]) -> Text:
    title = Text(f"{report['experiment']}, seed {report['seed']}: what a fresh run takes from the teacher")
    alone = "; no teacher" if report["teacher"]["architecture"] == "none" else ""
    title.append(f"\nstudent: {report['student']['name']}; strategy: {report['strategy']['name']}{alone}", "not bold")
    add_teacher(title, report["teacher"])
    return title.append(
        "\n* buffer, which no optimizer trains   <- the teacher's entry, if its name differs", "not bold"
    )


def _entry(row: Mapping[str, Any]) -> RenderableType:
    name = Text(row["name"] if row["trainable"] else f"{row['name']} *")
    called_so = row["source_shape"] is None or row["source"] == row["name"].removeprefix("encoder.")
    remark = "; ".join(part for part in ("" if called_so else f"<- {row['source']}", row["note"]) if part)
    return Group(name, Padding(Text(remark), (0, 0, 0, 2))) if remark else name


def cache_table(report: CacheReport) -> Table:
    """What the cache of teacher maps holds for an experiment."""
    count = report.count
    table = Table(title=f"{report.experiment}: teacher's maps in {report.folder}", title_justify="left", width=WIDTH)
    table.add_column("case", overflow="fold")
    table.add_column("slices across")
    table.add_column("layers", overflow="fold")
    table.add_column("MiB", justify="right")
    for case, axis, layers, size in report.rows:
        table.add_row(case, axis, layers, f"{size / 2**20:.1f}")
    table.add_section()
    table.add_row("all", "", f"{count.hits} maps were there, {count.misses} computed", f"{count.bytes / 2**20:.1f}")
    return table
