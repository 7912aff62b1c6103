"""What every registered student promises, with its default settings."""

import pytest
import torch

from distill3d import students
from distill3d.config.registry import STUDENTS, Component

NAMES = [name for name in STUDENTS.names() if STUDENTS[name].module.startswith("distill3d.")]
assert students


def _build(name, seed=0):
    torch.manual_seed(seed)
    return STUDENTS.build(Component(name, STUDENTS[name].config()))


@pytest.fixture(scope="module", params=NAMES)
def student(request):
    return _build(request.param)


def test_the_students_of_this_package_are_here():
    assert {"convnet3d", "monai", "unet3d", "vit3d"} <= set(NAMES)


@pytest.mark.parametrize("size", [(8, 32, 32), (7, 33, 18)])
def test_logits_have_the_images_size_at_any_size(student, size):
    image = torch.rand(1, 1, *size)
    with torch.no_grad():
        logits = student.eval()(image).logits
    assert logits.shape == image.shape
    assert torch.isfinite(logits).all()


def test_gradient_reaches_every_parameter(student):
    student.train().zero_grad()
    torch.manual_seed(0)
    logits = student(torch.rand(2, 1, 8, 32, 32)).logits
    torch.nn.functional.binary_cross_entropy_with_logits(logits, (torch.rand_like(logits) > 0.5).float()).backward()
    for name, parameter in student.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    silent = [name for name, parameter in student.named_parameters() if not parameter.grad.any()]
    assert not silent


def test_bf16_autocast_on_cpu_is_close_to_float32(student):
    image = torch.rand(1, 1, 8, 32, 32)
    with torch.no_grad():
        exact = student.eval()(image).logits
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = student(image).logits.float()
    assert torch.isfinite(rough).all()
    assert (rough - exact).abs().mean() < 0.05 * exact.abs().mean()


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_student(name):
    one, same, other = (_build(name, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("name", NAMES)
def test_state_dict_loads_strictly_and_gives_the_same_logits(name):
    one, other = _build(name, 1).eval(), _build(name, 2).eval()
    other.load_state_dict(one.state_dict(), strict=True)
    image = torch.rand(1, 1, 8, 32, 32)
    with torch.no_grad():
        assert torch.equal(one(image).logits, other(image).logits)


@pytest.mark.parametrize("name", NAMES)
def test_a_step_downhill_lowers_the_loss(name):
    student = _build(name).train()
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
    torch.manual_seed(0)
    image = torch.rand(2, 1, 8, 32, 32)
    target = (image > 0.7).float()
    losses = []
    for _ in range(3):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(student(image).logits, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
