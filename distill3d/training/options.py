"""Arguments and options of the verbs that use a run or its files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Run = Annotated[Path, typer.Argument(metavar="RUN", help="a run's folder, runs/<experiment>/seed<k>")]
RUN_OR_MODEL = "a run's folder, or what `export` wrote; of several the mean"
Model = Annotated[
    list[str] | None,
    typer.Option("--model", metavar="NAME", help="instead of a run: a ready-made model, see `list models`"),
]
Channel = Annotated[int | None, typer.Option(min=0, help="of stacks that have several; else the run's, or 0")]
Stacks = Annotated[list[str], typer.Argument(metavar="STACK", help="files, folders, patterns in quotes")]
Probs = Annotated[
    list[str],
    typer.Argument(metavar="PROB", help="probability, mask or raw stacks: files, folders, patterns in quotes"),
]
SpacingOfRun = Annotated[
    str | None, typer.Option(metavar="Z,Y,X", help="voxel size in um; wins over the run's and the files'")
]
SpacingOfFiles = Annotated[
    str | None, typer.Option(metavar="Z,Y,X", help="voxel size in um; a tree that `trace` wrote is in um already")
]
TreeUnits = Annotated[
    Literal["voxel", "um"] | None, typer.Option(help="a mask and a tree: what the tree counts in; voxel unless said")
]
Flips = Annotated[bool, typer.Option("--tta", help="average over the eight flips of a stack: 8 times the time")]
MaxGib = Annotated[
    float | None, typer.Option(min=0.0, help="refuse stacks that take more GiB of memory, else half of the machine's")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="replace files that are there, of another stack or run")]
OverwriteAll = Annotated[
    bool, typer.Option("--overwrite", help="make all anew, and replace files that came from elsewhere")
]
ReadAs = Annotated[
    Path | None,
    typer.Option("--run", metavar="RUN", help="a raw stack: channel, intensity scaling and spacing as its data's"),
]
Pred = Annotated[
    list[str] | None,
    typer.Option(metavar="FILE", help="instead of runs: masks, probabilities or SWC files; a folder, a pattern"),
]
Gold = Annotated[
    list[str] | None, typer.Option(metavar="FILE", help="gold masks or SWC files to score against, paired by name")
]
Tolerance = Annotated[float | None, typer.Option(min=0.0, help="trees: near enough; um if known, else voxels; else 4")]
SurfaceUm = Annotated[float | None, typer.Option(min=0.0, help="masks: tolerance of the surface Dice (NSD), else 2")]
MaskUm = Annotated[float | None, typer.Option(min=0.0, help="masks: Dice within so many um beside voxels")]
TreeUm = Annotated[float | None, typer.Option(min=0.0, help="trees: F1 of length within so many um beside voxels")]
Threshold = Annotated[
    float | None, typer.Option(min=0.0, max=1.0, help="of a probability stack: share of its full scale, else 0.5")
]
Workers = Annotated[
    int | None, typer.Option(metavar="N", help="run the networks in N processes of this machine, a GPU each")
]
Scheduler = Annotated[
    str | None, typer.Option(metavar="ADDRESS", help="run them on a Dask cluster, such as tcp://10.0.0.1:8786")
]
WorkersByPart = Annotated[
    int | None,
    typer.Option("--workers", metavar="N", help="share a stack too large to be read whole among N processes"),
]
SchedulerByPart = Annotated[
    str | None,
    typer.Option("--scheduler", metavar="ADDRESS", help="or among a Dask cluster, such as tcp://10.0.0.1:8786"),
]
