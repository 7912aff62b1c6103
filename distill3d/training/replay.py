"""Takes the step again that ended a training, and finds the first value in it that is not finite."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from torch import Tensor, nn

from distill3d.config.registry import TEACHERS
from distill3d.data.datamodule import DistillDataModule
from distill3d.errors import InputError
from distill3d.storage.checkpoint import CHECKPOINT_KEY
from distill3d.storage.links import require_inside
from distill3d.storage.run_folder import RunFolder
from distill3d.terminal import stderr
from distill3d.training.inference import inference_device
from distill3d.training.module import DistillModule, load_module
from distill3d.training.numbers import EXPLODED, learned, places, read_batch, read_failed, set_random_state
from distill3d.training.precision import as_trained
from distill3d.training.teacher_maps import fill, make_view
from distill3d.types import Batch


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """A step taken again.

    Attributes:
        step: its number.
        before: what the training said of it.
        batch: cases and places.
        loss: the weighted sum, as it is now.
        terms: the raw terms.
        wrong: the first value that cannot be used, in words; empty where all can.
    """

    step: int
    before: str
    batch: str
    loss: float
    terms: dict[str, float]
    wrong: str

    def lines(self) -> list[str]:
        """Say what happened then and now."""
        terms = ", ".join(f"{name}={value:.4g}" for name, value in self.terms.items())
        return [
            f"then      {self.before}",
            f"again     step {self.step}: loss {self.loss:.4g} ({terms}); {self.batch}",
            f"wrong     {self.wrong or 'nothing: every value is finite this time'}",
        ]


def replay(run: Path | str, *, allow_plugins: bool = False) -> Replay:
    """Take the step again that ended a run, with its weights, batch and random numbers; nothing is written or learned.

    Of several processes, the first in whose part something is wrong counts.

    Args:
        run: its folder.
        allow_plugins: import the modules that the run names, though it lies outside of this project.

    Raises:
        InputError: it is no run that ended so, or its data or teacher are no more.
        ConfigError: it would import modules, see ``allow_plugins``.
    """
    folder = RunFolder(Path(run))
    require_inside(folder.path)
    if not folder.all_failed:
        name = folder.failed(0).name
        raise InputError(f"{folder.path}: no step failed in it (no {name}); accepted: a run that stopped at one")
    replays = (_replayed(path, allow_plugins=allow_plugins) for path in folder.all_failed)
    first = next(replays)
    return first if first.wrong else next((again for again in replays if again.wrong), first)


def _replayed(path: Path, *, allow_plugins: bool) -> Replay:
    """Take one process's part of a step again."""
    content = read_failed(path)
    module = load_module(path, allow_plugins=allow_plugins)
    module.balance.scales = dict(content[CHECKPOINT_KEY]["balance"])
    module.replayed_step = content["step"]
    _give_teacher(module, RunFolder(path.parent))
    device = inference_device(module.experiment)
    module.to(device).train()
    batch = read_batch(content).to(device)
    set_random_state(content["random"])
    terms, total, wrong = _taken(module, batch)
    return Replay(
        step=content["step"],
        before=content["why"],
        batch=places(batch),
        loss=total.item(),
        terms={name: value.item() for name, value in terms.items()},
        wrong=wrong,
    )


def _taken(module: DistillModule, batch: Batch) -> tuple[dict[str, Tensor], Tensor, str]:
    """Return the raw terms, their weighted sum, and the first value that cannot be used, in the order they come."""
    before = _not_finite(("the image", batch.image), *learned(module))
    with _layers_that_break(module.student) as broken, as_trained(module):
        balanced, total = module.loss(batch)
    terms = {name: term.value for name, term in balanced.items()}
    wrong = before or next(iter(broken), "") or _not_finite(*((f"loss term {n}", value) for n, value in terms.items()))
    if not wrong and total.abs() >= EXPLODED:
        name = max(terms, key=lambda each: abs(terms[each].item()))
        wrong = f"loss term {name}: {terms[name].item():.4g} is too large"
    if not wrong:
        total.backward()
        gradients = ((f"gradient of {name}", p.grad) for name, p in module.named_parameters())
        wrong = _not_finite(*((name, gradient) for name, gradient in gradients if gradient is not None))
    return terms, total, wrong


def _give_teacher(module: DistillModule, run: RunFolder) -> None:
    """Let the strategy run its teacher, as in training."""
    if not module.strategy.wants_teacher:
        return
    teacher, data = TEACHERS.build(module.experiment.teacher), DistillDataModule(module.experiment, run=run)
    data.prepare_data()
    module.attach(teacher)
    view = make_view(module, teacher, data)
    fill(view, data, stderr())
    module.look(view)


@contextmanager
def _layers_that_break(student: nn.Module) -> Iterator[list[str]]:
    """Gather, in the order they run, layers whose output is not finite though their input is."""
    broken: list[str] = []

    def look(name: str, layer: nn.Module) -> Any:  # noqa: ANN401 - a hook of torch
        def hook(_layer: nn.Module, _inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and (wrong := _not_finite((f"{name} ({type(layer).__name__})", output))):
                broken.append(f"output of {wrong}")

        return hook

    hooks = [layer.register_forward_hook(look(name, layer)) for name, layer in student.named_modules() if name]
    try:
        yield broken
    finally:
        for hook in hooks:
            hook.remove()


def _not_finite(*named: tuple[str, Tensor]) -> str:
    """Name the first tensor that has a value that is not finite, and say how many it has."""
    for name, tensor in named:
        if tensor.is_floating_point() and (count := int((~tensor.isfinite()).sum())):
            return f"{name}: {count} of {tensor.numel()} values are not finite"
    return ""
