"""distill3d: does knowledge from 2D natural images help 3D neuron segmentation?

The public names below are imported when they are first used, so that ``import distill3d`` costs nothing. They are what
a script runs (`fit`, `predict`, `evaluate`, `trace`, files in and out) and what a plugin builds on: the registries, the
base classes, and what these pass on.

The rooms, each importing only those above it:

* ``config``: from an experiment's file to frozen, validated settings.
* ``volumes``: volumes and trees: files in, micrometers out.
* ``storage``: what a run leaves on disk, and how to find and read it.
* ``layers``: modules and pure functions that networks share.
* ``data``: sources of labelled volumes, and the patches cut from them.
* ``teachers``: frozen 2D networks.
* ``students``: trainable 3D networks.
* ``losses``: supervised losses.
* ``neurons``: neuron types, and the conversion of a student to them.
* ``transfer``: how knowledge gets from a teacher into a student.
* ``tracing``: from a probability volume to a tree.
* ``evaluation``: scores of a run, and their figures.
* ``training``: from an experiment to a finished run.
* ``sweep``: many runs over chosen settings, without a server.
* ``report``: runs compared, and one page to open in a browser.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distill3d.config.registry import DATA, LOSSES, NEURONS, STRATEGIES, STUDENTS, TEACHERS
    from distill3d.data.base import DataSource
    from distill3d.evaluation.run_scores import evaluate
    from distill3d.experiment import load_experiment
    from distill3d.losses.base import Loss
    from distill3d.students.base import Student
    from distill3d.teachers.base import Teacher
    from distill3d.tracing.trace import trace
    from distill3d.training.fit import fit
    from distill3d.training.inference import predict
    from distill3d.transfer.base import TransferStrategy
    from distill3d.types import Batch, LossTerm, Prediction
    from distill3d.volumes.raster import rasterize
    from distill3d.volumes.swc import read_swc, write_swc
    from distill3d.volumes.volume import read_volume, write_volume

__all__ = [
    "DATA",
    "LOSSES",
    "NEURONS",
    "STRATEGIES",
    "STUDENTS",
    "TEACHERS",
    "Batch",
    "DataSource",
    "Loss",
    "LossTerm",
    "Prediction",
    "Student",
    "Teacher",
    "TransferStrategy",
    "evaluate",
    "fit",
    "load_experiment",
    "predict",
    "rasterize",
    "read_swc",
    "read_volume",
    "trace",
    "write_swc",
    "write_volume",
]

_HOMES = {
    "Batch": "distill3d.types",
    "DATA": "distill3d.config.registry",
    "DataSource": "distill3d.data.base",
    "LOSSES": "distill3d.config.registry",
    "Loss": "distill3d.losses.base",
    "LossTerm": "distill3d.types",
    "NEURONS": "distill3d.config.registry",
    "Prediction": "distill3d.types",
    "STRATEGIES": "distill3d.config.registry",
    "STUDENTS": "distill3d.config.registry",
    "Student": "distill3d.students.base",
    "TEACHERS": "distill3d.config.registry",
    "Teacher": "distill3d.teachers.base",
    "TransferStrategy": "distill3d.transfer.base",
    "evaluate": "distill3d.evaluation.run_scores",
    "fit": "distill3d.training.fit",
    "load_experiment": "distill3d.experiment",
    "predict": "distill3d.training.inference",
    "rasterize": "distill3d.volumes.raster",
    "read_swc": "distill3d.volumes.swc",
    "read_volume": "distill3d.volumes.volume",
    "trace": "distill3d.tracing.trace",
    "write_swc": "distill3d.volumes.swc",
    "write_volume": "distill3d.volumes.volume",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any public object
    if name not in _HOMES:
        raise AttributeError(f"module 'distill3d' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
