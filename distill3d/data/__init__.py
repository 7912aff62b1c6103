"""Sources of labelled volumes, and the patches cut from them; importing this package registers the sources.

A source of one's own builds on `base`. Other rooms import `datamodule`, `prepared` and `patches`, the verbs `check` and
`tables`; the rest is inner.
"""

from distill3d.data import base, neurons, simulate

__all__ = ["base", "neurons", "simulate"]
