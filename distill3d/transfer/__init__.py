"""How knowledge gets from a 2D teacher into a 3D student; importing this package registers the strategies.

Other rooms import `base`, `view` (the teacher's maps during training) and `matching` (how maps are compared):
strategies are built by name.
"""

from distill3d.transfer.base import AuditRow, TransferAudit, TransferStrategy
from distill3d.transfer.combine import Combine, CombineConfig
from distill3d.transfer.features import Features, FeaturesConfig, PairConfig
from distill3d.transfer.inflate import Inflate, InflateConfig
from distill3d.transfer.logits import Logits, LogitsConfig
from distill3d.transfer.none import NoTransfer, NoTransferConfig
from distill3d.transfer.requests import TeacherRequest, ViewConfig
from distill3d.transfer.tubular import Tubular, TubularConfig
from distill3d.transfer.view import TeacherView
from distill3d.transfer.weights import WeightTransfer

__all__ = [
    "AuditRow",
    "Combine",
    "CombineConfig",
    "Features",
    "FeaturesConfig",
    "Inflate",
    "InflateConfig",
    "Logits",
    "LogitsConfig",
    "NoTransfer",
    "NoTransferConfig",
    "PairConfig",
    "TeacherRequest",
    "TeacherView",
    "TransferAudit",
    "TransferStrategy",
    "Tubular",
    "TubularConfig",
    "ViewConfig",
    "WeightTransfer",
]
