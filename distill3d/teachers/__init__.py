"""Frozen 2D networks."""

from distill3d.teachers.base import Teacher, TeacherIdentity, hash_weights
from distill3d.teachers.none import NoTeacher, NoTeacherConfig
from distill3d.teachers.timm2d import Timm2d, Timm2dConfig

__all__ = ["NoTeacher", "NoTeacherConfig", "Teacher", "TeacherIdentity", "Timm2d", "Timm2dConfig", "hash_weights"]
