"""Small volumes with gold on disk, and experiments that use them; shared by the tests of this folder."""

import numpy as np

import distill3d.experiment  # noqa: F401 - fills the registries
from distill3d.config.registry import Component
from distill3d.config.schema import Experiment, PatchConfig, TrainerConfig
from distill3d.data.neurons import NeuronsConfig
from distill3d.volumes.raster import rasterize
from distill3d.volumes.swc import Tree, write_swc
from distill3d.volumes.volume import Volume, write_volume

SHAPE = (12, 40, 40)
SPACING = (2.0, 1.0, 1.0)


def tree_of(shift=0.0):
    """A bent neurite in the upper part, so that it is not its own mirror image; in um of SPACING."""
    y = np.linspace(4, 14, 20)
    points = np.stack([np.linspace(6, 16, 20), y + shift, np.linspace(5, 35, 20)], axis=1)
    return Tree(points, np.full(20, 1.5), np.arange(-1, 19), np.full(20, 3))


def write_case(folder, name, *, tree=None, seed=0, dtype=np.uint8):
    tree = tree or tree_of()
    rng = np.random.default_rng(seed)
    mask = rasterize(tree, SHAPE, spacing_um=SPACING, allow_outside=True)
    data = (rng.integers(0, 20, SHAPE) + 180 * mask).astype(dtype)
    write_volume(folder / f"{name}.tif", Volume(data, SPACING))
    write_swc(folder / f"{name}.swc", tree, spacing_um=SPACING)
    return data, mask


def write_labels(folder):
    """TRAILMAP's scheme: 0 unlabelled, 1 background, 2 axon, 3 artefact, 4 edge; two planes labelled."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[4:6] = 1
    labels[4, 10:20, 5] = 2
    labels[5, 3, 3:9] = 3
    labels[4, 10:20, 6] = 4
    write_volume(folder / "t.tif", Volume(np.arange(labels.size).reshape(SHAPE).astype(np.uint16), SPACING))
    write_volume(folder / "t_label.tif", Volume(labels, SPACING))
    return labels


NOTHING = Component("none", None)
STEPS = 3


def experiment_of(folder, *, patches=None, trainer=None, seed=0, **data):
    settings = {"train": ("n0", "n1"), "val": ("n2",), "test": ("n3",)} | data
    return Experiment(
        name="x",
        data=Component("neurons", NeuronsConfig(folder=str(folder), **settings)),
        student=NOTHING,
        teacher=NOTHING,
        strategy=NOTHING,
        neurons=NOTHING,
        losses={},
        patches=patches or patches_of(),
        trainer=trainer or TrainerConfig(steps=4 * STEPS, validate_every=STEPS),
        seed=seed,
        cache=str(folder / "cache"),
    )


def patches_of(**settings):
    defaults = {"size_zyx": (8, 16, 16), "val_patches": 5, "workers": 0}
    return PatchConfig(**(defaults | settings))
