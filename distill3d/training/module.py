"""`DistillModule`: student, strategy, teacher and losses in one LightningModule. It names no concrete component."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any, final

import lightning as L
import torch
from torch import Tensor, nn

from distill3d.config.plain import as_plain
from distill3d.config.registry import LOSSES, STRATEGIES, STUDENTS, TEACHERS
from distill3d.config.schema import Experiment
from distill3d.errors import InputError
from distill3d.experiment import experiment_from_plain
from distill3d.losses.base import Loss
from distill3d.neurons.conversion import Conversion, convert_neurons
from distill3d.storage.checkpoint import CHECKPOINT_KEY, read_checkpoint
from distill3d.storage.trained_on import Seen, seen_by, trained_um
from distill3d.students.base import Student
from distill3d.teachers.base import Teacher, TeacherIdentity
from distill3d.training.dice import DiceByCase
from distill3d.training.gradients import GradientBalance, StepTerms
from distill3d.training.heads import check_learns, check_terms, check_there, check_trained, no_term
from distill3d.training.numbers import check_loss
from distill3d.training.optimizer import parameter_groups, transferred_scales
from distill3d.training.sharding import shard
from distill3d.transfer.base import TransferAudit, TransferStrategy
from distill3d.transfer.view import TeacherView
from distill3d.types import Batch, LossTerm, Prediction
from distill3d.volumes.geometry import Spacing


@final
class DistillModule(L.LightningModule):
    """Trains a 3D student on labels, and on whatever its transfer strategy takes from the 2D teacher.

    Building it changes the student's structure (`TransferStrategy.adapt`) but copies nothing; `transfer` does that,
    once, at the start of a fresh run (`fresh_module`), and then converts neurons. So a checkpoint loads and predicts
    with no teacher present: `load_module` converts without a transfer.

    Args:
        experiment: what to build.
        val_cases: names of the validation cases, for Dice per case.

    Attributes:
        trained_um: ZYX voxel sizes of the training cases, each once; none in checkpoints of older versions.
        seen: cases behind the weights, this training's first; a checkpoint keeps them.
        step_terms: balanced terms of the running step, from its forward to the end of its backward: Lightning passes
            callbacks the sum alone before a backward.
        replayed_step: number of a step of a former training that is taken again.
    """

    student: Student
    strategy: TransferStrategy

    def __init__(self, experiment: Experiment, *, val_cases: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.experiment = experiment
        self.student = STUDENTS.build(experiment.student)
        self.strategy = STRATEGIES.build(experiment.strategy)
        self.strategy.adapt(self.student)
        self.losses = nn.ModuleDict({name: LOSSES.build(chosen) for name, chosen in experiment.losses.items()})
        check_there(self.student, self.losses, name=experiment.student.name)
        self.balance = GradientBalance(experiment.balance)
        self.step_terms: StepTerms | None = None
        self.teacher: Teacher | None = None
        self.view: TeacherView | None = None
        self.teacher_identity: TeacherIdentity | None = None
        self.transferred: frozenset[str] = frozenset()
        self.conversion = Conversion()
        self.trained_um: tuple[Spacing, ...] = ()
        self.seen: tuple[Seen, ...] = ()
        self.replayed_step: int | None = None
        self.val_dice = DiceByCase(cases=val_cases, threshold=experiment.inference.threshold)

    def transfer(self, teacher: Teacher) -> TransferAudit:
        """Copy from the teacher, convert neurons, and keep the teacher only if the strategy runs it.

        The audit is of the student before the conversion; ``transferred`` has the names after it.
        """
        audit = self.strategy.transfer(student=self.student, teacher=teacher)
        self.convert()
        self.remember(self.conversion.renamed(name) for name in audit.transferred)
        self.attach(teacher)
        return audit

    def convert(self) -> None:
        """Turn the layers that the experiment names into neurons of another type."""
        self.conversion = convert_neurons(self.student, self.experiment.neurons)

    def remember(self, transferred: Iterable[str]) -> None:
        """Note which entries of the student came from the teacher; with a learning rate of 0 they are frozen.

        Raises:
            ConfigError: their learning rate depends on a depth that the student does not know.
        """
        self.transferred = frozenset(transferred)
        transferred_scales(self.student, self.transferred, self.experiment.optimizer)
        if self.experiment.optimizer.transferred_lr_ratio == 0:
            self.student.freeze(self.transferred)

    def attach(self, teacher: Teacher) -> None:
        """Remember the teacher's identity, and hold its network if the strategy wants it during training."""
        self.teacher_identity = teacher.identity
        self.teacher = teacher if self.strategy.wants_teacher else None

    def look(self, view: TeacherView) -> None:
        """Take the teacher's maps from here during training."""
        self.view = view

    def forward(self, image: Tensor) -> Tensor:
        """Return logits [B, 1, Z, Y, X] of intensities [B, 1, Z, Y, X] in [0, 1]."""
        return self.student(image).logits

    def terms(self, batch: Batch) -> StepTerms:
        """Return every raw loss term of a batch."""
        self.strategy.begin_step(self.step, self.experiment.trainer.steps)
        student = self.student.observe(batch.image, self.strategy.student_layers())
        supervised: dict[str, LossTerm] = {}
        for name, loss in self.losses.items():
            terms = loss(student=student, batch=batch) if isinstance(loss, Loss) else {}
            # a loss that goes by its own name needs no other; two of one kind must not overwrite each other's terms
            own = name == self.experiment.losses[name].name
            supervised |= {key if own else f"{name}_{key}": term for key, term in terms.items()}
        teacher = self._teacher_maps(student, batch)
        return StepTerms(supervised=supervised, added=self.strategy(student=student, teacher=teacher, batch=batch))

    def _teacher_maps(self, student: Prediction, batch: Batch) -> Prediction:
        requests = self.strategy.requests_now()
        if not requests:
            return Prediction.nothing()
        if self.view is None:
            raise RuntimeError("the strategy wants the teacher's maps: call `look` with a view before training")
        return self.view(requests, student=student, batch=batch, stride_zyx=self.student.stride_zyx, step=self.step)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Sum the weighted terms; log each raw one."""
        terms, total = self.loss(batch)
        check_loss(total, terms, batch, self.step)
        size = len(batch.cases)
        self.log("train/loss", total, prog_bar=True, batch_size=size)
        self.log_dict({f"train/{name}": term.value.detach() for name, term in terms.items()}, batch_size=size)
        return total

    def loss(self, batch: Batch) -> tuple[dict[str, LossTerm], Tensor]:
        """Return the balanced terms and their weighted sum.

        Raises:
            ConfigError: there is no term.
        """
        self.step_terms = self.balance(
            self.terms(batch),
            parameters=self.student.parameters(),
            step=self.step,
            reduce=self._mean_over_processes,
        )
        terms = self.step_terms.all
        if not terms:
            raise no_term(self.strategy)
        return terms, torch.stack([term.weight * term.value for term in terms.values()]).sum()

    @property
    def step(self) -> int:
        """Number of the step that is taken, from 0."""
        return self.global_step if self.replayed_step is None else self.replayed_step

    def _mean_over_processes(self, value: Tensor) -> Tensor:
        return value if self._trainer is None else self.trainer.strategy.reduce(value, reduce_op="mean")

    def configure_model(self) -> None:
        """Shard what trains, where the training is sharded; Lightning calls it when the processes have met."""
        shard(self, self.student, self.strategy)

    def on_after_backward(self) -> None:
        """Let go of the graphs."""
        self.step_terms = None

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Gather voxel counts per case; return the logits for callbacks."""
        logits = self(batch.image)
        self.val_dice.update(logits=logits, target=batch.target, known=batch.known, cases=batch.cases)
        return logits

    def on_validation_epoch_end(self) -> None:
        """Log the mean over cases; every rank logs the same key."""
        self.log("val/dice", self.val_dice.compute().mean, prog_bar=True, sync_dist=True)
        self.val_dice.reset()

    def configure_optimizers(self) -> Any:  # noqa: ANN401 - Lightning's union of dicts
        """AdamW in the groups of `parameter_groups`."""
        settings = self.experiment.optimizer
        groups = parameter_groups(
            ((name.removeprefix("student."), parameter) for name, parameter in self.named_parameters()),
            settings,
            scales=transferred_scales(self.student, self.transferred, settings),
            others=self.strategy.lr_ratios(),
            conversion=self.conversion,
            steps=self.experiment.trainer.steps,
        )
        optimizer = torch.optim.AdamW(groups, lr=settings.lr)
        factors = [group["factor"] for group in optimizer.param_groups]
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factors)
        for group in optimizer.param_groups:
            del group["factor"]  # a closure has no place in a checkpoint
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what is needed to rebuild the module, as plain containers (loadable with ``weights_only=True``)."""
        identity = self.teacher_identity
        checkpoint[CHECKPOINT_KEY] = {
            "experiment": as_plain(self.experiment),
            "teacher": dataclasses.asdict(identity) if identity else None,
            "transferred": sorted(self.transferred),
            "balance": dict(self.balance.scales),
            "trained_um": [list(spacing) for spacing in self.trained_um],
            "seen": [each.as_plain() for each in self.seen],
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the weights that were balanced so far."""
        self.balance.scales = dict(checkpoint[CHECKPOINT_KEY]["balance"])


def fresh_module(
    experiment: Experiment, *, val_cases: tuple[str, ...] = ()
) -> tuple[DistillModule, Teacher, TransferAudit]:
    """Build the teacher, then the student (both draw random numbers), and transfer from the one to the other.

    Args:
        experiment: what to build.
        val_cases: as for `DistillModule`.

    Raises:
        ConfigError: student and teacher do not fit, no loss trains a head of the student, or nothing is to be trained.
        InputError: the teacher's weights cannot be used.
    """
    teacher = TEACHERS.build(experiment.teacher)
    module = DistillModule(experiment, val_cases=val_cases)
    check_trained(module.student, module.losses)
    check_terms(module.losses, module.strategy)
    audit = module.transfer(teacher)
    check_learns(module)
    return module, teacher, audit


def load_module(
    path: Path,
    experiment: Experiment | None = None,
    *,
    val_cases: tuple[str, ...] = (),
    teacher: Teacher | None = None,
    allow_plugins: bool = False,
) -> DistillModule:
    """Rebuild a module from a checkpoint, strictly.

    Args:
        path: a ``.ckpt`` file written by `fit`.
        experiment: build this instead of what the checkpoint says; its architecture must be the same.
        val_cases: as for `DistillModule`.
        teacher: to go on training with; not needed for anything else.
        allow_plugins: import the modules that the checkpoint names, though it lies outside of this project.

    Raises:
        InputError: the file is missing, is no checkpoint of distill3d, or holds another architecture; or it was trained
            with another teacher.
    """
    checkpoint = read_checkpoint(path)
    saved = checkpoint[CHECKPOINT_KEY]
    if experiment is None:
        experiment = experiment_from_plain(saved["experiment"], source=path, allow_plugins=allow_plugins)
    module = DistillModule(experiment, val_cases=val_cases)
    module.convert()
    module.remember(saved["transferred"])
    module.trained_um, module.seen = trained_um(saved), seen_by(checkpoint, path)
    module.teacher_identity = TeacherIdentity(**saved["teacher"]) if saved["teacher"] else None
    try:
        module.load_state_dict(checkpoint["state_dict"], strict=True)
    except RuntimeError as err:
        difference = " ".join(str(err).split()[:40])
        raise InputError(f"{path}: its weights are of another architecture: {difference}") from err
    if teacher is not None:
        teacher.identity.require_same(module.teacher_identity, where=path)
        module.attach(teacher)
    return module
