"""Runs that draw no figures, which take most of the time of a small one: for tests that look at none."""

import contextlib
from pathlib import Path

import pytest
from forked import MAIN

# In a forked process; in this one there is the fixture `undrawn`.
UNDRAWN = f"import sys; sys.path.append({str(Path(__file__).parent)!r}); import undrawn; undrawn.apply(setattr)\n{MAIN}"


def apply(setattr_, *, keep=""):
    """Leave the figures of runs out, but for those of one function."""
    from distill3d.evaluation import run_scores
    from distill3d.training import figures, finish

    setattr_(finish, "case_pictures", lambda *_: {})
    for module, name in ((run_scores, "_draw"), (figures, "_teaching_figures"), (figures, "_input_figures")):
        if name != keep:
            setattr_(module, name, lambda *_: {})


@contextlib.contextmanager
def no_figures():
    """Leave them out in a block, as fixtures of a module must."""
    with pytest.MonkeyPatch.context() as patch:
        apply(patch.setattr)
        yield
