"""Strategy `combine`: parts run in order, and nothing of one gets lost in another."""

import pytest
import torch
from image_nets import ImageStudent, ImageTeacher, look, prepared, random_batch, terms_of

from distill3d.config.registry import Component
from distill3d.errors import ConfigError
from distill3d.students.convnet3d import ConvNet3d, ConvNet3dConfig
from distill3d.teachers.timm2d import Timm2d, Timm2dConfig
from distill3d.training.module import DistillModule
from distill3d.transfer.combine import Combine, CombineConfig
from distill3d.transfer.features import Features, FeaturesConfig, PairConfig
from distill3d.transfer.inflate import Inflate, InflateConfig
from distill3d.transfer.matching.places import FeatureLossConfig
from distill3d.transfer.matching.schedule import ScheduleConfig
from distill3d.transfer.none import NoTransferConfig
from distill3d.transfer.requests import ViewConfig


def combine(**parts):
    names = {InflateConfig: "inflate", FeaturesConfig: "features", NoTransferConfig: "none"}
    return Combine(CombineConfig(parts={key: Component(names[type(part)], part) for key, part in parts.items()}))


def match(*, layer="map", kind="mse", schedule=None, **view):
    return FeaturesConfig(
        pairs={"mid": PairConfig(student=layer, teacher="map")},
        loss=FeatureLossConfig(kind=kind),
        view=ViewConfig(**view),
        schedule=schedule or ScheduleConfig(),
    )


@pytest.fixture
def teacher():
    return Timm2d(Timm2dConfig(architecture="test_efficientnet", weights="random"))


def student(seed=0):
    torch.manual_seed(seed)
    return ConvNet3d(ConvNet3dConfig(encoder="test_efficientnet", stages=3, decoder=(4, 4, 4)))


class TestInflateAndMatch:
    def test_inflated_entries_stay_transferred_whatever_the_order(self, teacher):
        alone = student()
        expected = Inflate(InflateConfig()).transfer(student=alone, teacher=teacher)
        for parts in (
            {"start": InflateConfig(), "match": FeaturesConfig()},
            {"match": FeaturesConfig(), "start": InflateConfig()},
        ):
            both, strategy = student(), combine(**parts)
            strategy.adapt(both)
            audit = strategy.transfer(student=both, teacher=teacher)
            assert audit == expected
            assert audit.transferred
            assert all(torch.equal(value, both.state_dict()[name]) for name, value in alone.state_dict().items())

    def test_the_part_of_the_teacher_that_any_part_took_is_told(self, monkeypatch, teacher):
        monkeypatch.setattr(ConvNet3d, "part_of", lambda self, net: "the first 3 of 5 stages")
        strategy = combine(match=FeaturesConfig(), start=InflateConfig())
        assert strategy.transfer(student=student(), teacher=teacher).part == "the first 3 of 5 stages"

    def test_a_later_part_wins_and_the_row_tells_the_norm_before_the_first(self, teacher):
        both, once = student(), student()
        strategy = combine(first=InflateConfig(mode="average"), second=InflateConfig(mode="center"))
        audit = strategy.transfer(student=both, teacher=teacher)
        alone = Inflate(InflateConfig(mode="center")).transfer(student=once, teacher=teacher)
        assert all(torch.equal(value, both.state_dict()[name]) for name, value in once.state_dict().items())
        assert [row.name for row in audit.rows] == list(both.state_dict())
        for row, expected in zip(audit.rows, alone.rows, strict=True):
            assert (row.norm_before, row.norm_after) == (expected.norm_before, expected.norm_after)

    def test_parts_that_copy_nothing_leave_all_new(self, teacher):
        strategy = combine(one=FeaturesConfig(), two=NoTransferConfig())
        net = student()
        strategy.adapt(net)
        audit = strategy.transfer(student=net, teacher=teacher)
        assert {fate: total["entries"] for fate, total in audit.totals().items()} == {"new": len(net.state_dict())}

    def test_the_module_trains_projections_and_gives_inflated_weights_their_own_rate(self, teacher, tiny):
        experiment = tiny(
            "student={name: convnet3d, encoder: test_efficientnet, stages: 3, decoder: [4, 4, 4]}",
            "teacher={name: timm2d, architecture: test_efficientnet, weights: random}",
            "strategy={name: combine, parts: {start: {name: inflate}, match: {name: features}}}",
            "optimizer.transferred_lr_ratio=0.1",
        )
        module = DistillModule(experiment)
        module.transfer(teacher)
        assert module.teacher is teacher
        groups = module.configure_optimizers()["optimizer"].param_groups
        rate = {p: group["initial_lr"] for group in groups for p in group["params"]}
        projection = list(module.strategy.parameters())
        assert projection
        assert {rate[p] for p in projection} == {1e-3}
        assert rate[module.student.get_parameter("encoder.conv_stem.weight")] == pytest.approx(1e-4)
        assert {name for name in module.state_dict() if name.startswith("strategy.")} == {
            "strategy.parts.match.projections.deepest.net.0.weight",
            "strategy.parts.match.projections.deepest.net.0.bias",
        }


class TestTerms:
    def test_each_part_adds_the_terms_it_adds_alone_under_its_name(self):
        net, teacher, batch = ImageStudent(), ImageTeacher(), random_batch()
        parts = {"near": match(kind="attention", layer="coarse"), "far": match(kind="cka", layer="coarse")}
        both = terms_of(prepared(combine(**parts), net, teacher), net, teacher, batch, step=2)
        assert list(both) == ["near_features_mid", "far_features_mid"]
        for name, part in parts.items():
            (alone,) = terms_of(prepared(Features(part), net, teacher), net, teacher, batch, step=2).values()
            assert both[f"{name}_features_mid"].value.item() == alone.value.item()

    def test_a_map_that_two_parts_need_is_asked_for_once(self):
        net, teacher = ImageStudent(), ImageTeacher()
        strategy = prepared(combine(a=match(kind="attention"), b=match(kind="cka")), net, teacher)
        assert len(strategy.requests()) == 1
        before = teacher.images_seen
        terms_of(strategy, net, teacher, random_batch())
        assert teacher.images_seen - before == 2 * 8  # patches, slices

    def test_each_part_follows_its_own_schedule(self):
        net, teacher = ImageStudent(), ImageTeacher()
        early = match(kind="attention", schedule=ScheduleConfig(stop_step=2), axes=("z",))
        late = match(kind="cka", schedule=ScheduleConfig(kind="warmup", warmup_steps=4), axes=("y",))
        strategy = prepared(combine(early=early, late=late), net, teacher)
        layers = []
        for step in range(4):
            _, seen = look(strategy, net, teacher, random_batch(), step=step)
            layers.append("".join(key.split()[2] for key in seen.features))
            assert list(terms_of(strategy, net, teacher, random_batch(), step=step)) == [
                "early_features_mid",
                "late_features_mid",
            ]
        assert layers == ["z", "zy", "y", "y"]

    def test_inflate_alone_runs_no_teacher(self):
        assert not combine(start=InflateConfig()).wants_teacher


class TestRefusals:
    @pytest.mark.parametrize("other", [{"slices": 2}, {"scale": 2.0}, {"source": "volume", "augment_after": True}])
    def test_two_parts_with_different_views_of_one_map_are_refused(self, other):
        strategy = combine(a=match(kind="attention"), b=match(kind="cka", **other))
        strategy.adapt(ImageStudent())
        with pytest.raises(ConfigError) as caught:
            strategy.requests()
        assert caught.value.lines == (
            "strategy combine: two parts ask for 'map across z on map' with different views; accepted: the same view",
        )

    def test_different_views_of_different_maps_are_accepted(self):
        strategy = combine(a=match(axes=("z",)), b=match(axes=("x",), slices=2), c=match(layer="coarse", slices=3))
        strategy.adapt(ImageStudent())
        assert len(strategy.requests()) == 3

    def test_no_part_is_refused(self):
        with pytest.raises(ValueError, match=r"parts=\{\}: accepted: one or more strategies"):
            CombineConfig(parts={})

    def test_a_wrong_layer_of_any_part_is_refused(self):
        with pytest.raises(ConfigError, match="the student has no layer 'nowhere'"):
            prepared(combine(a=match(), b=match(layer="nowhere")), ImageStudent(), ImageTeacher())
