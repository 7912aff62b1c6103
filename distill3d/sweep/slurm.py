"""Writes a sweep as a SLURM array job: a task per trial. It submits nothing.

A task runs its trial under ``srun``, one process per device as Lightning expects it, and always with ``--resume``: near
its time limit, or when it is preempted, SLURM sends SIGTERM, the trial stops with code 143, and the task puts itself
back in line. It then goes on from its last checkpoint in the same folder, which also holds the id of its W&B run.
"""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Sequence
from pathlib import Path

from distill3d.config.compare import disagreements
from distill3d.config.schema import TrainerConfig
from distill3d.errors import ConfigError, InputError
from distill3d.storage.achieved import scores
from distill3d.storage.find import walk_runs
from distill3d.storage.record import Record
from distill3d.storage.run_folder import RunFolder, write_text
from distill3d.sweep.objective import objective
from distill3d.sweep.plan import Trial, Values, grid, passed, sweep_folder
from distill3d.sweep.schema import Sweep
from distill3d.sweep.search import Attempt
from distill3d.volumes.inputs import require_writable

_LOG = logging.getLogger(__name__)
SCRIPT = """#!/bin/bash
# Sweep {name}: {count} trials, written by `distill3d sweep export-slurm`. Submit it from the folder it was written in:
#   sbatch {path}
# Add what your cluster asks for (#SBATCH --partition, --account) and make `python` the one of your .venv.
#SBATCH --job-name={name}
#SBATCH --array=0-{last}%{at_once}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node={devices}
{gpus}#SBATCH --cpus-per-task={cpus}
#SBATCH --time={time}
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output={log}
# Lightning wants one task per device (--ntasks-per-node is trainer.devices, --nodes is trainer.num_nodes).
set -u
cd {here}
export WANDB_RUN_GROUP={name} WANDB_TAGS={tag}
case "$SLURM_ARRAY_TASK_ID" in
{cases}
*) echo "no trial $SLURM_ARRAY_TASK_ID" >&2; exit 2 ;;
esac
# A step of its own for every task; if one process ends badly the others, which wait for it, are ended too
srun --kill-on-bad-exit=1 "${{trial[@]}}" --resume
code=$?
if [ "$code" -eq 143 ]; then
  scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
fi
exit "$code"
"""


def export(
    sweep: Sweep, trials: Sequence[Trial], path: Path, *, folder: Path, at_once: int, time: str, cpus: int
) -> None:
    """Write the job script, and what `sweep report` needs to read the trials afterwards.

    Args:
        sweep: the sweep.
        trials: all of it.
        path: of the script.
        folder: of the sweep.
        at_once: how many trials may run at a time.
        time: limit of a trial, as SLURM writes it.
        cpus: cores per process.

    Raises:
        ConfigError: the trials need different resources, or values that depend on results.
    """
    if sweep.method == "bayes":
        raise ConfigError(
            f"sweep {sweep.name}: bayes needs results before it can go on; accepted: in a job, "
            "'distill3d sweep run' and on other nodes 'sweep resume', with --storage postgresql://..."
        )
    if sweep.early_terminate is not None or sweep.metric.target is not None:
        said = "early_terminate" if sweep.early_terminate is not None else "metric.target"
        _LOG.warning("sweep %s: SLURM runs all %d trials to their end, whatever %s says", sweep.name, len(trials), said)
    trainer = _common([trial.experiment.trainer for trial in trials], sweep)
    require_writable(folder, option="--runs")
    require_writable(path.parent)
    cases = []
    for trial in trials:
        write_text(trial.arguments_file, json.dumps(passed(sweep, trial.values)))
        cases.append(f"{trial.number}) trial=({shlex.join(trial.argv)}) ;;")
    write_text(folder / "sweep.yaml", sweep.text)
    gpus = "" if trainer.accelerator == "cpu" else f"#SBATCH --gpus-per-node={trainer.devices}\n"
    settings = {"count": len(trials), "last": len(trials) - 1, "at_once": at_once, "cases": "\n".join(cases)}
    settings |= {"nodes": trainer.num_nodes, "devices": trainer.devices, "gpus": gpus, "cpus": cpus, "time": time}
    texts = {"name": sweep.name, "tag": f"sweep:{sweep.name}", "path": path, "log": folder / "slurm-%a.log"}
    texts |= {"here": Path.cwd()}  # in quotes where they need some, which bash and sbatch take off alike
    write_text(path, SCRIPT.format(**settings, **{key: shlex.quote(str(text)) for key, text in texts.items()}))


def _common(trainers: Sequence[TrainerConfig], sweep: Sweep) -> TrainerConfig:
    needs = {(trainer.devices, trainer.num_nodes, trainer.accelerator) for trainer in trainers}
    if len(needs) > 1:
        raise ConfigError(
            f"sweep {sweep.name}: trials differ in trainer.devices, num_nodes or accelerator; "
            "an array job gives the same to all"
        )
    return trainers[0]


def rows_of_folders(sweep: Sweep, trials: Sequence[Trial]) -> list[Attempt]:
    """State of every trial of an exported sweep, read from its folder: there is no study that would know it."""
    return [_row(sweep, trial.number, trial.values, trial.run) for trial in trials]


def rows_of_agents(sweep: Sweep, folder: Path) -> list[Attempt]:
    """State of every trial of a grid that agents of W&B ran: of runs below the folder with its settings, a whole one's.

    Raises:
        InputError: it is no grid, whose points alone are known without W&B.
    """
    if sweep.method != "grid":
        raise InputError(f"sweep {sweep.name}: W&B drew its trials and knows them; accepted: a grid, or sweep run")
    runs = [(RunFolder(path), RunFolder(path).read_config()) for path in walk_runs(folder)]
    runs.sort(key=lambda known: known[0].state != "done")
    absent = RunFolder(folder / "absent")
    return [
        _row(sweep, number, values, next((run for run, config in runs if not disagreements(values, config)), absent))
        for number, values in enumerate(grid(sweep))
    ]


def _row(sweep: Sweep, number: int, values: Values, run: RunFolder) -> Attempt:
    done = run.state == "done"
    return Attempt(
        number=number,
        attempt=1,
        optuna_number=-1,
        state="finished" if done else "running" if run.state == "unfinished" else "waiting",
        values=values,
        value=objective(run, sweep.metric) if done else None,
        reason="" if done or run.state == "absent" else "running, or waiting to go on: see squeue",
        before="",
        resumes=True,
        failures=0,
        seconds=Record(run.fit, run.read_json(run.fit)).part("cost").number("fit_seconds") if done else None,
        scores=scores(run) if done else {},
    )


def default_script(sweep: Sweep, runs: Path) -> Path:
    """Where the script goes if nothing else is said."""
    return sweep_folder(sweep.name, runs) / "array.sh"
