"""Conversion keeps what a network computes, names what moved, and survives a checkpoint."""

import copy
import itertools
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from undrawn import apply

from distill3d.config.plain import as_plain
from distill3d.config.registry import NEURONS, STUDENTS, TEACHERS, Component
from distill3d.errors import ConfigError
from distill3d.neurons import conversion
from distill3d.neurons.conversion import Conversion, convert_neurons, convertible_layers
from distill3d.storage.run_folder import RunFolder
from distill3d.students.base import Student, student_costs
from distill3d.students.convnet3d import ConvNet3d, ConvNet3dConfig
from distill3d.students.monai_nets import MonaiConfig
from distill3d.students.unet3d import UNet3d, UNet3dConfig
from distill3d.students.vit3d import Vit3dConfig
from distill3d.teachers.timm2d import Timm2d, Timm2dConfig
from distill3d.training import fit
from distill3d.training.module import CHECKPOINT_KEY, DistillModule, load_module
from distill3d.transfer.inflate import Inflate, InflateConfig

NAMES = [name for name in NEURONS.names() if NEURONS[name].module.startswith("distill3d.")]
INFLATED = (
    "teacher.name=timm2d",
    "strategy={name: inflate, mode: average}",
    "student={name: convnet3d, stages: 2, decoder: [4, 4]}",
)
QUADRATIC = "neurons={name: quadratic, gate_lr_ratio: 0.01}"
MIXED = "[{name: t4_linear, channels: 0.5, gate_lr_ratio: 2}, {name: spiking, channels: 0.25, gate_lr_ratio: 0.5}]"


def chosen(name, **settings):
    return Component(name, NEURONS[name].config(**settings))


@pytest.fixture(scope="module")
def inflated():
    """The shipped ImageNet weights of EfficientNet-Lite0 in a 3D encoder, and an image."""
    torch.manual_seed(0)
    student = ConvNet3d(ConvNet3dConfig())
    Inflate(InflateConfig(mode="average")).transfer(student=student, teacher=Timm2d(Timm2dConfig()))
    with torch.no_grad():
        student.head.weight.normal_()  # the head starts so small that it would hide differences
    return student, torch.rand(2, 1, 16, 64, 64)


class TestOnAnInflatedPretrainedNetwork:
    @pytest.mark.parametrize("match", ["width", "parameters"])
    @pytest.mark.parametrize("name", NAMES)
    @torch.no_grad()
    def test_every_type_computes_what_the_network_computed(self, inflated, name, match):
        original, image = inflated
        student = copy.deepcopy(original)
        conversion = convert_neurons(student, chosen(name, where=("*",), ratio=1, match=match))
        assert len(conversion.paths) == 43
        for training in (True, False):
            expected = original.train(training)(image).logits
            assert expected.std() > 0.1
            torch.testing.assert_close(student.train(training)(image).logits, expected, rtol=1e-6, atol=1e-6)

    @pytest.mark.parametrize("name", sorted(set(NAMES) - {"linear"}))
    @torch.no_grad()
    def test_a_random_start_changes_it(self, inflated, name):
        student, image = copy.deepcopy(inflated[0]).eval(), inflated[1]
        expected = student(image).logits
        convert_neurons(student, chosen(name, init="random"))
        logits = student.eval()(image).logits
        assert torch.isfinite(logits).all()
        assert (logits - expected).abs().mean() > 0.01

    def test_transferred_values_stay_under_their_new_names(self, inflated):
        student = copy.deepcopy(inflated[0])
        conversion = convert_neurons(student, chosen("quadratic"))
        after = student.state_dict()
        for name, value in inflated[0].state_dict().items():
            assert torch.equal(after[conversion.renamed(name)], value)
        assert student.input_weight in after
        assert student.input_weight == conversion.renamed(inflated[0].input_weight)
        assert set(after) - {conversion.renamed(name) for name in inflated[0].state_dict()} == set(conversion.gates)

    def test_matched_parameters_stay_within_a_tenth(self, inflated):
        before = sum(p.numel() for p in inflated[0].parameters())
        for name in NAMES:
            student = copy.deepcopy(inflated[0])
            convert_neurons(student, chosen(name, ratio=1, match="parameters"))
            assert sum(p.numel() for p in student.parameters()) <= 1.1 * before, name

    def test_matched_parameters_that_cannot_be_kept_are_one_line(self, inflated):
        wanted = chosen("polynomial", ratio=1, match="parameters", order=4, rank=4)
        with pytest.raises(ConfigError, match=r"match=parameters: .* polynomial neurons add \d+\.\d%.*ratio") as caught:
            convert_neurons(copy.deepcopy(inflated[0]), wanted)
        assert "\n" not in str(caught.value)


_VIT = {"block_zyx": (4, 16, 16), "input_zyx": (8, 32, 32)}
_DINOV3 = {"encoder": "vit_small_patch16_dinov3", "embed_dim": 48, "depth": 4, "num_heads": 2}
_LINES = {"tubular": (0, 1), "tubular_kernel": 3, "skeleton_head": "own_decoder"}
STUDENT = {
    "convnext": ConvNet3dConfig(encoder="convnext_atto", stages=3),
    "convnextv2": ConvNet3dConfig(encoder="convnextv2_atto", stages=3, pool="slice"),
    "squeezed": ConvNet3dConfig(encoder="mobilenetv3_small_100", stages=3, encoder_norm="batch"),
    "resnet": ConvNet3dConfig(encoder="test_resnet", stages=3, encoder_norm="frozen", norm="batch"),
    "unet3d": UNet3dConfig(),
    "unet3d reasons": UNet3dConfig(reasoning="both", norm="batch", skeleton_head="shared"),
    "unet3d with tubes": UNet3dConfig(**_LINES),
    "unet3d with angles": UNet3dConfig(**_LINES, reasoning="skips", tubular_law="angles", tubular_axes=("z",)),
    "vit3d": Vit3dConfig(encoder="test_vit", **_VIT),
    "vit3d with a pyramid": Vit3dConfig(
        encoder="test_vit", **_VIT, detail="pyramid", depth_position="learned", prefix_tokens="none"
    ),
    "dinov3": Vit3dConfig(**_DINOV3, **_VIT, depth_position="rotary"),
    "SegResNet": MonaiConfig(network="SegResNet", features=8),
    "DynUNet": MonaiConfig(network="DynUNet", features=4),
    "SwinUNETR": MonaiConfig(network="SwinUNETR", features=12),
    "UNETR": MonaiConfig(network="UNETR", features=4, patch_zyx=(16, 32, 64), hidden_size=24, num_heads=2),
}


KINDS = {STUDENTS[name].config: name for name in STUDENTS.names()}


@pytest.mark.parametrize("name", STUDENT)
def test_every_layer_that_is_offered_is_one_the_student_runs_and_trains(name):
    torch.manual_seed(0)
    student = STUDENTS.build(Component(KINDS[type(STUDENT[name])], STUDENT[name])).train()
    image = torch.rand(2, 1, 16, 32, 64)
    expected = student(image)
    conversion = convert_neurons(student, chosen("quadratic", where=("*",), ratio=1))
    ran = set()
    for path in conversion.paths:
        student.get_submodule(path).register_forward_hook(lambda *_, path=path: ran.add(path))
    found = student(image)
    torch.testing.assert_close((found.logits, found.auxiliary), (expected.logits, expected.auxiliary))
    assert ran == set(conversion.paths)
    torch.stack([each.square().mean() for each in (found.logits, *found.auxiliary.values())]).sum().backward()
    without = [key for key, p in student.named_parameters() if p.requires_grad and p.grad is None]
    assert not without
    assert all(torch.isfinite(p.grad).all() for p in student.parameters() if p.grad is not None)


@given(st.integers(1, 60), st.floats(0.01, 1))
def test_a_share_is_spread_evenly_and_is_never_nothing(count, ratio):
    layers = [f"layer{index}" for index in range(count)]
    taken = [int(path.removeprefix("layer")) for path in conversion._evenly(layers, ratio)]
    assert len(taken) == max(1, round(ratio * count))
    assert taken == sorted(set(taken))
    gaps = [b - a for a, b in itertools.pairwise(taken)]
    assert not gaps or max(gaps) - min(gaps) <= 1
    assert abs(taken[0] - (count - 1 - taken[-1])) <= 1


class TestWhichLayers:
    def student(self):
        return UNet3d(UNet3dConfig(channels=(4, 8), depth_strides=(1,)))

    def test_patterns_choose_in_the_order_of_the_network(self):
        assert list(convertible_layers(self.student())) == [
            "encoder.0.0.0",
            "encoder.0.1.0",
            "encoder.1.0.0",
            "encoder.1.1.0",
            "decoder.0.reduce",
            "decoder.0.conv.0",
            "head",
        ]
        where = ("decoder.*", "encoder.?.1.*")
        conversion = convert_neurons(self.student(), chosen("quadratic", where=where, ratio=1))
        assert conversion.paths == ("encoder.0.1.0", "encoder.1.1.0", "decoder.0.reduce", "decoder.0.conv.0")

    def test_half_of_the_encoder_is_every_second_layer(self):
        assert convert_neurons(self.student(), chosen("spiking")).paths == ("encoder.0.1.0", "encoder.1.1.0")

    def test_by_default_nothing_is_converted(self, tiny):
        module = DistillModule(tiny())
        before = list(module.student.state_dict())
        module.transfer(TEACHERS.build(tiny().teacher))
        assert module.conversion == Conversion()
        assert list(module.student.state_dict()) == before

    @pytest.mark.parametrize("where", [("encodr.*",), ("encoder.*", "encodr.*")])
    def test_a_pattern_that_matches_nothing_is_one_line(self, where):
        says = r"'encodr\.\*' matches none of the 7 convolutions and linear layers of student UNet3d.*encoder\.0\.0\.0"
        with pytest.raises(ConfigError, match=says) as caught:
            convert_neurons(self.student(), chosen("quadratic", where=where))
        assert "\n" not in str(caught.value)

    def test_the_embedding_of_a_vit_is_not_offered_because_its_owner_reads_its_weights(self):
        student = STUDENTS.build(Component("vit3d", STUDENT["vit3d"]))
        assert isinstance(student.encoder.patch_embed.proj, nn.Conv3d)
        offered = [path for path in convertible_layers(student) if path.startswith("encoder.")]
        assert [path for path in offered if ".blocks.0." in path] == [
            f"encoder.blocks.0.{name}" for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
        ]
        assert all(path.startswith("encoder.blocks.") for path in offered)

    def test_a_second_conversion_is_refused(self):
        student = self.student()
        convert_neurons(student, chosen("quadratic"))
        with pytest.raises(RuntimeError, match="converted already"):
            convert_neurons(student, chosen("quadratic"))


class TestSeveralTypes:
    def converted(self, tiny, neurons):
        experiment = tiny(f"neurons={neurons}")
        student = STUDENTS.build(experiment.student)
        return student, convert_neurons(student, experiment.neurons)

    def test_each_takes_the_layers_it_names(self, tiny):
        student, conversion = self.converted(
            tiny,
            "[{name: spiking, where: [decoder.*], ratio: 1}, {name: quadratic, where: ['encoder.0.*'], ratio: 1}]",
        )
        types = {path: [part.name for part in student.get_submodule(path).parts] for path in conversion.paths}
        assert types == {
            "encoder.0.0.0": ["quadratic"],
            "encoder.0.1.0": ["quadratic"],
            "decoder.0.reduce": ["spiking"],
            "decoder.0.conv.0": ["spiking"],
        }

    def test_each_takes_its_share_of_the_channels_and_its_rate(self, tiny):
        student, conversion = self.converted(tiny, MIXED)
        assert conversion.paths == ("encoder.0.1.0", "encoder.1.1.0")
        layer = student.encoder[0][1][0]
        assert [(part.name, part.outputs) for part in layer.parts] == [
            ("t4_linear", slice(0, 2)),
            ("spiking", slice(2, 3)),
        ]
        assert conversion.gates == {
            f"{path}.neurons.{number}.gain": ratio
            for path in conversion.paths
            for number, ratio in ((0, 2.0), (1, 0.5))
        }

    def test_a_list_of_one_is_that_one(self, tiny):
        one, alone = self.converted(tiny, "[{name: spiking}]"), self.converted(tiny, "{name: spiking}")
        assert one[1] == alone[1]
        assert one[0].state_dict().keys() == alone[0].state_dict().keys()

    def test_two_types_for_the_same_channels_are_one_line(self, tiny):
        says = r"neurons: quadratic and spiking take 1\.5 times the channels of encoder\.0\.1\.0; accepted: at most 1"
        with pytest.raises(ConfigError, match=says) as caught:
            self.converted(tiny, "[{name: quadratic}, {name: spiking, where: ['*'], ratio: 1, channels: 0.5}]")
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("neurons", "says"),
        [
            ("[]", r"neurons: is empty; accepted: one or more neuron types"),
            ("[{name: quadratc}]", r"neurons\.0\.name: unknown neuron 'quadratc'; did you mean 'quadratic'"),
            ("[{name: spiking}, {name: spiking, stepz: 2}]", r"neurons\.1\.stepz: unknown key"),
            ("[{name: spiking, channels: 0}]", r"neurons\.0: channels=0.* is out of range"),
            ("[spiking]", r"neurons\.0: must be a mapping with a name, got 'spiking'"),
        ],
    )
    def test_a_wrong_list_is_one_line(self, tiny, neurons, says):
        with pytest.raises(ConfigError, match=says) as caught:
            tiny(f"neurons={neurons}")
        assert "\n" not in str(caught.value)


@torch.no_grad()
def test_transformers_with_a_teachers_weights_compute_what_they_did(tiny):
    linear = "where: ['encoder.blocks.*.mlp.*', 'encoder.blocks.*.attn.*'], ratio: 1"
    settings = (
        f"neurons=[{{name: quadratic, {linear}, channels: 0.5}}, {{name: dendritic, {linear}, channels: 0.5}}]",
    )
    experiment = tiny(
        "student={name: vit3d, encoder: test_vit, block_zyx: [4, 16, 16], input_zyx: [8, 32, 32]}",
        "teacher={name: timm2d, architecture: test_vit, weights: random}",
        "strategy={name: inflate, mode: center}",
        *settings,
    )
    torch.manual_seed(0)
    module = DistillModule(experiment)
    audit = module.strategy.transfer(student=module.student, teacher=TEACHERS.build(experiment.teacher))
    image = torch.rand(1, 1, 8, 32, 32)
    maps = module.student.eval().encoder(image)[-1]
    module.convert()
    paths = module.conversion.paths
    assert len(paths) == 4 * len(module.student.encoder.blocks)
    torch.testing.assert_close(module.student.eval().encoder(image)[-1], maps)
    assert {module.conversion.renamed(name) for name in audit.transferred} <= module.student.state_dict().keys()
    assert "encoder.blocks.0.mlp.fc1.linear.weight" in map(module.conversion.renamed, audit.transferred)
    for gate in module.conversion.gates:
        nn.init.normal_(module.student.get_parameter(gate), std=0.3)
    assert (module.student.eval().encoder(image)[-1] - maps).abs().mean() > 0.01


def built(experiment):
    torch.manual_seed(0)
    module = DistillModule(experiment)
    audit = module.transfer(TEACHERS.build(experiment.teacher))
    return module, audit


@pytest.fixture
def diverse(tiny):
    return built(tiny(*INFLATED, QUADRATIC, "optimizer={weight_decay: 0.1, transferred_lr_ratio: 0.5}"))


class TestInAModule:
    def test_transferred_names_follow_the_conversion_and_hold_no_gate(self, diverse):
        module, audit = diverse
        state = module.student.state_dict()
        assert module.transferred <= state.keys()
        assert len(module.transferred) == len(audit.transferred)
        assert "encoder.blocks.0.0.conv_dw.linear.weight" in module.transferred
        assert not module.transferred & module.conversion.gates.keys()
        shapes = {row.name: row.shape for row in audit.rows}
        for name in audit.transferred:
            assert tuple(state[module.conversion.renamed(name)].shape) == shapes[name]

    def test_gates_have_their_own_rate_and_no_decay_and_every_parameter_is_trained_once(self, diverse):
        module, _ = diverse
        names = {p: name.removeprefix("student.") for name, p in module.named_parameters()}
        groups = module.configure_optimizers()["optimizer"].param_groups
        seen = [names[p] for group in groups for p in group["params"]]
        assert sorted(seen) == sorted(names.values())
        for group in groups:
            inside = {names[p] for p in group["params"]}
            kinds = {(name in module.conversion.gates, name in module.transferred) for name in inside}
            ratio = {(True, False): 0.01, (False, True): 0.5, (False, False): 1.0}[kinds.pop()]
            assert not kinds
            assert group["initial_lr"] == pytest.approx(1e-3 * ratio)
            decays = ratio != 0.01 and all(p.ndim > 1 for p in group["params"])
            assert group["weight_decay"] == (0.1 if decays else 0)

    def test_gates_move_as_much_slower_as_was_asked(self, diverse):
        module, _ = diverse
        optimizer = module.configure_optimizers()["optimizer"]
        before = {name: p.detach().clone() for name, p in module.student.named_parameters()}
        torch.manual_seed(0)
        module.student(torch.rand(2, 1, 8, 32, 32)).logits.square().mean().backward()
        optimizer.step()
        moved = {name: (p - before[name]).abs().max().item() for name, p in module.student.named_parameters()}
        # Adam's first step is the learning rate, in the first of eleven steps of the warm-up.
        assert max(moved[name] for name in moved if name.endswith("square.weight")) == pytest.approx(
            1e-5 / 11, rel=1e-4
        )
        assert min(moved[name] for name in moved.keys() - module.conversion.gates) > 10 * 1e-5 / 11

    @pytest.mark.parametrize("neurons", ["{name: quadratic, gate_lr_ratio: 0.5}", MIXED])
    def test_a_checkpoint_loads_without_a_teacher_and_goes_on_as_if_nothing_had_happened(self, tiny, tmp_path, neurons):
        experiment = tiny(*INFLATED, f"neurons={neurons}")
        module, _ = built(experiment)
        optimizer = module.configure_optimizers()["optimizer"]
        _train(module, optimizer, seed=1)
        checkpoint = {"state_dict": copy.deepcopy(module.state_dict())}
        module.on_save_checkpoint(checkpoint)
        torch.save(checkpoint, tmp_path / "half.ckpt")
        saved = copy.deepcopy(optimizer.state_dict())
        torch.manual_seed(7)  # what the rebuilt network draws is not what it was trained to
        loaded = load_module(tmp_path / "half.ckpt")
        assert loaded.teacher is None
        assert (loaded.transferred, loaded.conversion) == (module.transferred, module.conversion)
        other = loaded.configure_optimizers()["optimizer"]
        other.load_state_dict(saved)
        _train(module, optimizer, seed=2)
        _train(loaded, other, seed=2)
        for key, value in module.state_dict().items():
            assert torch.equal(loaded.state_dict()[key], value), key
        assert as_plain(loaded.experiment)["neurons"] == checkpoint[CHECKPOINT_KEY]["experiment"]["neurons"]


def _train(module, optimizer, *, seed):
    torch.manual_seed(seed)
    optimizer.zero_grad()
    module.train()
    module.student(torch.rand(2, 1, 8, 32, 32)).logits.square().mean().backward()
    optimizer.step()


def test_a_run_converts_resumes_predicts_and_reports_its_cost(tiny, monkeypatch):
    apply(monkeypatch.setattr, keep="_input_figures")
    folder = RunFolder(fit.smoke(tiny(*INFLATED, QUADRATIC)))
    assert folder.state == "done"
    metrics = json.loads(folder.metrics.read_text())
    assert 0 < metrics["nonlinear_share"] == metrics["nonlinear_share_by_type"]["quadratic"] < 0.01
    cost = metrics["cost"]
    module = load_module(folder.last)
    assert cost["parameters"] == sum(p.numel() for p in module.student.parameters())
    assert cost["flops_per_patch"] == student_costs(module.student, size_zyx=(16, 32, 32))["flops_per_patch"] > 0
    assert any(module.get_parameter(f"student.{gate}").any() for gate in module.conversion.gates if "square" in gate)
    audited = {row["name"] for row in json.loads(folder.audit.read_text())["rows"]}
    assert {module.conversion.renamed(name) for name in audited} | module.conversion.gates.keys() == set(
        module.student.state_dict()
    )
    assert (folder.figures / "filters.png").is_file()


class OneLayer(Student):
    """A convolution, a normalization, a convolution."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv3d(1, 6, 3, padding=1)
        self.norm = nn.BatchNorm3d(6)
        self.last = nn.Conv3d(6, 1, 1)

    def segment(self, image):
        return self.last(self.norm(self.first(image)))


def test_costs_are_two_operations_per_multiply_add_of_every_convolution():
    student, voxels = OneLayer(), 4 * 6 * 8
    student.norm.eval()  # as a student may hold it
    before = copy.deepcopy(student.state_dict())
    cost = student_costs(student, size_zyx=(4, 6, 8))
    assert cost == {"parameters": 27 * 6 + 6 + 12 + 6 + 1, "flops_per_patch": 2 * voxels * (27 * 6 + 6)}
    assert (student.training, student.first.training, student.norm.training) == (True, True, False)
    assert all(torch.equal(before[key], value) for key, value in student.state_dict().items())
    convert_neurons(student, chosen("quadratic", where=("first",)))
    assert student_costs(student, size_zyx=(4, 6, 8))["flops_per_patch"] == 2 * voxels * (3 * 27 * 6 + 6)
    narrow = OneLayer()
    convert_neurons(narrow, chosen("compact_quadratic", where=("last",), match="parameters"))
    assert student_costs(narrow, size_zyx=(4, 6, 8))["flops_per_patch"] == 2 * voxels * (27 * 6 + 6 + 6)
