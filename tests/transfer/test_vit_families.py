"""Each ViT family on the level of tokens: the inflated student computes what timm's 2D network of true shape computes.

The weights are random and restless: timm starts layer scales near 0 and tokens and biases at 0, which would hide them.
Students have the first four of the twelve blocks, which are all alike, but where all must come over and in MAE.
"""

import copy
import dataclasses

import pytest
import torch
from safetensors.torch import save_file

from distill3d.students.convnet3d import ConvNet3d, ConvNet3dConfig
from distill3d.students.vit3d import Vit3d, Vit3dConfig
from distill3d.teachers.timm2d import Timm2d, Timm2dConfig
from distill3d.transfer.inflate import Inflate, InflateConfig

CLOSE = {"rtol": 1e-4, "atol": 1e-4}
DINO, DINOV2, DINOV3 = "vit_small_patch16_224.dino", "vit_small_patch14_dinov2.lvd142m", "vit_small_patch16_dinov3"
REGISTERS, WITH_BIAS = "vit_small_patch14_reg4_dinov2.lvd142m", "vit_small_patch16_dinov3_qkvb"
SUPERVISED, MAE, CONVNEXT = "vit_small_patch16_224", "vit_base_patch16_224.mae", "convnext_tiny.dinov3_lvd1689m"
# The block of voxels, and an image of 5 x 4 patches: not square, so that swapped axes show.
SIZES = {14: ((2, 14, 14), (70, 56)), 16: ((4, 16, 16), (80, 64))}
FAMILIES = {SUPERVISED: 16, DINO: 16, DINOV2: 14, REGISTERS: 14, DINOV3: 16, WITH_BIAS: 16}
OWN = {DINOV2: (518, 518), REGISTERS: (518, 518)}


@torch.no_grad()
def restless(name, *, plain=False):
    """Build a random teacher in which no layer is idle; ``plain`` input statistics are alike in all channels."""
    teacher = Timm2d(Timm2dConfig(architecture=name, weights="random"))
    torch.manual_seed(0)
    for key, value in teacher.net.state_dict().items():
        if value.ndim == 1 and key.endswith(("weight", "gamma", "gamma_1", "gamma_2")):
            value.uniform_(0.5, 1.5)
        elif value.ndim == 1:
            value.uniform_(-0.3, 0.3)
        elif key in {"cls_token", "reg_token", "pos_embed"}:
            value.normal_()
        elif key.endswith("qkv.weight"):
            value.mul_(3)  # so that attention chooses
    if plain:
        teacher.input_mean = teacher.input_std = (0.5, 0.5, 0.5)
    return teacher


def student_of(name, *, size=None, **changes):
    block, plane = SIZES[FAMILIES.get(name, 16)]
    torch.manual_seed(1)
    settings = {"depth": 4, "block_zyx": block, "input_zyx": (3 * block[0], *(size or plane)), "decoder": (4, 4, 4, 4)}
    return Vit3d(Vit3dConfig(**{"encoder": name, **settings, **changes}))


def inflated(teacher, name, mode, **changes):
    student = student_of(name, **changes)
    audit = Inflate(InflateConfig(mode=mode)).transfer(student=student, teacher=teacher)
    return student, audit  # left in training mode, which must make no difference


def sized(teacher, image):
    """timm's network for images of this size, by its own interpolation of the position table, and the image for it."""
    net = copy.deepcopy(teacher.net)
    net.set_input_size(img_size=tuple(image.shape[2:]))
    return net, teacher.normalize(image.expand(-1, 3, -1, -1))


@torch.no_grad()
def flat_tokens(teacher, image, blocks):
    """Patch tokens [N, E, Y, X] after each of ``blocks`` by timm's own forward, for an image [N, 1, Y, X]."""
    net, image = sized(teacher, image)
    indices = [b - 1 for b in blocks]
    return net.forward_intermediates(image, indices=indices, norm=True, intermediates_only=True, stop_early=True)


@torch.no_grad()
def flat_embedding(teacher, image):
    """Patch tokens [N, Y * X, E] with their positions, before the first block."""
    net, image = sized(teacher, image)
    placed = net._pos_embed(net.patch_embed(image))
    tokens = placed[0] if isinstance(placed, tuple) else placed
    return tokens[:, net.num_prefix_tokens :]


@torch.no_grad()
def solid_tokens(student, volume):
    return student.encoder((volume - student.input_mean) / student.input_std)


@torch.no_grad()
def solid_embedding(student, volume):
    """Patch tokens [N, Z, Y * X, E] with their positions, before the first block."""
    grid = student.encoder.patch_embed((volume - student.input_mean) / student.input_std)
    depth, patches = grid.shape[2], grid.shape[2:].numel()
    return student.encoder.place(grid)[:, -patches:].unflatten(1, (depth, -1))


def image_of(name, batch=2):
    _, plane = SIZES[FAMILIES.get(name, 16)]
    return torch.rand(batch, 1, *plane, generator=torch.Generator().manual_seed(2))


def assert_constant_volume_gives_2d_tokens(teacher, student, image, *, slices=3):
    volume = image.unsqueeze(2).expand(-1, -1, slices * student.stride_zyx[0], -1, -1)
    solid = solid_tokens(student, volume)
    flat = flat_tokens(teacher, image, student.encoder.features)
    assert len(solid) == len(flat) > 1
    for one, other in zip(solid, flat, strict=True):
        assert one.shape[2] == slices
        for z in range(slices):
            torch.testing.assert_close(one[:, :, z], other, **CLOSE)


@dataclasses.dataclass(frozen=True)
class Family:
    """A teacher and the students that were started from it; no test changes them."""

    name: str
    teacher: Timm2d
    average: Vit3d
    center: Vit3d
    image: torch.Tensor


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    name, teacher = request.param, restless(request.param)
    average, center = (inflated(teacher, name, mode)[0] for mode in ("average", "center"))
    return Family(name, teacher, average, center, image_of(name))


class TestEveryFamily:
    @pytest.mark.parametrize("prefix_tokens", ["per_slice", "none"])
    def test_the_whole_encoder_comes_from_the_teacher_but_what_only_depth_needs(self, family, prefix_tokens):
        changes = {"depth": None, "prefix_tokens": prefix_tokens, "depth_position": "learned"}
        student, audit = inflated(family.teacher, family.name, "center", **changes)
        rows = {row.name: row for row in audit.rows}
        assert list(rows) == list(student.state_dict())
        encoder = {key for key in rows if key.startswith("encoder.")}
        assert encoder - audit.transferred == {"encoder.depth_embed"}
        assert rows["encoder.depth_embed"].fate == rows["head.weight"].fate == "new"
        embedding = rows["encoder.patch_embed.proj.weight"]
        assert embedding.fate == "inflated"
        assert embedding.source_shape == (384, 3, *student.stride_zyx[1:])
        assert rows["encoder.blocks.11.mlp.fc2.weight"].fate == "copied"
        assert ("encoder.pos_embed" in rows) == ("dinov3" not in family.name)
        if "encoder.pos_embed" in rows:
            assert rows["encoder.pos_embed"].fate == "interpolated"

    def test_average_on_a_volume_constant_along_depth_gives_the_2d_tokens(self, family):
        assert_constant_volume_gives_2d_tokens(family.teacher, family.average, family.image)

    def test_center_of_a_volume_one_block_deep_gives_the_2d_tokens(self, family):
        students = [family.center]
        if "dinov3" in family.name:
            students.append(inflated(family.teacher, family.name, "center", depth_position="rotary")[0])
        flat = flat_tokens(family.teacher, family.image, family.center.encoder.features)
        for student in students:
            depth = student.stride_zyx[0]
            volume = torch.rand(2, 1, depth, *family.image.shape[2:])
            volume[:, :, depth // 2] = family.image
            for one, other in zip(solid_tokens(student, volume), flat, strict=True):
                torch.testing.assert_close(one[:, :, 0], other, **CLOSE)

    def test_center_embeds_the_center_slice_of_every_block(self, family):
        depth = family.center.stride_zyx[0]
        volume = torch.rand(2, 1, 3 * depth, *family.image.shape[2:])
        embedding = solid_embedding(family.center, volume)
        assert embedding.shape[1] == 3
        for z in range(3):
            flat = flat_embedding(family.teacher, volume[:, :, z * depth + depth // 2])
            torch.testing.assert_close(embedding[:, z], flat, **CLOSE)

    def test_average_embeds_the_mean_slice_of_every_block(self, family):
        depth = family.average.stride_zyx[0]
        volume = torch.rand(2, 1, 2 * depth, *family.image.shape[2:])
        embedding = solid_embedding(family.average, volume)
        for z, block in enumerate(volume.split(depth, dim=2)):
            torch.testing.assert_close(embedding[:, z], flat_embedding(family.teacher, block.mean(2)), **CLOSE)

    def test_the_identity_needs_a_constant_volume_and_prefix_tokens_per_slice(self, family):
        depth = 2 * family.average.stride_zyx[0]
        flat = flat_tokens(family.teacher, family.image, family.average.encoder.features)[-1]
        constant = family.image.unsqueeze(2).expand(-1, -1, depth, -1, -1)
        changing = constant * torch.linspace(0, 2, depth).view(1, 1, -1, 1, 1)
        shared, _ = inflated(family.teacher, family.name, "average", prefix_tokens="shared")
        for student, volume in ((family.average, changing), (shared, constant)):
            solid = solid_tokens(student, volume)[-1]
            assert (solid[:, :, 0] - flat).abs().mean() > 0.01 * flat.abs().mean()

    def test_differing_channel_means_were_absorbed_by_the_bias(self, family):
        bias = family.average.state_dict()["encoder.patch_embed.proj.bias"]
        same = torch.equal(bias, family.teacher.net.state_dict()["patch_embed.proj.bias"])
        assert same == (family.name == SUPERVISED)  # the others have ImageNet's
        assert len(set(family.teacher.input_mean)) == (1 if same else 3)

    def test_the_teachers_own_grid_is_copied_and_interpolated_once(self, family):
        student, audit = inflated(family.teacher, family.name, "average", size=OWN.get(family.name, (224, 224)))
        fates = {row.name: row.fate for row in audit.rows}
        assert fates.get("encoder.pos_embed", "copied") == "copied"
        assert_constant_volume_gives_2d_tokens(family.teacher, student, family.image, slices=2)

    def test_without_prefix_tokens_patches_keep_their_places(self, family):
        student, _ = inflated(family.teacher, family.name, "average", prefix_tokens="none")
        volume = family.image.unsqueeze(2).expand(-1, -1, student.stride_zyx[0], -1, -1)
        flat = flat_embedding(family.teacher, family.image)
        torch.testing.assert_close(solid_embedding(student, volume)[:, 0], flat, **CLOSE)


def test_mae_base_of_true_shape():
    teacher = restless(MAE)
    student, audit = inflated(teacher, MAE, "average", depth=None)
    assert {key for key in student.state_dict() if key.startswith("encoder.")} <= audit.transferred
    assert_constant_volume_gives_2d_tokens(teacher, student, image_of(MAE, batch=1), slices=2)


def test_a_checkpoint_file_is_the_same_as_its_network(tmp_path, supervised):
    source = supervised
    path = tmp_path / "vit.safetensors"
    save_file(source.net.state_dict(), path)
    teacher = Timm2d(Timm2dConfig(architecture=SUPERVISED, weights="file", path=str(path)))
    assert teacher.identity.sha256 != source.identity.sha256  # the file holds the restless weights
    student, _ = inflated(teacher, SUPERVISED, "average")
    assert_constant_volume_gives_2d_tokens(source, student, image_of(SUPERVISED), slices=2)


@pytest.fixture(scope="module")
def convnext():
    """DINOv3's ConvNeXt, and one whose stem halves once as with NeurINO's kernels."""
    teacher = restless(CONVNEXT, plain=True)
    changed = copy.deepcopy(teacher)
    changed.net.stem[0].stride, changed.net.stem[0].padding = (2, 2), (1, 1)
    return teacher, changed


class TestConvNext:
    @staticmethod
    def student(teacher, mode):
        settings = {"stages": 3, "depth_kernel": "neurino", "depth_padding": "replicate"}
        student = ConvNet3d(ConvNet3dConfig(encoder=CONVNEXT, **settings))
        return student, Inflate(InflateConfig(mode=mode)).transfer(student=student, teacher=teacher)

    @staticmethod
    @torch.no_grad()
    def flat(changed, image):
        gray = changed.normalize(image.expand(-1, 3, -1, -1))
        return changed.net.forward_intermediates(gray, indices=[0, 1, 2], intermediates_only=True)

    def test_the_whole_encoder_comes_from_the_teacher(self, convnext):
        student, audit = self.student(convnext[0], "center")
        rows = {row.name: row for row in audit.rows}
        assert list(rows) == list(student.state_dict())
        assert {key for key in rows if key.startswith("encoder.")} <= audit.transferred
        assert rows["encoder.stem.0.weight"].shape == (96, 1, 4, 4, 4)
        assert rows["encoder.stages.1.downsample.1.weight"].shape[2:] == (2, 2, 2)
        assert rows["encoder.stages.1.blocks.0.conv_dw.weight"].shape[2:] == (3, 7, 7)

    def test_average_on_a_volume_constant_along_depth_gives_the_2d_features(self, convnext):
        student, _ = self.student(convnext[0], "average")
        image = torch.rand(1, 1, 32, 48)
        solid = solid_tokens(student, image.unsqueeze(2).expand(-1, -1, 16, -1, -1))
        for one, other in zip(solid, self.flat(convnext[1], image), strict=True):
            for z in range(one.shape[2]):
                torch.testing.assert_close(one[:, :, z] / other.std(), other / other.std(), **CLOSE)

    def test_center_sees_one_slice_in_every_stride(self, convnext):
        student, _ = self.student(convnext[0], "center")
        volume = torch.rand(1, 1, 16, 32, 32)
        for octave, one in enumerate(solid_tokens(student, volume), start=1):
            for z in range(one.shape[2]):
                other = self.flat(convnext[1], volume[:, :, 2**octave * (z + 1) - 1])[octave - 1]
                torch.testing.assert_close(one[:, :, z] / other.std(), other / other.std(), **CLOSE)


@pytest.fixture(scope="module", params=["average", "center"])
def trio(request):
    """A teacher, the true student and its control; the grid is the teacher's, so the table keeps its shape."""
    teacher, changes = restless(REGISTERS, plain=True), {"size": (518, 518), "features": (1, 3)}
    real, _ = inflated(teacher, REGISTERS, request.param, **changes)
    control = student_of(REGISTERS, **changes)
    Inflate(InflateConfig(mode="shuffled", shuffled=request.param)).transfer(student=control, teacher=teacher)
    return teacher, real, control


class TestShuffled:
    def test_the_control_differs_in_the_order_of_values_only(self, trio):
        teacher, _, control = trio
        source, compared = teacher.net.state_dict(), []
        for name, value in control.encoder.state_dict().items():
            if value.shape != source[name].shape:
                assert name == "patch_embed.proj.weight"
                torch.testing.assert_close(value.sum(), source[name].sum(), rtol=1e-3, atol=1e-2)
                continue
            assert torch.equal(value.flatten().sort().values, source[name].flatten().sort().values)
            assert torch.equal(value, source[name]) == (value.ndim == 1)
            compared.append(name)
        assert {"pos_embed", "cls_token", "reg_token", "blocks.2.mlp.fc2.weight", "norm.bias"} <= set(compared)

    def test_the_control_gives_other_tokens(self, trio):
        _, real, control = trio
        volume = torch.rand(1, 1, 4, 56, 56)
        one, other = (solid_tokens(student, volume)[-1] for student in (real, control))
        center = [each - each.mean(dim=(0, 2, 3, 4), keepdim=True) for each in (one, other)]
        assert torch.corrcoef(torch.stack([each.flatten() for each in center]))[0, 1].abs() < 0.3


@pytest.fixture(scope="module")
def supervised():
    return restless(SUPERVISED)
