"""Cutting training patches, against MONAI's usual way: a cache of whole volumes and crops by label."""

from dataclasses import replace

import pytest
from monai.data import CacheDataset, list_data_collate
from monai.transforms import Compose, FgBgToIndicesd, RandCropByPosNegLabeld

from distill3d.data.datamodule import DistillDataModule
from distill3d.data.patches import TrainPatches, collate
from distill3d.experiment import load_experiment

BATCHES = 10  # that a round takes


@pytest.mark.rows("loading", "loading-copied")
def test_patches_against_monais_cached_crops(bench, tmp_path, data_dir):
    """Both give batches of the same size of the same cases with the same share of foreground, not augmented."""
    experiment = replace(load_experiment("op_scratch"), cache=str(tmp_path))
    config, data = experiment.patches, DistillDataModule(experiment)
    cases, size, batch = data.train_cases(), config.size_zyx, config.batch_size
    patches = TrainPatches(cases, config, seed=0)
    crop = RandCropByPosNegLabeld(
        ["image", "label"],
        "label",
        size,
        pos=config.foreground,
        neg=1 - config.foreground,
        fg_indices_key="label_fg_indices",
        bg_indices_key="label_bg_indices",
    )
    volumes = [{"image": case.image[None], "label": case.mask[None].copy()} for case in cases]
    transform = Compose([FgBgToIndicesd("label"), crop])
    crops = {
        name: CacheDataset(volumes, transform, num_workers=None, progress=False, copy_cache=copied)
        for name, copied in {"loading": False, "loading-copied": True}.items()
    }
    crop.set_random_state(0)

    def ours():
        return [collate([patches[batch * k + i] for i in range(batch)]) for k in range(BATCHES)]

    def monai(name):
        drawn = [[crops[name][(batch * k + i) % len(cases)] for i in range(batch)] for k in range(BATCHES)]
        return [list_data_collate(parts) for parts in drawn]

    own, other = ours(), monai("loading")
    assert own[0].image.shape == other[0]["image"].shape == (batch, 1, *size)
    shares = [
        sum(float(part.mean()) for part in parts) / BATCHES
        for parts in ([each.target for each in own], [each["label"].float() for each in other])
    ]
    assert 0.4 < shares[0] / shares[1] < 2.5  # as much gold, whichever way it is found
    calls = {"ours": ours} | {name: lambda name=name: monai(name) for name in crops}
    seconds = bench.seconds(calls, rounds=7, fewer={"loading-copied": 1})
    per_patch = {name: [value / BATCHES / batch for value in values] for name, values in seconds.items()}
    what = "cut and collate a patch, against MONAI's CacheDataset and RandCropByPosNegLabeld"
    for name, how in {"loading": "copy_cache=False", "loading-copied": "its default, copy_cache=True"}.items():
        bench.row(
            name,
            f"{what}, {how}",
            "24x64x64",
            ours=per_patch["ours"],
            other=per_patch[name],
            at_least=1,
            note=f"at best {1 / min(per_patch['ours']):.0f} and {1 / min(per_patch[name]):.0f} patches a second",
        )
