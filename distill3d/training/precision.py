"""The precision that Lightning trains a network in, for all that is computed with it outside of a training."""

from __future__ import annotations

import torch

from distill3d.training.module import DistillModule


def as_trained(module: DistillModule) -> torch.autocast:
    """Compute as Lightning does on the module's device."""
    device_type = module.device.type
    half = half_type(module.experiment.trainer.precision, device_type)
    return torch.autocast(device_type, half, enabled=half is not None)


def half_type(precision: str, device_type: str) -> torch.dtype | None:
    """Return the half precision of ``trainer.precision``; None where all is in single precision, as on every CPU.

    Example:
        >>> half_type("auto", "cuda"), half_type("16-mixed", "cuda"), half_type("32-true", "cuda")
        (torch.bfloat16, torch.float16, None)
    """
    if device_type != "cuda" or precision == "32-true":
        return None
    return torch.float16 if precision == "16-mixed" else torch.bfloat16
