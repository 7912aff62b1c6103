"""Files of installed packages that hold weights: are they what the package brought?"""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64encode
from importlib.metadata import distribution
from pathlib import Path

from distill3d.errors import InputError


def check_installed(package: str, path: Path) -> None:
    """Compare a file of a package with the SHA-256 that its installer recorded; a flipped bit is no number one sees.

    A package without such a record, as conda may leave it, is not checked.

    Raises:
        InputError: the file differs; says how to get the right one.
    """
    installed = distribution(package)
    recorded = next((each.hash for each in installed.files or () if Path(str(each.locate())) == path), None)
    if recorded is None or recorded.mode != "sha256" or not path.is_file():
        return
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
    if urlsafe_b64encode(digest).decode().rstrip("=") != recorded.value:
        raise InputError(
            f"{path}: damaged, its SHA-256 is not what package {package} {installed.version} brought; "
            f"accepted: pip install --force-reinstall --no-deps {package}=={installed.version}"
        )
