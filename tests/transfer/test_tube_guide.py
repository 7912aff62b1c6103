"""The guide of tubes: distances are Euclidean, and its gradient pulls tubes onto the centerline."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt

from distill3d.config.registry import STRATEGIES
from distill3d.layers.grids import filled_up
from distill3d.layers.tubes.embed import TubularEmbed
from distill3d.students.vit3d import Vit3d, Vit3dConfig
from distill3d.transfer.tube_guide import distance_to, guide_loss
from distill3d.transfer.tubular import GUIDE_LINE, Tubular, TubularConfig
from distill3d.types import Batch, Prediction

BLOCK = (8, 8, 8)


@given(seed=st.integers(0, 1000), reach=st.sampled_from([1.0, 2.5, 6.0]), share=st.sampled_from([0.0, 0.002, 0.1]))
@settings(max_examples=25, deadline=None)
def test_the_distance_is_that_of_the_whole_transform_up_to_the_reach(seed, reach, share):
    line = np.random.default_rng(seed).random((2, 1, 7, 9, 12)) < share
    expected = [distance_transform_edt(~each[0]) if each.any() else np.full(each[0].shape, np.inf) for each in line]
    measured = distance_to(torch.from_numpy(line), reach)
    np.testing.assert_allclose(measured[:, 0], np.minimum(expected, reach), rtol=1e-6)


def straight_line(z=12, y=12):
    line = torch.zeros(1, 1, 24, 24, 24, dtype=torch.bool)
    line[0, 0, z, y] = True
    return line


def guide(embed, image, line, known=None):
    known = torch.ones_like(line) if known is None else known
    tubes = embed.place(embed.offsets(image), image)
    return guide_loss(tubes, line=line, known=known, block_zyx=BLOCK, reach_vox=6.0)


def test_a_tube_on_the_line_costs_nothing_and_one_beside_it_its_distance():
    embed = TubularEmbed(2, block_zyx=BLOCK, taps=9, axes=("x",))  # straight as it starts, in blocks around (4, 12, 20)
    image = torch.zeros(1, 1, 24, 24, 24)
    assert guide(embed, image, straight_line()).item() == pytest.approx(0, abs=1e-4)
    assert guide(embed, image, straight_line(z=14)).item() == pytest.approx(2, abs=1e-4)


def test_only_known_blocks_near_a_line_count():
    embed = TubularEmbed(2, block_zyx=BLOCK, taps=9, axes=("x",))
    image, line = torch.zeros(1, 1, 24, 24, 24), straight_line(z=14)
    line[0, 0, 12, 4, 20] = True  # one block more, with a point on its center
    both = guide(embed, image, line).item()
    known = torch.ones_like(line)
    known[0, 0, :, :8] = False
    assert both > guide(embed, image, line, known).item() == pytest.approx(2, abs=1e-4)
    assert guide(embed, image, torch.zeros_like(line)).item() == 0


def test_a_few_steps_pull_tubes_onto_a_bright_neurite():
    torch.manual_seed(0)
    embed = TubularEmbed(2, block_zyx=BLOCK, taps=17, axes=("x",))
    line = torch.zeros(1, 1, 24, 24, 48, dtype=torch.bool)
    for x in range(48):
        line[0, 0, 14, round(10 + x / 6), x] = True
    image = 4 * torch.nn.functional.max_pool3d(line.float(), 3, 1, 1) + 0.2 * torch.randn(line.shape)
    before = guide(embed, image, line).item()
    optimizer = torch.optim.Adam(embed.offsets.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        guide(embed, image, line).backward()
        optimizer.step()
    assert guide(embed, image, line).item() < 0.4 * before


def test_a_patch_that_is_no_multiple_of_blocks_is_guided_as_what_it_is_filled_up_to():
    strategy, student = Tubular(TubularConfig(guide=0.1)), Vit3d(Vit3dConfig(block_zyx=BLOCK, input_zyx=(16, 24, 24)))
    strategy.adapt(student)
    line = torch.zeros(1, 1, 12, 20, 20, dtype=torch.bool)
    line[:, :, 5, 7] = True
    image = torch.rand(line.shape, generator=torch.Generator().manual_seed(0))

    def term(image, line, known):
        batch = Batch(
            image=image,
            target=line.float(),
            known=known,
            spacing_um=torch.ones(1, 3),
            origin_zyx_vox=torch.zeros(1, 3, dtype=torch.int64),
            cases=("a",),
            skeletons={GUIDE_LINE.name: line},
        )
        seen = student.observe(image, strategy.student_layers())
        return strategy(student=seen, teacher=Prediction.nothing(), batch=batch)["tube_guide"].value

    value = term(image, line, torch.ones_like(line))
    whole = [filled_up(each, BLOCK) for each in (image, line, torch.ones_like(line))]
    assert whole[0].shape == (1, 1, 16, 24, 24)
    assert value > 0
    assert torch.equal(value, term(*whole))


def test_a_guided_strategy_asks_for_the_centerline_and_the_bending_alone():
    assert STRATEGIES["tubular"].cls.wants(TubularConfig(guide=0.1)) == (GUIDE_LINE,)
    assert STRATEGIES["tubular"].cls.wants(TubularConfig()) == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"guide": -1.0}, r"guide=-1\.0: accepted: 0, or more with deformable=true"),
        ({"guide": 0.1, "deformable": False}, r"guide=0\.1: accepted: 0, or more with deformable=true"),
        ({"guide_reach": 0.5}, r"guide_reach=0\.5 is too small; accepted: 1 or more"),
        ({"bend_lr_ratio": 0.0}, r"bend_lr_ratio=0\.0 is too small; accepted: more than 0"),
    ],
)
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        TubularConfig(**changes)
