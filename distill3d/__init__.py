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

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
