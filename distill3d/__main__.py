"""Runs the command line and turns what a user can mend into one line and an exit code. It parses nothing."""

from __future__ import annotations

import getpass
import os
import sys

# OpenMP reads it once, when torch is imported. Spinning threads cost a factor of 2 to 5 as soon as anything else (a
# data worker, a second run) wants one of few cores; sleeping ones cost nothing measurable when nothing does.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# A notebook names its own backend to all it starts, which matplotlib refuses elsewhere; no window is ever opened here.
os.environ["MPLBACKEND"] = "agg"
try:
    getpass.getuser()
except (KeyError, OSError):  # in a container a user may be a mere number, and MONAI and torch ask for a name
    os.environ["USER"] = f"uid{os.getuid()}"

from distill3d.cli import app
from distill3d.errors import FULL, TrainingError, UserError, printable
from distill3d.storage.parent import end_with_leader
from distill3d.terminal import log_text

LOCAL_RANKS = ("SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK", "JSM_NAMESPACE_LOCAL_RANK")  # of srun, mpirun, jsrun


def main() -> None:
    """Run ``distill3d``; exits 0, 1 (failure), 2 (usage or input), 130 (Ctrl-C) or 143 (SIGTERM)."""
    end_with_leader()
    log_text()
    try:
        app(prog_name="distill3d")
    except (UserError, TrainingError) as err:
        for line in str(err).split("\n") if _speaks() else ():
            sys.stderr.write(f"distill3d: {printable(line)}\n")
        sys.exit(err.exit_code)
    except OSError as err:
        if err.errno not in FULL:
            raise
        where = f"{err.filename}: " if err.filename else ""
        left = "what was finished is whole; make room and start it again, a run with --resume"
        sys.stderr.write(f"distill3d: {printable(str(where))}cannot be written ({err.strerror}); {left}\n")
        sys.exit(TrainingError.exit_code)


def _speaks() -> bool:
    """Whether this process says why it ends: of those that one training started at once on a machine, only the first.

    All of them read the same settings and files until they meet; from then on one may fail alone.
    """
    meeting = sys.modules.get("torch.distributed")
    if sys.argv[1:2] not in (["fit"], ["pretrain"]) or (meeting is not None and meeting.is_initialized()):
        return True
    launched = ("LOCAL_RANK",) if "TORCHELASTIC_RUN_ID" in os.environ else LOCAL_RANKS
    return all(os.environ.get(name, "0") == "0" for name in launched)


if __name__ == "__main__":
    main()
