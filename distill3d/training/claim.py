"""Decides whether a run may have its folder (new, resumed, finished already, or refused) and takes it."""

from __future__ import annotations

import shutil

from distill3d.config.paths import PLACES
from distill3d.config.plain import Plain, as_plain, flatten
from distill3d.config.schema import TrainerConfig
from distill3d.errors import InputError
from distill3d.storage.links import require_inside
from distill3d.storage.lock import FolderLock
from distill3d.storage.rank import is_main_process
from distill3d.storage.run_folder import RunFolder, write_yaml

# A resumed run may change these; anything else would make it another experiment.
RESUMABLE = {
    *("trainer.steps", "trainer.accelerator", "trainer.precision", "trainer.log_every"),
    *("inference.batch_size", "inference.validation", "patches.workers", "crops.workers"),
    *PLACES,
}
RESUMABLE_SECTIONS = ("logging.", "evaluation.")


def is_finished(folder: RunFolder, settings: Plain, lock: FolderLock, *, resume: bool, overwrite: bool) -> bool:
    """Return True if the run is complete and shall not be repeated; refuse it before anything dear is done.

    torchrun and SLURM start all ranks at once: none may wait for others that have nothing to do. A rank that Lightning
    starts comes later, when the main one has claimed the folder: that is no run of somebody else.

    Raises:
        InputError: both flags, another process trains in the folder, or see `finished_or_refused`.
    """
    if resume and overwrite:
        raise InputError("--resume goes on with what --overwrite deletes; accepted: one of them")
    if is_main_process():
        lock.refuse_if_held()
    elif folder.state != "done":
        return False
    return not overwrite and finished_or_refused(folder, settings, resume=resume)


def finished_or_refused(folder: RunFolder, settings: Plain, *, resume: bool) -> bool:
    """Return True if the run is complete; refuse to touch one that is not, or that had other settings.

    Raises:
        InputError: the folder holds a run that these settings and flags may not go on with.
    """
    if folder.state == "absent":
        return False
    require_inside(folder.path)
    # what a run of an older version does not say had no effect, as the default has none
    unsaid = flatten({"trainer": as_plain(TrainerConfig())})
    then, now = unsaid | flatten(folder.read_config()), flatten(settings)
    changed = [key for key in dict.fromkeys([*then, *now]) if then.get(key) != now.get(key) and not _may_change(key)]
    if changed:
        shown = "; ".join(f"{key}: {then.get(key)!r} there, {now.get(key)!r} now" for key in changed[:3])
        raise InputError(f"{folder.path} holds a run with other settings ({shown}); accepted: --overwrite, or runs=...")
    if folder.state == "done":
        if (steps := steps_before(folder)) == settings["trainer"]["steps"]:
            return True
        if not resume:
            raise InputError(f"{folder.path} is finished after {steps} steps; accepted: --resume to go on, --overwrite")
    elif not resume:
        raise InputError(f"{folder.path} holds an unfinished run; accepted: --resume or --overwrite")
    return False


def take(
    folder: RunFolder, settings: Plain, lock: FolderLock, *, resume: bool, overwrite: bool, trained: bool = False
) -> None:
    """From here on the folder is this run's: delete what was there if that is wanted, and write the settings.

    Args:
        folder: of the run.
        settings: all of them.
        lock: of the folder.
        resume: go on with what is there.
        overwrite: delete it.
        trained: nothing is left to train, so that what is known of the weights stays.

    Raises:
        InputError: another process has taken it meanwhile, whether it still trains or is done.
    """
    lock.acquire()
    if not overwrite and finished_or_refused(folder, settings, resume=resume):
        raise InputError(f"{folder.path}: another process has finished this run meanwhile")
    if overwrite:
        _empty(folder, lock)
    for stale in (folder.done, *folder.all_failed, *folder.parts):
        stale.unlink(missing_ok=True)
    if not trained:  # before the settings: other processes take cost with as many steps as they want for trained
        _forget(folder)
    write_yaml(folder.config, settings)


def _empty(folder: RunFolder, lock: FolderLock) -> None:
    """Delete all but the lock: first what says that the run is trained, its settings last.

    Stopped in between, it is an unfinished run of its own settings.
    """
    trained = {folder.done, folder.fit}
    for path in sorted(folder.path.iterdir(), key=lambda path: (path == folder.config, path not in trained)):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path != lock.path:
            path.unlink()


def _forget(folder: RunFolder) -> None:
    """Delete what a run knows of weights that it will train on: cost, scores, tuned trace, predictions."""
    for former in (folder.fit, folder.metrics, folder.tuned):
        former.unlink(missing_ok=True)
    shutil.rmtree(folder.path / "prob", ignore_errors=True)


def steps_before(folder: RunFolder) -> int:
    """Return how many steps the run in this folder was asked for."""
    return int(folder.read_config()["trainer"]["steps"])


def _may_change(key: str) -> bool:
    return key in RESUMABLE or key.startswith(RESUMABLE_SECTIONS)
