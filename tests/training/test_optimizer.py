"""How fast transferred entries learn by their depth, and that frozen ones do not: no gradient, no new statistics."""

import pytest
import torch
from small_transfers import CNN, VIT, make_batch

from distill3d.config.registry import TEACHERS
from distill3d.config.schema import OptimizerConfig
from distill3d.errors import ConfigError
from distill3d.training.module import DistillModule, load_module


@pytest.fixture
def built(tiny):
    """Build and transfer; the ViT's teacher is cut to the student's four blocks."""

    def build(*overrides):
        experiment = tiny(*overrides)
        teacher = TEACHERS.build(experiment.teacher)
        if hasattr(teacher.net, "blocks") and experiment.student.name == "vit3d":
            teacher.net.blocks = teacher.net.blocks[:4]
        module = DistillModule(experiment)
        module.transfer(teacher)
        return module

    return build


def groups_of(module):
    return module.configure_optimizers()["optimizer"].param_groups


def rates(module):
    names = {p: name.removeprefix("student.") for name, p in module.named_parameters()}
    return {names[p]: group["initial_lr"] for group in groups_of(module) for p in group["params"]}


def step(module, optimizer, *, seed=0):
    module.train()
    torch.manual_seed(seed)
    optimizer.zero_grad()
    sum(term.value for term in module.terms(make_batch()).all.values()).backward()
    optimizer.step()


def test_unless_told_otherwise_the_weights_of_a_teacher_learn_at_a_tenth_of_the_rate(built):
    module = built(*CNN)
    by_name = rates(module)
    moved = {name for name in by_name if name in module.transferred}
    assert moved == {name for name in by_name if name.startswith("encoder.")}
    assert [by_name[name] for name in moved] == pytest.approx([1e-4] * len(moved))
    assert {rate for name, rate in by_name.items() if name not in moved} == {1e-3}


def test_the_rate_of_a_block_of_a_vit_falls_with_its_distance_from_the_last(built):
    by_name = rates(built(*VIT, "optimizer={lr: 0.008, transferred_lr_ratio: 0.5, layer_decay: 0.5}"))
    expected = {
        "encoder.patch_embed.proj.weight": 0.004 / 16,
        "encoder.pos_embed": 0.004 / 16,
        "encoder.cls_token": 0.004 / 16,
        "encoder.blocks.0.attn.qkv.weight": 0.004 / 8,
        "encoder.blocks.2.mlp.fc1.bias": 0.004 / 2,
        "encoder.blocks.3.attn.qkv.weight": 0.004,
        "encoder.norm.weight": 0.004,
        "encoder.depth_embed": 0.008,  # the 2D network has none: it is new
        "head.weight": 0.008,
    }
    assert {name: by_name[name] for name in expected} == pytest.approx(expected)


def test_the_rate_of_a_block_of_a_convnet_falls_with_its_distance_from_the_last(built):
    by_name = rates(built(*CNN, "optimizer={lr: 0.01, transferred_lr_ratio: 1, layer_decay: 0.1}"))
    expected = {
        "encoder.conv_stem.weight": 1e-4,
        "encoder.bn1.bias": 1e-4,
        "encoder.blocks.0.0.conv.weight": 1e-3,
        "encoder.blocks.1.0.conv_exp.weight": 1e-2,
        "head.weight": 1e-2,
    }
    assert {name: by_name[name] for name in expected} == pytest.approx(expected)


def test_groups_are_at_most_two_per_depth_and_their_names_tell_them_apart(built):
    groups = groups_of(built(*VIT, "optimizer.layer_decay=0.5"))
    names = [group["name"] for group in groups]
    assert len(names) == len(set(names)) <= 2 * (4 + 1) + 2
    assert "transferred x0.00625, decays" in names
    assert "new x1, no decay" in names
    assert len(groups_of(built(*VIT))) == 4


def test_a_student_that_knows_no_depth_is_refused_a_decay_by_depth(built):
    slices = ("student={name: slices2d, encoder: test_efficientnet, stages: 2}", *CNN[1:])
    with pytest.raises(ConfigError, match=r"optimizer\.layer_decay=0\.5: student Slices2d .*convnet3d or vit3d"):
        built(*slices, "optimizer.layer_decay=0.5")
    assert rates(built(*slices))


@pytest.mark.parametrize("decay", [0, -0.5, 1.01])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(ValueError, match=f"layer_decay={decay} is out of range; accepted: above 0 to 1"):
        OptimizerConfig(layer_decay=decay)


@pytest.mark.parametrize(("overrides", "entry"), [(VIT, "encoder.pos_embed"), (CNN, "encoder.bn1.running_mean")])
def test_frozen_entries_get_no_gradient_and_stay_bit_equal_with_their_statistics(built, overrides, entry):
    module = built(*overrides, "optimizer={transferred_lr_ratio: 0, freeze_transferred_steps: 1, weight_decay: 0.1}")
    before = {name: value.clone() for name, value in module.student.state_dict().items()}
    chosen = module.configure_optimizers()
    for seed in range(3):
        step(module, chosen["optimizer"], seed=seed)
        chosen["lr_scheduler"]["scheduler"].step()
        module.student.eval()  # as a validation does
    after = module.student.state_dict()
    moved = module.transferred
    assert {entry, *(name for name in before if name.startswith("encoder.blocks."))} <= moved
    assert all(torch.equal(before[name], after[name]) for name in moved)
    parameters = dict(module.student.named_parameters())
    assert all(parameters[name].grad is None for name in moved & parameters.keys())
    assert all(parameters[name].grad is not None for name in parameters.keys() - moved)
    assert not torch.equal(before["head.weight"], after["head.weight"])


def test_a_frozen_encoder_computes_in_training_what_it_does_in_evaluation(built):
    module, trained = built(*CNN, "optimizer.transferred_lr_ratio=0"), built(*CNN)
    image = make_batch().image

    def maps(student, *, training):
        return student.train(training).encoder(image)[-1]

    assert torch.equal(maps(module.student, training=True), maps(module.student, training=False))
    assert not torch.allclose(maps(trained.student, training=True), maps(trained.student, training=False), atol=1e-3)


def test_what_was_frozen_is_frozen_in_a_module_from_its_checkpoint(built, tmp_path):
    module = built(*CNN, "optimizer.transferred_lr_ratio=0")
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "some.ckpt")
    loaded = load_module(tmp_path / "some.ckpt")
    frozen = [{name for name, p in each.student.named_parameters() if not p.requires_grad} for each in (module, loaded)]
    assert frozen[0] == frozen[1] == {name for name in frozen[0] if name.startswith("encoder.")}
    assert loaded.student.still == module.student.still != ()
    assert len(groups_of(loaded)) == len(groups_of(module))
