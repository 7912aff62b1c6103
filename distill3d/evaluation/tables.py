"""Lays out scores for the terminal. It computes none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from distill3d.evaluation.scores import SCORES, Score
from distill3d.terminal import WIDTH

COLUMNS = tuple(SCORES[key] for key in (
    "dice", "dice_tol", "cldice", "hd95_um", "hd95_um_clean", "tree_precision", "tree_recall", "tree_f1", "tree_esa",
))  # fmt: skip
ROWS_OF_FILES = tuple(SCORES[key] for key in (
    "dice", "precision", "recall", "tree_f1", "tree_f1_um", "dice_tol", "dice_tol_um", "nsd", "hd95_um", "asd_um",
    "cldice", "betti0_error", "betti1_error", "n_breaks", "n_spurious", "tree_esa", "tree_dsa", "tree_pds",
    "tree_length_pred", "tree_length_gold", "tree_tips_error", "tree_branches_error",
))  # fmt: skip
COLUMNS_OF_PAIRS = tuple(SCORES[key] for key in (
    "tree_f1", "dice", "precision", "recall", "dice_tol", "nsd", "cldice", "hd95_um", "tree_esa",
))  # fmt: skip

WITHIN_UM = {"nsd": "surface_um", "dice_tol_um": "mask_um", "tree_f1_um": "tree_um"}  # score -> its tolerance
ENOUGH_KEPT = 0.5  # of the likeness to the teacher
ENOUGH_NONLINEAR = 0.01  # of the linear part; with less, neurons compute what linear ones do


def score_table(results: Mapping[str, Any]) -> Table:
    """Lay out a run's ``metrics.json``: a row per case and method, then their means."""
    table = Table(title=_title(results), title_justify="left", width=WIDTH, title_style="bold")
    table.add_column("case", overflow="fold")
    table.add_column("method", overflow="fold")
    for score in COLUMNS:
        table.add_column(score.column, justify="right")
    methods = {results["experiment"]: results, **results["baselines"]}
    for case in results["cases"]:
        for method, scored in methods.items():
            table.add_row(case, method, *_numbers(scored["cases"][case]))
    table.add_section()
    for method, scored in methods.items():
        table.add_row(f"mean of {len(scored['cases'])}", method, *_numbers(scored["mean"]), style="bold")
    missed = [f"{method}: {scored['n_missed']} missed" for method, scored in methods.items() if scored["n_missed"]]
    cleaned = [f"{method}: {_clean(scored['clean'])}" for method, scored in methods.items() if "clean" in scored]
    untraced = [
        f"{method}: {_untraced(scored['untraced'])}" for method, scored in methods.items() if scored.get("untraced")
    ]
    lines = [
        "; ".join(missed),
        f"not traced, so missed in scores of trees: {'; '.join(untraced)}" if untraced else "",
        f"clean: {'; '.join(cleaned)}" if cleaned else "",
        *_in_um(results.get("tolerances") or {}, methods),
    ]
    table.caption, table.caption_justify = "\n".join(filter(None, lines)) or None, "left"
    return table


def _in_um(tolerances: Mapping[str, float | None], methods: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Say the means of the scores whose tolerance is in um, a line each."""
    lines = []
    for key, tolerance in WITHIN_UM.items():
        score, far = SCORES[key], tolerances.get(tolerance)
        means = [f"{method} {m['mean'][key]:.{score.digits}f}" for method, m in methods.items() if key in m["mean"]]
        if means and far is not None:
            lines.append(f"{score.label} ({far:g} um): {', '.join(means)}")
    return lines


def _clean(clean: Mapping[str, Any]) -> str:
    origin = f"chosen on {', '.join(clean['chosen_on'])}" if clean["chosen_on"] else "as traced"
    return f"without pieces below {clean['min_voxels']} voxels ({origin})"


def _untraced(untraced: Mapping[str, str]) -> str:
    return ", ".join(f"{case} ({why})" for case, why in untraced.items())


def _title(results: Mapping[str, Any]) -> Text:
    teacher = results.get("teacher") or {"weights": "none", "architecture": "none", "random": False}
    title = add_teacher(Text(f"{results['experiment']}, seed {results['seed']}: held-out cases"), teacher)
    if (share := results.get("kept")) is not None:
        title.append(
            f"\nkept: {share:.2f} of the likeness to the teacher (mean CKA of blocks, after / before)", "not bold"
        )
    return title


def learned_lines(results: Mapping[str, Any]) -> list[str]:
    """Say what training has made of tubes and of neurons; runs of older versions say neither.

    Args:
        results: content of ``metrics.json``.
    """
    return list(filter(None, (tubes_line(results.get("tubes")), nonlinear_line(results))))


def learned_warnings(results: Mapping[str, Any]) -> list[str]:
    """Say what training has wiped out and what it has never begun; arguments as above."""
    by_type = results.get("nonlinear_share_by_type", {})
    unlearned = (nearly_linear(share, name) for name, share in by_type.items())
    return list(filter(None, (little_kept(results.get("kept")), *unlearned)))


def little_kept(share: float | None) -> str | None:
    """Say that training has wiped most of the teacher out, and what keeps more; None where it has not."""
    if share is None or share >= ENOUGH_KEPT:
        return None
    return (
        f"kept {share:.2f} of its likeness to the teacher: training has replaced most of what was transferred; "
        "lower optimizer.transferred_lr_ratio (0 freezes it) or optimizer.layer_decay"
    )


def nonlinear_line(results: Mapping[str, Any]) -> str:
    """Say how large the nonlinear part of a run's neurons is; empty without neurons other than linear ones."""
    if (share := results.get("nonlinear_share")) is None:
        return ""
    by_type = results["nonlinear_share_by_type"]
    detail = "; ".join(f"{name} {value:.2g}" for name, value in by_type.items()) if len(by_type) > 1 else ""
    return f"neurons: nonlinear part {share:.2g} of the linear one (median of layers)" + (detail and f": {detail}")


def nearly_linear(share: float | None, name: str = "its") -> str | None:
    """Say that neurons, of a type with this name, have stayed linear, and what changes it; None where they have not."""
    if share is None or share >= ENOUGH_NONLINEAR:
        return None
    return (
        f"the nonlinear part of {name} neurons is {share:.2g} of the linear one: they compute what linear neurons do; "
        "raise neurons.gate_lr_ratio, or set neurons.init=random"
    )


def tubes_line(shares: Mapping[str, float | None] | None) -> str:
    """Say how often bent tubes lie on neurites and how often straight ones would; empty for a student without tubes.

    Args:
        shares: ``tubes`` of ``metrics.json``.
    """
    if not shares or shares["on_neurite"] is None:
        return ""
    on, straight = (f"{100 * (shares[key] or 0):.1f} %" for key in ("on_neurite", "on_neurite_straight"))
    if not can_bend(shares):
        return f"tubes: {on} of taps on neurites"
    line = f"tubes: {on} of taps on neurites, {straight} if straight"
    if shares["followed"] is not None:
        follow = [f"{100 * (shares[key] or 0):.0f} %" for key in ("followed", "followed_straight")]
        line += f" (of tubes that start on one {follow[0]}, {follow[1]})"
    if shares["saturated"] is not None:
        line += f"; {100 * shares['saturated']:.0f} % of steps saturated"
    return line + "; BENDING BRINGS THEM NO NEARER" * bends_in_vain(shares)


def can_bend(shares: Mapping[str, float | None]) -> bool:
    """Whether the tubes of a run could bend, as far as what was measured says it."""
    return shares["saturated"] is not None or shares["on_neurite"] != shares["on_neurite_straight"]


def bends_in_vain(shares: Mapping[str, float | None]) -> bool:
    """Whether tubes that can bend lie on neurites no more often than straight ones would."""
    return can_bend(shares) and (shares["on_neurite"] or 0) <= (shares["on_neurite_straight"] or 0)


def add_teacher(title: Text, teacher: Mapping[str, Any]) -> Text:
    """Append whose weights a run started from; random ones are shouted."""
    if teacher["architecture"] != "none":
        title.append(f"\nteacher: {teacher['architecture']}, {teacher['weights']}", style="not bold")
    if teacher["random"]:
        title.append("\nTHE TEACHER'S WEIGHTS ARE RANDOM: nothing was transferred from photographs", style="bold red")
    return title


def _numbers(scores: Mapping[str, float]) -> list[str]:
    """Format one row; a case without a gold tree has no scores of trees."""
    return [f"{scores[score.key]:.{score.digits}f}" if score.key in scores else "-" for score in COLUMNS]


def file_table(scores: Mapping[str, Any]) -> Table:
    """Lay out the scores of two files."""
    title = f"{scores['pred']}\nagainst {scores['gold']}: {scores['kind']}"
    table = Table(title=title, title_justify="left", width=WIDTH)
    table.add_column("score")
    table.add_column(f"in {scores['unit']}" if "unit" in scores else "value", justify="right")
    table.caption, table.caption_justify = _tolerances_of_files(scores), "left"
    for score, key in _keys_of_files(ROWS_OF_FILES, [scores]):
        table.add_row(score.sentence or score.label, f"{scores[key]:.4g}")
    return table


def _keys_of_files(asked: Sequence[Score], pairs: Sequence[Mapping[str, Any]]) -> list[tuple[Score, str]]:
    """Return the scores that a pair of one kind has, with the key there, which names neither trees nor the unit."""
    of_masks = pairs[0]["kind"] == "masks"  # their f1 is of voxels, which is Dice, and none of length
    keys = [
        (score, key.removesuffix("_um") if score.unit == "um" else key)
        for score in asked
        if (key := score.key.removeprefix("tree_")) == score.key or not of_masks
    ]
    return [(score, key) for score, key in keys if any(key in pair for pair in pairs)]


def file_tables(pairs: Sequence[Mapping[str, Any]]) -> list[Table]:
    """Lay out the scores of one pair of files, or of several: a table for each kind, a row each, and their means."""
    if len(pairs) == 1:
        return [file_table(pairs[0])]
    kinds: dict[str, list[Mapping[str, Any]]] = {}
    for pair in pairs:
        kinds.setdefault(f"{pair['kind']}, lengths in {pair.get('unit', 'the unit of the spacing')}", []).append(pair)
    return [_pairs_table(kind, of_kind) for kind, of_kind in kinds.items()]


def _pairs_table(kind: str, pairs: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title=kind, title_justify="left", width=WIDTH, title_style="bold")
    table.add_column("prediction", overflow="fold", min_width=16)
    keys = _keys_of_files(COLUMNS_OF_PAIRS, pairs)
    for score, _ in keys:
        table.add_column(score.label, justify="right")
    for pair in pairs:
        table.add_row(Path(pair["pred"]).name, *_cells([pair], keys))
    table.add_section()
    table.add_row(f"mean of {len(pairs)}", *_cells(pairs, keys), style="bold")
    table.caption, table.caption_justify = "\n".join(sorted({_tolerances_of_files(pair) for pair in pairs})), "left"
    return table


def _cells(pairs: Sequence[Mapping[str, Any]], keys: Sequence[tuple[Score, str]]) -> list[str]:
    values = [(score, [pair[key] for pair in pairs if key in pair]) for score, key in keys]
    return [f"{sum(each) / len(each):.{score.digits}f}" if each else "-" for score, each in values]


def _tolerances_of_files(scores: Mapping[str, Any]) -> str:
    """Say at which tolerances two files were scored, a line each."""
    if "tolerance" in scores:
        says = [f"precision, recall, F1: of length, within {scores['tolerance']:g} {scores['unit']}"]
    else:
        says = [f"{SCORES['dice_tol'].sentence}: {scores['tolerance_vox']:g} vox"]
    in_um = {SCORES[key].sentence: scores.get(tolerance) for key, tolerance in WITHIN_UM.items()}
    return "\n".join([*says, *(f"{score}: {far:g} um" for score, far in in_um.items() if far is not None)])
