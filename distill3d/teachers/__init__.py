"""Frozen 2D networks; importing this package registers them.

Other rooms import `base`, `cache` (maps of whole volumes, kept) and `slices` (how a volume is cut for a 2D network):
teachers are built by name.
"""

from distill3d.teachers.base import LOGITS, Teacher, TeacherIdentity, hash_weights
from distill3d.teachers.none import NoTeacher, NoTeacherConfig
from distill3d.teachers.several import Several, SeveralConfig
from distill3d.teachers.timm2d import Timm2d, Timm2dConfig
from distill3d.teachers.trained2d import Segmenter, Segmenter2dConfig

__all__ = [
    "LOGITS",
    "NoTeacher",
    "NoTeacherConfig",
    "Segmenter",
    "Segmenter2dConfig",
    "Several",
    "SeveralConfig",
    "Teacher",
    "TeacherIdentity",
    "Timm2d",
    "Timm2dConfig",
    "hash_weights",
]
