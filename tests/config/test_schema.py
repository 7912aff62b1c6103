"""Settings of an experiment that could only fail later are refused as it is loaded."""

import pytest

from distill3d.errors import ConfigError


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("optimizer.lr=.nan", "lr=nan is too small; accepted: 0 or more"),
        ("optimizer.lr=.inf", "optimizer.lr=inf is not finite"),
        ("data.microscope.psf_sigma_um=[1,.inf,1]", r"data.microscope.psf_sigma_um=\[1.0, inf, 1.0\] is not finite"),
        ("balance.limit=.inf", "balance.limit=inf is not finite"),
        ("strategy={name: features,view: {seed: -1}}", "seed=-1 is too small; accepted: 0 or more"),
        ("trace.input=image", "trace.input=image, but a run traces a probability; accepted: prob or auto"),
        ("patches.augment.hard_contrast=[6,1]", r"hard_contrast=\(6.0, 1.0\) is out of range; accepted: low to high"),
        ("patches.augment.hard_contrast=[-1,1]", r"hard_contrast=\(-1.0, 1.0\) is out of range"),
    ],
)
def test_it_is_refused_in_one_line(tiny, word, says):
    with pytest.raises(ConfigError, match=says) as caught:
        tiny(word)
    assert len(caught.value.lines) == 1
