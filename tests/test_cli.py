"""The command line as a user meets it: words, exit codes, and nothing heavy before it is needed."""

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import forked
import numpy as np
import pytest
import tifffile
import yaml
from rich.console import Console

from distill3d import __main__, terminal
from distill3d.cli import app
from distill3d.config.registry import Registry
from distill3d.errors import UserError


@pytest.fixture
def call(capsys):
    """Run a verb in this process and return what it prints."""

    def run(*arguments: str) -> str:
        app(list(arguments), standalone_mode=False)
        return capsys.readouterr().out

    return run


def test_help_imports_nothing_heavy():
    code = (
        "import sys, distill3d\n"
        "from distill3d.cli import app\n"
        "app(['--help'], standalone_mode=False)\n"
        "heavy = {'torch', 'monai', 'lightning', 'timm', 'wandb', 'numpy', 'omegaconf'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "evaluate" in done.stdout


def test_without_a_verb_the_first_steps_are_listed(call):
    shown = call()
    assert all(f"distill3d {verb} " in shown for verb in ("list", "fit", "reconstruct", "compare", "report"))
    assert max(map(len, shown.splitlines())) <= 120


def test_a_shell_completes_verbs(monkeypatch):
    for name, value in (("_DISTILL3D_COMPLETE", "complete_bash"), ("COMP_WORDS", "distill3d rec"), ("COMP_CWORD", "1")):
        monkeypatch.setenv(name, value)
    assert forked.run().stdout.split() == ["reconstruct"]


def test_what_to_do_next_is_said_to_who_sits_at_a_terminal_only(monkeypatch):
    for is_terminal in (True, False):
        console = Console(file=io.StringIO(), force_terminal=is_terminal, color_system=None)
        monkeypatch.setattr(terminal, "stderr", lambda console=console: console)
        terminal.show_next("open it")
        assert console.file.getvalue() == "next      open it\n" * is_terminal


def test_building_an_experiment_imports_no_monai():
    """It costs seconds, which only a component of MONAI may cost."""
    modules = "experiment, losses, data.augment, transfer.matching.places, transfer.matching.relations"
    code = f"import sys, distill3d.{modules.replace(', ', ', distill3d.')}; sys.exit('monai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_public_names_are_there():
    import distill3d

    assert {"STRATEGIES", "TransferStrategy", "Batch", "fit", "evaluate", "read_swc"} < set(distill3d.__all__)
    named = {name: getattr(distill3d, name) for name in distill3d.__all__}
    for name, each in named.items():
        assert isinstance(each, Registry) if name.isupper() else each.__name__ == name
    with pytest.raises(AttributeError, match="No distill3d attribute typo"):
        _ = distill3d.typo


@pytest.mark.parametrize("verb", ["fit", "show", "check"])
def test_an_unknown_experiment_lists_the_known_and_exits_2(verb):
    done = forked.run(verb, "inflat")
    assert done.returncode == 2
    assert "unknown experiment 'inflat' (did you mean 'inflate'?)" in done.stderr
    assert "scratch" in done.stderr
    assert "most also with op_, op_hard_" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("target", ["experiment", "sweep"])
def test_make_without_a_name_says_so(target):
    stamp = Path("no") / ".distill3d-installed"
    make = ("make", "--no-print-directory", "-o", str(stamp), target, f"STAMP={stamp}", "BIN=no")
    done = subprocess.run(make, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[0].startswith(f"NAME is missing; accepted: make {target} NAME=")


def test_make_experiment_with_a_typo_lists_the_known_and_exits_2():
    stamp = Path("no") / ".distill3d-installed"  # -o: whatever is missing or old, nothing is installed
    settings = (f"STAMP={stamp}", f"BIN={Path(sys.executable).parent}", "NAME=typo")
    make = ("make", "--no-print-directory", "-o", str(stamp), "experiment", *settings)
    done = subprocess.run(make, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "known: " in done.stderr
    assert "inflate" in done.stderr
    assert not stamp.parent.exists()


def test_every_problem_of_the_settings_is_told_and_exits_2():
    done = forked.run("fit", "scratch", "trainer.step=3", "--student.encodr=x", "optimizer.lr=-1")
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert len(lines) == 3
    assert "did you mean 'steps'" in done.stderr
    assert "did you mean 'encoder'" in done.stderr
    assert "lr=-1" in done.stderr


def test_a_misspelt_flag_is_no_silent_override():
    done = forked.run("fit", "scratch", "--resum")
    assert done.returncode == 2
    assert "'--resum' is neither an option nor an override; accepted: key=value, or what --help lists" in done.stderr


def test_an_unknown_verb_exits_2():
    assert forked.run("fitt").returncode == 2


def test_show_prints_settings_that_can_be_run(call):
    shown = yaml.safe_load(call("show", "inflate", "seed=3"))
    assert shown["strategy"]["mode"] == "average"
    assert shown["seed"] == 3


def test_show_against_prints_only_what_differs(call):
    shown = call("show", "op_inflate", "--against", "op_scratch")
    assert "strategy.name" in shown
    assert "teacher.name" in shown
    assert "trainer" not in shown
    assert "student" not in shown
    assert max(map(len, shown.splitlines())) <= 100


def test_list_names_experiments_and_components(call):
    shown = call("list")
    for name in ("inflate", "op_hard", "simulated", "neurons", "convnet3d", "timm2d", "overlap"):
        assert name in shown
    assert max(map(len, shown.splitlines())) <= 100


def test_check_describes_every_case_and_the_tubes_of_the_student(call, tiny_file):
    shown = call("check", str(tiny_file), "student.tubular=[1]")
    # 9 taps on a map of 16 voxels: at either end 4 + 3 + 2 + 1 lie beyond it, in all 20 of 144
    assert "note: tubes: 14 % of the taps along z, y, x lie outside the map of (16, 16, 16)" in shown
    assert all(f"sim_00{k}" in shown for k in range(4))
    assert max(map(len, shown.splitlines())) <= 100


@pytest.mark.usefixtures("undrawn")
def test_evaluate_scores_again_and_prints_the_table(call, finished):
    finished.metrics.unlink()
    shown = call("evaluate", str(finished.path))
    assert "otsu" in shown
    assert finished.metrics.is_file()


def test_predict_writes_a_probability_stack_with_the_spacing(call, finished_once, tmp_path):
    import distill3d

    stack = np.random.default_rng(0).integers(1, 255, (10, 40, 50)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "cell[gfp].tif", stack)
    arguments = str(tmp_path / "cell[gfp].tif"), "--out", str(tmp_path / "p"), "--spacing", "3,1,1", "--channel", "0"
    shown = call("predict", str(finished_once), *arguments)
    assert shown == f"{tmp_path / 'p' / 'cell[gfp]_prob.tif'}\n"
    prob = distill3d.read_volume(shown.strip())
    assert prob.data.shape == stack.shape
    assert prob.data.dtype == np.uint8
    assert prob.spacing_um == pytest.approx((3, 1, 1))


def test_predict_refuses_what_is_no_run_and_what_is_no_stack(finished_once, tmp_path):
    with pytest.raises(UserError, match="no such checkpoint"):
        app(["predict", str(tmp_path), str(tmp_path / "x.tif")], standalone_mode=False)
    with pytest.raises(UserError, match=r"x\.tif"):
        app(["predict", str(finished_once), str(tmp_path / "x.tif")], standalone_mode=False)


def test_evaluate_refuses_what_is_no_run(tmp_path):
    done = forked.run("evaluate", str(tmp_path))
    assert done.returncode == 2
    assert "not a run folder" in done.stderr


@pytest.mark.parametrize(("kind", "file"), [(errno.ENOSPC, "runs/a/x.ckpt"), (errno.EFBIG, None)])
def test_a_full_disk_is_one_line_and_exit_1(kind, file, monkeypatch, capsys):
    def full(**_):
        raise OSError(kind, os.strerror(kind), file)

    monkeypatch.setattr(__main__, "app", full)
    with pytest.raises(SystemExit) as ended:
        __main__.main()
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    named = f"{file}: " if file else ""
    assert line.startswith(f"distill3d: {named}cannot be written ({os.strerror(kind)}); what was finished is whole")
