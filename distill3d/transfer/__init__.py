"""How knowledge gets from a 2D teacher into a 3D student; importing this package registers the strategies."""

from distill3d.transfer.base import AuditRow, TransferAudit, TransferStrategy
from distill3d.transfer.inflate import Inflate, InflateConfig
from distill3d.transfer.none import NoTransfer, NoTransferConfig
from distill3d.transfer.tubular import Tubular, TubularConfig
from distill3d.transfer.weights import WeightTransfer

__all__ = [
    "AuditRow",
    "Inflate",
    "InflateConfig",
    "NoTransfer",
    "NoTransferConfig",
    "TransferAudit",
    "TransferStrategy",
    "Tubular",
    "TubularConfig",
    "WeightTransfer",
]
