"""Many runs at once: `evaluate` over folders and patterns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from distill3d.errors import for_each
from distill3d.evaluation.run_scores import evaluate
from distill3d.storage.find import matches, walk_runs


def evaluate_all(
    places: Sequence[str], tolerances_um: Mapping[str, float], *, allow_plugins: bool = False
) -> Iterator[dict[str, Any]]:
    """Evaluate runs by `evaluate`: folders of runs, folders that hold such, and glob patterns.

    A run that cannot be evaluated does not stop the others, see `distill3d.errors.for_each`.
    """
    runs = [run for place in places for root in matches(place) for run in [*walk_runs(root)] or [root]]
    return for_each(runs, lambda run: evaluate(run, tolerances_um=tolerances_um, allow_plugins=allow_plugins))
