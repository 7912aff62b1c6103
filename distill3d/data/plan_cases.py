"""From the fingerprint of cases to which of them are used, how they are split, and how gold is drawn."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, final

import numpy as np

from distill3d.config.folds import some
from distill3d.data.fingerprint import CasePrint, Fingerprint, RadiusFit, Units
from distill3d.errors import InputError

FOLDS = 5
LEAST_FOLDS = 3
BETTER = 0.05  # of the Dice with what is bright: so much better a fixed radius fits than the file's, in the median case
WELL_TRACED = 0.7  # share of what is bright near a tree, in the median case; else brightness shows no neurons
SEEN = 0.1  # a Dice below says that what is bright is not the neuron
MANY_UNUSABLE = 0.05  # share of nodes without a radius
USUAL_PIXELS = 2.0  # radius where the image shows none


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A setting and why it is so; ``key`` is dotted, ``value`` plain."""

    key: str
    value: Any
    reason: str


def kept(fingerprint: Fingerprint) -> tuple[tuple[CasePrint, ...], tuple[tuple[str, str], ...]]:
    """Return the cases to use, and name and reason of those that are left out.

    No image and no gold is there twice, since a copy could lie on the other side of a split, all trees count in the
    same units, and none leaves most of the neurites untraced where others do not.
    """
    units, by_image, by_gold = units_of(fingerprint.cases), dict[str, str](), dict[str, str]()
    untraced = _untraced(fingerprint.cases)
    cases: list[CasePrint] = []
    left_out = list(fingerprint.left_out)
    for case in fingerprint.cases:
        if case.image_hash in by_image:
            left_out.append((case.name, f"the same image as {by_image[case.image_hash]}"))
        elif case.gold_hash is not None and case.gold_hash in by_gold:
            left_out.append((case.name, f"the same gold as {by_gold[case.gold_hash]}"))
        elif case.tree is not None and case.tree.units != units:
            left_out.append((case.name, f"its tree counts in {case.tree.units}, most others in {units}"))
        elif case.name in untraced:
            left_out.append((case.name, untraced[case.name]))
        else:
            cases.append(case)
            by_image[case.image_hash] = case.name
            if case.gold_hash is not None:
                by_gold[case.gold_hash] = case.name
    return tuple(cases), tuple(left_out)


def _untraced(cases: Sequence[CasePrint]) -> dict[str, str]:
    """Name the cases that seem to show neurons nobody traced, unlike most others, and say why."""
    covered = {case.name: case.tree.covered for case in cases if case.tree is not None and case.tree.fits}
    usual = float(np.median(list(covered.values()))) if covered else 0.0
    few = {name: share for name, share in covered.items() if share < usual / 2}
    if usual < WELL_TRACED or len(cases) - len(few) < LEAST_FOLDS:
        return {}
    what = "of what is bright is not near its tree"
    return {
        name: f"{1 - share:.0%} {what}, {1 - usual:.0%} in the median case: neurons that nobody traced?"
        for name, share in few.items()
    }


def units_of(cases: Sequence[CasePrint]) -> Units:
    """Return what most trees count in, voxels where there is none or both are as many."""
    counts = Counter(case.tree.units for case in cases if case.tree is not None)
    return "um" if counts["um"] > counts["voxel"] else "voxel"


def split_choices(
    fingerprint: Fingerprint, cases: Sequence[CasePrint], left_out: Sequence[tuple[str, str]]
) -> tuple[tuple[Choice, ...], int]:
    """Choose how cases train, validate and test; also return how many of them train at a time.

    Raises:
        InputError: they are too few to train on one and to validate with another.
    """
    names = [case.name for case in cases if not case.held_out]
    held_out = [case.name for case in cases if case.held_out]
    if len(names) < 2:
        raise InputError(
            f"{fingerprint.folder}: {some(names) if names else 'no case'} is all that can be trained on"
            f"{_because(left_out)}; accepted: 2 or more neurons, one to train on and one to validate with, and 3 or "
            "more to test too"
        )
    return _split(fingerprint, names, held_out)


def _split(fingerprint: Fingerprint, names: list[str], held_out: list[str]) -> tuple[tuple[Choice, ...], int]:
    n = len(names)
    if held_out:
        freed = f"The layout keeps {len(held_out)} labelled cases for the test (imagesTs)"
        reason = f"{freed}; of the other {n} a fifth validates."
        return (Choice(key="data.fractions", value=[0.8, 0.2, 0.0], reason=reason),), n - max(1, round(0.2 * n))
    if n == 2:
        names = sorted(names)
        reason = "Two cases: one trains, the other chooses the checkpoint, and none is left to test."
        value = [[exactly(names[0])], [exactly(names[1])]]
        more = "So no score of this experiment is one of neurons never seen; a third case mends it."
        return (
            Choice(key="data.train", value=value[0], reason=reason),
            Choice(key="data.val", value=value[1], reason=more),
        ), 1
    given = fingerprint.folds
    if given is not None and not LEAST_FOLDS <= given <= n:
        cannot = f"splits_final.json deals {given} folds; {LEAST_FOLDS} to {n} could cross-validate {n} cases"
        reason = f"{cannot}, so a fifth of them validates and a fifth tests."
        return (Choice(key="data.fractions", value=[0.6, 0.2, 0.2], reason=reason),), n - 2 * max(1, round(0.2 * n))
    folds = given or min(FOLDS, n)
    if given:
        reason = f"splits_final.json deals {folds} folds; they are taken."
    elif n < FOLDS:
        reason = f"{n} cases are few: leave one out, so that each of them tests once."
    else:
        reason = f"{n} cases: {folds} folds, by neuron and never by patch, so that each of them tests once."
    last = folds - 1
    which = f"The fold that tests. For all: data.fold=0 to {last}, each with its own runs=runs/foldK; then compare."
    dealt = (Choice(key="data.folds", value=folds, reason=reason), Choice(key="data.fold", value=0, reason=which))
    return dealt, n - 2 * -(-n // folds)


def _because(left_out: Sequence[tuple[str, str]]) -> str:
    if not left_out:
        return ""
    return f"; left out: {some([f'{name} ({reason})' for name, reason in left_out])}"


def exactly(name: str) -> str:
    """Return the pattern that fits a name alone."""
    return glob.escape(name).replace("$", "[$]")  # which settings take for a variable


def gold_choices(cases: Sequence[CasePrint]) -> tuple[tuple[Choice, ...], float]:
    """Choose how trees are read and drawn; also return the median share of gold voxels."""
    shares = [case.mask_share for case in cases if case.mask_share is not None]
    trees = {case.name: case.tree for case in cases if case.tree is not None}
    choices: list[Choice] = []
    if trees and units_of(cases) == "um":
        reason = "Read as um, the trees' nodes lie in the stacks and where they are bright; read as voxels they do not."
        choices.append(Choice(key="data.tree_units", value="um", reason=reason))
    if flipped := [name for name, tree in trees.items() if tree.flip == "flipped"]:
        reason = f"y of the tree runs against the image in {some(flipped)}: brighter at the nodes with y mirrored."
        choices.append(Choice(key="data.flip_y", value="auto", reason=reason))
    drawn = [case for case in cases if case.tree is not None and case.mask_share is None]
    if drawn:
        radius, chosen = _radius(drawn)
        choices += radius
        shares += [fit.share for case in drawn for fit in _fits(case) if fit.voxels == chosen]
    return tuple(choices), float(np.median(shares)) if shares else 0.0


def _fits(case: CasePrint) -> tuple[RadiusFit, ...]:
    return case.tree.fits if case.tree is not None else ()


def _radius(cases: Sequence[CasePrint]) -> tuple[list[Choice], float | None]:
    """Choose the radius that trees are drawn with: the file's, or a fixed one in pixels."""
    by_case = [{fit.voxels: fit.dice for fit in _fits(case)} for case in cases]  # what cannot be drawn fits nothing
    dice = {
        voxels: sum(fits.get(voxels, 0.0) for fits in by_case) / len(cases) for voxels in dict.fromkeys(chain(*by_case))
    }
    own = dice.get(None, 0.0)
    fixed = max(
        (voxels for voxels in dice if voxels is not None), key=lambda voxels: dice[voxels], default=USUAL_PIXELS
    )
    best = dice.get(fixed, 0.0)
    bad = [case.name for case in cases if case.tree is not None and case.tree.unusable > MANY_UNUSABLE]
    sees = best >= SEEN
    gain = float(np.median([fits.get(fixed, 0.0) - fits.get(None, 0.0) for fits in by_case]))
    if not bad and (gain < BETTER if sees else own > 0):
        fit = f"cover what is bright around them with Dice {own:.2f}, the best fixed one {best:.2f}"
        reason = (
            f"The files' radii {fit}." if sees else "Nothing bright shows how thick neurites are: the files' radii."
        )
        return [Choice(key="data.radius", value="file", reason=reason)], None
    fixed = fixed if sees else USUAL_PIXELS
    why = f"Radii are 0 or less in {some(bad)}. " if bad else ""
    median = "" if bad else f", {gain:.2f} less in the median case"
    why += (
        f"{fixed:g} pixels cover what is bright with Dice {best:.2f}, the files' radii with {own:.2f}{median}."
        if sees
        else f"Nothing bright shows how thick neurites are: {fixed:g} pixels."
    )
    um = float(f"{fixed * float(np.median([case.pixel_um for case in cases])):.4g}")
    return [
        Choice(key="data.radius", value="fixed", reason=why),
        Choice(key="data.radius_um", value=um, reason=f"{fixed:g} pixels."),
    ], fixed
