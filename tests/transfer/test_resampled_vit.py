"""A student of another block and depth than the real DINOv2's: its tokens are those of the enlarged image."""

import json

import pytest
import torch
import torch.nn.functional as F

from distill3d.cli import app
from distill3d.errors import ConfigError
from distill3d.layers.inflate2d import resample_patch
from distill3d.students.vit3d import Vit3d, Vit3dConfig
from distill3d.teachers.maps import at_size
from distill3d.teachers.onnx_dinov2 import DINOV2
from distill3d.teachers.timm2d import Timm2d, Timm2dConfig
from distill3d.training.pretrain.photos import PHOTOS, read_photo
from distill3d.transfer.inflate import Inflate, InflateConfig
from distill3d.transfer.tubular import Tubular, TubularConfig

CLOSE = {"rtol": 1e-3, "atol": 1e-3}  # of tokens of size 1
GRID = 12  # patches per side of the photo
EMBED, TABLE = "encoder.patch_embed.proj.weight", "encoder.pos_embed"


@pytest.fixture(scope="module")
def teacher():
    return Timm2d(Timm2dConfig(architecture=DINOV2))


def student_of(block, *, depth=6, **changes):
    torch.manual_seed(0)
    size = (block[0], GRID * block[1], GRID * block[2])
    decoder = (4,) * 6
    return Vit3d(Vit3dConfig(encoder=DINOV2, depth=depth, block_zyx=block, input_zyx=size, decoder=decoder, **changes))


def photo_of(rows, columns):
    """The cat, gray, [1, 1, rows, columns]."""
    cat = next(photo for photo in PHOTOS if photo.file == "chelsea.png")
    gray = read_photo(cat)[None, :, :300, 75:375].float().mean(1, keepdim=True) / 255
    return F.interpolate(gray, size=(rows, columns), mode="bicubic", antialias=True).clamp(0, 1)


def teachers_tokens(teacher, images, block):
    """Tokens of the teacher after one block, counted from 1, on their grid."""
    net = at_size(teacher.net, tuple(images.shape[2:]), teacher._sized)
    images = teacher.normalize(images)
    return net.forward_intermediates(images, indices=[block - 1], norm=True, intermediates_only=True)[-1]


def students_tokens(student, image, mode):
    """Tokens of a volume one block deep that holds the image: in the middle slice, or in all of them."""
    depth = student.config.block_zyx[0]
    volume = image.unsqueeze(2).repeat(1, 1, depth, 1, 1)
    if mode == "center":
        others = [z for z in range(depth) if z != depth // 2]
        volume[:, :, others] = torch.rand_like(volume[:, :, others])
    return student.encoder(student.normalize(volume))[-1][:, :, 0]


@pytest.mark.parametrize("mode", ["center", "average"])
@pytest.mark.parametrize(("block", "depth"), [((4, 8, 8), 4), ((4, 8, 8), 12), ((2, 16, 16), 6), ((4, 8, 6), 6)])
@torch.no_grad()
def test_tokens_of_a_photo_are_those_of_the_enlarged_photo(teacher, mode, block, depth):
    student = student_of(block, depth=depth)
    Inflate(InflateConfig(mode=mode)).transfer(student=student, teacher=teacher)
    photo = photo_of(GRID * block[1], GRID * block[2])
    enlarged = F.interpolate(photo, size=(GRID * 14, GRID * 14), mode="bicubic", antialias=True)
    tokens, reference = students_tokens(student, photo, mode), teachers_tokens(teacher, enlarged, depth)
    alike = F.cosine_similarity(tokens, reference, dim=1)
    assert tokens.shape == (1, 384, GRID, GRID)
    assert alike.mean() > 0.95
    mirrored = F.cosine_similarity(tokens, reference.flip(3), dim=1)
    assert mirrored.mean() < alike.mean() - 0.05


@pytest.mark.parametrize("mode", ["center", "average"])
@torch.no_grad()
def test_the_first_blocks_of_the_teachers_own_patch_are_exact(teacher, mode):
    student = student_of((2, 14, 14), depth=4)
    Inflate(InflateConfig(mode=mode)).transfer(student=student, teacher=teacher)
    photo = photo_of(GRID * 14, GRID * 14)
    torch.testing.assert_close(students_tokens(student, photo, mode), teachers_tokens(teacher, photo, 4), **CLOSE)


@torch.no_grad()
def test_a_block_is_embedded_as_the_teacher_embeds_it_enlarged(teacher):
    student = student_of((4, 8, 8))
    Inflate(InflateConfig(mode="center")).transfer(student=student, teacher=teacher)
    block = torch.rand(1, 1, 8, 8)
    enlarged = F.interpolate(block, size=(14, 14), mode="bicubic", antialias=True)
    embedded = student.encoder.patch_embed(student.normalize(block.unsqueeze(2).repeat(1, 1, 4, 1, 1)))
    expected = teacher.net.patch_embed.proj(teacher.normalize(enlarged))
    torch.testing.assert_close(embedded.flatten(), expected.flatten(), **CLOSE)


@torch.no_grad()
def test_straight_tubes_are_the_resampled_kernel_unrolled(teacher):
    student, plain = student_of((4, 8, 8)), student_of((4, 8, 8))
    strategy = Tubular(TubularConfig(taps=64))
    strategy.adapt(student)
    audit = strategy.transfer(student=student, teacher=teacher)
    Inflate(InflateConfig(mode="center")).transfer(student=plain, teacher=teacher)
    kernel = plain.state_dict()[EMBED][:, 0, 2]
    tubes = student.state_dict()["encoder.patch_embed.tubes"]
    assert tubes.shape == (3, 384, 64)
    torch.testing.assert_close(tubes, kernel.flatten(1).expand(3, -1, -1))
    row = next(row for row in audit.rows if row.name.endswith(".tubes"))
    assert row.fate == "interpolated"
    assert row.note == "patch 14x14 resampled to 8x8; sum over input channels; plane of 64 unrolled"


@torch.no_grad()
def test_the_control_has_the_scale_of_what_it_controls(teacher):
    plain, control = student_of((4, 8, 8)), student_of((4, 8, 8))
    Inflate(InflateConfig(mode="center")).transfer(student=plain, teacher=teacher)
    Inflate(InflateConfig(mode="shuffled", shuffled="center")).transfer(student=control, teacher=teacher)
    one, other = plain.state_dict()[TABLE].flatten(), control.state_dict()[TABLE].flatten()
    assert not torch.equal(one, other)
    assert torch.equal(one.sort().values, other.sort().values)
    kernel = resample_patch(teacher.net.patch_embed.proj.weight, (8, 8))
    assert control.state_dict()[EMBED].norm() == pytest.approx(float(kernel.norm()), rel=0.2)


def test_gradient_reaches_every_mirrored_entry(teacher):
    student = student_of((4, 8, 8), depth=4)
    Inflate(InflateConfig(mode="average")).transfer(student=student, teacher=teacher)
    student(torch.rand(1, 1, 4, 32, 48)).logits.square().mean().backward()
    assert all(torch.isfinite(each.grad).all() and each.grad.any() for each in student.encoder.parameters())


def test_the_audit_says_what_was_resampled_and_how_many_blocks(teacher):
    audit = Inflate(InflateConfig()).transfer(student=student_of((4, 8, 8)), teacher=teacher)
    rows = {row.name: row for row in audit.rows}
    assert rows[EMBED].note == "patch 14x14 resampled to 8x8; sum over input channels"
    assert (rows[EMBED].fate, rows[TABLE].fate) == ("interpolated", "interpolated")
    assert (rows[EMBED].shape, rows[EMBED].source_shape) == ((384, 1, 4, 8, 8), (384, 3, 14, 14))
    assert {row.fate for name, row in rows.items() if name.startswith("encoder.blocks")} == {"copied"}
    assert audit.part == "the first 6 of 12 blocks"


def test_the_teachers_own_patch_and_depth_need_no_such_words(teacher):
    audit = Inflate(InflateConfig()).transfer(student=student_of((4, 14, 14), depth=None), teacher=teacher)
    assert audit.part == ""
    assert not any("resampled" in row.note for row in audit.rows)


@pytest.fixture
def call(tmp_path, capsys):
    path = tmp_path / "dinov2.yaml"
    path.write_text(f"""
data: {{name: simulated}}
student: {{name: vit3d, encoder: {DINOV2}, depth: 6, block_zyx: [4, 8, 8]}}
teacher: {{name: timm2d, architecture: {DINOV2}}}
strategy: {{name: inflate}}
""")

    def run_verb(*arguments):
        app(["audit", str(path), *arguments], standalone_mode=False)
        return capsys.readouterr().out

    return run_verb


def test_the_audit_verb_shows_both(call):
    shown = call()
    assert "come from the teacher: the first 6 of 12 blocks" in " ".join(shown.split())
    assert "patch 14x14 resampled to 8x8" in shown
    assert max(map(len, shown.splitlines())) <= 100
    assert json.loads(call("--json"))["part"] == "the first 6 of 12 blocks"


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("student.depth=14", "student.depth: the student's depth is 14, .* is 12; set student.depth=12 or less, or"),
        ("student.block_zyx=[4,1,8]", r"patch is \(1, 8\), .* \(14, 14\); set student.block_zyx=\[Z,Y,X\] with Y and"),
    ],
)
def test_what_cannot_be_taken_over_is_one_line(call, override, says):
    with pytest.raises(ConfigError, match=says) as caught:
        call(override)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_plane_that_is_not_square_has_no_multi_axis_placement(call):
    with pytest.raises(ConfigError, match=r"multi_axis: a kernel's plane is 8 x 16; accepted: square ones"):
        call("student.block_zyx=[4,8,16]", "strategy.mode=multi_axis", "student.decoder=[8,8,8,8]")
