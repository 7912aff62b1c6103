"""Modules and pure functions that students and strategies share."""

from distill3d.layers.tubular_conv3d import TubularBlock3d, TubularConv3d

__all__ = ["TubularBlock3d", "TubularConv3d"]
