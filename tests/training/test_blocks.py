"""Prediction by blocks: MONAI's sliding window, whatever the blocks, and nothing run for empty space."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from monai.inferers.utils import sliding_window_inference
from torch import nn

from distill3d.config.schema import InferenceConfig, PatchConfig, TrainerConfig
from distill3d.training.background import Background
from distill3d.training.blocks import Way, finish_block, piece, receivers, run_block
from distill3d.training.blocks_on_disk import Blockwise, Leavings, block_size
from distill3d.training.inference import mean_prob, predict_prob, ways_of
from distill3d.training.windows import plan
from distill3d.volumes.intensity import intensity_range, sampled_range
from distill3d.volumes.sample import sample


class Small(nn.Module):
    """A network that looks at its neighborhood, and counts the windows it has seen."""

    def __init__(self, size_zyx=(8, 16, 12), overlap=0.25, *, skip_background=False):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv3d(1, 1, 3, padding=1)
        nn.init.normal_(self.conv.weight)
        inference = InferenceConfig(overlap=overlap, batch_size=3, skip_background=skip_background)
        patches = PatchConfig(size_zyx=size_zyx, low_percentile=0.0, high_percentile=100.0)
        self.experiment = SimpleNamespace(inference=inference, patches=patches, trainer=TrainerConfig())
        self.device, self.n_windows = torch.device("cpu"), 0

    def forward(self, image):
        self.n_windows += len(image)
        return self.conv(image)


def with_monai(network, image):
    """The reference."""
    settings, inputs = network.experiment.inference, torch.from_numpy(image.copy())[None, None]
    with torch.inference_mode():
        prob = sliding_window_inference(
            inputs,
            network.experiment.patches.size_zyx,
            settings.batch_size,
            lambda windows: network(windows).sigmoid(),
            overlap=settings.overlap,
            mode="gaussian",
        )
    return prob[0, 0].numpy()


def by_blocks(data, ways, size, *, backwards=False):
    """What an outside scheduler would do, in whatever order."""
    blocks = plan(data.shape, [way.grid for way in ways], size)
    own = {block.number: run_block(data, block, ways) for block in (blocks[::-1] if backwards else blocks)}
    prob = np.full(data.shape, np.nan, np.float32)
    for block in blocks:
        prob[block.region] = finish_block(
            block, [piece(own[number], blocks[number], block) for number in (block.number, *block.needs)]
        )
    return prob


SHAPES = [(20, 37, 45), (5, 40, 33), (8, 16, 12), (3, 11, 25), (17, 16, 7)]


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.6])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_volume_and_its_blocks_are_predicted_as_monai_does(shape, overlap):
    image, network = np.random.default_rng(0).random(shape, dtype=np.float32), Small(overlap=overlap)
    right, count = with_monai(network, image), network.n_windows
    np.testing.assert_allclose(predict_prob(network, image), right, rtol=0, atol=1e-6)
    for size in ((8, 16, 16), (5, 7, 50), shape):
        network.n_windows = 0
        np.testing.assert_allclose(by_blocks(image, [Way(module=network)], size), right, rtol=0, atol=1e-6)
        assert network.n_windows == count  # no window twice


def test_flips_and_networks_with_other_windows_are_averaged_by_block_too():
    data = np.random.default_rng(0).integers(0, 200, (13, 30, 21)).astype(np.uint8)
    networks = [Small(), Small((16, 10, 10), 0.5)]
    image = (data / np.float32(data.max())).astype(np.float32)
    axes = [(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]
    each = [np.flip(with_monai(network, np.flip(image, flip)), flip) for network in networks for flip in axes]
    in_memory = mean_prob(networks, data, flips=True)
    np.testing.assert_allclose(in_memory, np.mean(each, axis=0), rtol=0, atol=1e-6)
    ways = ways_of(networks, data, flips=True)
    for size in ((8, 8, 8), (13, 17, 5)):
        np.testing.assert_allclose(by_blocks(data, ways, size), in_memory, rtol=0, atol=1e-6)


def test_the_order_in_which_blocks_are_run_changes_no_bit():
    image, ways = np.random.default_rng(0).random((20, 37, 45), dtype=np.float32), [Way(module=Small())]
    assert np.array_equal(by_blocks(image, ways, (8, 16, 16)), by_blocks(image, ways, (8, 16, 16), backwards=True))


@pytest.mark.parametrize("shape", SHAPES)
def test_blocks_hold_every_voxel_and_every_window_once_and_need_only_earlier_ones(shape):
    way = Way(module=Small())
    blocks = plan(shape, [way.grid], (8, 16, 16))
    held = np.zeros(shape, int)
    for block in blocks:
        held[block.region] += 1
        assert all(number < block.number for number in block.needs)
    assert (held == 1).all()
    corners = [corner for block in blocks for corner in block.corners(0)]
    assert len(set(corners)) == len(corners) == way.grid.count(shape) == sum(block.n_windows for block in blocks)
    given = {(block.number, other.number) for block in blocks for other in receivers(blocks)[block.number]}
    assert given == {(number, block.number) for block in blocks for number in (block.number, *block.needs)}


# ------------------------------------------------------------ intensities


class Read:
    """An array on disk that notes what was read of it."""

    def __init__(self, data):
        self.data, self.shape, self.dtype, self.parts = data, data.shape, data.dtype, []

    def __getitem__(self, key):
        part = self.data[key]
        self.parts.append(part.shape)
        return part


def test_percentiles_of_a_small_volume_are_those_of_all_its_voxels():
    data = np.random.default_rng(0).integers(0, 60_000, (9, 20, 31)).astype(np.uint16)
    assert sampled_range(Read(data), 0.5, 99.9) == intensity_range(data, 0.5, 99.9)


def test_those_of_a_large_one_are_of_parts_all_over_it(monkeypatch):
    monkeypatch.setattr("distill3d.volumes.intensity.WHOLE", 1000)
    monkeypatch.setattr("distill3d.volumes.intensity._PARTS", 1000)
    monkeypatch.setattr("distill3d.volumes.sample._SIZE", (2, 4, 4))
    data = np.arange(40 * 60 * 60, dtype=np.float32).reshape(40, 60, 60)  # brighter from slice to slice
    low, high = sampled_range(Read(data), 5, 95)
    assert (low, high) == pytest.approx((0.05 * data.size, 0.95 * data.size), abs=0.03 * data.size)
    assert sampled_range(Read(data), 5, 95) == (low, high)
    read = Read(data)
    sample(read, 64)
    assert 40 < len(read.parts) < 100
    assert set(read.parts) == {(2, 4, 4)}


@pytest.mark.parametrize("shape", [(5, 200, 200), (3, 400, 90), (2, 1000, 5), (200, 5, 200), (3, 3, 3)])
def test_a_thin_and_wide_volume_gives_no_more_parts_than_were_asked_for(monkeypatch, shape):
    monkeypatch.setattr("distill3d.volumes.sample._SIZE", (4, 4, 4))
    read = Read(np.broadcast_to(np.uint8(0), shape))
    sample(read, 64)
    assert len(read.parts) == pytest.approx(min(64, np.prod(np.maximum(np.array(shape) / 4, 1))), rel=0.25)


# ------------------------------------------------------------ background


def sparse(noise, *, dense=False):
    """A noisy stack with one neurite through it, or full of them, and where these are."""
    rng = np.random.default_rng(0)
    image = rng.normal(0.1, noise, (24, 64, 96)).astype(np.float32)
    bright = np.zeros(image.shape, bool)
    for y in range(4, 64, 8) if dense else (30,):
        for z in range(2, 24, 8) if dense else (10,):
            bright[z : z + 3, y : y + 3] = True
    return np.clip(image + 0.5 * bright, 0, 1), bright


class Bright(Small):
    """Takes what is bright for neuron."""

    def forward(self, image):
        self.n_windows += len(image)
        return 40 * (image - 0.4)


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_windows_of_background_are_not_run_and_no_voxel_of_neuron_is_lost(noise):
    image, bright = sparse(noise)
    skipping, seen = Bright(skip_background=True), []
    prob, right = predict_prob(skipping, image, on_window=seen.append), predict_prob(all_windows := Bright(), image)
    assert skipping.n_windows < all_windows.n_windows / 2
    assert sum(seen) == all_windows.n_windows
    assert ((right >= 0.5) == bright).all()
    assert ((prob >= 0.5) == bright).all()


def test_nothing_is_skipped_of_a_dense_stack():
    image, _ = sparse(0.02, dense=True)
    skipping = Bright((8, 16, 16), skip_background=True)
    assert np.array_equal(predict_prob(skipping, image), predict_prob(all_windows := Bright((8, 16, 16)), image))
    assert skipping.n_windows == all_windows.n_windows


def test_nothing_is_skipped_of_a_stack_that_is_all_noise():
    image = np.random.default_rng(0).random((16, 32, 32), dtype=np.float32)
    predict_prob(network := Small(skip_background=True), image)
    assert network.n_windows == Way(module=network).grid.count(image.shape)


def test_a_dim_neurite_in_the_dark_part_of_an_uneven_stack_is_no_background():
    rng, scale = np.random.default_rng(0), np.where(np.arange(96) < 40, 0.1, 1.0)
    image = ((0.5 + rng.normal(0, 0.05, (24, 64, 96))) * scale).astype(np.float32)
    background, dark = Background.of(sample(image, 64)), image[6:14, 20:40, :16].copy()
    assert background.covers(dark)
    dark[3:5, 8:10] += 0.06
    assert not background.covers(dark)


def test_one_hot_voxel_is_background_and_a_small_cube_is_not():
    image = np.random.default_rng(0).normal(0.1, 0.02, (16, 32, 32)).astype(np.float32)
    background, window = Background.of(image[None]), image[:8, :16, :16].copy()
    window[4, 4, 4] += 0.2
    assert background.covers(window)
    window[4:6, 4:6, 4:6] += 0.2
    assert not background.covers(window)


# ------------------------------------------------------------ on disk


def stored(image, network, folder, sink, *, size=(8, 16, 16), on_window=None):
    """Predict by blocks into ``sink``; what is there counts."""
    ways = [Way(module=network)]
    work = Blockwise(image, sink, ways, size, Leavings(folder))
    work.all(on_window)
    return work.blocks


def test_a_killed_prediction_goes_on_with_the_blocks_that_are_missing(tmp_path):
    image = Read(np.random.default_rng(0).random((20, 37, 45), dtype=np.float32))
    once, sink = np.zeros(image.shape, np.uint8), np.zeros(image.shape, np.uint8)
    blocks = stored(image, whole := Small(), tmp_path / "once", once)
    assert np.abs(once / 255 - predict_prob(whole, image.data)).max() <= 0.5 / 255 + 1e-6
    assert not list((tmp_path / "once" / "pieces").iterdir())
    largest = max(np.prod([s.stop - s.start for s in block.reach]) for block in blocks)
    assert max(map(np.prod, image.parts)) == largest < image.data.size

    runs, forwards = [], []
    for stop in (2, 7, 12, None):
        network, count = Small(), iter(range(10_000))

        def kill(_, stop=stop, count=count):
            if next(count) == stop:
                raise KeyboardInterrupt

        try:
            stored(image, network, tmp_path / "killed", sink, on_window=kill)
        except KeyboardInterrupt:
            runs.append(stop)
        forwards.append(network.n_windows)
    assert len(runs) == 3
    assert np.array_equal(sink, once)
    done = sum(block.n_windows for block in blocks)
    lost = max(block.n_windows for block in blocks)  # of the block that it was killed in
    assert done < sum(forwards) <= done + lost * len(runs)


def test_blocks_that_others_run_in_any_order_and_run_again_are_the_same_and_no_window_is_run_twice(tmp_path):
    image = np.random.default_rng(0).random((20, 37, 45), dtype=np.float32)
    once, sink = np.zeros(image.shape, np.uint8), np.zeros(image.shape, np.uint8)
    blocks = stored(image, alone := Small(), tmp_path / "once", once)
    network, leavings = Small(), Leavings(tmp_path / "shared")
    one, other = (Blockwise(image, sink, [Way(module=network)], (8, 16, 16), leavings) for _ in range(2))
    with pytest.raises(FileNotFoundError):
        one.finish(len(blocks) - 1)  # what it needs was not run
    for block in blocks[::-1]:
        one.run(block.number)
        other.run(block.number)
    for block in blocks[::-1]:
        other.finish(block.number)
        one.finish(block.number)
    assert network.n_windows == alone.n_windows
    assert np.array_equal(sink, once)
    assert not list((tmp_path / "shared" / "pieces").iterdir())


def test_blocks_are_of_whole_chunks_and_never_larger_than_memory():
    for window in ((24, 64, 64), (128, 128, 128), (1, 256, 256), (64, 160, 160)):
        size = block_size([window, (8, 8, 8)], (64, 128, 128))
        assert not any(n % chunk for n, chunk in zip(size, (64, 128, 128), strict=True))
        assert np.prod(np.add(size, window)) <= 48 << 20
