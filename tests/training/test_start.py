"""How far a student starts from its teacher's function: 0 where it is that function, and what keeps it from there."""

from dataclasses import asdict, replace

import pytest
import torch
from small_transfers import VIT, make_batch

from distill3d.config.registry import TEACHERS
from distill3d.training.audit import audit_experiment
from distill3d.training.module import DistillModule, fresh_module
from distill3d.training.start import _compare, _middle, start_of
from distill3d.training.tables import start_table

LITE = (
    "student={name: convnet3d, encoder: test_efficientnet, stages: 3, depth_strides: [1, 1, 1], decoder: [4, 4, 4]}",
    "teacher={name: timm2d, architecture: test_efficientnet, weights: random}",
    "strategy={name: inflate, mode: center}",
)


def start(tiny, *overrides):
    """The start of a small student on two patches of noise; one mean of all channels, so that a border is no matter."""
    torch.manual_seed(0)
    experiment = tiny(*LITE, *overrides)
    teacher = TEACHERS.build(experiment.teacher)
    teacher.input_mean = teacher.input_std = (0.5, 0.5, 0.5)
    module = DistillModule(experiment)
    module.transfer(teacher)
    image = torch.rand(2, 1, 8, 32, 32)
    return start_of(module.student, teacher, replace(make_batch(), image=image), module.transferred)


def test_relative_error_and_cka_are_those_worked_out_by_hand():
    seen = torch.tensor([[0.0, 1.0], [2.0, 0.0], [1.0, 3.0], [1.0, 0.0]])
    assert _compare(seen, seen) == pytest.approx((0, 1))
    assert _compare(-seen, seen) == pytest.approx((2, 1))  # CKA does not see a rotation, the error does
    # a difference of 4 in one place, and the norm of `seen` is 4
    assert _compare(seen + torch.tensor([[4.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]), seen)[0] == pytest.approx(1)
    assert _compare(torch.ones(4, 2), seen)[1] == pytest.approx(0, abs=1e-6)  # a constant map is like nothing


@pytest.mark.parametrize(
    ("depth", "deepest", "expected"),
    [(24, 1, (10, 4)), (24, 8, (8, 8)), (32, 3, (12, 6)), (2, 1, (0, 2)), (8, 8, (0, 8))],
)
def test_slices_are_whole_cells_from_the_middle(depth, deepest, expected):
    assert _middle(depth, deepest) == expected


def test_frozen_statistics_and_poolings_of_a_slice_are_the_teachers_function(tiny):
    got = start(tiny, "student.encoder_norm=frozen", "student.pool=slice")
    assert [level.source for level in got.levels] == [level.layer.removeprefix("encoder.") for level in got.levels]
    assert len(got.levels) > 1
    assert got.slices == 2 * 4
    for level in got.levels:
        assert level.relative_error < 1e-5
        assert level.cka == pytest.approx(1, abs=1e-5)
    assert got.departures == ()


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_statistics_of_the_patch_or_the_batch_are_far_from_it_and_said(tiny, norm):
    got = start(tiny, f"student.encoder_norm={norm}", "student.pool=slice")
    assert min(level.relative_error for level in got.levels) > 0.05
    assert len(got.departures) == 1
    assert f"encoder_norm={norm}" in got.departures[0]


def test_nothing_changes_by_looking(tiny):
    module, teacher, _ = fresh_module(tiny(*LITE, "student.encoder_norm=batch"))
    before = {name: value.clone() for name, value in module.student.state_dict().items()}
    state = torch.get_rng_state()
    module.student.eval()
    start_of(module.student, teacher, make_batch(), module.transferred)
    assert not module.student.training
    assert torch.equal(torch.get_rng_state(), state)
    after = module.student.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_vits_blocks_are_compared_on_the_slices_of_their_cells(tiny):
    module, teacher, _ = fresh_module(tiny(*VIT))
    image = torch.rand(2, 1, 16, 32, 32)
    got = start_of(module.student, teacher, replace(make_batch(), image=image), module.transferred)
    assert got.slices == 2 * 8  # a block of 8 voxels
    assert [level.layer for level in got.levels] == [f"encoder.blocks.{n}" for n in range(4)]
    assert all(0 < level.relative_error < 10 and 0 < level.cka < 1 for level in got.levels)


def test_a_student_from_scratch_has_no_start(tiny):
    assert audit_experiment(tiny()).start is None


def test_an_audit_measures_it_on_the_first_training_case_and_prints_it(tiny):
    report = audit_experiment(tiny(*LITE))
    assert report.start is not None
    assert report.as_dict()["start"] == asdict(report.start)
    shown = [str(cell) for column in start_table(report.start).renderables[0].columns for cell in column.cells]
    assert f"{report.start.levels[0].relative_error:.2g}" in shown
    assert any("encoder_norm=instance: statistics of each patch" in line for line in report.start.departures)


def test_without_data_only_the_start_is_missing_and_the_reason_is_given(tiny):
    report = audit_experiment(tiny(*LITE, "data={name: neurons, folder: /nowhere}"))
    assert report.audit.copy_rate > 0
    assert report.start.levels == ()
    assert "/nowhere" in report.start.missing
