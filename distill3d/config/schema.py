"""What an experiment file may say: frozen dataclasses with a default for all that has one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from distill3d.config.paths import ConfigPath
from distill3d.config.registry import Component, component, components
from distill3d.config.trace import TraceConfig


def _at_least(minimum: float, **values: float) -> None:
    for name, value in values.items():
        if not value >= minimum:
            raise ValueError(f"{name}={value} is too small; accepted: {minimum} or more")


def _within(low: float, high: float, **values: float) -> None:
    for name, value in values.items():
        if not low <= value <= high:
            raise ValueError(f"{name}={value} is out of range; accepted: {low} to {high}")


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentConfig:
    """Random changes of a training patch; each probability in [0, 1], 0 switches it off.

    Geometry comes first and moves image, target and known alike; the rest changes the image only. Quarter turns stay in
    the YX plane unless the voxel is a cube.
    """

    flip: float = 0.5  # per axis
    rotate90: float = 0.5
    rotate: float = 0.0  # free rotation in the YX plane, bilinear image and nearest labels
    scale_intensity: float = 0.3  # x (1 +- 0.25)
    shift_intensity: float = 0.3  # +- 0.1 of the range
    gamma: float = 0.2  # exponent 0.7 to 1.5
    noise: float = 0.2  # Gaussian, sd up to 0.1 of the range
    blur: float = 0.1  # Gaussian, sigma up to 1 voxel
    hard: float = 0.0  # dim the neuron and add a real background, see `hard_backgrounds`
    hard_backgrounds: tuple[ConfigPath, ...] = ()  # volumes or folders the background of `hard` comes from
    hard_contrast: tuple[float, float] = (1.5, 6.0)  # range, in units of the background's noise

    def __post_init__(self) -> None:
        _within(0, 1, flip=self.flip, rotate90=self.rotate90, rotate=self.rotate, gamma=self.gamma, noise=self.noise)
        _within(0, 1, scale_intensity=self.scale_intensity, shift_intensity=self.shift_intensity)
        _within(0, 1, blur=self.blur, hard=self.hard)
        low, high = self.hard_contrast
        if not 0 < low <= high:
            raise ValueError(f"hard_contrast={self.hard_contrast} is out of range; accepted: low to high, above 0")
        if self.hard and not self.hard_backgrounds:
            raise ValueError("hard > 0 needs hard_backgrounds: one or more stacks or folders")


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchConfig:
    """How volumes become patches."""

    size_zyx: tuple[int, int, int] = (32, 96, 96)  # voxels; a smaller volume is padded, and the log says so
    batch_size: int = 2  # per process
    foreground: float = 0.67  # share of patches centered on a gold voxel, in [0, 1]
    low_percentile: float = 0.5  # this percentile of a volume becomes 0
    high_percentile: float = 99.99  # this one becomes 1, what is above too; the volume's maximum where both are equal
    val_patches: int = 8  # per validation case, always the same ones
    workers: int = 1  # processes that cut and augment patches; 0 does it in the training process
    augment: AugmentConfig = AugmentConfig()

    def __post_init__(self) -> None:
        _at_least(1, batch_size=self.batch_size, val_patches=self.val_patches, size_zyx=min(self.size_zyx))
        _at_least(0, workers=self.workers)
        _within(0, 1, foreground=self.foreground)
        _within(0, 100, low_percentile=self.low_percentile, high_percentile=self.high_percentile)
        if self.low_percentile >= self.high_percentile:
            raise ValueError(
                f"low_percentile={self.low_percentile} must be below high_percentile={self.high_percentile}"
            )

    @property
    def percentiles(self) -> tuple[float, float]:
        """The percentiles of a volume's intensities that become 0 and 1."""
        return self.low_percentile, self.high_percentile


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """AdamW, and how transferred parameters are treated."""

    lr: float = 1e-3
    weight_decay: float = 1e-4
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_steps: int = 10
    transferred_lr_ratio: float = 0.1  # learning rate of transferred parameters relative to `lr`; 0 freezes them
    layer_decay: float = 1.0  # of that rate per block below the deepest transferred one, in (0, 1]; 1: none
    freeze_transferred_steps: int = 0  # transferred parameters and statistics stay as they are for so many steps

    def __post_init__(self) -> None:
        _at_least(
            0,
            lr=self.lr,
            weight_decay=self.weight_decay,
            warmup_steps=self.warmup_steps,
            transferred_lr_ratio=self.transferred_lr_ratio,
            freeze_transferred_steps=self.freeze_transferred_steps,
        )
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay={self.layer_decay} is out of range; accepted: above 0 to 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class BalanceConfig:
    """How strong the terms of a strategy are beside the supervised ones."""

    mode: Literal["fixed", "gradient"] = "fixed"  # fixed: by their weights; gradient: weights times a ratio of norms
    every: int = 25  # steps between two measurements; each costs a backward per term
    smoothing: float = 0.5  # share of the old ratio that stays, in [0, 1)
    limit: float = 1e4  # of the ratio, so that a vanishing term is not blown up

    def __post_init__(self) -> None:
        _at_least(1, every=self.every, limit=self.limit)
        _within(0, 0.999, smoothing=self.smoothing)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainerConfig:
    """How long and on what."""

    steps: int = 300  # optimizer steps: the budget that compared arms must share
    accumulate: int = (
        1  # batches of each process in a step, whose gradients are averaged: a large batch in little memory
    )
    validate_every: int = 75  # steps; also how often a checkpoint is written and how much a killed run can lose
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int = 1  # processes per node; on CPU too
    num_nodes: int = 1
    strategy: str = "auto"  # a Lightning strategy such as "ddp"; "fsdp": each process holds a share of the student
    sync_batchnorm: bool = (
        False  # several processes on GPUs share the statistics of batch norm; others stay as they are
    )
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"  # auto: bf16-mixed on a GPU, else 32-true
    gradient_clip: float = 1.0  # Euclidean norm; 0 does not clip
    early_stopping: int = 0  # validations without a better Dice before training stops; 0 never stops
    log_every: int = 5  # steps
    audit_every: int = 50  # steps between two gradient audits, each a backward per loss term; 0 audits only the first

    def __post_init__(self) -> None:
        _at_least(
            1,
            steps=self.steps,
            accumulate=self.accumulate,
            validate_every=self.validate_every,
            devices=self.devices,
            num_nodes=self.num_nodes,
            log_every=self.log_every,
        )
        _at_least(0, gradient_clip=self.gradient_clip, early_stopping=self.early_stopping, audit_every=self.audit_every)
        if self.steps % self.validate_every:
            raise ValueError(f"steps={self.steps} must be a multiple of validate_every={self.validate_every}")


@dataclass(frozen=True, kw_only=True, slots=True)
class InferenceConfig:
    """How a whole volume is predicted."""

    overlap: float = 0.25  # of neighboring windows, in [0, 1)
    validation: bool = True  # a run predicts its validation cases too; clean scores leave out what suits them
    batch_size: int = 2  # windows per forward
    skip_background: bool = True  # windows of nothing but background get a probability of 0 without the network
    threshold: float = 0.5  # probability from which a voxel counts as neuron, in (0, 1)

    def __post_init__(self) -> None:
        _within(0, 0.9, overlap=self.overlap)
        _within(0.001, 0.999, threshold=self.threshold)
        _at_least(1, batch_size=self.batch_size)


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationConfig:
    """Tolerances in um, which are even where slices are thick; scores within 2 and 4 voxels are always there."""

    surface_um: float = 2.0  # of the surface Dice (NSD)
    mask_um: float | None = None  # Dice, precision and recall of voxels within it too; null leaves them out
    tree_um: float | None = None  # precision, recall and F1 of length within it too; null leaves them out

    def __post_init__(self) -> None:
        _at_least(0, surface_um=self.surface_um, mask_um=self.mask_um or 0, tree_um=self.tree_um or 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class LoggingConfig:
    """Where curves, tables and figures go; CSV is always written."""

    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"  # auto: online when logged in, else offline
    project: str = "distill3d"
    entity: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class TunedConfig:
    """How settings were chosen on validation cases; all but the file is read from it."""

    file: str = ""  # what `distill3d sweep winners` wrote; its settings for this experiment come under the overrides
    sweep: str = ""  # that chose them
    metric: str = ""  # by which
    trials: int = 0  # that this experiment had; a report holds it against the baseline's
    keys: tuple[str, ...] = ()  # of the settings that were chosen


PROBE_FOLDS = 5  # of photos, over which a pretraining's probe chooses its strength


@dataclass(frozen=True, kw_only=True, slots=True)
class CropConfig:
    """How photos become crops for `Pretraining`."""

    pixels: int = 96  # side of a crop; a multiple of the 2D network's patch
    teacher_pixels: int = 192  # side of the same crop as the teacher sees it: finer, so that its maps are as fine
    area: tuple[float, float] = (0.02, 1.0)  # of the photo, range
    jitter: float = 0.5  # brightness, contrast and saturation, each +- this; hue a quarter of it
    gray: float = 0.3  # probability of a gray crop: microscopy has one channel
    invert: float = 0.2  # probability of a negative
    cutmix: float = 0.4  # probability of a rectangle from another crop
    batch_size: int = 32
    val_crops: int = 128  # of the held-out photos, always the same ones
    probe_crops: int = 256  # of the training photos, that the linear probe is fitted on in the end
    workers: int = 1  # processes that cut crops; 0 does it in the training process

    def __post_init__(self) -> None:
        _at_least(1, pixels=self.pixels, batch_size=self.batch_size, val_crops=self.val_crops)
        _at_least(PROBE_FOLDS, probe_crops=self.probe_crops)
        _at_least(self.pixels, teacher_pixels=self.teacher_pixels)
        _at_least(0, workers=self.workers)
        _within(0, 1, jitter=self.jitter, gray=self.gray, invert=self.invert, cutmix=self.cutmix)
        _within(0.001, 1, **{"area[0]": self.area[0], "area[1]": self.area[1]})
        _at_least(self.area[0], **{"area[1]": self.area[1]})


@dataclass(frozen=True, kw_only=True, slots=True)
class Pretraining:
    """Training of a 2D network on photos by distillation from a larger one; run by ``distill3d pretrain``."""

    name: str  # the experiment file's name
    question: str = ""
    architecture: str  # timm's name of the 2D ViT to train
    teacher: Component = component("teacher", default="timm2d")
    layers: tuple[int, ...] = (-4, -3, -2, -1)  # the teacher's feature maps that tokens must predict
    logits_weight: float = 0.25  # of the term that matches the teacher's classes, relative to one feature map
    temperature: float = 2.0  # of both softmaxes in that term
    crops: CropConfig = CropConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    trainer: TrainerConfig = TrainerConfig()
    logging: LoggingConfig = LoggingConfig()
    seed: int = 0
    runs: ConfigPath = ConfigPath("runs")  # noqa: RUF009 - frozen; folder that holds <name>/seed<seed>/
    plugins: tuple[str, ...] = ()  # modules imported before the settings are read, so that they can register

    def __post_init__(self) -> None:
        _at_least(0, seed=self.seed, logits_weight=self.logits_weight)
        _at_least(0.1, temperature=self.temperature)
        if not self.layers:
            raise ValueError("layers=[] is empty; accepted: one or more of the teacher's feature maps")
        if self.trainer.strategy == "fsdp":
            raise ValueError("trainer.strategy=fsdp: a 2D ViT has nothing to share; accepted: auto or ddp")


@dataclass(frozen=True, kw_only=True, slots=True)
class Experiment:
    """One question, answered by one run per seed."""

    name: str  # the experiment file's name
    question: str = ""
    data: Component = component("data")
    student: Component = component("student")
    teacher: Component = component("teacher", default="none")
    strategy: Component = component("strategy", default="none")
    # what layers become after the transfer: one type, or a list of several
    neurons: Component | tuple[Component, ...] = component("neuron", default="linear", listed=True)
    losses: dict[str, Component] = components("loss", default="overlap")
    balance: BalanceConfig = BalanceConfig()
    patches: PatchConfig = PatchConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    trainer: TrainerConfig = TrainerConfig()
    inference: InferenceConfig = InferenceConfig()
    trace: TraceConfig = TraceConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    logging: LoggingConfig = LoggingConfig()
    tuned: TunedConfig = TunedConfig()
    seed: int = 0
    runs: ConfigPath = ConfigPath("runs")  # noqa: RUF009 - frozen; folder that holds <name>/seed<seed>/
    cache: ConfigPath = ConfigPath("~/.cache/distill3d")  # noqa: RUF009 - frozen; prepared volumes, shared by all runs on this machine
    plugins: tuple[str, ...] = ()  # modules imported before the settings are read, so that they can register

    def __post_init__(self) -> None:
        _at_least(0, seed=self.seed)
        if self.balance.mode == "gradient" and not self.losses:
            raise ValueError("balance.mode='gradient' with losses={}: accepted: mode=fixed, or one loss or more")
        if self.trace.input not in {"prob", "auto"}:
            raise ValueError(f"trace.input={self.trace.input}, but a run traces a probability; accepted: prob or auto")
