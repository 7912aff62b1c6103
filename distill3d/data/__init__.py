"""Sources of labelled volumes, and the patches cut from them; importing this package registers the sources.

The names below are what a source of one's own builds on. Other rooms also import `datamodule`, `prepared` and
`patches`, the verbs `check` and `tables`; the rest is inner.
"""

from distill3d.data.base import SPLITS, Case, DataSource, Split
from distill3d.data.neurons import Neurons, NeuronsConfig
from distill3d.data.simulate import Simulated, SimulatedConfig

__all__ = ["SPLITS", "Case", "DataSource", "Neurons", "NeuronsConfig", "Simulated", "SimulatedConfig", "Split"]
