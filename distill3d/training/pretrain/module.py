"""`PhotoModule`: a 2D ViT learns to predict a larger network's feature maps and classes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, cast, final

import lightning as L
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from distill3d.config.registry import TEACHERS
from distill3d.config.schema import Pretraining
from distill3d.errors import ConfigError, NumbersError
from distill3d.layers.networks2d import create_2d
from distill3d.layers.photo_vit import PHOTO_VIT
from distill3d.teachers.base import Teacher, TeacherIdentity
from distill3d.training.optimizer import learning_rate
from distill3d.training.pretrain.photos import student_view
from distill3d.types import LossTerm


@final
class PhotoModule(L.LightningModule):
    """Distills a frozen convnet into a small ViT.

    Every token predicts, through one linear layer per feature map, the teacher's features at its place, standardized
    per channel; the class token predicts the teacher's classes. The teacher sees the same crop at a finer resolution.

    Source: Romero et al. 2015, FitNets, arXiv 1412.6550 (feature maps); Hinton et al. 2015, Distilling the knowledge in
    a neural network, arXiv 1503.02531 (classes). The resolution and the standardization are ours.

    Args:
        settings: what to build.
    """

    def __init__(self, settings: Pretraining) -> None:
        super().__init__()
        self.settings = settings
        self.net = build_vit(settings.architecture, pixels=settings.crops.pixels)
        self.teacher: Teacher = TEACHERS.build(settings.teacher)
        widths = [each.shape[1] for each in self._teacher_maps(torch.zeros(1, 3, 64, 64))[0]]
        self.heads = nn.ModuleList(nn.Linear(self.net.embed_dim, width) for width in widths)
        for index, width in enumerate(widths):
            self.register_buffer(f"mean_{index}", torch.zeros(width))
            self.register_buffer(f"std_{index}", torch.ones(width))
        self._explained = ExplainedVariance(len(self.heads))

    def measure(self, batches: Iterable[Tensor]) -> None:
        """Take the statistics of the teacher's channels from some batches [N, 3, S, S] of training crops."""
        maps = [self._teacher_maps(crops)[0] for crops in batches]
        for index in range(len(self.heads)):
            channels = torch.cat([each[index] for each in maps]).transpose(0, 1).flatten(1)
            self.get_buffer(f"mean_{index}").copy_(channels.mean(1))
            self.get_buffer(f"std_{index}").copy_(channels.std(1).clamp(min=1e-6))

    def targets(self, crops: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the teacher's standardized maps on the token grid, each [N, tokens, C], and logits [N, classes]."""
        side = self.settings.crops.pixels // self.net.patch_embed.patch_size[0]
        with torch.autocast(crops.device.type, enabled=False):
            maps, logits = self._teacher_maps(crops.float())
        standardized = []
        for index, each in enumerate(maps):
            # averages where the map is finer than the tokens, as antialiasing does
            grid = F.interpolate(each, size=(side, side), mode="bilinear", align_corners=False, antialias=True)
            tokens = grid.flatten(2).transpose(1, 2)
            standardized.append((tokens - self.get_buffer(f"mean_{index}")) / self.get_buffer(f"std_{index}"))
        return standardized, logits

    def tokens(self, crops: Tensor) -> Tensor:
        """Return the ViT's last tokens [N, 1 + tokens, E], class token first, of crops at the teacher's resolution."""
        return self.net.forward_features(2 * student_view(crops, self.settings.crops.pixels) - 1)

    def terms(self, crops: Tensor) -> dict[str, LossTerm]:
        """Return one raw term per feature map (1 is what predicting the mean gives) and the one of the classes."""
        maps, logits = self.targets(crops)
        tokens = self.tokens(crops)
        terms = {}
        for index, (head, target) in enumerate(zip(self.heads, maps, strict=True)):
            terms[f"map_{index}"] = LossTerm(F.mse_loss(head(tokens[:, 1:]).float(), target))
        heat = self.settings.temperature
        student = self.net.forward_head(tokens).float()
        divergence = F.kl_div(
            (student / heat).log_softmax(-1), (logits / heat).log_softmax(-1), reduction="batchmean", log_target=True
        )
        return terms | {"classes": LossTerm(divergence, self.settings.logits_weight)}

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Sum the weighted terms; log each raw one."""
        terms = self.terms(batch)
        total = torch.stack([term.weight * term.value for term in terms.values()]).sum()
        if not torch.isfinite(total):
            raise NumbersError(f"loss is not finite at step {self.global_step}; the last good checkpoint is kept")
        self.log("train/loss", total, prog_bar=True, batch_size=len(batch))
        self.log_dict({f"train/{name}": term.value.detach() for name, term in terms.items()}, batch_size=len(batch))
        return total

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        """Gather residuals on held-out photos."""
        tokens = self.tokens(batch)[:, 1:]
        for index, (head, target) in enumerate(zip(self.heads, self.targets(batch)[0], strict=True)):
            self._explained.update(index, pred=head(tokens), target=target)

    def on_validation_epoch_end(self) -> None:
        """Log the explained variance of the teacher's features on held-out photos, in (-inf, 1]."""
        per_map = self._explained.compute()
        self.log("val/explained", sum(per_map) / len(per_map), prog_bar=True, sync_dist=True)
        self.log_dict({f"val/explained_{index}": value for index, value in enumerate(per_map)}, sync_dist=True)
        self._explained = ExplainedVariance(len(self.heads))

    def configure_optimizers(self) -> Any:  # noqa: ANN401 - Lightning's union of dicts
        """AdamW; matrices decay, biases and norms do not."""
        settings = self.settings.optimizer
        trained = [p for p in self.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": settings.weight_decay},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=settings.lr)
        factor = learning_rate(settings, steps=self.settings.trainer.steps)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note the teacher."""
        checkpoint["teacher"] = asdict(self.teacher.identity)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the same teacher only; checkpoints of older versions do not say which it was."""
        before = TeacherIdentity(**checkpoint["teacher"]) if "teacher" in checkpoint else None
        self.teacher.identity.require_same(before, where="the checkpoint to go on from")

    @torch.no_grad()
    def _teacher_maps(self, crops: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the chosen feature maps and the logits from one run of the teacher."""
        net = cast("Any", self.teacher.net)  # timm's own interface; torch's Module does not know it
        final, maps = net.forward_intermediates(self.teacher.normalize(crops))
        try:
            return [maps[index] for index in self.settings.layers], net.forward_head(final)
        except IndexError as err:
            raise ConfigError(
                f"layers={list(self.settings.layers)}: the teacher has {len(maps)} feature maps; "
                f"accepted: {-len(maps)} to {len(maps) - 1}"
            ) from err


@final
class ExplainedVariance:
    """Share of each map's variance, over all its channels, that predictions explain; 1 is perfect, 0 is the mean.

    Args:
        maps: how many there are.
    """

    def __init__(self, maps: int) -> None:
        self._residual = [0.0] * maps
        self._squares: list[Tensor | float] = [0.0] * maps
        self._total: list[Tensor | float] = [0.0] * maps
        self._count = [0] * maps

    def update(self, index: int, *, pred: Tensor, target: Tensor) -> None:
        """Add predictions and targets [..., C] of the map ``index``."""
        pred, target = pred.double().flatten(0, -2), target.double().flatten(0, -2)
        self._residual[index] += float((pred - target).square().sum())
        self._squares[index] = self._squares[index] + target.square().sum(0)
        self._total[index] = self._total[index] + target.sum(0)
        self._count[index] += len(target)

    def compute(self) -> list[float]:
        """Return 1 - residual / variance per map; 0 before any update."""
        explained = []
        for residual, squares, total, count in zip(
            self._residual, self._squares, self._total, self._count, strict=True
        ):
            variance = float(torch.as_tensor(squares - total**2 / max(count, 1)).sum())
            explained.append(1 - residual / variance if variance else 0.0)
        return explained


def build_vit(architecture: str, *, pixels: int) -> VisionTransformer:
    """Build a 2D ViT of timm with random weights.

    Args:
        architecture: timm's name.
        pixels: side of its input.

    Raises:
        ConfigError: timm has none of that name, or it is no plain ViT.
    """
    accepted = f"a VisionTransformer of timm, such as {PHOTO_VIT!r}"
    with torch.random.fork_rng(devices=[]):  # a convnet takes no size of images, so its kind is asked first
        kind = type(create_2d(architecture, setting="architecture", accepted=accepted))
    if not issubclass(kind, VisionTransformer):
        raise ConfigError(f"architecture={architecture!r} is a {kind.__name__}; accepted: {accepted}")
    net = create_2d(architecture, setting="architecture", accepted=accepted, img_size=pixels)
    return cast("VisionTransformer", net)
