"""The frozen 2D teacher: never trained, never saved."""

from __future__ import annotations

import hashlib
from abc import ABC
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from distill3d.errors import ConfigError, InputError
from distill3d.layers.recording import check_paths, main_layers, record
from distill3d.storage.trained_on import Seen
from distill3d.teachers.maps import Layout, as_map, at_size, find_layouts, run, side_multiple

LOGITS = "logits"  # in place of a layer's path: the output of a teacher that segments


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherIdentity:
    """Which network this is and where its weights come from; kept in every checkpoint and metrics file.

    Attributes:
        architecture: timm's name of the network, ``"none"`` where there is no teacher.
        weights: where the weights come from, in words: a package and version, a hub name, a path, ``"random"``.
        sha256: of the weights, first 16 hex digits (see `hash_weights`); empty where there are no weights.
        random: True when nobody trained these weights.
    """

    architecture: str
    weights: str
    sha256: str
    random: bool

    def require_same(self, before: TeacherIdentity | None, *, where: Path | str) -> None:
        """Refuse to go on with other weights than a training began with.

        Args:
            before: of the teacher it began with; None where nobody noted it.
            where: its checkpoint, for the message.

        Raises:
            InputError: names both.
        """
        if before is not None and before.sha256 != self.sha256:
            raise InputError(
                f"{where}: its teacher was {before.architecture} ({before.weights}, sha256 {before.sha256}), now "
                f"{self.architecture} ({self.weights}, sha256 {self.sha256}); accepted: those weights, or --overwrite"
            )


def hash_weights(state: Mapping[str, Tensor]) -> str:
    """Return 16 hex digits over names, shapes, dtypes and values, independent of the order of the entries."""
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tuple(value.shape)}:{value.dtype};".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return digest.hexdigest()[:16]


class Teacher(nn.Module, ABC):
    """A frozen 2D network.

    Its weights are dropped from every state dict on save and put back on load, so strict loading works with a teacher
    that was never saved. ``train()`` cannot leave eval mode; ``forward`` runs without gradient.

    Args:
        net: the 2D network; takes [N, 3, Y, X].
        identity: what it is.
        input_mean: of the three input channels, for intensities in [0, 1].
        input_std: of the three input channels, for intensities in [0, 1].

    Attributes:
        segments: whether the network's output is the logits of a segmentation, [N, 1, Y, X].
        images_seen: how many images it has run on so far; the cache keeps this number low.
        seen: cases of volumes that it was trained on; none for a network of photographs.
    """

    segments: bool = False
    seen: tuple[Seen, ...] = ()

    def __init__(
        self,
        net: nn.Module,
        *,
        identity: TeacherIdentity,
        input_mean: tuple[float, float, float],
        input_std: tuple[float, float, float],
    ) -> None:
        super().__init__()
        self.net = net
        self.identity = identity
        self.input_mean = input_mean
        self.input_std = input_std
        self.images_seen = 0
        self._sized: dict[tuple[int, int], nn.Module] = {}  # copies for other image sizes, not part of this module
        self._layouts: dict[str, Layout | None] = {LOGITS: Layout(2)}  # of the layers asked for so far
        self.requires_grad_(requires_grad=False)
        self.eval()
        self.register_state_dict_post_hook(_drop_weights)
        self.register_load_state_dict_pre_hook(_put_weights_back)

    def train(self, mode: bool = True) -> Self:  # noqa: ARG002 - torch's signature
        """Stay in eval mode, whatever ``mode`` is."""
        return super().train(mode=False)

    def normalize(self, images: Tensor) -> Tensor:
        """Bring [N, 1 or 3, Y, X] intensities in [0, 1] to this network's statistics, as [N, 3, Y, X]."""
        mean = torch.tensor(self.input_mean, dtype=images.dtype, device=images.device).view(1, 3, 1, 1)
        std = torch.tensor(self.input_std, dtype=images.dtype, device=images.device).view(1, 3, 1, 1)
        return (images - mean) / std

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Run the network on [N, 1 or 3, Y, X] intensities in [0, 1]; returns what the network returns."""
        self.images_seen += len(images)
        return self.net(self.normalize(images))

    @property
    def fingerprint(self) -> str:
        """All that a map of this teacher depends on, but the image."""
        return f"{self.identity.architecture} {self.identity.sha256} {self.input_mean} {self.input_std}"

    @property
    def multiple(self) -> int:
        """What the sides of an image for `maps` must be divisible by."""
        return side_multiple(self.net)

    def by_multiple(self, layers: Sequence[str]) -> dict[int, list[str]]:
        """Return the layers by what the sides of an image must be divisible by for them, see `multiple`."""
        return {self.multiple: list(layers)} if layers else {}

    def check_layers(self, layers: Sequence[str]) -> None:
        """Refuse what `maps` cannot give.

        Raises:
            ConfigError: one line per layer, with what is valid.
        """
        if LOGITS in layers and not self.segments:
            raise ConfigError(
                f"the teacher {self.identity.architecture!r} does not segment, so it has no {LOGITS!r}; "
                "accepted: teacher.name=segmenter2d, trained by an experiment such as teacher2d"
            )
        check_paths(self.net, [layer for layer in layers if layer != LOGITS], owner="teacher")

    def main_layers(self) -> tuple[str, ...]:
        """Paths of the network's blocks, in order."""
        return main_layers(self.net)

    def block(self, layer: str) -> nn.Module | None:
        """Return the module at a layer's path; None where the layer is no module, as `LOGITS`."""
        return dict(self.net.named_modules()).get(layer)

    def map_layers(self) -> tuple[str, ...]:
        """Paths of those blocks that give feature maps of more than one cell, found by forwards."""
        paths = self.main_layers()
        self._find_layouts(paths)
        return tuple(path for path in paths if self._layouts[path] is not None)

    @torch.no_grad()
    def maps(self, images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Return feature maps of some layers.

        Args:
            images: [N, 1 or 3, Y, X] intensities in [0, 1]; the sides are divisible by `multiple`.
            layers: paths in the network, or `LOGITS`.

        Returns:
            Path -> [N, C, y, x] float32, whose cells share the image's sides out evenly.

        Raises:
            ConfigError: a layer does not give a map, or the network does not take images of this size.
        """
        self.images_seen += len(images)
        self._find_layouts(layers)
        size = (images.shape[2], images.shape[3])
        net = at_size(self.net, size, self._sized)
        with record(net, [layer for layer in layers if layer != LOGITS]) as outputs:
            logits = run(net, self.normalize(images))
        outputs |= {LOGITS: logits}
        return {path: as_map(outputs[path], self._layouts[path], net, size, path=path).float() for path in layers}

    def _find_layouts(self, layers: Sequence[str]) -> None:
        if new := [layer for layer in layers if layer not in self._layouts]:
            layouts = find_layouts(self.net, new, self._sized)
            self._layouts |= {layer: layouts.get(layer) for layer in new}


def _drop_weights(module: nn.Module, state: dict[str, Any], prefix: str, _metadata: object) -> None:
    del module
    for key in [key for key in state if key.startswith(prefix)]:
        del state[key]


def _put_weights_back(module: nn.Module, state: dict[str, Any], prefix: str, *_rest: object) -> None:
    own = {f"{prefix}{name}": value for name, value in module.named_parameters()}
    own |= {f"{prefix}{name}": value for name, value in module.named_buffers()}
    state.update(own)
