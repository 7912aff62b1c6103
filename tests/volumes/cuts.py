"""What reading a cut-off file must give."""

from pathlib import Path

import numpy as np
import pytest

from distill3d.errors import InputError
from distill3d.volumes.volume import read_volume


def outcome_of_cut(path: Path, content: bytes, data: np.ndarray) -> str:
    """Read the first part of a file; either it is refused properly, or all the data are there."""
    path.write_bytes(content)
    try:
        read = read_volume(path).data
    except InputError as error:
        proper = str(path) in str(error) and len(error.lines) == 1 and "\n" not in str(error)
        return "refused" if proper else pytest.fail(f"not one line with the path: {error}")
    np.testing.assert_array_equal(read, data)
    return "whole"
