"""Trainable 3D networks; importing this package registers them.

Other rooms need `base` alone, and strategies for ViTs `vit3d`: students are built by name.
"""

from distill3d.students.base import Student
from distill3d.students.convnet3d import ConvNet3d, ConvNet3dConfig
from distill3d.students.monai_nets import MonaiConfig, MonaiStudent
from distill3d.students.slices2d import Slices2d, Slices2dConfig
from distill3d.students.unet3d import UNet3d, UNet3dConfig
from distill3d.students.vit3d import Vit3d, Vit3dConfig

__all__ = [
    "ConvNet3d",
    "ConvNet3dConfig",
    "MonaiConfig",
    "MonaiStudent",
    "Slices2d",
    "Slices2dConfig",
    "Student",
    "UNet3d",
    "UNet3dConfig",
    "Vit3d",
    "Vit3dConfig",
]
