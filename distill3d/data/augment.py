"""Random changes of a training patch, through MONAI's dictionary transforms.

MONAI takes seconds to import. That happens when an `Augment` is built: in the main process, so that workers inherit it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from distill3d.config.schema import AugmentConfig
from distill3d.data.background import harden_patch
from distill3d.data.patches import Patch
from distill3d.data.texture import background_files, load_background
from distill3d.types import Turn

_LOG = logging.getLogger(__name__)
_KEYS = ("image", "labels")
_TURNED = (*_KEYS, "corners")
_CORNERS = np.arange(8, dtype=np.uint8).reshape(2, 2, 2)
_AXIS_OF_STEP = {4: 0, 2: 1, 1: 2}  # from one numbered corner to the next
_PLANES = ((1, 2), (0, 2), (0, 1))  # YX first
_MAX_SEED = 2**32


@final
class Augment:
    """Change geometry (image, gold, known and skeletons alike), then background, then intensity (image only).

    Planes are only turned where their two axes have the same spacing, and by quarters only where the patch is square
    too, so that its shape stays. Free rotations stay in YX; what they turn in from outside the patch is not known.

    Args:
        config: probabilities.

    Raises:
        InputError: a background of ``hard_backgrounds`` cannot be used.
    """

    def __init__(self, config: AugmentConfig) -> None:
        self.config = config
        paths = background_files([Path(path) for path in config.hard_backgrounds]) if config.hard else ()
        self.backgrounds = tuple(load_background(path) for path in paths)
        self._intensity = _intensity(config)
        self._geometry: dict[tuple[tuple[int, ...], tuple[float, ...]], tuple[Any, Any]] = {}

    def __call__(self, patch: Patch, rng: np.random.Generator) -> Patch:
        """Return a changed copy; the same numbers of ``rng`` give the same patch."""
        image, labels, turn = self._turn(patch, rng)
        target, known, *skeletons = labels
        if self.backgrounds and rng.random() < self.config.hard:
            model = self.backgrounds[int(rng.integers(len(self.backgrounds)))]
            contrast = float(rng.uniform(*self.config.hard_contrast))
            image = harden_patch(image, target, model, contrast, rng)
        image = _run(self._intensity, {"image": image[None]}, rng)["image"][0]
        image, named = np.ascontiguousarray(image), dict(zip(patch.skeletons, skeletons, strict=True))
        return replace(patch, image=image, target=target, known=known, turn=turn, skeletons=named)

    def _turn(
        self, patch: Patch, rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], list[NDArray[np.bool_]], Turn]:
        """Return the image and target, known and skeletons after the same changes, and their flips and turns."""
        key = (patch.image.shape, patch.spacing_um)
        if key not in self._geometry:
            self._geometry[key] = _flips(self.config, *key), _rotation(self.config, patch.spacing_um)
        flips, rotation = self._geometry[key]
        # All label arrays are packed as bits into one, so that one is transformed. There are at most six skeletons.
        labels = [patch.target, patch.known, *patch.skeletons.values()]
        packed = np.zeros(patch.image.shape, np.uint8)
        for bit, label in enumerate(labels):
            packed |= label.view(np.uint8) << bit
        arrays = {"image": patch.image[None], "labels": packed[None], "corners": _CORNERS[None]}
        arrays = _run(flips, arrays, rng)
        turn = read_turn(arrays.pop("corners")[0])
        # With slices as channels a rotation in the plane is a 2D one, a quarter of the time.
        arrays = _run(rotation, {name: array[0] for name, array in arrays.items()}, rng)
        packed = np.ascontiguousarray(arrays["labels"])
        return arrays["image"], [packed & (1 << bit) != 0 for bit in range(len(labels))], turn


def read_turn(corners: NDArray[np.integer]) -> Turn:
    """Read flips and quarter turns off the numbered corners of a cube that went through them.

    Args:
        corners: [2, 2, 2], the numbers 0 to 7 that were in order before.

    Example:
        >>> read_turn(np.arange(8).reshape(2, 2, 2)[:, ::-1])
        Turn(source_axes=(0, 1, 2), flipped=(False, True, False))
    """
    first = int(corners[0, 0, 0])
    steps = [int(corner) - first for corner in (corners[1, 0, 0], corners[0, 1, 0], corners[0, 0, 1])]
    z, y, x = (_AXIS_OF_STEP[abs(step)] for step in steps)
    return Turn((z, y, x), (steps[0] < 0, steps[1] < 0, steps[2] < 0))


def _run(transform: Any, arrays: dict[str, NDArray[Any]], rng: np.random.Generator) -> dict[str, NDArray[Any]]:  # noqa: ANN401 - MONAI's Compose, imported late
    """Run a MONAI transform with a seed from ``rng``; arrays in, arrays out, types kept."""
    transform.set_random_state(seed=int(rng.integers(_MAX_SEED)))
    changed = transform(arrays)
    return {name: np.asarray(changed[name]).astype(array.dtype, copy=False) for name, array in arrays.items()}


def _flips(config: AugmentConfig, shape: Sequence[int], spacing_um: Sequence[float]) -> Any:  # noqa: ANN401 - as above
    """Flips along each axis and quarter turns, on arrays [1, Z, Y, X]."""
    from monai.transforms.compose import Compose  # noqa: PLC0415 - seconds of import
    from monai.transforms.spatial.dictionary import RandFlipd, RandRotate90d  # noqa: PLC0415

    steps: list[Any] = [RandFlipd(_TURNED, prob=config.flip, spatial_axis=axis) for axis in range(3) if config.flip]
    planes = [(a, b) for a, b in _PLANES if shape[a] == shape[b] and spacing_um[a] == spacing_um[b]]
    if config.rotate90 and not planes:
        _LOG.warning("no quarter turns: patch %s with spacing %s um has no square plane", tuple(shape), spacing_um)
    if config.rotate90:
        steps += [RandRotate90d(_TURNED, prob=config.rotate90, max_k=3, spatial_axes=plane) for plane in planes]
    return Compose(steps)


def _rotation(config: AugmentConfig, spacing_um: Sequence[float]) -> Any:  # noqa: ANN401 - as above
    """Free rotation in YX, on arrays [Z, Y, X] whose slices are channels."""
    from monai.transforms.compose import Compose  # noqa: PLC0415 - as above
    from monai.transforms.spatial.dictionary import RandRotated  # noqa: PLC0415

    if not config.rotate or spacing_um[1] != spacing_um[2]:
        return Compose([])
    modes = ("bilinear", "nearest")
    return Compose([RandRotated(_KEYS, range_x=np.pi, prob=config.rotate, mode=modes, padding_mode="zeros")])


def _intensity(config: AugmentConfig) -> Any:  # noqa: ANN401 - as above
    """Build the changes of the image alone, on an array [1, Z, Y, X]."""
    from monai.transforms import compose  # noqa: PLC0415 - as above
    from monai.transforms.intensity import dictionary as intensity  # noqa: PLC0415

    sigma = (0.25, 1.0)
    steps = {
        "blur": (config.blur, intensity.RandGaussianSmoothd, {"sigma_x": sigma, "sigma_y": sigma, "sigma_z": sigma}),
        "gamma": (config.gamma, intensity.RandAdjustContrastd, {"gamma": (0.7, 1.5)}),
        "scale": (config.scale_intensity, intensity.RandScaleIntensityd, {"factors": 0.25}),
        "shift": (config.shift_intensity, intensity.RandShiftIntensityd, {"offsets": 0.1}),
        "noise": (config.noise, intensity.RandGaussianNoised, {"std": 0.1}),
    }
    return compose.Compose([make("image", prob=prob, **settings) for prob, make, settings in steps.values() if prob])
