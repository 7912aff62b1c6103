"""A run's case in napari: image, probability, both trees with errors in color, and the worst places to step to."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill3d.data.datamodule import DistillDataModule
from distill3d.errors import InputError, did_you_mean
from distill3d.evaluation.figures.layers import WORST, Layer, image_layer, stack_layer, tree_layers
from distill3d.evaluation.run_scores import prediction
from distill3d.experiment import experiment_from_plain
from distill3d.storage.links import require_inside
from distill3d.storage.run_folder import RunFolder
from distill3d.volumes.swc import read_swc

if TYPE_CHECKING:
    from napari import Viewer

CLOSE = 8.0  # screen pixels of a um


def case_layers(run: Path | str, case: str | None = None, *, allow_plugins: bool = False) -> list[Layer]:
    """Return what there is of a test case of a run.

    Args:
        run: the folder of a finished run.
        case: its name; None takes the one with the lowest Dice.
        allow_plugins: as for `distill3d.evaluation.run_scores.evaluate`.

    Raises:
        InputError: no finished run, or no such case.
    """
    folder = RunFolder(Path(run))
    require_inside(folder.path)
    metrics = folder.read_json(folder.metrics)
    scores = metrics.get("cases") if metrics else None
    if not scores:
        raise InputError(f"{run}: no test case was scored; accepted: the folder of a finished run")
    name = case or min(scores, key=lambda each: scores[each]["dice"])
    if name not in scores:
        near = did_you_mean(name, scores)
        raise InputError(f"{run}: no test case {name!r}; {near or 'accepted: ' + ', '.join(scores)}")
    experiment = experiment_from_plain(folder.read_config(), source=folder.config, allow_plugins=allow_plugins)
    data = DistillDataModule(experiment, run=folder)
    prepared = next(each for each in data.cases("test") if each.name == name)
    spacing = prepared.spacing_um
    swc = folder.swc(name)
    pred = read_swc(swc, allow_empty=True) if swc.is_file() else None
    prob = stack_layer(
        "probability", prediction(folder, prepared), spacing, colormap="magma", blending="additive", opacity=0.5
    )
    return [
        image_layer(name, prepared.raw, spacing),
        prob,
        *tree_layers(gold=prepared.tree(), pred=pred, spacing_um=spacing),
    ]


def open_viewer(layers: Iterable[Layer], title: str, *, show: bool = True) -> Viewer:
    """Show layers in napari, in 3D; the keys ``n`` and ``p`` go to the next and the previous of the worst places.

    Raises:
        InputError: napari is not installed.
    """
    try:
        import napari  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise InputError("napari is not installed; accepted: after pip install 'distill3d[napari]'") from error
    viewer = napari.Viewer(title=title, ndisplay=3, show=show)
    for data, settings, kind in layers:
        getattr(viewer, f"add_{kind}")(data, **settings)
    viewer.canvas.overlays.scale_bar.visible = True
    if WORST in viewer.layers:
        _bind_steps(viewer, viewer.layers[WORST])
    viewer.reset_view()
    return viewer


def _bind_steps(viewer: Viewer, points: Any) -> None:  # noqa: ANN401 - napari's layer
    def step(by: int) -> None:
        count = len(points.data)
        if not count:
            return
        here = min(points.selected_data, default=-1 if by > 0 else 0)
        there = (here + by) % count
        points.selected_data = {there}
        place = points.data[there]
        viewer.dims.set_point(range(3), place)
        viewer.camera.center = tuple(place)
        viewer.camera.zoom = max(viewer.camera.zoom, CLOSE)
        kind, voxels = points.features.iloc[there][["kind", "voxels"]]
        viewer.status = f"{there + 1} of {count}: {kind}, {voxels:.0f} voxels long"

    viewer.bind_key("n", lambda _: step(1))
    viewer.bind_key("p", lambda _: step(-1))
