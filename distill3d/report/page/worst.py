"""The worst cases side by side: which cases and arms are shown, and what of their runs can still be drawn.

Every arm is shown at the same place with the same seed. Where a run's data is gone, the figure it left is shown.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import yaml

from distill3d.config.registry import DATA
from distill3d.config.schema import Experiment
from distill3d.data.base import DataSource
from distill3d.data.prepared import PreparedCase, prepare
from distill3d.errors import UserError
from distill3d.evaluation.figures.case import error_projection
from distill3d.experiment import experiment_from_plain
from distill3d.report.comparison.score_tables import case_means
from distill3d.report.content import Arm, Comparison, RunEntry
from distill3d.report.numerals import number
from distill3d.report.page.snapshots import (
    CLOSE,
    WHOLE,
    Flat,
    Picture,
    colored,
    cut,
    file_picture,
    gray,
    mask_view,
    picture,
    scaled,
    with_box,
    with_trees,
    worst_place,
    wrong_pixels,
)
from distill3d.storage.run_folder import RunFolder
from distill3d.volumes.prob import read_prob
from distill3d.volumes.swc import Tree, read_swc

MOST_CASES, MOST_ARMS = 4, 6
MOST_BYTES = 2_200_000  # of pictures; Plotly takes 4.8 of the 8 MB that a page may have
FALLBACK_WIDTH = 720  # pixels of a figure that a run left
_LOG = logging.getLogger(__name__)


@final
@dataclass(frozen=True, slots=True)
class Card:
    """What the page shows of an arm, of the image or of gold.

    Args:
        title: over it.
        note: under it.
        pictures: from above.
        index: place of the arm; None for what is no arm.
    """

    title: str
    note: str
    pictures: tuple[Picture, ...]
    index: int | None = None


@final
@dataclass(frozen=True, slots=True)
class WorstCase:
    """A case over several arms.

    Args:
        name: of the case.
        place: where the close-ups are, in words; empty without them.
        cards: image and gold first.
    """

    name: str
    place: str
    cards: tuple[Card, ...]


@final
@dataclass(frozen=True, slots=True)
class _Shown:
    """A run of an arm that is to be drawn."""

    index: int
    arm: Arm
    run: RunEntry
    folder: RunFolder


def worst_cases(comparison: Comparison, folders: Mapping[str, tuple[Path, ...]]) -> tuple[WorstCase, ...]:
    """Draw the cases with the worst mean of the main score, of the baseline and the best other arms.

    Args:
        comparison: says which.
        folders: arm -> its run folders, in the order of its runs.
    """
    arms = _shown_arms(comparison, folders)
    sources: dict[str, DataSource] = {}
    drawn = (_draw(comparison, case, arms, sources) for case in worst_names(comparison)[:MOST_CASES])
    return tuple(_within(MOST_BYTES, (case for case in drawn if case is not None)))


def _within(most: int, cases: Iterable[WorstCase]) -> Iterator[WorstCase]:
    """Yield cases until their pictures together are too large for a page; the first in any case."""
    total = 0
    for place, case in enumerate(cases):
        total += sum(len(picture.uri) for card in case.cards for picture in card.pictures)
        if place and total > most:
            return
        yield case


def worst_names(comparison: Comparison) -> list[str]:
    """Sort the cases by the mean of the main score over arms, worst first; one that has no value is worse than any."""
    main = comparison.scores[0]
    sign = 1 if main.higher_is_better else -1
    by_case: dict[str, list[float | None]] = {}
    for arm in comparison.arms:
        for case, value in case_means(arm, main.key).items():
            by_case.setdefault(case, []).append(value)

    def badness(case: str) -> tuple[int, float, str]:
        known = [value for value in by_case[case] if value is not None]
        return len(known) - len(by_case[case]), sign * sum(known) / max(len(known), 1), case

    return sorted(by_case, key=badness)


def _shown_arms(comparison: Comparison, folders: Mapping[str, tuple[Path, ...]]) -> list[_Shown]:
    """Choose one run of every arm that is shown: of the least seed that all of them have, else its first."""
    arms = comparison.arms[:MOST_ARMS]
    shared = set.intersection(*({run.seed for run in arm.runs} for arm in arms)) if arms else set()
    shown = []
    for index, arm in enumerate(arms):
        paths = folders.get(arm.name, ())
        pairs = list(zip(arm.runs, paths, strict=False))
        chosen = next((pair for pair in pairs if shared and pair[0].seed == min(shared)), pairs[0] if pairs else None)
        if chosen is not None:
            shown.append(_Shown(index, arm, chosen[0], RunFolder(chosen[1])))
    return shown


def _draw(
    comparison: Comparison, name: str, arms: Sequence[_Shown], sources: dict[str, DataSource]
) -> WorstCase | None:
    arms = [shown for shown in arms if name in shown.run.cases]
    if not arms:
        return None
    opened = _open(name, arms[0].folder, sources)
    if opened is not None:
        case, threshold = opened
        errors = {shown.index: _errors(shown.folder, case, threshold) for shown in arms}
        if all(flat is not None for flat in errors.values()):
            kept = {index: flat for index, flat in errors.items() if flat is not None}
            return _side_by_side(comparison, case, arms, kept)
    return _left_by_runs(comparison, name, arms)


def _open(name: str, folder: RunFolder, sources: dict[str, DataSource]) -> tuple[PreparedCase, float] | None:
    """Return a case as the run's settings prepare it and the run's threshold; None where its data is gone."""
    try:
        experiment = experiment_from_plain(folder.read_config())
        return prepare(_source(experiment, sources), name, experiment.patches), experiment.inference.threshold
    except (UserError, OSError, KeyError, ValueError, yaml.YAMLError) as error:
        _LOG.info("%s: case %s is not drawn from its data: %s", folder.path, name, error)
        return None


def _source(experiment: Experiment, sources: dict[str, DataSource]) -> DataSource:
    """Return the data of an experiment; the same one for the same settings, which reads folders once."""
    key = repr(experiment.data)
    if key not in sources:
        sources[key] = DATA.build(experiment.data, cache=Path(experiment.cache).expanduser())
    return sources[key]


def _errors(folder: RunFolder, case: PreparedCase, threshold: float) -> Flat | None:
    """Return what of a run's prediction is found, false and missed, seen along z; None where it is gone."""
    path = folder.prob(case.name)
    if not path.is_file():
        return None
    try:
        prob = read_prob(path)
    except (UserError, OSError, ValueError) as error:
        _LOG.info("%s: not drawn: %s", path, error)
        return None
    if prob.shape != case.shape:
        return None
    return colored(error_projection(pred=prob >= threshold, gold=case.mask, known=case.known, axis=0))


def _side_by_side(
    comparison: Comparison, case: PreparedCase, arms: Sequence[_Shown], errors: Mapping[int, Flat]
) -> WorstCase:
    box = worst_place(np.sum([wrong_pixels(flat) for flat in errors.values()], axis=0))
    aspect = case.spacing_um[1] / case.spacing_um[2]
    image, gold = gray(case.raw), case.tree()

    def whole(flat: Flat, alt: str) -> Picture:
        return picture(with_box(scaled(flat, WHOLE, aspect=aspect), box, flat.shape), f"{case.name}: {alt}")

    def close(flat: Flat, alt: str, *, pred: Tree | None = None, trees: bool = False) -> Picture:
        drawn = scaled(cut(flat, box), CLOSE, aspect=aspect)
        if trees and gold is not None:
            drawn = with_trees(drawn, box, gold=gold, pred=pred, spacing_um=case.spacing_um)
        return picture(drawn, f"{case.name}, close-up: {alt}")

    mask = mask_view(case.mask)
    gold_close = close(mask if gold is None else image, "gold", trees=True)
    cards = [
        Card("Image", "brightest along z", (whole(image, "the image"), close(image, "the image"))),
        Card("Gold", "what should be found", (whole(mask, "gold"), gold_close)),
    ]
    for shown in arms:
        flat, pred = errors[shown.index], _tree(shown.folder, case.name)
        name = shown.arm.name
        below = (
            close(flat, f"errors of {name}")
            if gold is None or pred is None
            else close(image, f"trees of {name} against gold", pred=pred, trees=True)
        )
        pictures = whole(flat, f"errors of {name}"), below
        cards.append(Card(name, _note(comparison, shown, case.name), pictures, shown.index))
    place = f"rows {box.top} to {box.bottom}, columns {box.left} to {box.right}, all {case.shape[0]} slices"
    return WorstCase(case.name, place, tuple(cards))


def _tree(folder: RunFolder, case: str) -> Tree | None:
    path = folder.swc(case)
    try:
        return read_swc(path, allow_empty=True) if path.is_file() else None
    except (UserError, OSError, ValueError) as error:
        _LOG.info("%s: not drawn: %s", path, error)
        return None


def _left_by_runs(comparison: Comparison, name: str, arms: Sequence[_Shown]) -> WorstCase | None:
    """Show the figures that the runs left, since something to draw anew is missing."""
    cards = []
    for shown in arms:
        file = shown.folder.figures / f"{name}.png"
        if file.is_file():
            pictures = (file_picture(file, f"{name}: figure of {shown.arm.name}", FALLBACK_WIDTH),)
            cards.append(Card(shown.arm.name, _note(comparison, shown, name), pictures, shown.index))
    return WorstCase(name, "", tuple(cards)) if cards else None


def _note(comparison: Comparison, shown: _Shown, case: str) -> str:
    found = shown.run.cases[case]
    scores = (f"{score.label} {number(found.get(score.key), score.digits)}" for score in comparison.scores[:3])
    return f"{', '.join(scores)}; seed {shown.run.seed}"
