"""What every 3D student offers the rest of the package."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Self

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from distill3d.errors import ConfigError
from distill3d.layers.grids import filled_up
from distill3d.layers.recording import check_paths, main_layers, record
from distill3d.types import Prediction


class Student(nn.Module, ABC):
    """A trainable 3D network: image in, logits out, at any input size.

    Attributes:
        stride_zyx: what each axis of the network's own input must be divisible by; `forward` pads and crops back.
        architecture_2d: timm's name of the 2D network this student's encoder mirrors, None when it mirrors none.
        input_weight: the entry of the state dict applied to the image, with one channel where the 2D network has three.
        patch_yx: the plane that kernels applied to the image are resampled to, None where they keep their own.
        expected_copy_rate: share, by values, of the entries with a 2D counterpart that a teacher must have.
        deepest_layer: path of the layer with the coarsest map of the mirrored encoder, None where there is none.
        input_shift: the entry [out_channels], a bias or a buffer, that makes up for the channels' different means.
        heads: names of the further heads that give auxiliary logits in training.
        still: paths of layers whose statistics stay, see `freeze`.
    """

    stride_zyx: tuple[int, int, int] = (1, 1, 1)
    architecture_2d: str | None = None
    input_weight: str | None = None
    input_shift: str | None = None
    deepest_layer: str | None = None
    patch_yx: tuple[int, int] | None = None
    expected_copy_rate: float = 1.0
    heads: tuple[str, ...] = ()
    still: tuple[str, ...] = ()

    def forward(self, image: Tensor) -> Prediction:
        """Segment [B, 1, Z, Y, X] intensities in [0, 1]; the logits have the image's size."""
        size = image.shape[2:]
        logits, auxiliary = self.segment_all(filled_up(image, self.stride_zyx))
        inside = (..., slice(size[0]), slice(size[1]), slice(size[2]))
        return Prediction(
            logits=logits[inside], auxiliary={name: further[inside] for name, further in auxiliary.items()}
        )

    def observe(self, image: Tensor, layers: Sequence[str]) -> Prediction:
        """Segment as `forward` does, and return the maps of some layers too.

        Args:
            image: [B, 1, Z, Y, X].
            layers: paths in this network; see `check_layers`.

        Raises:
            ConfigError: a layer does not run, or does not give a map.
        """
        if not layers:
            return self(image)
        with record(self, layers) as outputs:
            prediction = self(image)
        if unused := [path for path in layers if path not in outputs]:
            raise ConfigError(f"the student's layer {unused[0]!r} does not run; accepted: one that its forward calls")
        return replace(prediction, features={path: self.as_map(path, outputs[path], image) for path in layers})

    def check_layers(self, layers: Sequence[str]) -> None:
        """Refuse paths that name no layer.

        Raises:
            ConfigError: one line per layer, with all that are valid.
        """
        check_paths(self, layers, owner="student")

    def main_layers(self) -> tuple[str, ...]:
        """Paths of the network's blocks, in order."""
        return main_layers(self)

    @torch.no_grad()
    def map_layers(self, image: Tensor) -> tuple[str, ...]:
        """Paths of those blocks that give feature maps, found by a forward of [B, 1, Z, Y, X]."""
        paths, was_training = self.main_layers(), self.training
        self.eval()
        with record(self, paths) as outputs:
            self(image)
        self.train(was_training)
        return tuple(path for path in paths if path in outputs and self.is_map(outputs[path]))

    def is_map(self, value: Tensor) -> bool:
        """Whether `as_map` takes the output of a layer."""
        return value.ndim == 5

    def as_map(self, path: str, value: Tensor, image: Tensor) -> Tensor:  # noqa: ARG002 - subclasses use it
        """Bring the output of a layer to [B, C, Z, Y, X].

        Raises:
            ConfigError: it is no map.
        """
        if not self.is_map(value):
            raise ConfigError(
                f"the student's layer {path!r} gives {tuple(value.shape)}, which is no feature map; "
                "accepted: layers that give [B, C, Z, Y, X], or one token per block in a ViT"
            )
        return value

    @abstractmethod
    def segment(self, image: Tensor) -> Tensor:
        """Return logits [B, 1, Z, Y, X] of an image whose axes are divisible by ``stride_zyx``."""

    def segment_all(self, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return what `segment` does, and the logits of further heads by name: none unless a student overrides it."""
        return self.segment(image), {}

    def teacher_key(self, name: str) -> str | None:  # noqa: ARG002 - subclasses use it
        """Name the 2D network's parameter or buffer that ``name`` of this state dict corresponds to; None for none."""
        return None

    def mirrors(self, entry: str) -> bool:  # noqa: ARG002 - subclasses use it
        """Whether this student is another function than a 2D network that fits if that network's ``entry`` is left out.

        By default never: what fits was built of the same layers.
        """
        return False

    def from_2d(self, name: str, value: Tensor) -> Tensor | None:  # noqa: ARG002 - subclasses use them
        """Bring the counterpart of ``name`` to its shape where more than a depth axis is missing; else return None."""
        return None

    def misfit(self, net: nn.Module, architecture: str) -> str | None:
        """Return one line on why a 2D network's weights cannot be copied into this student; None if they can.

        By default they can where the student was made of that network.
        """
        del net
        if self.architecture_2d == architecture:
            return None
        if self.architecture_2d is not None:
            return (
                f"the student mirrors {self.architecture_2d!r}, the teacher is {architecture!r}; "
                "set student.encoder and teacher.architecture to the same network"
            )
        return (
            f"student {type(self).__name__} mirrors no 2D network, so {architecture!r} does not fit; "
            f"set student.name=convnet3d or vit3d, and student.encoder={architecture}"
        )

    def departures(self) -> tuple[str, ...]:
        """Say what keeps this student from the 2D network's function even with all of its weights; one line each."""
        return ()

    def depths(self) -> dict[str, int]:
        """Return how deep in the mirrored 2D network each parameter is: 0 meets the image; none where it is unknown."""
        return {}

    def freeze(self, names: Collection[str]) -> None:
        """Train these entries of the state dict no longer: no gradient is computed, and running statistics stay."""
        for name, parameter in self.named_parameters():
            if name in names:
                parameter.requires_grad_(False)
        self.hold(names)

    def hold(self, names: Collection[str]) -> None:
        """Keep those running statistics that are among these entries of the state dict; all others move in training."""
        self.still = tuple(path for path, _ in self.named_modules() if f"{path}.running_mean" in names)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Switch to training but for `still` layers, which use their running statistics."""
        super().train(mode)
        for path in self.still:
            self.get_submodule(path).eval()
        return self

    def magnification(self, net: nn.Module) -> float:  # noqa: ARG002 - subclasses use it
        """Return how many times enlarged a 2D network must see an image for its features to be this student's."""
        return 1.0

    def part_of(self, net: nn.Module) -> str:  # noqa: ARG002 - subclasses use it
        """Say which part of a 2D network that fits this student mirrors; empty for all of it."""
        return ""

    def normalize(self, image: Tensor) -> Tensor:
        """Bring intensities in [0, 1] to what the network's first layer expects."""
        return image

    def set_input_statistics(self, *, mean: tuple[float, float, float], std: tuple[float, float, float]) -> None:
        """Take over the statistics the 2D network expects; called by transfer; nothing for students that mirror none.

        Args:
            mean: of the three channels of the 2D network, for intensities in [0, 1].
            std: likewise.
        """


@torch.no_grad()
def student_costs(student: Student, *, size_zyx: tuple[int, int, int]) -> dict[str, int]:
    """Count a student's parameters and its operations on one patch.

    Convolutions and matrix products are counted, forward only, two operations per multiply-add; elementwise
    operations (products, squares, the steps of a spiking neuron) are not: they show in the seconds per step.

    Args:
        student: is run once, in evaluation mode, and left as it was.
        size_zyx: of the patch, in voxels.

    Returns:
        ``parameters`` and ``flops_per_patch``.
    """
    modes = [(module, module.training) for module in student.modules()]
    student.eval()
    like = next(student.parameters())
    # torch counts attention on a GPU; on a CPU it has another name, which is not in torch's list
    on_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # noqa: SLF001 - it has no other
    with FlopCounterMode(display=False, custom_mapping={on_cpu: _attention_flops}) as counter:
        student(torch.zeros(1, 1, *size_zyx, device=like.device, dtype=like.dtype))
    for module, training in modes:
        module.training = training
    parameters = sum(parameter.numel() for parameter in student.parameters())
    return {"parameters": parameters, "flops_per_patch": counter.get_total_flops()}


def _attention_flops(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: object, **__: object) -> int:
    return sdpa_flop_count(query, key, value)
