"""Data sources and what turns them into patches; importing this package registers the sources."""

from distill3d.data.base import SPLITS, Case, DataSource, Split
from distill3d.data.neurons import Neurons, NeuronsConfig
from distill3d.data.simulate import Simulated, SimulatedConfig

__all__ = ["SPLITS", "Case", "DataSource", "Neurons", "NeuronsConfig", "Simulated", "SimulatedConfig", "Split"]
