"""From the size and the spacing of stacks to strides, patches, batch and steps of a training.

The idea of deciding these from the data set's fingerprint is that of nnU-Net (Isensee et al. 2021); the rules are ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

from distill3d.data.fingerprint import Machine, Shape

HALVINGS = 4  # of the student in the plane
STRIDE = 2**HALVINGS
LEAST_SLICES = 3  # of the coarsest map
BLOCK = 8  # pixels a side of a ViT's token, and slices at most

# A step on two cores should take about a second: that many voxels do, in patches of which a step holds several.
CPU_PATCH, CPU_STEP = 2**17, 3 * 2**17
GPU_PATCH = 2**21  # 128 x 128 x 128
# What training keeps of a voxel of a batch: 670 to 1430 bytes of activations (float32, all arms that are written, as
# counted by the hooks of autograd), and about as much again for gradients and work space.
VOXEL_BYTES = 3000
MEMORY_SHARE = 0.5
PASSES = 4  # patches of a training hold as many voxels as the training stacks, so many times
STEPS = {False: (300, 1200), True: (1000, 4000)}  # fewest and most, without and with a GPU
VALIDATIONS = 5


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Sizes of a training.

    Attributes:
        depth_strides: of the five halvings a student may have.
        size_zyx: of a patch.
        batch_size: patches a step.
        cube: edge in pixels of the cube, in space, that would have as many voxels.
        budget: voxels a step that memory has room for.
        padded: a patch is larger than the median stack along some axis.
    """

    depth_strides: tuple[int, ...]
    size_zyx: Shape
    batch_size: int
    cube: float
    budget: float
    padded: bool

    @property
    def step_voxels(self) -> int:
        """Voxels a step."""
        return self.batch_size * math.prod(self.size_zyx)


def sizes_of(shape_zyx: Shape, anisotropy: float, machine: Machine) -> Sizes:
    """Choose patch and batch: about a cube in space, no larger than a stack, as large as the machine allows.

    Args:
        shape_zyx: of the median stack.
        anisotropy: how many pixels a slice is thick.
        machine: that trains.

    Example:
        >>> sizes = sizes_of((76, 512, 512), 3.03, Machine(memory=16e9))
        >>> sizes.size_zyx, sizes.batch_size, sizes.depth_strides
        ((24, 64, 64), 4, (1, 1, 2, 2, 2))
    """
    budget = MEMORY_SHARE * machine.memory / VOXEL_BYTES
    largest = GPU_PATCH if machine.gpu else CPU_PATCH
    voxels = max(min(largest, budget / 2), STRIDE**3)
    cube = (voxels * anisotropy) ** (1 / 3)
    flat = min(max(round(math.log2(max(anisotropy, 1.0))), 0), HALVINGS)
    depth, flat = _depth(min(cube / anisotropy, shape_zyx[0]), flat, at_most=shape_zyx[0])
    side = math.sqrt(voxels / depth)
    y, x = (min(_multiple(side, STRIDE), _multiple_above(n, STRIDE)) for n in shape_zyx[1:])
    size = (depth, y, x)
    room = min(budget, budget if machine.gpu else CPU_STEP)
    return Sizes(
        depth_strides=(*(1,) * flat, *(2,) * (5 - flat)),
        size_zyx=size,
        batch_size=min(max(int(room // math.prod(size)), 2), BLOCK),
        cube=cube,
        budget=budget,
        padded=any(n > full for n, full in zip(size, shape_zyx, strict=True)),
    )


def _depth(slices: float, flat: int, *, at_most: int) -> tuple[int, int]:
    """Return a patch's depth, a multiple of the network's stride, and how many halvings leave slices as they are."""
    for first in range(flat, HALVINGS + 1):
        stride = 2 ** (HALVINGS - first)
        depth = min(max(round(slices / stride), 1) * stride, _multiple_above(at_most, stride))
        if depth >= LEAST_SLICES * stride:
            return depth, first
    return max(round(slices), 1), HALVINGS


def _multiple(number: float, of: int) -> int:
    return max(int(number // of), 1) * of


def _multiple_above(number: int, of: int) -> int:
    return -(-number // of) * of


def steps_of(voxels: float, sizes: Sizes, machine: Machine) -> int:
    """Return the steps in which patches hold the training stacks' voxels `PASSES` times, within what is sensible."""
    fewest, most = STEPS[machine.gpu]
    wanted = PASSES * voxels / sizes.step_voxels
    return int(min(max(100 * round(wanted / 100), fewest), most))


def block_of(anisotropy: float, depth: int) -> Shape:
    """Return a ViT's token: `BLOCK` pixels a side, and about twice as deep in space at most.

    >>> block_of(3.03, 24), block_of(1.0, 48), block_of(5.0, 16), block_of(50.0, 16)
    ((4, 8, 8), (8, 8, 8), (2, 8, 8), (1, 8, 8))
    """
    deepest = min(2 * BLOCK / max(anisotropy, 1.0), BLOCK, max(depth / LEAST_SLICES, 1))
    return 2 ** int(math.log2(max(deepest, 1))), BLOCK, BLOCK
