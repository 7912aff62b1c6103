"""Shows the teacher an experiment's volumes, and fills the cache of its maps."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from distill3d.config.schema import Experiment
from distill3d.data.datamodule import DistillDataModule
from distill3d.data.prepared import PreparedCase
from distill3d.errors import ConfigError
from distill3d.storage.rank import is_main_process
from distill3d.storage.whole_folder import prune
from distill3d.teachers.base import Teacher
from distill3d.teachers.cache import CacheCount, Stack
from distill3d.teachers.slices import slice_order
from distill3d.terminal import progress_bar, stderr
from distill3d.training.inference import inference_device
from distill3d.training.module import DistillModule, fresh_module
from distill3d.transfer.view import TeacherView
from distill3d.volumes.origin import file_hash

CACHED = ("prepared", "features", "baselines")


def stack_of(case: PreparedCase) -> Stack:
    """Return a prepared case as the teacher sees it; its hash covers the intensities only, not the gold."""
    content = f"{file_hash(case.folder / 'image.npy')} {case.low!r} {case.high!r}"
    return Stack(
        name=case.name,
        image=lambda: case.image,
        sha256=hashlib.sha256(content.encode()).hexdigest(),
        spacing_um=case.spacing_um,
    )


def make_view(module: DistillModule, teacher: Teacher, data: DistillDataModule) -> TeacherView:
    """Return the view of the training cases that the module's strategy asks for.

    Raises:
        ConfigError: a layer that the teacher does not have, or an augmentation that the view cannot follow.
    """
    experiment, requests = module.experiment, module.strategy.requests()
    needs_stacks = any(request.view.source == "volume" for request in requests)
    cases: Sequence[PreparedCase] = data.cases("train") if needs_stacks else ()
    return TeacherView(
        teacher,
        requests,
        stacks={case.name: stack_of(case) for case in cases},
        cache=cache_root(experiment),
        patches=experiment.patches,
    )


def fill(view: TeacherView, data: DistillDataModule, console: Console) -> CacheCount:
    """Compute what the cache does not hold yet, on a GPU if training may use one, with a bar in the main process."""
    shapes = {case.name: case.shape for case in data.cases("train")}
    console = console if is_main_process() else stderr(quiet=True)
    with progress_bar(console) as bar:
        total = sum(shapes[name][slice_order(axis)[0]] for name, _, axis, _ in view.cached)
        task = bar.add_task("teacher's maps", total=total, info="")
        if view.cached:  # Lightning moves the teacher when training begins, which is later
            view.teacher.to(inference_device(data.experiment))
        try:
            return view.fill(on_slices=lambda n: bar.advance(task, n))
        finally:
            view.teacher.to("cpu")


def cache_line(count: CacheCount) -> str:
    """Say what the cache of teacher maps gave."""
    return (
        f"teacher's maps: {count.hits} from the cache, {count.misses} computed, {count.bytes / 2**20:.0f} MiB on disk"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheReport:
    """What the cache of an experiment holds.

    Attributes:
        experiment: its name.
        folder: of the cache.
        rows: case, axis, layers and bytes of each volume's maps.
        count: what was there and what was computed just now.
    """

    experiment: str
    folder: Path
    rows: tuple[tuple[str, str, str, int], ...]
    count: CacheCount


def cache_experiment(experiment: Experiment) -> CacheReport:
    """Fill the cache as `fit` would at its start.

    Raises:
        ConfigError: the strategy asks for no map of whole volumes.
        InputError: data or teacher cannot be used, or the cache cannot be written.
    """
    data = DistillDataModule(experiment)
    data.prepare_data()
    module, teacher, _ = fresh_module(experiment)
    view = make_view(module, teacher, data) if module.strategy.wants_teacher else None
    if view is None or not view.cached:
        raise ConfigError(
            f"{experiment.name}: strategy {experiment.strategy.name} keeps no maps; accepted: a strategy with "
            "view.source=volume and view.cache=true, such as in kd_cosine"
        )
    count = fill(view, data, stderr())
    return CacheReport(
        experiment=experiment.name, folder=cache_root(experiment) / "features", rows=view.sizes(), count=count
    )


def cache_root(experiment: Experiment) -> Path:
    """Folder that holds prepared cases and the teacher's maps."""
    return Path(experiment.cache)


def prune_cache(experiment: Experiment, *, unused_days: float) -> tuple[int, int]:
    """Delete what nobody used for so many days (cases, maps, baselines); returns how many entries and their bytes."""
    kinds = [prune(cache_root(experiment) / kind, unused_days=unused_days) for kind in CACHED]
    return sum(count for count, _ in kinds), sum(size for _, size in kinds)
