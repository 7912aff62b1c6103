"""Photos are the ones the card lists, crops are decided by seed and index, held-out photos stay out."""

import pytest
import torch

from distill3d.config.schema import CropConfig
from distill3d.errors import InputError
from distill3d.training.pretrain.photos import PHOTOS, Crops, FixedCrops, Photo, photos, read_photo, student_view

SMALL = CropConfig(pixels=32, teacher_pixels=64, val_crops=6)


@pytest.mark.parametrize("photo", PHOTOS, ids=lambda photo: photo.file)
def test_every_photo_is_there_and_says_its_license(photo):
    image = read_photo(photo)
    assert image.shape[0] == 3
    assert min(image.shape[1:]) >= 300
    assert image.float().std() > 10
    assert photo.license
    assert photo.credit


def test_held_out_photos_are_not_trained_on():
    assert not set(photos("train")) & set(photos("val"))
    assert len(photos("train")) > len(photos("val")) > 1


def test_a_missing_photo_is_told_in_one_line():
    with pytest.raises(InputError, match=r"nobody\.png: photo not found; accepted: pip install scikit-image"):
        read_photo(Photo("scikit-image", "nobody.png", "CC0", "nobody"))


@pytest.mark.parametrize("augment", [True, False])
def test_a_crop_is_decided_by_seed_and_index(augment):
    crops, again = (Crops(photos("train"), SMALL, seed=1, augment=augment) for _ in range(2))
    other = Crops(photos("train"), SMALL, seed=2, augment=augment)
    assert torch.equal(crops[5], again[5])
    assert not torch.equal(crops[5], crops[5 + len(photos("train"))])
    assert not torch.equal(crops[5], other[5])


def test_cutting_crops_leaves_the_global_generator_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    _ = Crops(photos("train"), SMALL, seed=1, augment=True)[0]
    assert torch.equal(torch.rand(2), expected)


def test_crops_are_intensities_at_the_teachers_resolution():
    crop = Crops(photos("train"), SMALL, seed=0, augment=True)[0]
    assert crop.shape == (3, 64, 64)
    assert crop.min() >= 0
    assert crop.max() <= 1


def test_crops_take_the_photos_in_turn():
    crops = Crops(photos("val"), SMALL, seed=0, augment=False)
    assert [crops.photo_of(index) for index in range(4)] == [0, 1, 0, 1]


def test_cutmix_pastes_a_rectangle_of_another_crop():
    def mixed(share):
        crops = Crops(photos("train"), CropConfig(pixels=32, teacher_pixels=64, cutmix=share), seed=0, augment=True)
        return torch.stack([crops[index] for index in range(8)])

    changed = (mixed(1.0) != mixed(0.0)).any(dim=1)
    for crop in changed:
        rows, columns = crop.any(1).nonzero().flatten(), crop.any(0).nonzero().flatten()
        assert 16 <= len(rows) == rows[-1] - rows[0] + 1 < 48
        assert 16 <= len(columns) == columns[-1] - columns[0] + 1 < 48


def test_validation_crops_are_as_many_as_asked_for():
    crops = FixedCrops(SMALL)
    assert len(crops) == 6
    assert torch.equal(crops[1], FixedCrops(SMALL)[1])


def test_the_students_view_keeps_the_mean():
    crop = torch.rand(2, 3, 64, 64)
    small = student_view(crop, 32)
    assert small.shape == (2, 3, 32, 32)
    torch.testing.assert_close(small.mean(), crop.mean(), rtol=1e-2, atol=0)
