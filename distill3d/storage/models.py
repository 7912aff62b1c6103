"""Ready-made models, by name: files of `distill3d export` that are shipped, or lie in ``./models``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from distill3d.errors import InputError, did_you_mean
from distill3d.storage.checkpoint import MODEL_SUFFIX
from distill3d.storage.run_folder import RunFolder

SHIPPED = Path(__file__).resolve().parents[1] / "models"
OWN = Path("models")
DEFAULT = "simulated_only"  # of several that are shipped
HOW = (
    f"a run (`make experiment NAME={DEFAULT}` makes one), which "
    f"`distill3d export runs/{DEFAULT}/seed0 --out models/{DEFAULT}{MODEL_SUFFIX}` makes a model of"
)


def models() -> dict[str, Path]:
    """Return name -> file of every model, sorted by name; one in ``./models`` wins over a shipped one."""
    return dict(sorted((_in(SHIPPED) | _in(OWN)).items()))


def find_model(name: str) -> Path:
    """Return the file of a model.

    Raises:
        InputError: there is none of this name; names the nearest and all.
    """
    known = models()
    if name in known:
        return known[name]
    hint = did_you_mean(name, known)
    accepted = f"known: {', '.join(known)}" if known else f"there is none yet; accepted: {HOW}"
    raise InputError(f"unknown model {name!r}{hint and f' ({hint})'}; {accepted}")


def chosen(runs: Sequence[Path], names: Sequence[str]) -> list[Path]:
    """Return the runs, or the files of the models; of neither the default model.

    Raises:
        InputError: both are given, there is no model of a name, or no default.
    """
    if runs and names:
        raise InputError(f"run {runs[0]} and model {names[0]!r} are both given; accepted: one of them")
    if runs or names:
        return [*runs, *map(find_model, names)]
    shipped = _in(SHIPPED)
    if not shipped:
        raise InputError(f"no model is shipped; accepted: --model NAME, or --run RUN: {HOW}")
    return [shipped.get(DEFAULT) or next(iter(shipped.values()))]


def checkpoint_of(run: Path | str) -> Path:
    """Return the file with the weights of a run, given by its folder, or of a model, given by its file."""
    path = Path(run)
    return path if path.is_file() else RunFolder(path).best


def is_run(place: Path | str) -> bool:
    """Whether a path is that of a run or a model, and of no stack."""
    path = Path(place)
    return path.suffix in (MODEL_SUFFIX, ".ckpt") or checkpoint_of(path).is_file() != path.is_file()


def _in(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted(folder.glob(f"[!.]*{MODEL_SUFFIX}")) if path.is_file()}
