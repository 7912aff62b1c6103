"""What pages that open anywhere share: templates that escape, files of the package, a policy without a network."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import final

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from distill3d.errors import printable

QUALITY = 72
HERE = "distill3d.evaluation.figures"


@final
@dataclass(frozen=True, slots=True)
class Picture:
    """A picture of a page.

    Args:
        uri: ``data:image/webp;base64,...``.
        width: pixels.
        height: pixels.
        alt: what is seen, for readers who cannot see the picture.
    """

    uri: str
    width: int
    height: int
    alt: str


def picture(image: Image.Image, alt: str, quality: int = QUALITY) -> Picture:
    """Encode as WebP."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality, method=4)
    code = base64.b64encode(buffer.getvalue()).decode()
    return Picture(f"data:image/webp;base64,{code}", image.width, image.height, alt)


def environment(*packages: str) -> Environment:
    """Return jinja2 with the ``templates/`` of these packages, then this one's; values are escaped, none may lack."""
    made = Environment(
        loader=ChoiceLoader([PackageLoader(package) for package in (*packages, HERE)]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_as_text,
    )
    made.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return made


def _as_text(value: object) -> object:
    """Escape what would turn or hide the text around it; autoescape is for markup alone."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def asset(name: str, package: str = HERE) -> str:
    """Return the text of a file in a package's ``templates/``."""
    return (files(package) / "templates" / name).read_text(encoding="utf-8")


def content_policy(scripts: Sequence[str], *, live: bool = False) -> str:
    """Return a policy that lets these scripts run and nothing else, and forbids every load from the network.

    Args:
        scripts: their text.
        live: whether the page may ask its own server.

    >>> content_policy(["1"]).split("; ")[:2]
    ["default-src 'none'", "script-src 'sha256-a4ayc/80/OGda4BO/1o/V0etpOqiLx1JwB5S3beHW0s='"]
    """
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in scripts
    )
    parts = [
        "default-src 'none'",
        f"script-src {hashes}",
        "style-src 'unsafe-inline'",
        "img-src data: blob:",
        "connect-src 'self'" if live else "connect-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    return "; ".join(parts)
