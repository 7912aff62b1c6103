"""The natural photos inside the scikit-image and scikit-learn wheels, and crops of them."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from distill3d.config.schema import CropConfig, Pretraining
from distill3d.data.datamodule import LateLoader
from distill3d.data.patches import StepSampler
from distill3d.data.workers import begin_worker, workers_that_fit
from distill3d.errors import InputError

Use = Literal["train", "val"]
FOLDERS = {"scikit-image": ("skimage", "data"), "scikit-learn": ("sklearn", "datasets/images")}
CROP_SEED = 1_000_003  # a prime, so that seeds do not share crops


@dataclass(frozen=True, slots=True)
class Photo:
    """One photo and what its package says of its license.

    Attributes:
        package: the PyPI package it ships in.
        file: its name there.
        license: as stated there.
        credit: who took or gave it, as stated there.
        use: ``val`` for a photo that is held out from training.
    """

    package: str
    file: str
    license: str
    credit: str
    use: Use = "train"

    @property
    def path(self) -> Path:
        """Where the installed package keeps it.

        Raises:
            InputError: the package, or the file in it, is missing.
        """
        module, folder = FOLDERS[self.package]
        spec = importlib.util.find_spec(module)
        path = Path(spec.origin or "").parent / folder / self.file if spec else Path(self.file)
        if not path.is_file():
            raise InputError(f"{path}: photo not found; accepted: pip install {self.package}")
        return path


# Photographs of scenes, things and surfaces whose license the packages state. Left out: microscopy and medical images
# (they would mix the question up), drawings and scans, `moon` and `motorcycle`, for which no license is stated.
PHOTOS = (
    Photo("scikit-image", "astronaut.png", "public domain", "NASA Great Images database"),
    Photo("scikit-image", "brick.png", "CC0", "CC0Textures, Bricks25"),
    Photo("scikit-image", "camera.png", "CC0", "Lav Varshney"),
    Photo("scikit-image", "chelsea.png", "CC0", "Stefan van der Walt"),
    Photo("scikit-image", "clock_motion.png", "public domain", "Stefan van der Walt"),
    Photo("scikit-image", "coins.png", "no known copyright restrictions", "Brooklyn Museum Collection"),
    Photo("scikit-image", "grass.png", "CC0", "linolafett, DeviantArt"),
    Photo("scikit-image", "gravel.png", "CC0", "CC0Textures, Gravel04"),
    Photo("scikit-image", "hubble_deep_field.jpg", "public domain", "NASA, HubbleSite"),
    Photo("scikit-image", "rocket.jpg", "public domain", "SpaceX"),
    Photo("scikit-learn", "china.jpg", "CC BY 2.0", "danielbuechele, flickr.com/photos/danielbuechele/6061409035"),
    Photo("scikit-image", "coffee.png", "CC0", "Rachel Michetti, Pikolo Espresso Bar", "val"),
    Photo("scikit-learn", "flower.jpg", "CC BY 2.0", "vultilion, flickr.com/photos/vultilion/6056698931", "val"),
)


@functools.cache
def read_photo(photo: Photo) -> Tensor:
    """Return a photo as [3, Y, X] uint8; a gray one has three equal channels."""
    with Image.open(photo.path) as image:
        return torch.from_numpy(np.asarray(image.convert("RGB")).copy()).permute(2, 0, 1)


@final
class Crops(Dataset[Tensor]):
    """Endless random crops of photos; each is decided by the seed and its index alone.

    With few photos the augmentation makes the difference: crops of all sizes, strong changes of color, and rectangles
    of one crop pasted into another.

    Source: Asano & Saeed 2023, Extrapolating from a single image to a thousand classes using distillation,
    arXiv 2112.00725 (distillation from heavily augmented crops of very few images); Yun et al. 2019, CutMix,
    arXiv 1905.04899.

    Args:
        photos: to cut from, in turn.
        config: size and augmentation.
        seed: of all crops.
        augment: False only crops and scales.
    """

    def __init__(self, photos: Sequence[Photo], config: CropConfig, *, seed: int, augment: bool) -> None:
        self.photos = tuple(photos)
        self.seed = seed
        self.cutmix = config.cutmix if augment else 0.0
        side = config.teacher_pixels
        crop = v2.RandomResizedCrop(side, scale=config.area, interpolation=v2.InterpolationMode.BICUBIC, antialias=True)
        changes = [
            v2.RandomHorizontalFlip(),
            v2.RandomVerticalFlip(),
            v2.RandomApply([v2.RandomPerspective(0.4, p=1.0)], p=0.3),
            v2.ColorJitter(config.jitter, config.jitter, config.jitter, 0.25 * config.jitter),
            v2.RandomChannelPermutation(),
            v2.RandomGrayscale(config.gray),
            v2.RandomInvert(config.invert),
        ]
        self.change = v2.Compose([crop, *(changes if augment else []), v2.ToDtype(torch.float32, scale=True)])

    def __getitem__(self, index: int) -> Tensor:
        """Return [3, side, side] in [0, 1], at the teacher's resolution."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed * CROP_SEED + index)
            crop = self.change(read_photo(self.photos[self.photo_of(index)]))
            if float(torch.rand(())) >= self.cutmix:
                return crop
            other = self.change(read_photo(self.photos[int(torch.randint(len(self.photos), ()))]))
            side = crop.shape[1]
            height, width = (int(n) for n in torch.randint(side // 4, 3 * side // 4, (2,)))
            top, left = int(torch.randint(side - height, ())), int(torch.randint(side - width, ()))
            crop[:, top : top + height, left : left + width] = other[:, top : top + height, left : left + width]
            return crop

    def photo_of(self, index: int) -> int:
        """Say which photo a crop comes from: each in turn."""
        return index % len(self.photos)


@final
class FixedCrops(Dataset[Tensor]):
    """The first ``count`` crops of held-out photos, the same in every run.

    Args:
        config: sizes and count.
    """

    def __init__(self, config: CropConfig) -> None:
        self.count = config.val_crops
        self.crops = Crops(photos("val"), config, seed=0, augment=False)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        """Return [3, side, side] in [0, 1], at the teacher's resolution."""
        return self.crops[index]


def photos(use: Use) -> tuple[Photo, ...]:
    """Return the photos for training, or those held out."""
    return tuple(photo for photo in PHOTOS if photo.use == use)


def student_view(crops: Tensor, pixels: int) -> Tensor:
    """Scale crops [N, 3, S, S] down to [N, 3, pixels, pixels]."""
    return F.interpolate(crops, size=(pixels, pixels), mode="bilinear", antialias=True, align_corners=False)


@final
class PhotoData(L.LightningDataModule):
    """Crops for training and for validation.

    Args:
        settings: its crops, trainer and seed are used.
    """

    def __init__(self, settings: Pretraining) -> None:
        super().__init__()
        self.settings = settings

    def prepare_data(self) -> None:
        """Find every photo.

        Raises:
            InputError: one is missing.
        """
        for photo in PHOTOS:
            read_photo(photo)

    def train_dataloader(self) -> DataLoader[Tensor]:
        """Return the batches of ``validate_every`` steps an epoch, each epoch other crops."""
        crops, trainer = self.settings.crops, self.settings.trainer
        per_epoch = trainer.validate_every * trainer.accumulate * crops.batch_size
        rank, world = (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        batch_bytes = 12 * crops.batch_size * crops.teacher_pixels**2  # three colors of 4 bytes
        workers = workers_that_fit(crops.workers, batch_bytes=batch_bytes, processes=trainer.devices)
        return LateLoader(
            Crops(photos("train"), crops, seed=self.settings.seed + 1, augment=True),
            batch_size=crops.batch_size,
            sampler=StepSampler(per_epoch, rank=rank, world=world),
            num_workers=workers,
            persistent_workers=workers > 0,
            worker_init_fn=begin_worker,
            generator=torch.Generator(),
        )

    def val_dataloader(self) -> DataLoader[Tensor]:
        """Return the same crops of held-out photos in every run."""
        return DataLoader(FixedCrops(self.settings.crops), batch_size=self.settings.crops.batch_size)
