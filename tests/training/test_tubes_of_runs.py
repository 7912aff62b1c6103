"""How closely the tubes of a student follow neurites in test cases: hand-made students and gold, and a whole run."""

from types import SimpleNamespace

import forked
import numpy as np
import pytest
import torch
import wandb
from lightning.pytorch.loggers import WandbLogger
from PIL import Image
from test_learned_figures import TUBULAR
from torch import nn
from undrawn import UNDRAWN

from distill3d.config.plain import as_plain
from distill3d.layers.tubes.embed import TubularEmbed
from distill3d.layers.tubes.geometry import share_outside
from distill3d.storage.run_folder import RunFolder, write_yaml
from distill3d.students.unet3d import UNet3d, UNet3dConfig
from distill3d.training import loggers
from distill3d.training.tubes import MANY_OUTSIDE, TapsOutside, fullest_windows, place, taps_outside, tube_shares

SHAPE = (8, 16, 32)


def student(embed, size=SHAPE):
    """A module that has nothing but tubes."""
    net = nn.Module()
    net.embed, net.normalize = embed, lambda image: image
    settings = SimpleNamespace(patches=SimpleNamespace(size_zyx=size))
    return SimpleNamespace(student=net, device=torch.device("cpu"), experiment=settings)


def straight_case(y=4, shape=SHAPE):
    """Gold along x through the centers of blocks of 8 voxels, or beside them; it is the image, too."""
    mask = np.zeros(shape, bool)
    mask[4, y] = True
    return SimpleNamespace(mask=mask, image=mask.astype(np.float32))


def embed(**settings):
    return TubularEmbed(4, block_zyx=(8, 8, 8), taps=8, **settings)


def sees_gold(image):
    """Log-attention that is high where the image is, on cells of 2 x 2 x 2 voxels."""
    return 8 * nn.functional.avg_pool3d(nn.functional.max_pool3d(image, 3, 1, 1), 2) - 4


def test_windows_cut_a_case_into_once_to_twice_the_patch_and_the_fullest_are_first():
    mask = np.zeros((20, 70, 32), bool)
    mask[2, 30:60] = mask[15, 1] = True
    windows = fullest_windows(mask, (8, 16, 32), most=99)
    count = np.zeros(mask.shape, int)
    for window in windows:
        count[window] += 1
        assert all(n <= m < 2 * n for n, m in zip((8, 16, 32), mask[window].shape, strict=True))
    assert (count == 1).all()
    held = [int(mask[window].sum()) for window in windows]
    assert held == sorted(held, reverse=True)
    assert fullest_windows(mask, (8, 16, 32), most=2) == windows[:2]
    assert fullest_windows(mask, (32, 96, 96)) == [(slice(0, 20), slice(0, 70), slice(0, 32))]


@pytest.mark.parametrize("deformable", [False, True])
def test_straight_tubes_are_counted_right(deformable):
    # 8 blocks, 24 tubes of 8 taps, all inside. Of the 4 blocks on the line all taps along x are near gold, and those
    # along y and z that are 2 voxels before to 2 voxels behind the center: 8 + 5 + 5 of 24. Of the others none.
    shares = tube_shares(student(embed(deformable=deformable)), [straight_case()])
    assert shares["on_neurite"] == pytest.approx(4 * 18 / 192)
    assert shares["followed"] == pytest.approx(18 / 24)
    assert shares["on_neurite_straight"] == pytest.approx(4 * 18 / 192)
    assert shares["followed_straight"] == pytest.approx(18 / 24)
    assert shares["saturated"] == (0 if deformable else None)
    assert shares["bend_vox"] == pytest.approx(0, abs=1e-4)


def test_cases_and_their_windows_are_added_up():
    module = student(embed(deformable=False))
    without = SimpleNamespace(mask=np.zeros(SHAPE, bool), image=np.zeros(SHAPE, np.float32))
    assert tube_shares(module, [straight_case(), without])["on_neurite"] == pytest.approx(4 * 18 / 384)
    twice = straight_case(shape=(8, 16, 64))  # two windows; none looks beyond its own
    assert tube_shares(module, [twice])["on_neurite"] == pytest.approx(4 * 18 / 192)


def test_tubes_bent_by_attention_on_the_neurite_lie_on_it_more_often():
    law = embed()
    law.offsets.forward = sees_gold
    beside = tube_shares(student(law), [straight_case(y=7)])  # 3 voxels beside one row of blocks, 5 beside the other
    # Straight: none along x or z; along y those at 5 to 7 of the row at 4 and those at 8 and 9 of the row at 12.
    assert beside["on_neurite_straight"] == pytest.approx(4 * (3 + 2) / 192)
    assert beside["on_neurite"] > 2 * beside["on_neurite_straight"]
    assert (beside["followed"], beside["saturated"]) == (None, None)  # none starts on it

    slanted = straight_case()
    slanted.mask[:] = False
    slanted.mask[4, np.rint(4 + 0.6 * (np.arange(26) - 4)).clip(0, 15).astype(int), np.arange(26)] = True
    shares = tube_shares(student(law), [SimpleNamespace(mask=slanted.mask, image=slanted.mask.astype(np.float32))])
    assert 1 > shares["followed"] > 1.1 * shares["followed_straight"] > 0.5
    assert 0.3 < shares["bend_vox"] < 3
    assert shares["saturated"] == 0


def test_steps_at_the_bound_of_a_snake_are_saturated():
    law = embed(law="snake", extent=0.5)
    nn.init.constant_(law.offsets[-1].bias, 10.0)
    shares = tube_shares(student(law), [straight_case()])
    assert shares["saturated"] == 1
    # Step after step half a voxel on both transverse axes: taps of 8 are 4, 3, 2, 1, 0, 1, 2, 3 steps from the center.
    assert shares["bend_vox"] == pytest.approx(np.mean([4, 3, 2, 1, 0, 1, 2, 3]) * 0.5 * 2**0.5, rel=1e-4)


def test_a_case_that_is_no_multiple_of_the_block_is_filled_up():
    case = straight_case(shape=(6, 12, 20))
    taps = place(student(embed(deformable=False)), embed(deformable=False), case.image)
    assert taps.bent.shape == (3, 1 * 2 * 3, 8, 3)
    assert tube_shares(student(embed(deformable=False)), [case])["followed"] > 0.5


@pytest.mark.parametrize(("size", "block", "taps", "spacing"), [(24, 4, 17, 1.0), (12, 1, 9, 1.0), (16, 8, 5, 2.5)])
def test_taps_outside_are_those_that_are_counted_one_by_one(size, block, taps, spacing):
    places = [center + (k - taps // 2) * spacing for center in range(block // 2, size, block) for k in range(taps)]
    outside = sum(not 0 <= place <= size - 1 for place in places)
    assert 0 < outside < len(places)
    assert share_outside(size, block=block, taps=taps, spacing=spacing) == pytest.approx(outside / len(places))


def test_tubes_of_two_blocks_lie_mostly_inside_and_those_as_long_as_a_patch_of_pixels_mostly_not():
    # of 8 blocks of 8 voxels the first tube begins at 4 - 8, the last ends at 60 + 8: 4 and 5 taps of 8 x 17 beyond
    assert share_outside(64, block=8, taps=17, spacing=1.0) == 9 / (8 * 17)
    # a tube of 256 voxels has at most 64 of its taps in a volume of 64
    assert share_outside(64, block=8, taps=256, spacing=1.0) == 0.75


def test_an_embedding_reads_the_patch_filled_up_and_says_what_lies_beyond():
    net = nn.Sequential(embed(axes=("z", "x"), outside="zeros"))
    net.stride_zyx = (8, 8, 8)
    (taps,) = taps_outside(net, (15, 15, 31))
    assert (taps.size_zyx, taps.outside, taps.whole) == ((16, 16, 32), "zeros", True)
    assert taps.share == {"z": 0, "x": 0}  # 8 taps are one block long
    assert taps.note == "tubes: 0 % of the taps along z, x lie outside the patch of (16, 16, 32); they read zeros"


def test_convolutions_along_tubes_are_counted_on_the_maps_they_read():
    config = UNet3dConfig(channels=(4, 4, 4), depth_strides=(1, 2), tubular=(1, 2), tubular_kernel=5)
    net = UNet3d(config)
    before = net.training
    fine, coarse = taps_outside(net, (8, 32, 32))
    assert net.training == before
    assert (fine.size_zyx, coarse.size_zyx) == ((8, 16, 16), (4, 8, 8))
    # a tube of 5 taps leaves a map at either end with 2 + 1 of them
    assert fine.share == {"z": 6 / 40, "y": 6 / 80, "x": 6 / 80}
    assert coarse.share == {"z": 6 / 20, "y": 6 / 40, "x": 6 / 40}
    assert (
        fine.note
        == "tubes: 15 % of the taps along z, 8 % along y, x lie outside the map of (8, 16, 16); they read its border"
    )
    assert coarse.note.endswith(
        "so that a response depends on where a patch lies: fewer taps or larger patches mend it"
    )


def test_the_note_gives_advice_from_a_quarter_on():
    notes = [
        TapsOutside(size_zyx=(4, 4, 4), share={"y": share}, outside="border", whole=True).note
        for share in (MANY_OUTSIDE - 0.01, MANY_OUTSIDE)
    ]
    assert ["fewer taps" in note for note in notes] == [False, True]


def test_a_unets_tubes_read_beyond_the_map_what_its_settings_say():
    for outside in ("border", "zeros"):
        net = UNet3d(UNet3dConfig(channels=(4, 4), depth_strides=(1,), tubular=(1,), tubular_outside=outside))
        assert taps_outside(net, (4, 8, 8))[0].outside == outside
    assert UNet3dConfig().tubular_outside == "border"


def test_a_student_without_tubes_has_no_shares():
    assert taps_outside(UNet3d(UNet3dConfig(channels=(4,), depth_strides=())), (4, 8, 8)) == ()
    assert tube_shares(student(nn.Identity()), [straight_case()]) is None


def test_a_run_measures_its_tubes_and_says_so(tiny, tmp_path):
    plain = {**as_plain(tiny(*TUBULAR)), "runs": str(tmp_path / "runs")}
    file = tmp_path / "settings" / "tiny.yaml"
    write_yaml(file, {key: value for key, value in plain.items() if key != "name"})
    done = forked.run("fit", file, code=UNDRAWN)
    assert done.returncode == 0, done.stderr
    folder = RunFolder(tmp_path / "runs" / "tiny" / "seed0")
    shares = folder.read_json(folder.metrics)["tubes"]
    assert shares["on_neurite_straight"] > 0
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("tubes: ")]
    assert f"{100 * shares['on_neurite']:.1f} % of taps on neurites" in line


def test_pictures_go_to_wandb_as_images_and_pages_as_they_are(tmp_path, monkeypatch):
    sent = {}
    monkeypatch.setattr(loggers, "log_summary", lambda _, summary: None)
    image, page = tmp_path / "a.png", tmp_path / "a_3d.html"
    Image.new("L", (4, 3)).save(image)
    page.write_text("<!doctype html><title>a</title>")
    results = {"cases": {"a": {"dice": 0.5}}, "mean": {}, "kept": None, "nonlinear_share": None, "tubes": None}
    logger = WandbLogger(experiment=SimpleNamespace(log=sent.update))
    loggers.log_results([logger], results, {"mip/a": image, "tree_3d/a": page})
    assert {name: type(value) for name, value in sent.items()} == {
        "cases": wandb.Table,
        "mip/a": wandb.Image,
        "tree_3d/a": wandb.Html,
    }
    assert sent["tree_3d/a"].html == page.read_text()


def test_known_shares_are_in_the_summary_of_a_run(monkeypatch):
    sent = {}
    monkeypatch.setattr(loggers, "log_summary", lambda _, summary: sent.update(summary))
    unknown = {"kept": None, "nonlinear_share": None}
    results = {"cases": {}, "mean": {"dice": 0.5}, **unknown, "tubes": {"on_neurite": 0.08, "saturated": None}}
    loggers.log_results([], results, {})
    assert sent == {"test/dice": 0.5, "tubes/on_neurite": 0.08}
    sent.clear()
    loggers.log_results([], results | {"kept": 0.5, "nonlinear_share": 0.2, "tubes": None}, {})
    assert sent == {"test/dice": 0.5, "kept": 0.5, "nonlinear_share": 0.2}
