"""The verbs that use a trained run or its files: they parse, call and print, and import nothing heavy before use."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distill3d.terminal import AllowPlugins, parsed_spacing, show_all, show_next, stdout
from distill3d.training.options import (
    RUN_OR_MODEL,
    Channel,
    Flips,
    Gold,
    MaskUm,
    MaxGib,
    Model,
    Overwrite,
    OverwriteAll,
    Pred,
    Probs,
    ReadAs,
    Run,
    Scheduler,
    SchedulerByPart,
    SpacingOfFiles,
    SpacingOfRun,
    Stacks,
    SurfaceUm,
    Threshold,
    Tolerance,
    TreeUm,
    TreeUnits,
    Workers,
    WorkersByPart,
)
from distill3d.volumes.memory import allow_gib

run_app = typer.Typer(rich_markup_mode=None)
OVERRIDES = {"allow_extra_args": True, "ignore_unknown_options": True}
TRACE_EPILOG = "Settings (see distill3d/config/trace.py) can follow as key=value, for example input=image gap_um=5."


@run_app.command()
def reconstruct(
    stacks: Stacks,
    *,
    run: Annotated[list[Path] | None, typer.Option("--run", metavar="RUN", help=RUN_OR_MODEL)] = None,
    model: Model = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="for <stem>_prob, .swc, .png, _3d.html, summary.csv")],
    spacing: SpacingOfRun = None,
    channel: Channel = None,
    tta: Flips = False,
    overwrite: OverwriteAll = False,
    allow_plugins: AllowPlugins = False,
    max_gib: MaxGib = None,
) -> None:
    """Turn your stacks into trees and pictures, with scores where gold lies beside; goes on where it was killed."""
    from distill3d.storage.models import chosen
    from distill3d.training.networks import networks_of
    from distill3d.training.reconstruct import reconstruct as reconstruct_all
    from distill3d.training.summary import as_line
    from distill3d.volumes.inputs import expand

    allow_gib(max_gib)
    files, size, console = expand(stacks), parsed_spacing(spacing), stdout()
    used = chosen(run or [], model or [])
    networks = networks_of(used, channel=channel, spacing_um=size, flips=tta, allow_plugins=allow_plugins)
    pictures: list[Path] = []
    try:
        for row, picture in reconstruct_all(files, networks, out=out, overwrite=overwrite):
            console.print(as_line(row), soft_wrap=True)
            pictures.append(picture)
    finally:
        if pictures:
            console.print(
                f"summary   {out / 'summary.csv'}",
                f"pictures  {out}/*.png; to turn, in a browser: *_3d.html",
                sep="\n",
                soft_wrap=True,
            )
            show_next(f"look at {pictures[0]}; open the trees (.swc, in um) in Vaa3D, napari or neuTube")


@run_app.command()
def predict(
    places: Annotated[
        list[str],
        typer.Argument(metavar="RUN STACK...", help=f"{RUN_OR_MODEL}; then files, folders, patterns in quotes"),
    ],
    *,
    more: Annotated[list[Path] | None, typer.Option("--run", metavar="RUN", help="another; the mean is taken")] = None,
    model: Model = None,
    out: Annotated[Path, typer.Option(help="folder for the probability stacks")] = Path("prob"),
    spacing: SpacingOfRun = None,
    channel: Channel = None,
    tta: Flips = False,
    overwrite: Overwrite = False,
    workers: Workers = None,
    scheduler: Scheduler = None,
    allow_plugins: AllowPlugins = False,
    max_gib: MaxGib = None,
) -> None:
    """Predict stacks as the run's data were read; writes <stem>_prob.tif, of a Zarr .zarr (uint8, 255 is 1)."""
    from distill3d.storage.models import chosen, is_run
    from distill3d.training.networks import networks_of
    from distill3d.training.predict import predict_all
    from distill3d.volumes.cluster import workers as started
    from distill3d.volumes.inputs import expand

    allow_gib(max_gib)
    first = 1 if not model or is_run(places[0]) else 0
    used = chosen([*map(Path, places[:first]), *(more or [])], model or [])
    if not places[first:]:
        raise typer.BadParameter("no stack is given; accepted: RUN STACK..., or --model NAME STACK...")
    files, size, console = expand(places[first:]), parsed_spacing(spacing), stdout()
    networks = networks_of(used, channel=channel, spacing_um=size, flips=tta, allow_plugins=allow_plugins)
    with started(workers, scheduler) as elsewhere:
        for written in predict_all(networks, files, out=out, overwrite=overwrite, workers=elsewhere):
            console.print(str(written), soft_wrap=True)
    show_next(f"distill3d trace {out} --out trees")


@run_app.command(context_settings=OVERRIDES, epilog=TRACE_EPILOG)
def trace(
    context: typer.Context,
    prob: Probs,
    *,
    out: Annotated[Path, typer.Option(help="the tree to write, .swc in um; of several stacks a folder")],
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="a setting")] = None,
    spacing: Annotated[str | None, typer.Option(metavar="Z,Y,X", help="voxel size in um; wins over the file's")] = None,
    run: ReadAs = None,
    channel: Channel = None,
    overwrite: Overwrite = False,
    workers: WorkersByPart = None,
    scheduler: SchedulerByPart = None,
    allow_plugins: AllowPlugins = False,
    max_gib: MaxGib = None,
) -> None:
    """Turn stacks into trees: threshold, skeleton, gaps bridged, spurs cut, rooted at the soma."""
    from distill3d.config.files import trace_config
    from distill3d.tracing.trace import trace_files
    from distill3d.volumes.cluster import workers as started
    from distill3d.volumes.inputs import expand
    from distill3d.volumes.reading import Reading

    allow_gib(max_gib)
    words = [*prob, *context.args]
    config = trace_config([*(settings or []), *filter(is_setting, words)])
    files, size = expand([word for word in words if not is_setting(word)]), parsed_spacing(spacing)
    if run is None:
        reading = Reading(channel=channel or 0)
    else:
        from distill3d.training.networks import run_reading

        reading = run_reading(run, channel=channel, allow_plugins=allow_plugins)
    console = stdout()
    with started(workers, scheduler, again="begins anew") as elsewhere:
        how = {"spacing_um": size, "reading": reading, "overwrite": overwrite, "workers": elsewhere}
        for file, tree in trace_files(files, out, config, **how):
            length = f"length {tree.length_um:.1f} um"
            console.print(f"{file}  trees {len(tree.roots)}, {length}, tips {len(tree.tips)}", soft_wrap=True)
    show_next(f"open the tree in Vaa3D, napari or neuTube, or distill3d evaluate --pred {out} --gold YOUR_GOLD")


@run_app.command()
def evaluate(
    runs: Annotated[list[str] | None, typer.Argument(metavar="RUN", help="runs' folders, or patterns")] = None,
    *,
    pred: Pred = None,
    gold: Gold = None,
    spacing: SpacingOfFiles = None,
    tree_units: TreeUnits = None,
    vaa3d_compat: Annotated[bool, typer.Option(help="trees: draw orphans' edges as Vaa3D does")] = False,
    tolerance: Tolerance = None,
    surface_um: SurfaceUm = None,
    mask_um: MaskUm = None,
    tree_um: TreeUm = None,
    threshold: Threshold = None,
    workers: WorkersByPart = None,
    scheduler: SchedulerByPart = None,
    max_gib: MaxGib = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object instead of a table")] = False,
    allow_plugins: AllowPlugins = False,
) -> None:
    """Trace and score runs' predictions again (metrics.json, swc/, figures/), or score files against others."""
    if (not runs) == (not pred) or (not pred) != (not gold):
        raise typer.BadParameter("accepted: runs' folders, or --pred FILE and --gold FILE")
    if runs and (vaa3d_compat or {spacing, tree_units, tolerance, threshold, workers, scheduler} != {None}):
        own = "--spacing, --tree-units, --tolerance, --threshold, --vaa3d-compat, --workers, --scheduler"
        raise typer.BadParameter(f"a run has settings of its own; accepted: {own} with --pred and --gold")
    allow_gib(max_gib)
    given = {"surface_um": surface_um, "mask_um": mask_um, "tree_um": tree_um}.items()
    in_um = {name: value for name, value in given if value is not None}
    if pred and gold:
        from distill3d.evaluation.file_pairs import score_places
        from distill3d.evaluation.tables import file_tables
        from distill3d.volumes.cluster import workers as started

        how = {"spacing_um": parsed_spacing(spacing), "vaa3d_compat": vaa3d_compat, "tolerance": tolerance}
        how |= {"tolerances_um": in_um, "tree_units": tree_units, "threshold": threshold}
        with started(workers, scheduler, again="begins anew") as elsewhere:
            scores = score_places(pred, gold, workers=elsewhere, **how)
            show_all(scores, file_tables, as_json=as_json)
    else:
        from distill3d.evaluation.places import evaluate_all
        from distill3d.evaluation.tables import score_table

        scores = evaluate_all(runs or [], in_um, allow_plugins=allow_plugins)
        show_all(scores, lambda each: map(score_table, each), as_json=as_json)
        show_next(f"distill3d tune-trace {(runs or [''])[0]}, or distill3d compare A B")


@run_app.command()
def view(
    run: Run,
    case: Annotated[str | None, typer.Argument(metavar="CASE", help="a test case, else the one of lowest Dice")] = None,
    allow_plugins: AllowPlugins = False,
) -> None:
    """Open a test case in napari: stack, probability, trees with errors in color; n and p step through the worst."""
    from distill3d.evaluation.view import case_layers, open_viewer

    layers = case_layers(run, case, allow_plugins=allow_plugins)
    open_viewer(layers, f"{run} {layers[0][1]['name']}")
    import napari

    napari.run()


@run_app.command()
def replay(run: Run, allow_plugins: AllowPlugins = False) -> None:
    """Take the step again at which a run stopped because of its numbers, and say which value went wrong."""
    from distill3d.training.replay import replay as replay_step

    again = replay_step(run, allow_plugins=allow_plugins)
    for line in again.lines():
        stdout().print(line, soft_wrap=True)
    if not again.wrong:
        raise typer.Exit(1)


@run_app.command()
def export(
    run: Run,
    out: Annotated[Path, typer.Option(metavar="FILE", help="to write, ends in .safetensors; a card .md comes beside")],
    note: Annotated[str, typer.Option(help="a sentence for the card, such as what it is not for")] = "",
    overwrite: Overwrite = False,
    allow_plugins: AllowPlugins = False,
) -> None:
    """Shrink a finished run to one file that others predict with: half-precision weights, and a card of what it is."""
    from distill3d.training.export import export as export_run

    card = export_run(run, out, note=note, overwrite=overwrite, allow_plugins=allow_plugins)
    stdout().print(f"model     {out}", f"card      {card}", sep="\n", soft_wrap=True)
    show_next(f"distill3d reconstruct STACKS --run {out} --out trees")


@run_app.command(name="tune-trace")
def tune_trace(
    run: Run,
    trials: Annotated[int, typer.Option(min=1, help="settings to try")] = 40,
    seed: Annotated[int, typer.Option(help="of the search")] = 0,
    allow_plugins: AllowPlugins = False,
) -> None:
    """Choose threshold, gap, spur and least tree length on a run's validation cases; `evaluate` uses them then."""
    from distill3d.evaluation.run_scores import evaluate as evaluate_run
    from distill3d.evaluation.tables import score_table
    from distill3d.training.tables import tuning_table
    from distill3d.training.trace_tuning import tune_trace as tune

    out = stdout()
    out.print(tuning_table(tune(run, trials=trials, seed=seed, allow_plugins=allow_plugins)))
    out.print(score_table(evaluate_run(run, allow_plugins=allow_plugins)))
    show_next(f"your own stacks, traced like this: distill3d reconstruct STACKS --run {run} --out trees")


def is_setting(word: str) -> bool:
    """Whether a word of ``trace`` is a setting and no file or pattern."""
    return word.startswith("--") or ("=" in word and not set("*?/") & set(word) and not Path(word).exists())


@run_app.command()
def reproduce(
    run: Run,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="keeps the new run; else a temporary folder")
    ] = None,
    max_gib: MaxGib = None,
    allow_plugins: AllowPlugins = False,
) -> None:
    """Train a finished run again from its own files; shows which values of metrics.json differ, exits 1 if any do."""
    from distill3d.training.reproduce import reproduce as run_again
    from distill3d.training.tables import reproduction_table

    allow_gib(max_gib)
    result = run_again(run, out=out, allow_plugins=allow_plugins)
    stdout().print(reproduction_table(result.values, result.code))
    if result.values:
        raise typer.Exit(1)
