"""The verbs that use a trained run or its files: they parse, call and print, and import nothing heavy before use."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distill3d.terminal import show_result, stdout

run_app = typer.Typer(rich_markup_mode=None)
OVERRIDES = {"allow_extra_args": True, "ignore_unknown_options": True}
TRACE_EPILOG = "Settings (see config/trace.py) can follow as key=value, for example input=image gap_um=5."

Run = Annotated[Path, typer.Argument(metavar="RUN", help="a run's folder, runs/<experiment>/seed<k>")]
Channel = Annotated[int | None, typer.Option(min=0, help="of stacks that have several; else the run's, or 0")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="replace files that came from another stack or run")]
AllowPlugins = Annotated[
    bool, typer.Option("--allow-plugins", help="run the code that a file outside of this project names under plugins")
]
SurfaceUm = Annotated[float | None, typer.Option(min=0.0, help="masks: tolerance of the surface Dice (NSD), else 2")]
MaskUm = Annotated[float | None, typer.Option(min=0.0, help="masks: Dice within so many um beside voxels")]
TreeUm = Annotated[float | None, typer.Option(min=0.0, help="trees: F1 of length within so many um beside voxels")]
Threshold = Annotated[
    float | None, typer.Option(min=0.0, max=1.0, help="of a probability stack: share of its full scale, else 0.5")
]


@run_app.command()
def predict(
    run: Run,
    volumes: Annotated[list[Path], typer.Argument(metavar="VOLUME...", help="stacks to segment")],
    *,
    out: Annotated[Path, typer.Option(help="folder for the probability stacks")] = Path("prob"),
    spacing: Annotated[
        str | None, typer.Option(metavar="Z,Y,X", help="voxel size in um; wins over the run's and the files'")
    ] = None,
    channel: Channel = None,
    overwrite: Overwrite = False,
    allow_plugins: AllowPlugins = False,
) -> None:
    """Predict stacks as the run's data were read; writes <stem>_prob.tif (uint8, 255 is probability 1)."""
    from distill3d.training.inference import predict_all

    console = stdout()
    for written in predict_all(
        run,
        volumes,
        out=out,
        spacing_um=parsed_spacing(spacing),
        channel=channel,
        overwrite=overwrite,
        allow_plugins=allow_plugins,
    ):
        console.print(str(written), soft_wrap=True)


@run_app.command(context_settings=OVERRIDES, epilog=TRACE_EPILOG)
def trace(
    context: typer.Context,
    prob: Annotated[Path, typer.Argument(metavar="PROB", help="a probability stack, a mask or a raw stack")],
    *,
    out: Annotated[Path, typer.Option(help="the tree to write, .swc in um")],
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="a setting")] = None,
    spacing: Annotated[str | None, typer.Option(metavar="Z,Y,X", help="voxel size in um; wins over the file's")] = None,
    run: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="a raw stack: channel, intensity scaling and spacing as its data's"),
    ] = None,
    channel: Channel = None,
    overwrite: Overwrite = False,
    allow_plugins: AllowPlugins = False,
) -> None:
    """Turn a stack into trees: threshold, skeleton, gaps bridged, spurs cut, rooted at the soma."""
    from distill3d.config.files import trace_config
    from distill3d.tracing.trace import trace_file
    from distill3d.volumes.reading import Reading

    config = trace_config([*(settings or []), *context.args])
    if run is None:
        reading = Reading(channel=channel or 0)
    else:
        from distill3d.training.inference import run_reading

        reading = run_reading(run, channel=channel, allow_plugins=allow_plugins)
    tree = trace_file(prob, out, config, spacing_um=parsed_spacing(spacing), reading=reading, overwrite=overwrite)
    stdout().print(
        f"{out}  trees {len(tree.roots)}, length {tree.length_um:.1f} um, tips {len(tree.tips)}", soft_wrap=True
    )


@run_app.command()
def evaluate(
    run: Annotated[Path | None, typer.Argument(metavar="[RUN]", help="a run's folder")] = None,
    *,
    pred: Annotated[
        Path | None, typer.Option(help="instead of a run: a mask, a probability stack or an SWC file")
    ] = None,
    gold: Annotated[Path | None, typer.Option(help="the gold mask or SWC file to score it against")] = None,
    spacing: Annotated[
        str | None, typer.Option(metavar="Z,Y,X", help="voxel size in um; a tree that `trace` wrote is in um already")
    ] = None,
    vaa3d_compat: Annotated[bool, typer.Option(help="trees: draw orphans' edges as Vaa3D does")] = False,
    tolerance: Annotated[float, typer.Option(min=0.0, help="trees: length this near counts as found")] = 4.0,
    surface_um: SurfaceUm = None,
    mask_um: MaskUm = None,
    tree_um: TreeUm = None,
    threshold: Threshold = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object instead of a table")] = False,
    allow_plugins: AllowPlugins = False,
) -> None:
    """Trace and score a run's predictions again (metrics.json, swc/, figures/), or score one file against another."""
    if (run is None) == (pred is None) or (pred is None) != (gold is None):
        raise typer.BadParameter("accepted: a run's folder, or --pred FILE and --gold FILE")
    if run is not None and threshold is not None:
        raise typer.BadParameter(
            "a run has its own (inference.threshold); accepted: --threshold with --pred and --gold"
        )
    in_um = {"surface_um": surface_um, "mask_um": mask_um, "tree_um": tree_um}
    in_um = {name: value for name, value in in_um.items() if value is not None}
    if pred is not None and gold is not None:
        from distill3d.evaluation.file_scores import score_files
        from distill3d.evaluation.tables import file_table

        scores = score_files(
            pred,
            gold,
            spacing_um=parsed_spacing(spacing),
            vaa3d_compat=vaa3d_compat,
            tolerance=tolerance,
            tolerances_um=in_um,
            threshold=threshold,
        )
        table = file_table(scores)
    else:
        from distill3d.evaluation.run_scores import evaluate as evaluate_run
        from distill3d.evaluation.tables import score_table

        scores = evaluate_run(run or Path(), tolerances_um=in_um, allow_plugins=allow_plugins)
        table = score_table(scores)
    show_result(scores, table, as_json=as_json)


@run_app.command()
def replay(run: Run, allow_plugins: AllowPlugins = False) -> None:
    """Take the step again at which a run stopped because of its numbers, and say which value went wrong."""
    from distill3d.training.replay import replay as replay_step

    again = replay_step(run, allow_plugins=allow_plugins)
    for line in again.lines():
        stdout().print(line, soft_wrap=True)
    if not again.wrong:
        raise typer.Exit(1)


@run_app.command(name="tune-trace")
def tune_trace(
    run: Run,
    trials: Annotated[int, typer.Option(min=1, help="settings to try")] = 40,
    seed: Annotated[int, typer.Option(help="of the search")] = 0,
    allow_plugins: AllowPlugins = False,
) -> None:
    """Choose threshold, gap and spur length on a run's validation cases; `evaluate` uses them from then on."""
    from distill3d.evaluation.run_scores import evaluate as evaluate_run
    from distill3d.evaluation.tables import score_table
    from distill3d.training.tables import tuning_table
    from distill3d.training.trace_tuning import tune_trace as tune

    out = stdout()
    out.print(tuning_table(tune(run, trials=trials, seed=seed, allow_plugins=allow_plugins)))
    out.print(score_table(evaluate_run(run, allow_plugins=allow_plugins)))


def parsed_spacing(text: str | None) -> tuple[float, float, float] | None:
    """Return the value of ``--spacing``."""
    if text is None:
        return None
    try:
        z, y, x = (float(part) for part in text.split(","))
    except ValueError as err:
        raise typer.BadParameter(f"{text!r} is not three numbers; accepted: z,y,x such as 3.03,1,1") from err
    return z, y, x
