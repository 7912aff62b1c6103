"""The model card of a pretrained network, written from what the run measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from distill3d.config.schema import Pretraining
from distill3d.storage.run_folder import write_text
from distill3d.training.pretrain.photos import PHOTOS

TEMPLATE = """\
# {{ settings.architecture }}

A 2D vision transformer with {{ "{:,}".format(cost.parameters) }} parameters, stored in half precision (weights
{{ sha256 }}). distill3d trained it on crops of {{ train | length }} photos, by distillation from
{{ teacher.architecture }} ({{ teacher.weights }}, weights {{ teacher.sha256 }}), so that experiments
have a ViT teacher where there is no network.

## What it learned

How much of the variance of the teacher's feature maps a ridge regression from its frozen tokens explains, on
{{ crops.val_crops }} crops of the held-out photos (1 is all, 0 is what predicting their mean gives). The regression is
fitted on crops of the training photos, its strength chosen by cross-validation over those photos. Beside it, the same
for the same network with random weights.

| feature map, fine to coarse | trained | random |
|---|---|---|
{% for one, other in scores -%}
| {{ loop.index }} | {{ "{:.3f}".format(one) }} | {{ "{:.3f}".format(other) }} |
{% endfor %}

{% if unlearned %}
Of map {{ unlearned | join(", ") }} it knows no more than the random network.

{% endif %}
## What it is not

No foundation model. It has seen {{ train | length }} photos and a teacher that was trained on ImageNet, whose errors
and biases it inherits. Its features are weaker than those of DINO, DINOv2 or DINOv3. A result obtained with it says
nothing about those: use their weights (`teacher.weights: hub` or `file`) before drawing a conclusion about them.

## How it was made

| | |
|---|---|
| command | `distill3d pretrain {{ settings.name }}` |
| commit | {{ provenance.commit }} |
| steps | {{ cost.steps }} of {{ crops.batch_size }} crops |
| crops | {{ crops.pixels }} pixels wide, {{ crops.teacher_pixels }} as the teacher sees them |
| seed | {{ settings.seed }} |
| time | {{ "{:.0f}".format(cost.step_minutes) }} min in steps on {{ hardware }} |
| versions | {{ versions }} |

Input: [N, 3, {{ crops.pixels }}, {{ crops.pixels }}] (other sizes with an interpolated position
table), mean 0.5 and standard deviation 0.5 of intensities in [0, 1].

## Photos

Each ships inside the wheel named here, which states the license.

| photo | wheel | license | credit | use |
|---|---|---|---|---|
{% for photo in photos -%}
| {{ photo.file }} | {{ photo.package }} | {{ photo.license }} | {{ photo.credit }} | {{ uses[photo.use] }} |
{% endfor %}

The weights are released under the license of distill3d (MIT); the photos keep theirs.
"""
MARGIN = 0.05  # of explained variance, below which a map counts as not learned
USES = {"train": "training", "val": "held out"}


def write_card(path: Path, settings: Pretraining, results: Mapping[str, Any]) -> None:
    """Write the card as Markdown.

    Args:
        path: of the file.
        settings: of the pretraining.
        results: content of its ``metrics.json``.
    """
    # Markdown, not HTML: escaping would garble the credits
    template = Environment(undefined=StrictUndefined, autoescape=False, trim_blocks=True).from_string(TEMPLATE)  # noqa: S701
    provenance, cost = results["provenance"], results["cost"]
    machine = provenance["machine"]
    scores = list(zip(results["explained_variance"]["trained"], results["explained_variance"]["random"], strict=True))
    text = template.render(
        settings=settings,
        crops=settings.crops,
        cost=cost,
        teacher=results["teacher"],
        scores=scores,
        unlearned=[number for number, (trained, random) in enumerate(scores, start=1) if trained < random + MARGIN],
        sha256=results["weights"]["sha256"],
        provenance=provenance,
        hardware=", ".join([f"{machine['cpus']} CPUs", *machine["gpus"]]),
        versions=", ".join(f"{name} {version}" for name, version in provenance["packages"].items()),
        train=[photo for photo in PHOTOS if photo.use == "train"],
        photos=PHOTOS,
        uses=USES,
    )
    write_text(path, text)
