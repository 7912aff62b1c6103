"""Strategy `features`: its terms, schedules and projections, and every way to name a wrong layer."""

from typing import get_args

import pytest
import torch
from image_nets import ImageStudent, ImageTeacher, features, prepared, random_batch, terms_of, value_of

from distill3d.errors import ConfigError
from distill3d.students.convnet3d import ConvNet3d, ConvNet3dConfig
from distill3d.students.unet3d import UNet3d, UNet3dConfig
from distill3d.teachers.none import NoTeacher, NoTeacherConfig
from distill3d.teachers.timm2d import Timm2d, Timm2dConfig
from distill3d.transfer.features import Features, FeaturesConfig, PairConfig
from distill3d.transfer.matching.places import FeatureKind, needs_same_channels
from distill3d.transfer.matching.schedule import ScheduleConfig
from distill3d.types import AXES

KINDS = get_args(FeatureKind)
every_kind = pytest.mark.parametrize("kind", KINDS)


class TestTerms:
    def test_a_pair_adds_one_term_the_mean_over_the_axes(self):
        student, teacher, batch = ImageStudent(), ImageTeacher(), random_batch()
        values = {}
        for axes in [("z",), ("y",), ("x",), ("z", "y", "x")]:
            strategy = prepared(features(axes=axes, slices=2), student, teacher)
            values[axes] = value_of(strategy, batch, step=3)
        single = [values[axis,] for axis in AXES]
        assert len({round(value, 6) for value in single}) == 3
        assert values["z", "y", "x"] == pytest.approx(sum(single) / 3)

    def test_weights_multiply_and_leave_the_raw_value_alone(self):
        pairs = {
            "mid": PairConfig(student="map", teacher="map"),
            "low": PairConfig(student="coarse", teacher="map", weight=0.25),
            "off": PairConfig(student="coarse", teacher="map", weight=0.0),
        }
        student, teacher, batch = ImageStudent(), ImageTeacher(), random_batch()
        by_layer = {}
        for weight in (1.0, 4.0):
            strategy = prepared(features(pairs=pairs, weight=weight), student, teacher)
            by_layer[weight] = terms_of(strategy, student, teacher, batch)
        assert {name: term.weight for name, term in by_layer[4.0].items()} == {
            "features_mid": 4.0,
            "features_low": 1.0,
            "features_off": 0.0,
        }
        for name, term in by_layer[1.0].items():
            assert term.value.item() == by_layer[4.0][name].value.item() > 0

    def test_gradient_reaches_the_layer_and_the_projection_but_nothing_after_it(self):
        student, teacher = ImageStudent(), ImageTeacher()
        strategy = prepared(features(layer="coarse"), student, teacher)
        (term,) = terms_of(strategy, student, teacher, random_batch()).values()
        term.value.backward()
        assert student.scale.weight.grad.abs().sum() > 0
        assert student.head.weight.grad is None
        assert all(p.grad.any() for p in strategy.parameters())
        assert all(p.grad is None for p in teacher.parameters())

    def test_training_by_the_term_alone_makes_the_student_more_like_its_teacher(self):
        torch.manual_seed(0)
        settings = ConvNet3dConfig(encoder="test_efficientnet", stages=2, decoder=(4, 4), depth_strides=(1, 1))
        student, teacher = ConvNet3d(settings), Timm2d(Timm2dConfig(architecture="test_efficientnet", weights="random"))
        strategy = prepared(Features(FeaturesConfig()), student, teacher)
        optimizer = torch.optim.Adam([*student.parameters(), *strategy.parameters()], lr=0.01)
        values, batch = [], random_batch((4, 32, 32))
        for step in range(20):
            (term,) = terms_of(strategy, student, teacher, batch, step=step, steps=20).values()
            optimizer.zero_grad()
            term.value.backward()
            optimizer.step()
            values.append(term.value.item())
        assert values[-1] < 0.6 * values[0]


SCHEDULES = {
    "constant": (ScheduleConfig(), range(10)),
    "warmup": (ScheduleConfig(kind="warmup", warmup_steps=4), range(1, 10)),
    "cosine": (ScheduleConfig(kind="cosine"), range(10)),
    "stop": (ScheduleConfig(stop_step=3), range(3)),
    "cosine to a stop": (ScheduleConfig(kind="cosine", warmup_steps=2, stop_step=6), range(1, 6)),
    "never": (ScheduleConfig(stop_step=0), range(0)),
}


class TestSchedule:
    @pytest.mark.parametrize(("schedule", "on"), SCHEDULES.values(), ids=SCHEDULES)
    def test_the_teacher_is_asked_only_while_the_weight_is_not_0(self, schedule, on):
        student, teacher = ImageStudent(), ImageTeacher()
        strategy = prepared(features(schedule=schedule), student, teacher)
        for step in range(10):
            before = teacher.images_seen
            (term,) = terms_of(strategy, student, teacher, random_batch(), step=step).values()
            assert bool(strategy.requests_now()) == (step in on)
            assert (teacher.images_seen > before) == (step in on)
            assert (term.weight > 0) == (step in on)
            assert (term.value > 0) == (step in on)
        assert strategy.wants_teacher  # it is kept for the steps that need it

    @every_kind
    def test_terms_have_the_same_names_and_reach_all_parameters_in_every_step(self, kind):
        # Otherwise ranks would wait for one another, and DistributedDataParallel would miss gradients.
        pairs = {name: PairConfig(student="coarse", teacher="map") for name in ("one", "two")}
        student, teacher = ImageStudent(), ImageTeacher()
        strategy = prepared(features(kind, pairs=pairs, schedule=ScheduleConfig(stop_step=2)), student, teacher)
        for step in range(4):
            terms = terms_of(strategy, student, teacher, random_batch(), step=step)
            assert list(terms) == ["features_one", "features_two"]
            strategy.zero_grad(set_to_none=True)
            student.zero_grad(set_to_none=True)
            sum(term.value for term in terms.values()).backward()
            assert all(p.grad is not None for p in strategy.parameters())
            assert student.scale.weight.grad is not None
            if step >= 2:
                assert not any(p.grad.any() for p in strategy.parameters())

    def test_the_factor_is_on_the_weight(self):
        schedule = ScheduleConfig(kind="cosine")
        strategy = prepared(features(weight=3.0, schedule=schedule), ImageStudent(), ImageTeacher())
        (term,) = terms_of(strategy, ImageStudent(), ImageTeacher(), random_batch(), step=5).values()
        assert term.weight == pytest.approx(1.5)

    def test_weight_0_runs_no_teacher(self):
        teacher = ImageTeacher()
        strategy = prepared(features(weight=0.0), ImageStudent(), teacher)
        before = teacher.images_seen
        (term,) = terms_of(strategy, ImageStudent(), teacher, random_batch()).values()
        assert (term.weight, term.value.item()) == (0, 0)
        assert teacher.images_seen == before


class TestProjections:
    @every_kind
    def test_there_is_one_per_pair_where_channels_are_compared(self, kind):
        pairs = {name: PairConfig(student="coarse", teacher="map") for name in ("one", "two")}
        strategy = prepared(features(kind, pairs=pairs), ImageStudent(), ImageTeacher())
        assert list(strategy.projections) == (["one", "two"] if needs_same_channels(kind) else [])
        assert all(projection.is_built for projection in strategy.projections.values())

    def test_it_leads_from_the_students_channels_to_the_teachers(self):
        student = ConvNet3d(ConvNet3dConfig(encoder="test_efficientnet", stages=3))
        teacher = Timm2d(Timm2dConfig(architecture="test_vit", weights="random"))
        pair = PairConfig(student="encoder.blocks.1", teacher="blocks.3")
        before = {name: value.clone() for name, value in student.state_dict().items()}
        strategy = prepared(features(pairs={"mid": pair}), student.train(), teacher)
        assert strategy.projections["mid"].net[0].weight.shape == (64, 24, 1, 1, 1)
        assert student.training
        assert all(torch.equal(before[name], value) for name, value in student.state_dict().items())

    def test_nothing_is_copied(self):
        student = ImageStudent()
        strategy = features()
        strategy.adapt(student)
        audit = strategy.transfer(student=student, teacher=ImageTeacher())
        assert {row.fate for row in audit.rows} == {"new"}
        assert audit.copy_rate == 0


class TestWrongLayers:
    def one_line(self, pair, *, kind="mse", student=None, teacher=None):
        with pytest.raises(ConfigError) as caught:
            prepared(features(kind, pairs={"mid": pair}), student or ImageStudent(), teacher or ImageTeacher())
        (line,) = caught.value.lines
        assert "\n" not in line
        return line

    @every_kind
    def test_a_layer_the_student_does_not_have_is_told_with_all_it_has(self, kind):
        line = self.one_line(PairConfig(student="maps", teacher="map"), kind=kind)
        assert line == (
            "the student has no layer 'maps'; did you mean 'map'?; accepted: scale, map, coarse, flat, head, unused"
        )

    @every_kind
    def test_a_layer_the_teacher_does_not_have_is_told_with_all_it_has(self, kind):
        line = self.one_line(PairConfig(student="map", teacher="block.3"), kind=kind)
        assert line == "the teacher has no layer 'block.3'; accepted: map, head"

    @every_kind
    def test_a_layer_of_the_student_that_gives_no_map_is_refused_before_training(self, kind):
        line = self.one_line(PairConfig(student="flat", teacher="map"), kind=kind)
        assert "the student's layer 'flat' gives (1, 24), which is no feature map; accepted: " in line

    @every_kind
    def test_a_layer_of_the_student_that_does_not_run_is_refused_before_training(self, kind):
        line = self.one_line(PairConfig(student="unused", teacher="map"), kind=kind)
        assert line == "the student's layer 'unused' does not run; accepted: one that its forward calls"

    @every_kind
    def test_a_layer_of_the_teacher_that_gives_no_map_is_refused_before_training(self, kind):
        teacher = Timm2d(Timm2dConfig(architecture="test_efficientnet", weights="random"))
        line = self.one_line(PairConfig(student="map", teacher="global_pool"), kind=kind, teacher=teacher)
        assert "the teacher's layer 'global_pool' gives (1, 256), which is no feature map; accepted: " in line

    def test_no_teacher_at_all_is_told(self):
        line = self.one_line(PairConfig(student="map", teacher="map"), teacher=NoTeacher(NoTeacherConfig()))
        assert line == "teacher.name=none has no layer 'map'; accepted: a teacher with one, such as teacher.name=timm2d"

    def test_a_student_without_a_2d_twin_needs_pairs(self):
        student = UNet3d(UNet3dConfig(channels=(4, 8), depth_strides=(1,)))
        with pytest.raises(ConfigError) as caught:
            Features(FeaturesConfig()).adapt(student)
        (line,) = caught.value.lines
        assert line == (
            "strategy features: student UNet3d mirrors no 2D network, so strategy.pairs must say which layers to "
            "match; accepted for the student: encoder.0.0, encoder.0.1, encoder.1.0, encoder.1.1, decoder.0, head"
        )

    def test_a_student_with_one_has_its_deepest_layer_matched_with_its_counterpart(self):
        student = ConvNet3d(ConvNet3dConfig(encoder="test_efficientnet", stages=3))
        strategy = Features(FeaturesConfig())
        assert not strategy.wants_teacher  # not known before
        strategy.adapt(student)
        assert strategy.pairs == {"deepest": PairConfig(student="encoder.blocks.2", teacher="blocks.2")}
        assert strategy.wants_teacher

    def test_negative_weights_are_refused(self):
        with pytest.raises(ValueError, match="weight=-1 is negative; accepted: 0 or more"):
            FeaturesConfig(weight=-1)
        with pytest.raises(ValueError, match="weight=-1 is negative; accepted: 0 or more"):
            PairConfig(student="map", teacher="map", weight=-1)
