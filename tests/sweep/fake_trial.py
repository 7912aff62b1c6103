"""A trial in a tenth of a second: it keeps the run-folder contract and trains nothing.

Called as ``fake_trial.py fit EXPERIMENT key=value ... [--resume | --overwrite]``. The environment tells what it does:
FAKE_FAIL: a learning rate whose trials exit 1; FAKE_ONCE: only the first time.
FAKE_KILL: a learning rate whose trials are killed the first time.
FAKE_FULL: a learning rate whose trials find the disk full.
FAKE_HANG: a learning rate whose trials never train. FAKE_LINGER: one whose trials never end after training.
FAKE_CHILD: start a child that outlives the trial itself.
"""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

STEPS = 9


def settings(arguments):
    return dict(item.removeprefix("--").split("=", 1) for item in arguments if "=" in item)


def matches(variable, lr):
    return variable in os.environ and float(os.environ[variable]) == lr


def main():
    _, verb, experiment, *rest = sys.argv
    assert verb == "fit"
    given = settings(rest)
    lr, seed = float(given.get("optimizer.lr", 0.001)), int(given.get("seed", 0))
    runs = json.loads(given["runs"]) if given["runs"].startswith('"') else given["runs"]
    run = Path(runs) / Path(experiment).stem / f"seed{seed}"
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.yaml").write_text(json.dumps({"seed": seed, "optimizer": {"lr": lr}}))
    with (run / "calls.txt").open("a") as calls:
        calls.write(" ".join(rest) + "\n")
    if "FAKE_CHILD" in os.environ:
        subprocess.Popen(["sleep", "600"])
    if matches("FAKE_FAIL", lr) or (matches("FAKE_ONCE", lr) and "--overwrite" not in rest):
        sys.exit("fake: the loss is not finite")
    if matches("FAKE_KILL", lr) and not {"--resume", "--overwrite"} & set(rest):
        os.kill(os.getpid(), signal.SIGKILL)
    if matches("FAKE_FULL", lr):
        sys.exit(f"fake: cannot be written ({os.strerror(errno.ENOSPC)}); make room")
    if matches("FAKE_HANG", lr):
        time.sleep(600)
    train(run, lr)
    if matches("FAKE_LINGER", lr):
        time.sleep(600)
    (run / "metrics.json").write_text(json.dumps({"mean": {"dice": 0.5 + lr, "hd95_um": 3.0 + seed}}))
    (run / "done.json").write_text("{}")


def train(run, lr):
    curves = run / "curves" / "from_step0" / "metrics.csv"
    curves.parent.mkdir(parents=True, exist_ok=True)
    curves.write_text("step,train/loss,val/dice\n")
    for step in range(STEPS):
        with curves.open("a") as file:
            file.write(f"{step},,{lr * (step + 1) / STEPS}\n")


if __name__ == "__main__":
    main()
