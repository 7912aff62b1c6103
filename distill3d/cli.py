"""The verbs of the command line: they parse, call and print. They hold no logic and import nothing heavy before use."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

import typer

from distill3d.config.catalog import experiments, find_experiment, questions
from distill3d.report.verbs import report_app
from distill3d.sweep.verbs import sweep_app
from distill3d.terminal import AllowPlugins, echo, parsed_spacing, show_next, show_result, stdout
from distill3d.training.options import MaxGib
from distill3d.training.verbs import run_app
from distill3d.volumes.memory import allow_gib

app = typer.Typer(
    name="distill3d",
    context_settings={"max_content_width": 120},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(run_app)
app.add_typer(report_app)
app.add_typer(sweep_app)
OVERRIDES = {"allow_extra_args": True, "ignore_unknown_options": True}
EPILOG = "Any setting can follow as key=value or --key=value, for example trainer.steps=100."

FIRST_STEPS = """\
Does knowledge from 2D natural images help 3D neuron segmentation?

  distill3d list                                    what there is: experiments and components
  distill3d fit tubular                             train on simulated neurons, which needs no data; ends with scores
  distill3d init FOLDER                             your own stacks and golds become experiments, with reasons
  distill3d reconstruct STACKS --run RUN --out DIR  your own stacks become trees and pictures
  distill3d compare A B                             is B better than A, and can that be believed?
  distill3d report RUN RUN...                       runs compared on one page; dashboard shows them live

distill3d --help lists all verbs, distill3d VERB --help what one takes; distill3d --install-completion lets your shell
complete them."""

Name = Annotated[str, typer.Argument(metavar="EXPERIMENT", help="a name under experiments/, or a YAML file")]


@app.callback(invoke_without_command=True)
def first_steps(context: typer.Context) -> None:
    """Experiments that settle whether knowledge from 2D natural images helps 3D neuron segmentation."""
    if context.invoked_subcommand is None:
        typer.echo(FIRST_STEPS)


@app.command(context_settings=OVERRIDES, epilog=EPILOG)
def fit(
    context: typer.Context,
    name: Name,
    resume: Annotated[
        bool, typer.Option(help="continue an unfinished run, or a finished one to more trainer.steps")
    ] = False,
    overwrite: Annotated[bool, typer.Option(help="delete what is there and start anew")] = False,
    smoke: Annotated[
        bool, typer.Option(help="two real steps with logging, checkpoint and resume, under runs/smoke")
    ] = False,
    allow_plugins: AllowPlugins = False,
    max_gib: MaxGib = None,
) -> None:
    """Train a student, predict and score the held-out cases, and show the table."""
    find_experiment(name)
    from distill3d.evaluation.tables import learned_lines, learned_warnings, score_table
    from distill3d.experiment import load_experiment
    from distill3d.storage.curves import history
    from distill3d.storage.rank import is_main_process
    from distill3d.storage.run_folder import RunFolder
    from distill3d.training.fit import fit as fit_run
    from distill3d.training.fit import smoke as smoke_run

    allow_gib(max_gib)
    experiment = load_experiment(name, context.args, allow_plugins=allow_plugins)
    path = smoke_run(experiment) if smoke else fit_run(experiment, resume=resume, overwrite=overwrite)
    if not is_main_process():
        return
    folder, out = RunFolder(path), stdout()
    results = folder.read_json(folder.metrics)
    if not results:
        best = max(history(folder, "val/dice"), default=math.nan)
        out.print(f"no test case, so no scores; best validation Dice {best:.3f}: {folder.best}", soft_wrap=True)
        return
    out.print(score_table(results))
    pictures = f"pictures  {folder.figures}/*.png; trees to turn, in a browser: *_3d.html"
    out.print(f"scores    {folder.metrics}", pictures, sep="\n", soft_wrap=True)
    for line in learned_lines(results):
        out.print(line, soft_wrap=True)
    for warning in learned_warnings(results):
        out.print(warning, style="yellow", soft_wrap=True)
    show_next(f"your own stacks: distill3d reconstruct STACKS --run {path} --out trees")


@app.command(context_settings=OVERRIDES, epilog=EPILOG)
def pretrain(
    context: typer.Context,
    name: Name,
    resume: Annotated[bool, typer.Option(help="continue an unfinished run")] = False,
    overwrite: Annotated[bool, typer.Option(help="delete what is there and start anew")] = False,
    allow_plugins: AllowPlugins = False,
) -> None:
    """Train a small 2D ViT on photos by distillation; leaves weights and a model card in the run's folder."""
    find_experiment(name)
    from distill3d.experiment import load_pretraining
    from distill3d.storage.rank import is_main_process
    from distill3d.training.pretrain import pretrain as pretrain_vit

    settings = load_pretraining(name, context.args, allow_plugins=allow_plugins)
    path = pretrain_vit(settings, resume=resume, overwrite=overwrite)
    if is_main_process():
        out = path / settings.architecture
        stdout().print(f"weights   {out}.safetensors", f"card      {out}.md", sep="\n", soft_wrap=True)
        show_next(f"read {out}.md")


@app.command(context_settings=OVERRIDES, epilog=EPILOG)
def show(
    context: typer.Context,
    name: Name,
    against: Annotated[str | None, typer.Option(metavar="OTHER", help="show only the keys that differ")] = None,
    allow_plugins: AllowPlugins = False,
) -> None:
    """Print an experiment's settings, all resolved, each with the file that says it; or its difference from another."""
    file = find_experiment(name)
    from distill3d.config.compare import differences
    from distill3d.config.files import read
    from distill3d.config.plain import as_plain
    from distill3d.config.tables import difference_table, with_origins
    from distill3d.experiment import load_experiment

    experiment = load_experiment(name, context.args, allow_plugins=allow_plugins)
    if against is None:
        echo(with_origins(as_plain(experiment), read(file, context.args).origins))
        show_next(f"distill3d check {name}, distill3d fit {name}")
        return
    other = load_experiment(against, allow_plugins=allow_plugins)
    rows = [row for row in differences(experiment, other) if row[0] not in {"name", "question"}]
    stdout().print(difference_table(experiment.name, other.name, rows))
    show_next(f"distill3d fit {against}, distill3d fit {name}, distill3d compare {against} {name}")


@app.command(context_settings=OVERRIDES, epilog=EPILOG)
def audit(
    context: typer.Context,
    name: Name,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object instead of tables")] = False,
    allow_plugins: AllowPlugins = False,
) -> None:
    """Show what a fresh run takes from the teacher, a row per entry of the student, totals, and how near it starts."""
    find_experiment(name)
    from distill3d.experiment import load_experiment
    from distill3d.training.audit import audit_experiment
    from distill3d.training.tables import audit_rows_table, audit_table, start_parts

    report = audit_experiment(load_experiment(name, context.args, allow_plugins=allow_plugins))
    tables = audit_rows_table(report.as_dict()), audit_table(report.audit), *start_parts(report)
    show_result(report.as_dict(), *tables, as_json=as_json)
    show_next(f"distill3d fit {name}")


@app.command(context_settings=OVERRIDES, epilog=EPILOG)
def cache(
    context: typer.Context,
    name: Name,
    prune: Annotated[bool, typer.Option("--prune", help="first delete what nobody used for a while")] = False,
    unused_days: Annotated[float, typer.Option(help="with --prune: how long a while is, 0 for all")] = 30.0,
    allow_plugins: AllowPlugins = False,
) -> None:
    """Compute what a frozen teacher says of an experiment's training stacks, once, so that training need not run it."""
    find_experiment(name)
    from distill3d.experiment import load_experiment
    from distill3d.training.tables import cache_table
    from distill3d.training.teacher_maps import cache_experiment, prune_cache

    experiment, out = load_experiment(name, context.args, allow_plugins=allow_plugins), stdout()
    if prune:
        entries, size = prune_cache(experiment, unused_days=unused_days)
        out.print(f"deleted {entries} entries, {size / 2**20:.0f} MiB")
    out.print(cache_table(cache_experiment(experiment)))
    show_next(f"distill3d fit {name}")


@app.command(name="list")
def list_all(
    what: Annotated[Literal["all", "models"], typer.Argument(help="models: ready-made networks alone")] = "all",
) -> None:
    """List the experiments, every component an experiment can name, or the ready-made models."""
    from distill3d.config.tables import catalog_table, component_table
    from distill3d.experiment import describe_components
    from distill3d.storage.models import models

    out = stdout()
    if what == "models":
        from distill3d.training.tables import models_table

        out.print(models_table(models()))
        show_next("distill3d reconstruct STACKS --model NAME --out trees")
        return
    out.print(catalog_table(questions(), experiments()))
    for kind, rows in describe_components().items():
        out.print(component_table(kind, rows))
    out.print(f"models: {', '.join(models()) or 'none yet'} (distill3d list models)", soft_wrap=True)
    show_next("distill3d show NAME, distill3d fit NAME")


@app.command(context_settings=OVERRIDES, epilog=EPILOG)
def check(context: typer.Context, name: Name, allow_plugins: AllowPlugins = False, max_gib: MaxGib = None) -> None:
    """Verify an experiment's data: shapes, types, spacing, empty masks, flips, duplicates between splits."""
    find_experiment(name)
    from distill3d.data.check import check_data
    from distill3d.data.tables import check_table
    from distill3d.experiment import load_experiment
    from distill3d.training.tubes import tap_notes

    allow_gib(max_gib)
    experiment = load_experiment(name, context.args, allow_plugins=allow_plugins)
    report = check_data(experiment, tap_notes(experiment))
    stdout().print(check_table(report))
    if report.problems:
        raise typer.Exit(1)
    show_next(f"distill3d fit {name}")


@app.command()
def init(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="stacks with trees or masks beside them, or nnU-Net's")
    ],
    *,
    name: Annotated[str | None, typer.Option(help="of the experiment, else the folder's")] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="folder of experiments")] = Path("experiments"),
    spacing: Annotated[str | None, typer.Option(metavar="Z,Y,X", help="voxel size in um; wins over the files'")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace files that are there")] = False,
    max_gib: MaxGib = None,
) -> None:
    """Look at a folder of stacks and golds, and write experiments on them: settings with reasons, scratch and twins."""
    from distill3d.data.plan import plan
    from distill3d.data.plan_files import targets_of, write_plan
    from distill3d.data.survey import survey
    from distill3d.data.tables import plan_table

    allow_gib(max_gib)
    targets = targets_of(folder, name, out, overwrite=overwrite)
    made = plan(survey(folder, spacing_um=parsed_spacing(spacing)))
    given = "" if spacing is None else f" --spacing {spacing}"
    written = write_plan(made, targets, command=f"distill3d init {folder}{given}")
    console = stdout()
    console.print(plan_table(made))
    for path in written:
        console.print(f"written   {path}", soft_wrap=True)
    show_next(f"read {written[0]}, distill3d check {written[0]}, distill3d fit {written[0]}")
