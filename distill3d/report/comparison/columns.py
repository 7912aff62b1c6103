"""The scores a report has columns for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from distill3d.errors import InputError, did_you_mean
from distill3d.evaluation.scores import SCORES, Score

# What one asks first of a segmentation, then of a tree: overlap, center lines, worst distance, pieces, traced length.
DEFAULT = ("dice", "dice_tol", "cldice", "hd95_um", "hd95_um_clean", "betti0_error", "tree_f1", "tree_esa")


def pick(wanted: Sequence[str], present: Iterable[str]) -> tuple[Score, ...]:
    """Return the columns asked for, or the usual ones that the runs have.

    Args:
        wanted: keys of ``metrics.json``, the main one first; empty for the usual ones.
        present: keys that some case of some run has.

    Raises:
        InputError: a score is unknown or in no run, or no usual one is there.

    Example:
        >>> [score.label for score in pick((), ["tree_esa", "n_pred", "dice"])]
        ['Dice', 'ESA']
    """
    known = {key for key in present if key in SCORES and SCORES[key].judged}
    for key in wanted:
        if key not in known:
            hint = did_you_mean(key, sorted(known)) or f"accepted: {', '.join(sorted(known))}"
            raise InputError(f"--scores: no run has a score {key!r}; {hint}")
    keys = list(dict.fromkeys(wanted)) or [key for key in DEFAULT if key in known]
    if not keys:
        raise InputError(f"no run has any of the scores {', '.join(DEFAULT)}; accepted: others, with --scores")
    return tuple(SCORES[key] for key in keys)
