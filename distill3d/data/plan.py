"""From a folder's fingerprint to the settings of experiments on it, each with its reason; reads and writes nothing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from distill3d.config.folds import some
from distill3d.data.check import extent
from distill3d.data.fingerprint import CasePrint, Fingerprint, Shape, best, in_channel
from distill3d.data.plan_cases import Choice, exactly, gold_choices, kept, split_choices
from distill3d.data.plan_sizes import PASSES, VALIDATIONS, Sizes, block_of, sizes_of, steps_of
from distill3d.volumes.memory import in_words as memory_in_words
from distill3d.volumes.reading import in_words

TRACED = 0.5  # share of what is bright near a tree; below, there may be neurons that nobody traced
SPARSE = 0.01  # share of gold voxels below which a stack is mostly empty
ENCODER = "tf_efficientnet_lite0"
LR_PER_PATCH, LR_MOST = 0.001, 0.004
SURFACE_PIXELS = (1.0, 4.0)  # between which the usual tolerance of 2 um is one


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Settings of an experiment on a folder's stacks, and of its twins.

    Attributes:
        scratch: all of the first experiment, which trains a convnet from random values.
        vit: what a ViT from random values has instead.
        cases: that are used.
        left_out: name and reason of those that are not.
        notes: what is worth knowing, one line each.
    """

    scratch: tuple[Choice, ...]
    vit: tuple[Choice, ...]
    cases: tuple[CasePrint, ...]
    left_out: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


def plan(fingerprint: Fingerprint) -> Plan:
    """Decide how to train on the stacks of a folder.

    Raises:
        InputError: there are too few cases.
    """
    cases, left_out = kept(fingerprint)
    split, training = split_choices(fingerprint, cases, left_out)
    gold, share = gold_choices(cases)
    spacing = [float(np.median(sizes)) for sizes in zip(*(case.spacing_um for case in cases), strict=True)]
    anisotropy = spacing[0] / math.sqrt(spacing[1] * spacing[2])
    z, y, x = (int(np.median(sizes)) for sizes in zip(*(case.shape_zyx for case in cases), strict=True))
    sizes = sizes_of((z, y, x), anisotropy, fingerprint.machine)
    return Plan(
        scratch=(
            *_reading(fingerprint, left_out),
            *gold,
            *split,
            *_student(sizes, anisotropy),
            *_patches(sizes, (z, y, x), share, fingerprint),
            *_schedule(sizes, z * y * x, training, fingerprint),
            *_evaluation(math.sqrt(spacing[1] * spacing[2])),
        ),
        vit=_vit(block_of(anisotropy, sizes.size_zyx[0]), anisotropy),
        cases=cases,
        left_out=left_out,
        notes=tuple(_notes(fingerprint, cases, left_out)),
    )


def _reading(fingerprint: Fingerprint, left_out: Sequence[tuple[str, str]]) -> Iterator[Choice]:
    yield Choice(key="data.name", value="neurons", reason="Stacks and their gold, found by name in a folder.")
    yield Choice(key="data.folder", value=fingerprint.folder, reason="Absolute, so that it holds wherever you run it.")
    if fingerprint.layout == "nnunet":
        yield Choice(key="data.layout", value="nnunet", reason="The folder has imagesTr and labelsTr.")
    if fingerprint.nested:
        reason = "Cases lie in subfolders, whose names they bear."
        yield Choice(key="data.nested", value=True, reason=reason)
    if fingerprint.tree != "{stem}.swc":
        reason = "No tree bears the stem of a stack alone; a tree's name holds it."
        yield Choice(key="data.tree", value=fingerprint.tree, reason=reason)
    if fingerprint.spacing_um is not None:
        yield Choice(key="data.spacing_um", value=list(fingerprint.spacing_um), reason="As given: --spacing.")
    channel = best(fingerprint.contrasts)
    if len(fingerprint.contrasts) > 1:
        stands = ", ".join(f"{value:.1f} in channel {k}" for k, value in enumerate(fingerprint.contrasts))
        reason = f"Gold stands out most in channel {channel}, in standard deviations: {stands}."
        settings = in_channel(fingerprint.layout, channel) or {"channel": 0}
        yield from (Choice(key=f"data.{key}", value=value, reason=reason) for key, value in settings.items())
    here = {case.name for case in fingerprint.cases} | {name for name, _ in fingerprint.left_out}
    if names := [name for name, _ in left_out if name in here]:
        reason = "; ".join(f"{name}: {why}" for name, why in left_out)
        yield Choice(key="data.exclude", value=[exactly(name) for name in names], reason=reason)


def _student(sizes: Sizes, anisotropy: float) -> Iterator[Choice]:
    reason = "The plain student to begin with: 1 million values, and ImageNet's weights fit it (the twin _center)."
    yield Choice(key="student.name", value="convnet3d", reason=reason)
    yield Choice(key="student.encoder", value=ENCODER, reason="Its weights come with the package.")
    flat = sizes.depth_strides.count(1)
    thick = f"Slices are {anisotropy:.3g} times as far apart as pixels"
    if not flat:
        reason = f"{thick}: every halving in the plane halves the slices too."
    elif flat == round(math.log2(max(anisotropy, 1.0))):
        which = "first halving in the plane leaves" if flat == 1 else f"first {flat} halvings in the plane leave"
        reason = f"{thick}: the {which} slices as they are."
    else:
        reason = (
            f"{thick}, and a patch has {sizes.size_zyx[0]} slices: {flat} halvings in the plane leave them as they are."
        )
    yield Choice(key="student.depth_strides", value=list(sizes.depth_strides), reason=reason)
    reason = "Of the batch: statistics of one empty window would blow its noise up until it looks like neurites."
    yield Choice(key="student.encoder_norm", value="batch", reason=reason)
    yield Choice(key="student.norm", value="batch", reason="As the encoder's.")


def _patches(sizes: Sizes, shape: Shape, share: float, fingerprint: Fingerprint) -> Iterator[Choice]:
    machine = fingerprint.machine
    reason = f"About a cube in space of {sizes.cube:.0f} pixels a side; the median stack is {extent(shape)}"
    padded = " and smaller: its patches are padded." if sizes.padded else "."
    yield Choice(key="patches.size_zyx", value=list(sizes.size_zyx), reason=f"{reason}{padded}")
    limit = "memory" if machine.gpu else "time a step"
    room = f"{memory_in_words(machine.memory)} of {'GPU ' * machine.gpu}memory"
    reason = f"{sizes.step_voxels / 1e6:.2g} million voxels a step, by {limit}; {room} hold {sizes.budget / 1e6:.2g}."
    yield Choice(key="patches.batch_size", value=sizes.batch_size, reason=reason)
    if share < SPARSE:
        reason = f"Gold is {share:.2%} of a stack: most patches are cut anywhere, so that it learns what is no neurite."
        yield Choice(key="patches.foreground", value=0.33, reason=reason)
    else:
        reason = f"Gold is {share:.1%} of a stack: patches cut anywhere show the rest well enough."
        yield Choice(key="patches.foreground", value=0.67, reason=reason)


def _schedule(sizes: Sizes, voxels: int, training: int, fingerprint: Fingerprint) -> Iterator[Choice]:
    rate = min(LR_PER_PATCH * sizes.batch_size, LR_MOST)
    reason = f"{LR_PER_PATCH:g} for each patch of a step, {LR_MOST:g} at most."
    yield Choice(key="optimizer.lr", value=round(rate, 6), reason=reason)
    steps = steps_of(voxels * training, sizes, fingerprint.machine)
    passes = steps * sizes.step_voxels / (voxels * training)
    bound = (
        "" if abs(passes - PASSES) < 1 else f" ({PASSES} would take too {'many' if passes < PASSES else 'few'} steps)"
    )
    reason = f"{training} training stacks: patches hold their voxels {passes:.2g} times{bound}."
    yield Choice(key="trainer.steps", value=steps, reason=reason)
    reason = f"{VALIDATIONS} times a run; a killed run loses that much at most."
    yield Choice(key="trainer.validate_every", value=steps // VALIDATIONS, reason=reason)


def _evaluation(pixel_um: float) -> Iterator[Choice]:
    if not SURFACE_PIXELS[0] <= 2.0 / pixel_um <= SURFACE_PIXELS[1]:
        reason = f"Two pixels; the usual 2 um are {2 / pixel_um:.3g}."
        yield Choice(key="evaluation.surface_um", value=float(f"{2 * pixel_um:.4g}"), reason=reason)


def _vit(block: Shape, anisotropy: float) -> tuple[Choice, ...]:
    reason = f"A token is {block[1]} pixels wide and {block[0] * anisotropy:.3g} deep."
    return (
        Choice(key="student.name", value="vit3d", reason="Four blocks of a ViT-S of DINOv2's form."),
        Choice(key="student.encoder", value="vit_small_patch14_dinov2", reason="Whose weights `make setup` installs."),
        Choice(key="student.depth", value=4, reason="The first four: enough for a small set, and fast."),
        Choice(key="student.block_zyx", value=list(block), reason=reason),
        Choice(key="student.input_zyx", value="${patches.size_zyx}", reason="The patch."),
        Choice(key="student.norm", value="batch", reason="As the convnet's."),
    )


def _notes(fingerprint: Fingerprint, cases: Sequence[CasePrint], left_out: Sequence[tuple[str, str]]) -> Iterator[str]:
    yield from (f"{name}: left out: {reason}" for name, reason in left_out)
    if fingerprint.unlabelled:
        yield f"left out, because there is neither tree nor mask: {some(fingerprint.unlabelled)}"
    if guessed := [case.name for case in cases if not case.states_spacing]:
        yield f"no file states the voxel size of {some(guessed)}: 1 um a side is assumed; --spacing Z,Y,X says it"
    counts = Counter(in_words(case.spacing_um) for case in cases)
    if len(counts) > 1:
        kinds = ", ".join(f"{size} um ({n})" for size, n in counts.most_common())
        yield f"voxels of {len(counts)} sizes: {some([kinds])}; nothing is resampled, the plan goes by the median"
    for case in cases:
        if case.tree is not None and case.tree.covered < TRACED:
            far = f"{1 - case.tree.covered:.0%} of what is bright is not near its tree"
            yield f"{case.name}: {far}; if neurons in it are not traced, leave it out: data.exclude"
    if unclear := [case.name for case in cases if case.tree is not None and case.tree.flip == "unclear"]:
        yield f"the image does not tell whether y of the tree is right: {some(unclear)}"
    yield from (f"{case.name}: {note}" for case in cases for note in case.notes)
