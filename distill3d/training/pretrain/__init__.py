"""Trains a 2D ViT on photos, by distillation, so that a teacher with real knowledge ships with the package."""

from distill3d.training.pretrain.fit import pretrain

__all__ = ["pretrain"]
