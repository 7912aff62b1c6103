"""The worst cases side by side: which cases and arms are shown, each at the same place with the same seed."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

import numpy as np

from distill3d.errors import InputError
from distill3d.evaluation.figures.scene import Scene, scene
from distill3d.evaluation.figures.tree_page import wall
from distill3d.evaluation.figures.web import Picture, picture
from distill3d.evaluation.projections import Projections, read_projections
from distill3d.report.comparison.score_tables import case_means
from distill3d.report.content import Arm, Comparison, RunEntry
from distill3d.report.numerals import number
from distill3d.report.page.snapshots import (
    CLOSE,
    WHOLE,
    Flat,
    Kinds,
    colored,
    cut,
    scaled,
    shaded,
    with_box,
    with_trees,
    worst_place,
    wrong_pixels,
)
from distill3d.storage.run_folder import RunFolder
from distill3d.volumes.swc import Tree, read_swc

MOST_CASES, MOST_ARMS = 4, 6
MOST_BYTES = 2_200_000  # of pictures; Plotly takes 4.8 of the 8 MB that a page may have
MOST_SCENE_BYTES, MOST_WALL_BYTES, WALL_SIDE = 60_000, 25_000, 256  # of trees to turn: an arm's, a wall, its pixels
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
        scene: its trees to turn; None where it has none.
    """

    title: str
    note: str
    pictures: tuple[Picture, ...]
    index: int | None = None
    scene: Scene | None = None


@final
@dataclass(frozen=True, slots=True)
class WorstCase:
    """A case over several arms.

    Args:
        name: of the case.
        place: where the close-ups are, in words.
        cards: image and gold first.
        walls: behind the trees to turn, if there are any: z, y, x -> the image seen along it.
    """

    name: str
    place: str
    cards: tuple[Card, ...]
    walls: Mapping[str, Picture] = field(default_factory=dict)


@final
@dataclass(frozen=True, slots=True)
class Worst:
    """The worst cases of a comparison.

    Args:
        cases: that are drawn, worst first.
        remark: which runs left nothing to draw; empty if all did.
    """

    cases: tuple[WorstCase, ...] = ()
    remark: str = ""


@final
@dataclass(frozen=True, slots=True)
class _Shown:
    """A run of an arm that is to be drawn."""

    index: int
    arm: Arm
    run: RunEntry
    folder: RunFolder


def worst_cases(comparison: Comparison, folders: Mapping[str, tuple[Path, ...]]) -> Worst:
    """Draw the cases with the worst mean of the main score, of the baseline and the best other arms.

    Args:
        comparison: says which.
        folders: arm -> its run folders, in the order of its runs.
    """
    shown = {name: _shown_arms(comparison, folders, name) for name in worst_names(comparison)[:MOST_CASES]}
    drawn = (_draw(comparison, name, arms) for name, arms in shown.items())
    return Worst(tuple(_within(MOST_BYTES, (case for case in drawn if case is not None))), _remark(shown))


def _remark(shown: Mapping[str, Sequence[_Shown]]) -> str:
    """Name the runs of an older version, which left no projections."""
    lacking = dict.fromkeys(
        arm.folder.path.as_posix()
        for name, arms in shown.items()
        for arm in arms
        if not arm.folder.projections(name).is_file()
    )
    return f"Left no projections to draw: {', '.join(lacking)}; distill3d evaluate RUN makes them." if lacking else ""


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


def _shown_arms(comparison: Comparison, folders: Mapping[str, tuple[Path, ...]], case: str) -> list[_Shown]:
    """Choose one run with the case of every arm that is shown: of the least seed that all of them have, or its first.

    Arms of which no run has the case are left out.
    """
    paired = [
        (index, arm, [pair for pair in zip(arm.runs, folders.get(arm.name, ()), strict=False) if case in pair[0].cases])
        for index, arm in enumerate(comparison.arms[:MOST_ARMS])
    ]
    having = [(index, arm, pairs) for index, arm, pairs in paired if pairs]
    shared = set.intersection(*({run.seed for run, _ in pairs} for _, _, pairs in having)) if having else set()
    shown = []
    for index, arm, pairs in having:
        run, path = next((pair for pair in pairs if shared and pair[0].seed == min(shared)), pairs[0])
        shown.append(_Shown(index, arm, run, RunFolder(path)))
    return shown


def _draw(comparison: Comparison, name: str, arms: Sequence[_Shown]) -> WorstCase | None:
    """Draw a case of the arms whose runs left it, seen as the first of them has it; None where none did."""
    left = {shown.index: _left(shown.folder, name) for shown in arms}
    seen = {index: case for index, case in left.items() if case is not None}
    if not seen:
        return None
    first = next(iter(seen.values()))
    alike = {index: case.errors for index, case in seen.items() if case.errors.shape == first.errors.shape}
    drawn = [(shown, alike[shown.index]) for shown in arms if shown.index in alike]
    try:
        return _side_by_side(comparison, name, first, drawn)
    except InputError as error:  # a tree that reaches too far
        _LOG.warning("%s: not drawn: %s", name, error)
        return None


def _left(folder: RunFolder, case: str) -> Projections | None:
    """Return what a run left of a case to be drawn; None where there is none, or it is broken."""
    try:
        return read_projections(folder.projections(case))
    except InputError as error:
        _LOG.info("not drawn: %s", error)
        return None


def _side_by_side(
    comparison: Comparison, name: str, case: Projections, arms: Sequence[tuple[_Shown, Kinds]]
) -> WorstCase:
    box = worst_place(np.sum([wrong_pixels(errors) for _, errors in arms], axis=0))
    aspect = case.spacing_um[1] / case.spacing_um[2]
    image, mask = shaded(case.image), shaded(255 * case.gold)

    def whole(flat: Flat, alt: str) -> Picture:
        return picture(with_box(scaled(flat, WHOLE, aspect=aspect), box, flat.shape), f"{name}: {alt}")

    def close(flat: Flat, alt: str, *, pred: Tree | None = None, trees: bool = False) -> Picture:
        drawn = scaled(cut(flat, box), CLOSE, aspect=aspect)
        if trees and case.tree is not None:
            drawn = with_trees(drawn, box, gold=case.tree, pred=pred, spacing_um=case.spacing_um)
        return picture(drawn, f"{name}, close-up: {alt}")

    gold_close = close(mask if case.tree is None else image, "gold", trees=True)
    cards = [
        Card("Image", "brightest along z", (whole(image, "the image"), close(image, "the image"))),
        Card("Gold", "what should be found", (whole(mask, "gold"), gold_close)),
    ]
    for shown, errors in arms:
        flat, pred, arm = colored(errors), _tree(shown.folder, name), shown.arm.name
        below = (
            close(flat, f"errors of {arm}")
            if case.tree is None or pred is None
            else close(image, f"trees of {arm} against gold", pred=pred, trees=True)
        )
        pictures = whole(flat, f"errors of {arm}"), below
        cards.append(Card(arm, _note(comparison, shown, name), pictures, shown.index, _scene(case, pred)))
    place = f"rows {box.top} to {box.bottom}, columns {box.left} to {box.right}, all {case.depth} slices"
    return WorstCase(name, place, tuple(cards), _walls(case) if any(card.scene for card in cards) else {})


def _scene(case: Projections, pred: Tree | None) -> Scene | None:
    """Return both trees to turn, in few bytes."""
    if case.tree is None or pred is None:
        return None
    shape = (case.depth, *case.image.shape)
    return scene(gold=case.tree, pred=pred, shape_zyx=shape, spacing_um=case.spacing_um, most_bytes=MOST_SCENE_BYTES)


def _walls(case: Projections) -> dict[str, Picture]:
    """Return what a run left of the image along each axis."""
    seen = {"z": case.image, "y": case.along_y, "x": case.along_x}
    return {
        name: wall(shades, axis, case.spacing_um, WALL_SIDE, MOST_WALL_BYTES)
        for axis, (name, shades) in enumerate(seen.items())
        if shades is not None
    }


def _tree(folder: RunFolder, case: str) -> Tree | None:
    path = folder.swc(case)
    try:
        return read_swc(path, allow_empty=True) if path.is_file() else None
    except (InputError, OSError, ValueError) as error:
        _LOG.info("%s: not drawn: %s", path, error)
        return None


def _note(comparison: Comparison, shown: _Shown, case: str) -> str:
    values = shown.run.cases[case]
    scores = (f"{score.label} {number(values.get(score.key), score.digits)}" for score in comparison.scores[:3])
    return f"{', '.join(scores)}; seed {shown.run.seed}"
