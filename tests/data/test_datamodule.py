"""The data module: what a step sees under DDP, after a resume and with workers, and what bad data costs."""

import logging
from dataclasses import replace

import lightning as L
import numpy as np
import pytest
import torch
from made_cases import SHAPE, SPACING, STEPS, experiment_of, patches_of, write_case, write_labels

from distill3d.config.schema import AugmentConfig
from distill3d.data.base import DataSource
from distill3d.data.datamodule import DistillDataModule
from distill3d.errors import ConfigError, InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs")
    for k in range(4):
        write_case(path, f"n{k}", seed=k)
    return path


class Ranks:
    """Stands for a trainer with several processes."""

    def __init__(self, rank, world):
        self.global_rank, self.world_size = rank, world


def batches(module, *, epochs=1, rank=0, world=1):
    module.trainer = Ranks(rank, world)
    loader = module.train_dataloader()
    out = []
    for epoch in range(epochs):
        loader.sampler.set_epoch(epoch)
        out += list(loader)
    return out


def fingerprints(batch_list):
    return [
        (case, tuple(origin.tolist()), float(image.sum()))
        for batch in batch_list
        for case, origin, image in zip(batch.cases, batch.origin_zyx_vox, batch.image, strict=True)
    ]


# ---------------------------------------------------------------- what a step sees


def test_two_processes_see_the_global_batch_of_one(folder):
    one = batches(DistillDataModule(experiment_of(folder, patches=patches_of(batch_size=4))))
    two = [batches(DistillDataModule(experiment_of(folder)), rank=rank, world=2) for rank in range(2)]
    assert len(one) == len(two[0]) == len(two[1]) == STEPS
    for step in range(STEPS):
        together = fingerprints([two[0][step], two[1][step]])
        assert sorted(together) == sorted(fingerprints([one[step]]))


def test_workers_change_nothing_but_who_does_the_work(folder):
    alone = batches(DistillDataModule(experiment_of(folder)), epochs=2)
    forked = batches(DistillDataModule(experiment_of(folder, patches=patches_of(workers=2))), epochs=2)
    assert len(alone) == 2 * STEPS
    for a, b in zip(alone, forked, strict=True):
        assert torch.equal(a.image, b.image)
        assert torch.equal(a.known, b.known)
        assert a.cases == b.cases


def test_epochs_show_new_patches_and_other_seeds_other_ones(folder):
    seen = fingerprints(batches(DistillDataModule(experiment_of(folder)), epochs=3))
    other = fingerprints(batches(DistillDataModule(experiment_of(folder, seed=1)), epochs=3))
    assert len(seen) == 3 * STEPS * 2
    assert len({image for _, _, image in seen}) == len(seen)
    assert not {image for _, _, image in seen} & {image for _, _, image in other}


def test_loading_draws_nothing_from_the_global_random_numbers(folder):
    module = DistillDataModule(experiment_of(folder, patches=patches_of(workers=1)))
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002 - the global generator is the point
    expected = torch.rand(1), np.random.rand()  # noqa: NPY002 - as above
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002 - as above
    batches(module, epochs=2)
    list(module.val_dataloader())
    assert (torch.rand(1), np.random.rand()) == expected  # noqa: NPY002 - as above


class Recorder(L.LightningModule):
    """Learns nothing and notes what it saw."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen, self.validated = [], []

    def training_step(self, batch, batch_idx):
        self.seen += fingerprints([batch])
        return (self.weight * batch.image).mean()

    def validation_step(self, batch, batch_idx):
        self.validated += fingerprints([batch])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def run(folder, epochs, root, checkpoint=None, workers=0):
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        default_root_dir=root,
        callbacks=[L.pytorch.callbacks.ModelCheckpoint(root, save_last=True)],
    )
    model = Recorder()
    data = DistillDataModule(experiment_of(folder, patches=patches_of(workers=workers)))
    trainer.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return model


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*LeafSpec")
@pytest.mark.filterwarnings("ignore:Checkpoint directory")  # a resumed run writes where the first one did
@pytest.mark.parametrize("workers", [0, 1])
def test_a_resumed_run_sees_what_an_uninterrupted_one_does(folder, tmp_path, workers):
    whole = run(folder, 4, tmp_path / "whole", workers=workers)
    half = run(folder, 2, tmp_path / "half", workers=workers)
    rest = run(folder, 4, tmp_path / "half", tmp_path / "half" / "last.ckpt", workers=workers)
    assert len(whole.seen) == 4 * STEPS * 2
    assert half.seen + rest.seen == whole.seen
    assert len(set(whole.seen)) == len(whole.seen)
    assert whole.validated == half.validated + rest.validated


# ---------------------------------------------------------------- validation and test


def test_validation_is_the_same_for_every_seed_and_shared_by_processes(folder):
    def validation(rank=0, world=1, seed=0):
        module = DistillDataModule(experiment_of(folder, seed=seed))
        module.trainer = Ranks(rank, world)
        return list(module.val_dataloader())

    whole = fingerprints(validation())
    assert len(whole) == 5
    assert fingerprints(validation(seed=7)) == whole
    shares = [validation(rank, 2) for rank in range(2)]
    assert len(shares[0]) == len(shares[1])  # ranks must take as many steps, or DDP waits forever
    counting = [
        print_
        for share in shares
        for batch in share
        for print_, known in zip(fingerprints([batch]), batch.known, strict=True)
        if known.any()
    ]
    assert sorted(counting) == sorted(whole)


def test_cases_of_a_split_come_with_image_gold_and_tree(folder):
    module = DistillDataModule(experiment_of(folder))
    (case,) = module.cases("test")
    assert (case.name, case.shape, case.spacing_um) == ("n3", SHAPE, SPACING)
    assert case.image.max() == 1
    assert case.tree() is not None
    assert module.case_names("train") == ("n0", "n1")


def test_batches_have_the_documented_range_where_nothing_is_augmented(folder):
    off = AugmentConfig(flip=0, rotate90=0, scale_intensity=0, shift_intensity=0, gamma=0, noise=0, blur=0)
    for batch in batches(DistillDataModule(experiment_of(folder, patches=patches_of(augment=off)))):
        assert 0 <= batch.image.min() <= batch.image.max() <= 1
        assert set(batch.target.unique().tolist()) <= {0.0, 1.0}
        assert batch.spacing_um[0].tolist() == list(SPACING)


def test_a_volume_smaller_than_a_patch_is_padded_and_the_log_says_so_once(folder, caplog):
    module = DistillDataModule(experiment_of(folder, patches=patches_of(size_zyx=(16, 16, 64))))
    with caplog.at_level(logging.WARNING):
        module.prepare_data()
        batch = batches(module)[0]
        module.cases("train")
    lines = [record.message for record in caplog.records if "is padded" in record.message]
    assert len(lines) == 4  # one per case
    assert "n0: volume (12, 40, 40) is smaller than a patch (16, 16, 64)" in lines[0]
    assert batch.image.shape == (2, 1, 16, 16, 64)
    assert batch.known[0].sum() == 12 * 16 * 40
    assert not batch.target[~batch.known].any()


def test_unlabelled_voxels_reach_the_batch_as_unknown(tmp_path):
    labels = write_labels(tmp_path)
    for name in ("n0", "n1", "n2", "n3"):
        (tmp_path / f"{name}.tif").symlink_to(tmp_path / "t.tif")
        (tmp_path / f"{name}_label.tif").symlink_to(tmp_path / "t_label.tif")
    module = DistillDataModule(experiment_of(tmp_path, unknown_label=0, labels=(2,)))
    for batch in batches(module):
        for known, target, origin in zip(batch.known[:, 0], batch.target[:, 0], batch.origin_zyx_vox, strict=True):
            z, y, x = origin.tolist()
            box = labels[z : z + 8, y : y + 16, x : x + 16]
            assert known.sum() == (box > 0).sum() > 0
            assert target.sum() == (box == 2).sum()


# ---------------------------------------------------------------- bad data


def test_every_unusable_case_is_reported_at_once_one_line_each(tmp_path):
    for k in range(4):
        write_case(tmp_path, f"n{k}", seed=k)
    (tmp_path / "n1.swc").write_text("# nothing\n")
    (tmp_path / "n3.tif").write_bytes((tmp_path / "n3.tif").read_bytes()[:300])
    with pytest.raises(InputError) as caught:
        DistillDataModule(experiment_of(tmp_path)).prepare_data()
    assert len(caught.value.lines) == 2
    assert "n1.swc" in caught.value.lines[0]
    assert "n3.tif" in caught.value.lines[1]


def test_a_source_without_training_or_validation_cases_is_refused(folder, monkeypatch):
    module = DistillDataModule(experiment_of(folder))

    def splits(_self):
        return {"train": ("n0",), "val": (), "test": ()}

    monkeypatch.setattr(type(module.source), "splits", splits)
    assert isinstance(module.source, DataSource)
    with pytest.raises(ConfigError, match="no case in val"):
        module.prepare_data()


# ---------------------------------------------------------------- real data


def test_real_cases_give_patches_with_gold(data_dir, tmp_path):
    experiment = experiment_of(
        data_dir / "pairs",
        train=("OP_1",),
        val=("OP_5",),
        test=(),
        spacing_um=(3.03, 1.0, 1.0),
        min_radius_um=1.5,
        patches=patches_of(size_zyx=(32, 96, 96), foreground=1.0),
    )
    module = DistillDataModule(replace(experiment, cache=str(tmp_path)))
    batch = batches(module)[0]
    assert (batch.target.sum(dim=(1, 2, 3, 4)) > 20).all()
    assert batch.image[batch.target > 0].mean() > 5 * batch.image.mean()
