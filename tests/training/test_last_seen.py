"""A run leaves a picture of what it saw last of a validation patch."""

from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image

from distill3d.storage.run_folder import RunFolder
from distill3d.training.last_seen import GAP, LastSeen


def test_the_picture_shows_image_gold_and_probability_of_the_first_patch_side_by_side(tmp_path):
    image, gold = torch.zeros(2, 1, 3, 4, 5), torch.zeros(2, 1, 3, 4, 5)
    image[0, 0, 1, 2, 3], gold[0, 0, 2, 0, 0] = 0.2, 1
    logits = torch.full((2, 1, 3, 4, 5), -50.0)
    logits[0, 0, 0, 3, 4] = 0.0
    batch = SimpleNamespace(image=image, target=gold, cases=("a", "b"))
    trainer, seen = SimpleNamespace(is_global_zero=True, global_step=12), LastSeen(RunFolder(tmp_path))
    seen.on_validation_batch_end(trainer, None, logits, batch, 0)
    seen.on_validation_batch_end(trainer, None, 1 - logits, batch, 1)
    seen.on_validation_end(trainer, None)
    (written,) = tmp_path.iterdir()
    with Image.open(written) as picture:
        notes, shown = picture.info, np.asarray(picture)
    assert (written.name, notes["case"], notes["step"]) == ("validation.png", "a", "12")
    assert shown.shape == (4, 15 + 2 * GAP)
    panels = [shown[:, start : start + 5] for start in range(0, 15 + 2 * GAP, 5 + GAP)]
    assert [np.argwhere(panel).tolist() for panel in panels] == [[[2, 3]], [[0, 0]], [[3, 4]]]
    assert [panel.max() for panel in panels] == [51, 255, 128]


def test_every_run_leaves_one_of_its_last_validation_and_a_full_disk_does_not_stop_it(finished_once, tmp_path):
    with Image.open(RunFolder(finished_once).validation) as picture:
        assert picture.size == (3 * 32 + 2 * GAP, 32)
        assert (picture.info["case"], picture.info["step"]) == ("sim_002", "4")
    gone = LastSeen(RunFolder(tmp_path / "gone"))
    gone._drawn = Image.new("L", (2, 2)), None
    gone.on_validation_end(None, None)
    assert not (tmp_path / "gone").exists()
