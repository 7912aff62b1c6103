"""From stacks to trees in one call: predict, trace, draw, and a row of a table for each. What is there stays."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from distill3d.data.gold import Gold, LargeGold
from distill3d.errors import InputError, for_each
from distill3d.evaluation.figures.canvas import Spacing, Stack
from distill3d.evaluation.figures.case import case_figure
from distill3d.evaluation.figures.traced import traced_figure
from distill3d.evaluation.figures.tree import tree_figure
from distill3d.evaluation.figures.tree_page import tree_page
from distill3d.evaluation.file_scores import scores_of_masks
from distill3d.evaluation.metrics.tree import tree_scores
from distill3d.terminal import progress_bar, stderr, warnings_of
from distill3d.tracing.trace import MAX_SHARE, trace_volume
from distill3d.training.module import DistillModule
from distill3d.training.networks import Networks
from distill3d.training.predict import StackBars, predict_stack, prob_name, require_free
from distill3d.training.summary import SCORES, Row, Summary
from distill3d.volumes.inputs import require_writable, targets_of
from distill3d.volumes.lazy import Blocks, LazyVolume
from distill3d.volumes.origin import as_notes, note_picture, origin_of, stated_notes
from distill3d.volumes.parts import Parted, computed, extremes, is_large, shape_on_disk
from distill3d.volumes.prob import open_prob, read_prob
from distill3d.volumes.reading import in_words
from distill3d.volumes.stack_files import stem_of
from distill3d.volumes.swc import MICROMETERS, write_swc
from distill3d.volumes.tree import Tree, within
from distill3d.volumes.volume import Volume

_LOG = logging.getLogger(__name__)
_ENDS = (".swc", "_3d.html", ".png")


@final
class _Outputs(NamedTuple):
    """What is written for a stack."""

    prob: Path
    swc: Path
    page: Path
    picture: Path


@final
class _GoldOf(NamedTuple):
    """What is known of a stack."""

    tree: Tree | None = None
    mask: Gold | LargeGold | None = None


def reconstruct(
    stacks: Sequence[Path], networks: Networks, *, out: Path, overwrite: bool = False
) -> Iterator[tuple[Row, Path]]:
    """Predict, trace and draw stacks; write ``<stem>_prob.tif``, ``.swc``, ``.png``, ``_3d.html`` and ``summary.csv``.

    A large stack of which parts can be read stays on disk, and so does its probability, ``<stem>_prob.zarr``.
    What an earlier call has made of the same stack, networks and settings counts as done. A stack that cannot be used
    has its row too and does not stop the others, see `distill3d.errors.for_each`.

    Args:
        stacks: their files; gold of the same name beside one is scored against and drawn.
        networks: see `networks_of`.
        out: folder to write to.
        overwrite: make everything anew, and replace what came from elsewhere.

    Returns:
        As they are done, the row of the summary and the picture of each.

    Raises:
        InputError: two stacks would give one file, one is there that came from elsewhere or is gold, or
            ``out`` cannot be written.
    """

    def prob(stack: Path) -> str:
        return prob_name(stack, by_block=is_large(shape_on_disk(stack, channel=networks.reading.channel) or ()))

    targets = [targets_of(stacks, out, "", prob), *(targets_of(stacks, out, end) for end in _ENDS)]
    _require_no_gold(targets[1], networks)
    if not overwrite:
        for each in targets:
            require_free(each, networks)
    require_writable(out)
    summary = Summary(out / "summary.csv", overwrite=overwrite)
    outputs = [_Outputs(*paths) for paths in zip(*targets, strict=True)]
    return _reconstructed(outputs, stacks, networks, summary, overwrite=overwrite)


def _require_no_gold(trees: Mapping[Path, Path], networks: Networks) -> None:
    problems = [
        f"{target}: is the gold tree of {stack}; accepted: another --out"
        for target, stack in trees.items()
        if target.is_file() and (gold := networks.gold.beside(stack).tree) is not None and gold.samefile(target)
    ]
    if problems:
        raise InputError(*problems)


def _reconstructed(
    outputs: Sequence[_Outputs], stacks: Sequence[Path], networks: Networks, summary: Summary, *, overwrite: bool
) -> Iterator[tuple[Row, Path]]:
    pending = {
        stack: target
        for stack, target in zip(stacks, outputs, strict=True)
        if overwrite or not (stem_of(stack) in summary.done and _is_whole(stack, target, networks))
    }
    modules = functools.cache(networks.modules)
    with progress_bar(stderr()) as bar:
        bars = StackBars(bar, len(pending))

        def work(item: tuple[Path, _Outputs]) -> tuple[Row, Path]:
            stack, target = item
            if stack not in pending:
                return summary.done[stem_of(stack)], target.picture
            start = time.monotonic()
            row: Row = {"file": str(stack)}
            with warnings_of("distill3d", functools.partial(bar.console.print, soft_wrap=True)) as warnings:
                try:
                    _make(stack, target, networks, modules, bars, row, anew=overwrite)
                except Exception as error:  # noqa: BLE001 - one stack must not stop the others, whatever is wrong with it
                    text = " ".join(str(error).split()) or type(error).__name__
                    row["error"] = text if str(stack) in text else f"{stack}: {text}"
            row |= {"seconds": f"{time.monotonic() - start:.1f}", "warnings": "; ".join(warnings)}
            summary.put(stem_of(stack), row)
            bars.next_stack()
            if "error" in row:
                raise InputError(row["error"])
            return row, target.picture

        yield from for_each(zip(stacks, outputs, strict=True), work)


def _make(
    stack: Path,
    target: _Outputs,
    networks: Networks,
    modules: Callable[[], list[DistillModule]],
    bars: StackBars,
    row: Row,
    *,
    anew: bool,
) -> None:
    """Make all of one stack; fill in its row on the way."""
    image = networks.open(stack) if target.prob.suffix == ".zarr" else networks.read(stack)
    spacing = f"{in_words(image.spacing_um)}{'' if networks.knows_spacing(image) else ' assumed'}"
    row |= {"shape_zyx": "x".join(map(str, image.shape)), "spacing_zyx_um": spacing}
    origin = networks.origin(stack)
    predicted = {"made_from": origin, "made_with": networks.manner}
    if anew or not predicted.items() <= stated_notes(target.prob).items():
        predict_stack(target.prob, stack, image, networks, modules(), functools.partial(bars.windows, stem_of(stack)))
    with contextlib.nullcontext() if isinstance(image, Volume) else bars.hidden():  # what is large has its own bars
        _trace(stack, target, image, networks, row, origin)


def _trace(
    stack: Path, target: _Outputs, image: Volume | LazyVolume, networks: Networks, row: Row, origin: str
) -> None:
    """Make of a probability all that is made of it."""
    prob = read_prob(target.prob) if isinstance(image, Volume) else open_prob(target.prob)
    tree = trace_volume(replace(image, data=prob), networks.trace, max_share=MAX_SHARE)
    if not tree.n_nodes:
        _LOG.warning("%s: no neuron found; probabilities up to %.2f", stack, extremes(prob)[1])
    write_swc(target.swc, tree, spacing_um=MICROMETERS, notes=as_notes(made_from=origin))
    counts = {"branches": len(tree.branch_points), "tips": len(tree.tips), "trees": len(tree.roots)}
    row |= {"length_um": f"{tree.length_um:.1f}", **{key: str(count) for key, count in counts.items()}}
    gold = _read_gold(stack, image, networks)
    row |= _scores(tree, computed(lambda part: part >= networks.threshold, prob), gold, image)
    seen = image.data if isinstance(image, Volume) else Parted(_drawable, image.data)
    tree_page(
        target.page,
        stem_of(stack),
        _in_words(tree),
        image=seen,
        gold=gold.tree,
        pred=tree,
        spacing_um=image.spacing_um,
        notes=as_notes(made_from=origin),
    )
    drawn = target.picture.with_name(f".{target.picture.stem}.{os.getpid()}.png")
    try:
        _draw(drawn, stem_of(stack), seen, image.spacing_um, tree, prob, gold, networks.threshold)
        note_picture(drawn, target.picture, as_notes(made_from=origin, made_with=_manner(stack, networks)))
    finally:
        drawn.unlink(missing_ok=True)


def _drawable(part: NDArray[np.number]) -> NDArray[np.number]:
    """Return intensities in the type that `Volume` gives those of a mask."""
    return part.astype(np.uint8) if part.dtype == bool else part


def _manner(stack: Path, networks: Networks) -> str:
    """Return all that a tree and its picture depend on, beside stack and networks."""
    gold = networks.gold.beside(stack)
    files = [path for path in (gold.tree, gold.mask) if path is not None]
    return origin_of(networks.manner, repr(networks.trace), repr(networks.gold), str(networks.threshold), *files)


def _is_whole(stack: Path, target: _Outputs, networks: Networks) -> bool:
    try:
        origin, manner = networks.origin(stack), _manner(stack, networks)
    except (InputError, OSError):  # whoever reads it says so
        return False
    notes = [stated_notes(path) for path in target]
    return all(each.get("made_from") == origin for each in notes) and notes[-1].get("made_with") == manner


def _read_gold(stack: Path, image: Volume | LazyVolume, networks: Networks) -> _GoldOf:
    """Read what lies beside a stack; a tree or a mask that cannot be used is warned of and left out."""
    files, rules = networks.gold.beside(stack), networks.gold
    tree, mask = None, None
    with _warned_of():
        if files.tree is not None:
            tree = within(rules.read_tree(files.tree, image), image.shape, image.spacing_um)
    with _warned_of():
        if files.mask is not None:
            if isinstance(image, Volume):
                mask = rules.read_mask(files.mask, image, image=stack)
            else:
                mask = rules.open_mask(files.mask, image, image=stack)
    return _GoldOf(tree, mask)


@contextlib.contextmanager
def _warned_of() -> Iterator[None]:
    try:
        yield
    except InputError as error:
        _LOG.warning("gold is not used: %s", error)


def _scores(tree: Tree, mask: Blocks, gold: _GoldOf, image: Volume | LazyVolume) -> Row:
    scores: dict[str, float] = {}
    if gold.mask is not None:
        scores |= scores_of_masks(pred=mask, gold=gold.mask.mask, known=gold.mask.known, spacing_um=image.spacing_um)
    if gold.tree is not None:
        of_tree = tree_scores(pred=tree, gold=gold.tree, spacing_um=image.spacing_um, shape_zyx=image.shape)
        scores |= {f"tree_{name}": value for name, value in asdict(of_tree).items()}
    return {key: f"{scores[key]:.4g}" for key in SCORES if key in scores}


def _draw(
    path: Path, title: str, image: Stack, spacing_um: Spacing, tree: Tree, prob: Stack, gold: _GoldOf, threshold: float
) -> None:
    where = {"image": image, "spacing_um": spacing_um}
    if gold.tree is not None:
        tree_figure(path, title, pred=tree, gold=gold.tree, **where)
    elif gold.mask is not None:
        known = gold.mask.known
        case_figure(path, title, gold=gold.mask.mask, known=known, prob=prob, threshold=threshold, **where)
    else:
        traced_figure(path, title, tree=tree, remark=_in_words(tree), **where)


def _in_words(tree: Tree) -> str:
    if not tree.n_nodes:
        return "no neuron was found"
    size = f"{tree.length_um:.0f} um long, {len(tree.branch_points)} branch points, {len(tree.tips)} tips"
    return f"traced: {len(tree.roots)} trees, {size}"
