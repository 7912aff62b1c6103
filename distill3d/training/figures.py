"""Draws what a run has learned: filters, tubes, gradients of its terms, similarity to its teacher."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.torch import load_file, save

from distill3d.data.prepared import PreparedCase
from distill3d.evaluation.figures.filters import filters_figure
from distill3d.evaluation.figures.gradients import gradient_figure
from distill3d.evaluation.figures.similarity import similarity_figure
from distill3d.evaluation.figures.tubes import tubes_figure
from distill3d.evaluation.tables import tubes_line
from distill3d.storage.run_folder import RunFolder, write_bytes
from distill3d.training.module import DistillModule
from distill3d.training.tubes import fullest_windows, place, tubular_embed


def keep_start(folder: RunFolder, module: DistillModule) -> None:
    """Save the weights that meet the image, as the transfer left them, to be compared with the trained ones."""
    name = module.student.input_weight
    if name is not None:
        write_bytes(folder.start, save({name: module.student.state_dict()[name].contiguous()}))


def learned_figures(folder: RunFolder, module: DistillModule, case: PreparedCase) -> dict[str, Path]:
    """Draw filters before and after training, taps of tubes over a test case, gradients, and similarity to the teacher.

    Args:
        folder: of the run; `keep_start` has run.
        module: trained.
        case: shows the tubes where it holds most gold.

    Returns:
        Name for the logs -> the figure.
    """
    run = f"{module.experiment.name}, seed {module.experiment.seed}"
    return _teaching_figures(folder, run) | _input_figures(folder, run, module, case)


def _teaching_figures(folder: RunFolder, run: str) -> dict[str, Path]:
    """Draw which loss term moved the student, and how its layers came closer to the teacher's."""
    figures: dict[str, Path] = {}
    history = folder.read_json(folder.gradients).get("history", [])
    if history:
        title = f"{run}: gradients of the loss terms"
        figures["learned/gradients"] = gradient_figure(folder.figures / "gradients.png", title, history)
    alike = folder.read_json(folder.similarity)
    if {"before", "after"} <= set(alike):
        title = f"{run}: how alike the layers of student and teacher are"
        path = folder.figures / "similarity.png"
        figures["learned/similarity"] = similarity_figure(path, title, before=alike["before"], after=alike["after"])
    return figures


def _input_figures(folder: RunFolder, run: str, module: DistillModule, case: PreparedCase) -> dict[str, Path]:
    """Draw the weights that meet the image."""
    name = module.student.input_weight
    if name is None or not folder.start.is_file():
        return {}
    before, after = load_file(folder.start)[name], module.student.state_dict()[name].cpu()
    title = f"{run}: {name}"
    figures = {"learned/filters": filters_figure(folder.figures / "filters.png", title, before=before, after=after)}
    layer = tubular_embed(module)
    if layer is not None:
        (window,) = fullest_windows(case.mask, module.experiment.patches.size_zyx, most=1)
        image, measured = case.image[window], tubes_line(folder.read_json(folder.fit).get("tubes"))
        title = f"{run}: where the tubes look, {case.name} from voxel {tuple(s.start for s in window)}"
        figures["learned/tubes"] = tubes_figure(
            folder.figures / "tubes.png",
            f"{title}\nall test cases, {measured}" if measured else title,
            image=image,
            mask=np.asarray(case.mask[window]),
            taps=place(module, layer, image),
            axes=layer.axes,
            spacing_um=case.spacing_um,
        )
    return figures
