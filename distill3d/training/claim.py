"""Decides whether a run may have its folder (new, resumed, finished already, or refused) and takes it."""

from __future__ import annotations

import shutil

from distill3d.config.plain import Plain, flatten
from distill3d.errors import InputError
from distill3d.storage.run_folder import RunFolder, write_yaml

# A resumed run may change these; anything else would make it another experiment.
RESUMABLE = ("trainer.steps", "trainer.accelerator", "trainer.precision", "trainer.log_every")
RESUMABLE_SECTIONS = ("logging.", "inference.", "evaluation.", "patches.workers", "crops.workers", "runs", "cache")


def finished_or_refused(folder: RunFolder, settings: Plain, *, resume: bool) -> bool:
    """Return True if the run is complete; refuse to touch one that is not, or that had other settings.

    Raises:
        InputError: the folder holds a run that these settings and flags may not go on with.
    """
    if folder.state == "absent":
        return False
    then, now = flatten(folder.read_config()), flatten(settings)
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


def take(folder: RunFolder, settings: Plain, *, overwrite: bool) -> None:
    """From here on the folder is this run's: delete what was there if that is wanted, and write the settings."""
    if overwrite and folder.path.exists():
        shutil.rmtree(folder.path)
    folder.done.unlink(missing_ok=True)
    write_yaml(folder.config, settings)


def steps_before(folder: RunFolder) -> int:
    """Return how many steps the run in this folder was asked for."""
    return int(folder.read_config()["trainer"]["steps"])


def _may_change(key: str) -> bool:
    return key in RESUMABLE or key.startswith(RESUMABLE_SECTIONS)
