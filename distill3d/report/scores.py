"""The scores a report has columns for: label, unit, direction. It reads no run."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from distill3d.errors import InputError
from distill3d.report.content import Score
from distill3d.tables import COLUMNS, FILE_SCORES

# What one asks first of a segmentation, then of a tree: overlap, center lines, worst distance, pieces, traced length.
DEFAULT = ("dice", "dice_tol", "cldice", "hd95_um", "betti0_error", "tree_f1", "tree_esa")
LESS_IS_BETTER = frozenset({
    "hd95_um", "asd_um", "betti0_error", "betti1_error", "euler_error", "n_breaks", "n_spurious", "missed",
    "tree_esa", "tree_dsa", "tree_pds", "tree_length_error", "tree_tips_error", "tree_branches_error", "tree_missed",
})  # fmt: skip
MORE_IS_BETTER = frozenset({
    "dice", "dice_tol", "precision", "precision_tol", "recall", "recall_tol", "cldice", "cl_precision", "cl_recall",
    "tree_precision", "tree_recall", "tree_f1",
})  # fmt: skip
SHORT = {"betti0_error": "Betti 0 error", "betti1_error": "Betti 1 error", "dice_tol": "Dice within 2 vox"}
DIGITS = {"hd95_um": 1, "asd_um": 2, "tree_esa": 2, "tree_dsa": 2, "tree_length_error": 0}
TREES_IN_VOXELS = frozenset({"tree_esa", "tree_dsa", "tree_length_error"})


def pick(asked: Sequence[str], found: Iterable[str]) -> tuple[Score, ...]:
    """Return the columns asked for, or the usual ones that the runs have.

    Args:
        asked: keys of ``metrics.json``, the main one first; empty for the usual ones.
        found: keys that some case of some run has.

    Raises:
        InputError: a score is unknown or in no run, or no usual one is there.

    Example:
        >>> [score.label for score in pick((), ["tree_esa", "n_pred", "dice"])]
        ['Dice', 'ESA']
    """
    known = {key for key in found if key in LESS_IS_BETTER | MORE_IS_BETTER}
    for key in asked:
        if key not in known:
            near = difflib.get_close_matches(key, sorted(known), n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise InputError(f"--scores: no run has a score {key!r}{hint}; accepted: {', '.join(sorted(known))}")
    keys = list(dict.fromkeys(asked)) or [key for key in DEFAULT if key in known]
    if not keys:
        raise InputError(f"no run has any of the scores {', '.join(DEFAULT)}; accepted: others, with --scores")
    return tuple(score(key) for key in keys)


def score(key: str) -> Score:
    """Describe a score by its key, with the label that tables in the terminal have."""
    label = SHORT.get(key) or COLUMNS.get(key) or FILE_SCORES.get(key) or key.replace("_", " ")
    unit = "um" if key.endswith("_um") else "vox" if key in TREES_IN_VOXELS else ""
    counted = key.endswith(("_error", "missed")) or key.startswith("n_")
    return Score(
        key=key,
        label=" ".join(label.split()).removesuffix(f" {unit}" if unit else ""),
        unit=unit,
        higher_is_better=key in MORE_IS_BETTER,
        digits=DIGITS.get(key, 1 if counted else 3),
    )
