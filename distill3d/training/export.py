"""From a trained run to a single file that others segment their stacks with, and a card that says what it is."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined

from distill3d.config.plain import as_plain
from distill3d.config.schema import Experiment
from distill3d.errors import InputError
from distill3d.evaluation.run_scores import trace_settings
from distill3d.experiment import experiment_from_plain
from distill3d.storage.checkpoint import CHECKPOINT_KEY, MODEL_SUFFIX, read_checkpoint, write_model
from distill3d.storage.links import require_inside
from distill3d.storage.run_folder import RunFolder, write_text
from distill3d.storage.trained_on import trained_um
from distill3d.volumes.inputs import require_writable
from distill3d.volumes.reading import range_in_words

SCORES = {
    "dice": "Dice",
    "dice_tol": "Dice within 2 voxels",
    "cldice": "clDice",
    "tree_f1": "F1 of length within 4 voxels",
}
TEMPLATE = """\
# {{ name }}

{{ experiment.question }}

A `{{ experiment.student.name }}` with {{ "{:,}".format(cost.parameters) }} parameters in half precision, for
`distill3d reconstruct STACKS --run {{ file }}`, or with `--model {{ name }}` from a folder `models`. {{ note }}

## What it scores

On {{ metrics.n_cases }} held-out cases of its own data, by `metrics.json` of the run:

| score | mean | standard deviation |
|---|---|---|
{% for key, title in scores.items() if key in metrics.mean -%}
| {{ title }} | {{ "{:.3f}".format(metrics.mean[key]) }} | {{ "{:.3f}".format(metrics.sd[key]) }} |
{% endfor %}

## How it was made

| | |
|---|---|
| command | `distill3d fit {{ experiment.name }}` |
| commit | {{ provenance.commit }} |
| seed | {{ experiment.seed }} |
| steps | {{ cost.steps }} of {{ patches.batch_size }} patches {{ patches.size_zyx | join(" x ") }} |
| time | {{ "{:.0f}".format(cost.fit_seconds / 60) }} min on {{ hardware }} |
| voxels | {{ voxels or "of unknown size" }}{{ voxels and " um" }} |
| teacher | {{ metrics.teacher.architecture }} ({{ metrics.teacher.weights }}) |
| weights | sha256 {{ sha256 }} |
| versions | {{ versions }} |

Data:

```yaml
{{ data }}```
"""


def export(run: Path | str, out: Path, *, note: str = "", overwrite: bool = False, allow_plugins: bool = False) -> Path:
    """Write a run's best network as one file in half precision, with what is needed to use it, and a card beside it.

    Args:
        run: the folder of a finished run.
        out: file to write, ends in .safetensors; the card gets the same name and .md.
        note: a sentence for the card, such as what the network is not for.
        overwrite: replace files that are there.
        allow_plugins: as for `distill3d.training.networks.networks_of`.

    Returns:
        The card.

    Raises:
        InputError: there is no finished run, ``out`` has another suffix or cannot be written, or a file is there.
    """
    if out.suffix != MODEL_SUFFIX:
        raise InputError(f"{out}: not the name of a model; accepted: a name that ends in {MODEL_SUFFIX}")
    card = out.with_suffix(".md")
    if (there := [str(path) for path in (out, card) if path.exists()]) and not overwrite:
        raise InputError(f"{', '.join(there)}: there already; accepted: --overwrite, or another --out")
    folder = RunFolder(Path(run))
    require_inside(folder.path)
    if folder.state != "done":  # its checkpoint may be newer than its scores
        raise InputError(f"{run}: no finished run; accepted: the folder of one, which holds done.json")
    checkpoint = read_checkpoint(folder.best)
    saved = checkpoint[CHECKPOINT_KEY]["experiment"]
    experiment = experiment_from_plain(saved, source=folder.best, allow_plugins=allow_plugins)
    metrics = folder.read_json(folder.metrics)
    if not metrics:
        raise InputError(f"{run}: has no scores, and nobody should use what was not tested; accepted: a finished run")
    require_writable(out.parent)
    try:
        brief = {
            "note": note,
            "steps": metrics["cost"]["steps"],
            "mean": {key: metrics["mean"].get(key) for key in SCORES},
        }
        write_model(out, checkpoint, trace=dataclasses.asdict(trace_settings(folder, experiment)), card=brief)
        voxels = range_in_words(trained_um(checkpoint[CHECKPOINT_KEY]))
        write_text(card, _card(out, experiment, metrics, note, voxels))
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror})") from error
    return card


def _card(file: Path, experiment: Experiment, metrics: Mapping[str, Any], note: str, voxels: str) -> str:
    # Markdown, not HTML: escaping would garble it
    template = Environment(undefined=StrictUndefined, autoescape=False, trim_blocks=True).from_string(TEMPLATE)  # noqa: S701
    provenance = metrics["provenance"]
    machine = provenance["machine"]
    return template.render(
        name=file.stem,
        file=file.name,
        note=note,
        voxels=voxels,
        experiment=experiment,
        patches=experiment.patches,
        metrics=metrics,
        cost=metrics["cost"],
        scores=SCORES,
        provenance=provenance,
        hardware=", ".join([f"{machine['cpus']} CPUs", *machine["gpus"]]),
        versions=", ".join(f"{name} {version}" for name, version in provenance["packages"].items()),
        sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
        data=yaml.safe_dump(as_plain(experiment)["data"], sort_keys=False, default_flow_style=None),
    )
