"""A folder in the layout of BigNeuron's gold166: subset/neuron/ with a .v3dpbd and trees of several proofreadings."""

from pathlib import Path

import numpy as np
from v3dpy.loaders import PBD

from distill3d.volumes.raster import rasterize
from distill3d.volumes.swc import write_swc
from distill3d.volumes.tree import Tree

TEST = "p_checked6_janelia_flylight_part2"
NEURONS = {  # name of the case -> what follows the volume's name in that of its tree
    "p_checked6_mouse_tufts__done_1": ".swc",
    "p_checked6_silkmoth_utokyo__a": "_stamp_2015_06_15_18_45.swc",
    "p_checked7_taiwan_flycirciut__uint8_F6.lsm_c_3.tif": ".v3dpbd.ano_stamp_2015_06_16_18_18.swc",
    f"{TEST}__GMR_57C10_AD_01.v3draw.extract_2": ".v3dpbd_stamp_2015_06_16_11_57.swc",
}


def line(y: float) -> Tree:
    """A straight neurite of radius 1.5 in a stack of 16 x 48 x 48."""
    points = np.array([[8.0, y, 4.0], [8.0, y, 44.0]])
    return Tree(points, np.full(2, 1.5), np.array([-1, 0]), np.array([1, 3]))


def write_gold166(folder: Path) -> Path:
    """Write the neurons, each as `line` at another place, and what else such a folder holds; return the folder."""
    rng = np.random.default_rng(0)
    for k, (name, tree_suffix) in enumerate(NEURONS.items()):
        subset, neuron = name.split("__")
        place = folder / subset / neuron
        place.mkdir(parents=True)
        tree = line(10.0 + 8 * k)
        data = rng.integers(1, 20, (16, 48, 48)) + 180 * rasterize(tree, (16, 48, 48))
        PBD().save(str(place / f"{neuron}.v3dpbd"), data[None].astype(np.uint8))
        write_swc(place / f"{neuron}{tree_suffix}", tree)
        (place / f"._{neuron}.v3dpbd").write_bytes(b"what macOS adds")
    return folder
