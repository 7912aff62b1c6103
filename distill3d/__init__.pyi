"""What `distill3d` hands on, and where it is; read at run time too, so that a name stands once."""

from .config.paths import ConfigPath as ConfigPath
from .config.registry import (
    DATA as DATA,
    LOSSES as LOSSES,
    NEURONS as NEURONS,
    STRATEGIES as STRATEGIES,
    STUDENTS as STUDENTS,
    TEACHERS as TEACHERS,
)
from .data.base import DataSource as DataSource
from .evaluation.run_scores import evaluate as evaluate
from .experiment import load_experiment as load_experiment
from .losses.base import Loss as Loss
from .students.base import Student as Student
from .teachers.base import Teacher as Teacher
from .tracing.trace import trace as trace
from .training.fit import fit as fit
from .training.predict import predict as predict
from .transfer.base import TransferStrategy as TransferStrategy
from .types import Batch as Batch, LossTerm as LossTerm, Prediction as Prediction
from .volumes.raster import rasterize as rasterize
from .volumes.swc import read_swc as read_swc, write_swc as write_swc
from .volumes.volume import read_volume as read_volume, write_volume as write_volume
