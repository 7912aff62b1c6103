"""Trainable 3D networks; importing this package registers them.

Other rooms need `base` alone, and strategies for ViTs `vit3d`: students are built by name.
"""

from distill3d.students import base, convnet3d, monai_nets, slices2d, unet3d, vit3d

__all__ = ["base", "convnet3d", "monai_nets", "slices2d", "unet3d", "vit3d"]
