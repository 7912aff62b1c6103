"""Lay out the report of a data check for the terminal."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table
from rich.text import Text

from distill3d.data.check import DataReport, extent
from distill3d.data.plan import Plan
from distill3d.terminal import WIDTH


def check_table(report: DataReport) -> Group:
    """Lay out a report for a terminal of 100 columns: volumes, trees, notes, problems in words."""
    parts: list[Table | Text] = [_volume_table(report)]
    if any(case.facts is not None and case.facts.tree is not None for case in report.cases):
        parts.append(_tree_table(report))
    parts += [Text(f"note: {text}") for text in report.notes]
    parts += [Text(f"problem: {text}", style="bold red") for text in report.problems]
    if not report.problems:
        parts.append(Text(f"no problem found in {len(report.cases)} cases", style="green"))
    return Group(*parts)


def _volume_table(report: DataReport) -> Table:
    table = _table("volumes", ("case", "split"), ("shape zyx", "type", "spacing um", "intensity", "gold voxels"))
    for case in report.cases:
        facts = case.facts
        cells = ["cannot be read", "", "", "", ""]
        if facts is not None:
            gold = f"{facts.gold_voxels} ({facts.gold_share:.2%})"
            spacing = " ".join(f"{s:g}" for s in facts.spacing_um)
            intensity = f"{facts.low:g} to {facts.high:g}"
            cells = [extent(facts.shape_zyx), facts.dtype, spacing, intensity, gold]
        table.add_row(*(Text(cell) for cell in (case.name, case.split, *cells)))
    return table


def _tree_table(report: DataReport) -> Table:
    columns = ("nodes", "roots", "orphans", "tips", "length um", "at nodes", "mirrored", "volume", "y axis")
    table = _table("trees; mean intensity at the nodes, with y mirrored, and of the volume", ("case",), columns)
    for case in report.cases:
        if case.facts is None or case.facts.tree is None:
            continue
        tree, flip = case.facts.tree, case.facts.flip
        counts = [str(n) for n in (tree.n_nodes, tree.n_roots, tree.n_orphans, tree.n_tips)]
        light = ["", "", "", "outside"]
        if flip is not None:
            means = (flip.mean_as_is, flip.mean_flipped, flip.volume_mean)
            light = [*(f"{mean:.4g}" for mean in means), flip.verdict]
        table.add_row(*(Text(cell) for cell in (case.name, *counts, f"{tree.length_um:.0f}", *light)))
    return table


def _table(title: str, words: tuple[str, ...], numbers: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left", width=WIDTH, title_style="bold")
    for label in words:
        table.add_column(label, overflow="fold")
    for label in numbers:
        table.add_column(label, justify="right", overflow="fold")
    return table


def plan_table(plan: Plan) -> Group:
    """Lay out what a folder holds, and what is worth knowing of it, for a terminal of 100 columns."""
    columns = ("shape zyx", "type", "spacing um", "intensity", "gold", "radii px", "y axis")
    table = _table("stacks", ("case", "file"), columns)
    for case in plan.cases:
        tree = case.tree
        share = "tree" if case.mask_share is None else f"{case.mask_share:.2%}"
        sure = "" if case.states_spacing else "?"
        cells = [extent(case.shape_zyx), case.dtype, " ".join(f"{s:g}" for s in case.spacing_um) + sure]
        cells += [f"{case.low:g} to {case.high:g}", share]
        cells += ["", ""] if tree is None else [" ".join(f"{r:.2g}" for r in tree.radii), tree.flip]
        table.add_row(*(Text(cell) for cell in (case.name, case.suffix, *cells)))
    return Group(table, *(Text(f"note: {note}") for note in plan.notes))
