"""Supervised losses; importing this package registers them. Terms a strategy adds live in `distill3d.transfer`.

Other rooms need `base` alone: losses are built by name.
"""

from distill3d.losses import base, centerline, overlap

__all__ = ["base", "centerline", "overlap"]
