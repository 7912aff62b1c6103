"""What a score is called, its unit, its direction, its digits. It computes none."""

from __future__ import annotations

from dataclasses import dataclass

COLUMNS = {
    "dice": "Dice",
    "dice_tol": "Dice\n2 vox",
    "cldice": "clDice",
    "hd95_um": "HD95\num",
    "tree_precision": "length\nprec.",
    "tree_recall": "length\nrecall",
    "tree_f1": "length\nF1",
    "tree_esa": "ESA\nvox",
}


FILE_SCORES = {
    "dice": "Dice",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "dice_tol": "Dice within the tolerance",
    "hd95": "HD95, in the unit of the spacing",
    "asd": "mean surface distance",
    "cldice": "clDice",
    "betti0_error": "error in the number of parts (Betti 0)",
    "betti1_error": "error in the number of tunnels (Betti 1)",
    "n_breaks": "breaks",
    "n_spurious": "spurious parts",
    "esa": "ESA, mean distance",
    "dsa": "DSA, mean distance where it is 2 or more",
    "pds": "PDS, share that is 2 or more away",
    "length_pred": "length of the prediction",
    "length_gold": "length of gold",
    "tips_error": "error in the number of tips",
    "branches_error": "error in the number of branch points",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """A column: one number a case is judged by.

    Args:
        key: in ``metrics.json``, such as ``hd95_um``.
        label: for people, such as ``HD95``.
        unit: ``um``, ``vox`` or empty.
        higher_is_better: whether a larger value is the better one.
        digits: after the decimal point.
    """

    key: str
    label: str
    unit: str
    higher_is_better: bool
    digits: int


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
