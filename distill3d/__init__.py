"""distill3d: does knowledge from 2D natural images help 3D neuron segmentation?

The public names below are imported when they are first used, so that ``import distill3d`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distill3d.evaluation.run_scores import evaluate
    from distill3d.experiment import load_experiment
    from distill3d.tracing.trace import trace
    from distill3d.training.fit import fit
    from distill3d.training.inference import predict
    from distill3d.volumes.raster import rasterize
    from distill3d.volumes.swc import read_swc, write_swc
    from distill3d.volumes.volume import read_volume, write_volume

__all__ = [
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
