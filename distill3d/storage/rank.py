"""Which process this is, under any launcher. It starts none."""

from __future__ import annotations

from lightning.fabric.utilities.rank_zero import rank_zero_only


def is_main_process() -> bool:
    """Whether this process is the one that writes, predicts, scores and prints."""
    # Lightning keeps the rank, known from the launcher's environment, as an attribute of a function
    return getattr(rank_zero_only, "rank", 0) == 0
