from dataclasses import asdict

import numpy as np

from distill3d.evaluation.metrics.topology import topology_scores
from distill3d.evaluation.metrics.voxel import voxel_scores
from distill3d.evaluation.scores import mask_scores


def test_the_scores_of_masks_are_those_of_both_functions():
    rng = np.random.default_rng(1)
    masks = {name: rng.random((6, 7, 8)) < share for name, share in (("pred", 0.2), ("gold", 0.3), ("known", 0.9))}
    spacing = (3.0, 1.0, 0.5)
    voxel, topology = voxel_scores(**masks, spacing_um=spacing), topology_scores(**masks)
    assert mask_scores(**masks, spacing_um=spacing) == asdict(voxel) | asdict(topology)
    assert voxel.hd95_um != voxel_scores(**masks).hd95_um  # the spacing is passed on
    assert voxel.dice != voxel_scores(pred=masks["pred"], gold=masks["gold"]).dice  # and so is what is known
