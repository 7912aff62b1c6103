"""Strategy `none`: train from scratch, the baseline of every other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from distill3d.config.registry import STRATEGIES
from distill3d.transfer.base import TransferStrategy


@dataclass(frozen=True, kw_only=True, slots=True)
class NoTransferConfig:
    """``none`` has no settings."""


@STRATEGIES.register("none", config=NoTransferConfig)
@final
class NoTransfer(TransferStrategy):
    """Leave the student as it was drawn; the audit lists every entry as new."""

    name = "none"
