"""Frozen 2D networks; importing this package registers them.

Other rooms import `base`, `cache` (maps of whole volumes, kept) and `slices` (how a volume is cut for a 2D network):
teachers are built by name.
"""

from distill3d.teachers import base, none, several, timm2d, trained2d

__all__ = ["base", "none", "several", "timm2d", "trained2d"]
