"""timm's 2D networks by name, or a line on what is wrong with it. It fetches no weights."""

from __future__ import annotations

from typing import Any

import timm
from torch import nn

from distill3d.errors import ConfigError

ANY = "a network of timm by its name, if need be with a dot and a tag of weights that timm knows"
_ALWAYS = {"pretrained", "num_classes"}  # no user says these


def require_2d(name: str, *, setting: str, accepted: str = ANY) -> None:
    """Refuse what is no name of timm.

    Args:
        name: of a network; what follows a dot is a tag of weights, which is not looked at.
        setting: the key that said it, for messages.
        accepted: likewise, which networks are.

    Raises:
        ConfigError: timm has none of this name.

    Example:
        >>> require_2d("resnet_18", setting="student.encoder", accepted="a convnet")
        Traceback (most recent call last):
        distill3d.errors.ConfigError: student.encoder='resnet_18' is not in timm.list_models(); accepted: a convnet
    """
    if not timm.is_model(name):
        raise ConfigError(f"{setting}={name!r} is not in timm.list_models(); accepted: {accepted}")


def create_2d(name: str, *, setting: str, accepted: str = ANY, **how: Any) -> nn.Module:  # noqa: ANN401 - timm's own
    """Build a network of timm.

    Args:
        name: as for `require_2d`, likewise all others.
        setting: see there.
        accepted: see there.
        how: further arguments of ``timm.create_model``.

    Raises:
        ConfigError: timm has none of this name or tag, or it cannot be built with these arguments.
    """
    require_2d(name, setting=setting, accepted=accepted)
    try:
        return timm.create_model(name, **how)
    except (AssertionError, KeyError, RuntimeError, TypeError, ValueError) as err:
        group, dot, _ = setting.rpartition(".")
        changes = ", ".join(f"{group}{dot}{key}={value}" for key, value in how.items() if key not in _ALWAYS)
        why = " ".join(str(err).split()).rstrip(".") or type(err).__name__
        raise ConfigError(f"{setting}={name!r}{changes and f' with {changes}'}: {why}; accepted: {accepted}") from err
