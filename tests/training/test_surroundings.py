"""What a run finds around it: a launcher, a cluster, W&B's server, shared memory, a notebook's variables."""

import getpass
import importlib
import logging
import os
import shutil
from types import SimpleNamespace

import pytest
import torch
import wandb
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from distill3d.config.registry import STUDENTS, Component
from distill3d.config.schema import PatchConfig, TrainerConfig
from distill3d.data import workers
from distill3d.errors import ConfigError, InputError, TrainingError, UserError
from distill3d.students.base import Student
from distill3d.sweep import trial_process
from distill3d.training import fit, loggers
from distill3d.training.launch import cluster_environment
from distill3d.training.patch_size import check_patch_size

BATCH = {"SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "train", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
SRUN = BATCH | {"SLURM_STEP_ID": "0", "SLURM_NNODES": "1"}
ELASTIC = {"TORCHELASTIC_RUN_ID": "1", "RANK": "0", "LOCAL_RANK": "0"}


@pytest.fixture
def environment(monkeypatch):
    """Set variables, with none of a launcher's beside them."""

    def put(variables):
        for name in os.environ:
            if name.startswith(("SLURM_", "TORCHELASTIC_")) or name.endswith(("RANK", "WORLD_SIZE", "MASTER_ADDR")):
                monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return put


@pytest.mark.parametrize(
    ("variables", "devices", "nodes", "kind"),
    [
        ({}, 2, 1, LightningEnvironment),
        ({"NODE_RANK": "1", "MASTER_ADDR": "there"}, 1, 2, LightningEnvironment),
        ({"LOCAL_RANK": "1", "WORLD_SIZE": "2"}, 2, 1, LightningEnvironment),  # a rank that Lightning started
        (BATCH | {"SLURM_NTASKS": "4"}, 1, 1, LightningEnvironment),  # salloc, a notebook, a script without srun
        (SRUN | {"SLURM_NTASKS": "4", "SLURM_STEP_ID": "4294967290"}, 1, 1, LightningEnvironment),
        (BATCH | {"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "interactive"}, 2, 1, LightningEnvironment),
        (SRUN | {"SLURM_NTASKS": "1"}, 1, 1, SLURMEnvironment),
        (SRUN | {"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "2"}, 2, 2, SLURMEnvironment),
        (ELASTIC | {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}, 2, 1, TorchElasticEnvironment),
    ],
)
def test_the_processes_asked_for_are_those_of_the_launcher(environment, variables, devices, nodes, kind):
    environment(variables)
    assert type(cluster_environment(TrainerConfig(devices=devices, num_nodes=nodes))) is kind


@pytest.mark.parametrize(
    ("variables", "devices", "nodes", "why"),
    [
        (BATCH | {"SLURM_NTASKS": "1"}, 2, 1, "SLURM started 1 process; accepted: srun .*--ntasks-per-node=2, or"),
        (SRUN | {"SLURM_NTASKS": "1"}, 2, 1, "srun started 1 process; .*--ntasks-per-node=2"),
        (SRUN | {"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "4"}, 2, 1, "srun started 4 processes"),
        (SRUN | {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}, 1, 2, "--nodes=2 and --ntasks-per-node=1"),
        (SRUN | {"SLURM_NTASKS": "2"}, 2, 1, "--ntasks-per-node=2"),
        (ELASTIC | {"WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}, 2, 1, "torchrun started 1 process; .*-per-node=2"),
        (ELASTIC | {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}, 1, 1, "torchrun started 2 processes"),
        ({"LOCAL_RANK": "0", "WORLD_SIZE": "1"}, 2, 1, "started 1 process"),
        ({}, 1, 2, "trainer.num_nodes=2, but nothing started processes on other nodes"),
    ],
)
def test_other_processes_than_asked_for_are_refused_in_one_line(environment, variables, devices, nodes, why):
    environment(variables)
    with pytest.raises(ConfigError, match=why) as caught:
        cluster_environment(TrainerConfig(devices=devices, num_nodes=nodes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("trainer.num_nodes=2", "num_nodes=2"),
        ("trainer.strategy=dpp", "trainer: .*'dpp'"),
        ("trainer.accelerator=gpu", "trainer: "),
        ("student.skeleton_head=shared", r"no loss trains its skeleton head; .*losses=\{overlap: \{\}, skeleton_head"),
        ("losses={overlap: {}, skeleton_head: {}}", "needs a student with a skeleton head"),
        ("patches.size_zyx=[1,2,2]", r"patches.size_zyx=\[1, 2, 2\].*accepted: \[1, 2, 4\] or larger"),
        ("logging.wandb=online", "logging.wandb=online: no key"),
    ],
)
def test_a_run_that_cannot_train_is_refused_before_it_takes_its_folder(tiny, monkeypatch, environment, override, why):
    environment({})
    monkeypatch.setattr(wandb, "login", lambda **_: False)
    if override == "trainer.accelerator=gpu" and torch.cuda.is_available():
        pytest.skip("this machine has a GPU, so asking for one is right; CI has none and runs it")
    experiment = tiny(override)
    with pytest.raises(UserError, match=why) as caught:
        fit.fit(experiment)
    assert (caught.value.exit_code, "\n" in str(caught.value)) == (2, False)
    assert not os.path.exists(experiment.runs)  # noqa: PTH110 - a path of settings


TORCHRUN, SRUN_2 = ELASTIC | {"LOCAL_RANK": "1", "RANK": "1"}, SRUN | {"SLURM_PROCID": "1", "SLURM_LOCALID": "1"}


@pytest.mark.parametrize(
    ("variables", "verb", "meeting", "error", "said"),
    [
        ({}, "fit", False, ConfigError, True),
        (ELASTIC, "fit", False, ConfigError, True),
        (TORCHRUN, "fit", False, ConfigError, False),
        (TORCHRUN, "pretrain", False, InputError, False),
        (TORCHRUN, "fit", True, TrainingError, True),  # one rank alone may fail in training
        (TORCHRUN, "predict", False, InputError, True),  # of which each does another part
        (SRUN, "fit", False, InputError, True),
        (SRUN_2, "fit", False, InputError, False),
        (SRUN_2 | {"SLURM_LOCALID": "0", "SLURM_NODEID": "1"}, "fit", False, InputError, True),  # another machine
        ({"LOCAL_RANK": "1", "WORLD_SIZE": "2"}, "fit", False, InputError, True),  # started in training, by Lightning
    ],
)
def test_what_all_processes_of_a_machine_refuse_is_said_once_and_ends_each(
    environment, monkeypatch, capsys, variables, verb, meeting, error, said
):
    def app(*, prog_name):
        assert prog_name == "distill3d"
        raise error("no such thing")

    environment(variables)
    main = importlib.import_module("distill3d.__main__")
    monkeypatch.setattr(main, "app", app)
    monkeypatch.setattr("sys.argv", ["distill3d", verb, "scratch"])
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: meeting)
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == error.exit_code
    assert capsys.readouterr().err == "distill3d: no such thing\n" * said


# ------------------------------------------------------------ W&B


@pytest.fixture
def client(monkeypatch):
    """W&B's client with or without a key, and a server that answers or not; returns how often it was asked."""

    def put(*, key=True, server=True, refuses=""):
        asked = []

        def login(*, verify, prompt):
            assert not prompt
            if verify and refuses:
                raise wandb.errors.AuthenticationError(refuses)
            return key

        monkeypatch.setattr(wandb, "setup", lambda _: SimpleNamespace(settings=SimpleNamespace(base_url="http://w")))
        monkeypatch.setattr(wandb, "login", login)
        monkeypatch.setattr(loggers, "answers", lambda url: asked.append(url) or server)
        return asked

    return put


@pytest.mark.parametrize(
    ("chosen", "variable", "around", "mode", "asked", "warnings"),
    [
        ("auto", None, {}, "online", 1, 0),
        ("auto", "", {}, "online", 1, 0),  # an empty variable is none
        ("auto", None, {"key": False}, "offline", 0, 0),
        ("auto", None, {"server": False}, "offline", 1, 1),
        ("auto", None, {"refuses": "key revoked"}, "offline", 1, 1),
        ("auto", "disabled", {}, "disabled", 0, 0),
        ("auto", "dryrun", {}, "offline", 0, 0),
        ("online", "offline", {}, "online", 1, 0),
        ("offline", "online", {"server": False}, "offline", 0, 0),
    ],
)
def test_wandb_is_online_where_key_and_server_are_there(
    tiny, monkeypatch, client, caplog, chosen, variable, around, mode, asked, warnings
):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    if variable is not None:
        monkeypatch.setenv("WANDB_MODE", variable)
    asks = client(**around)
    with caplog.at_level(logging.WARNING):
        assert loggers.wandb_mode(tiny(f"logging.wandb={chosen}")) == mode
    assert (len(asks), len(caplog.records)) == (asked, warnings)
    assert os.environ.get("WANDB_MODE") == (variable or None)


@pytest.mark.parametrize(
    ("chosen", "variable", "around", "why"),
    [
        ("online", "", {"key": False}, "logging.wandb=online: no key of W&B is known"),
        ("online", "", {"server": False}, "logging.wandb=online: http://w cannot be reached; accepted: .*offline"),
        ("auto", "online", {"server": False}, "WANDB_MODE=online: http://w cannot be reached"),
        ("online", "", {"refuses": "key revoked"}, "key revoked"),
        ("auto", "onlne", {}, "WANDB_MODE=onlne in the environment; accepted: online, offline, disabled"),
    ],
)
def test_what_was_asked_of_wandb_and_is_not_possible_is_refused(
    tiny, monkeypatch, client, chosen, variable, around, why
):
    monkeypatch.setenv("WANDB_MODE", variable)
    client(**around)
    with pytest.raises(InputError, match=why):
        loggers.wandb_mode(tiny(f"logging.wandb={chosen}"))


# ------------------------------------------------------------ the machine


@pytest.mark.parametrize(
    ("wanted", "free_mib", "processes", "fit_in", "warnings"),
    [(4, 4000, 1, 4, 0), (4, 64, 1, 2, 1), (4, 64, 2, 1, 1), (1, 4, 1, 0, 1), (0, 0, 1, 0, 0)],
)
def test_there_are_as_many_workers_as_their_batches_fit_into_shared_memory(
    monkeypatch, caplog, tmp_path, wanted, free_mib, processes, fit_in, warnings
):
    monkeypatch.setattr(workers, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free_mib * 2**20))
    with caplog.at_level(logging.WARNING):
        count = workers.workers_that_fit(wanted, batch_bytes=3 * 2**20, processes=processes)
    assert (count, len(caplog.records)) == (fit_in, warnings)


def test_a_notebooks_backend_and_a_user_without_a_name_stop_nothing(monkeypatch):
    def nameless():
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    monkeypatch.setenv("USER", "")
    monkeypatch.setattr(getpass, "getuser", nameless)
    importlib.reload(importlib.import_module("distill3d.__main__"))
    assert (os.environ["MPLBACKEND"], os.environ["USER"]) == ("agg", f"uid{os.getuid()}")


def test_a_trial_is_no_task_of_the_allocation_that_the_sweep_runs_in(monkeypatch, environment):
    environment(SRUN | ELASTIC | {"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "4", "SLURM_TMPDIR": "/scratch"})
    trial = SimpleNamespace(folder=trial_process.Path("t"))
    kept = trial_process._environment(SimpleNamespace(name="s"), trial)
    assert [name for name in kept if name.startswith(("TORCHELASTIC", "RANK", "LOCAL_RANK"))] == []
    job = {"SLURM_JOB_ID", "SLURM_JOB_NAME", "SLURM_NNODES", "SLURM_TMPDIR"}
    assert {name for name in kept if name.startswith("SLURM_")} == job


# ------------------------------------------------------------ patches


class Picky(Student):
    """Refuses what is below 40 voxels deep; draws numbers and counts its calls."""

    def __init__(self):
        super().__init__()
        self.stride_zyx = (16, 1, 1)
        self.layer = torch.nn.Conv3d(1, 1, 1)
        self.register_buffer("calls", torch.zeros(()))

    def segment(self, image):
        self.calls += 1
        if image.shape[2] < 40:
            raise RuntimeError("kernel larger than\nits input")
        return self.layer(image) * torch.rand(())


@pytest.mark.parametrize("side", [4, 96])  # run, and imagined
def test_a_patch_too_small_is_refused_with_the_smallest_that_fits_and_nothing_changes(side):
    student, before = Picky(), torch.get_rng_state()
    check_patch_size(student, PatchConfig(size_zyx=(48, side, side)))
    with pytest.raises(ConfigError, match=rf"\(kernel larger than\); accepted: \[48, {side}, {side}\] or larger"):
        check_patch_size(student, PatchConfig(size_zyx=(20, side, side)))
    assert (student.calls.item(), student.training) == (0, True)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("side", [4, 96])
@pytest.mark.parametrize("mistake", [AttributeError, TypeError])
def test_a_mistake_in_a_networks_code_is_not_taken_for_a_patch_too_small(monkeypatch, mistake, side):
    student = Picky()

    def wrong(image):
        student.calls += 1
        raise mistake("'NeuronLayer' object has no attribute 'weight'")

    monkeypatch.setattr(student, "segment", wrong)
    with pytest.raises(mistake, match="has no attribute"):
        check_patch_size(student, PatchConfig(size_zyx=(48, side, side)))
    assert (student.calls.item(), student.training) == (0, True)


@pytest.mark.parametrize(
    ("norm", "batch_size", "fits"), [("instance", 2, False), ("batch", 1, False), ("batch", 2, True)]
)
def test_a_coarsest_map_of_one_voxel_is_refused_where_it_cannot_be_normalized(norm, batch_size, fits):
    config = STUDENTS["unet3d"].config(channels=(2, 2, 2), depth_strides=(2, 2), norm=norm)
    student = STUDENTS.build(Component("unet3d", config))
    patches = PatchConfig(size_zyx=(4, 4, 4), batch_size=batch_size)
    if fits:
        check_patch_size(student, patches)
    else:
        with pytest.raises(ConfigError, match=r"accepted: \[4, 4, 8\] or larger"):
            check_patch_size(student, patches)


@pytest.mark.parametrize(("length", "count"), [(workers.SOCKET_PATH, 2), (workers.SOCKET_PATH + 1, 0)])
def test_data_workers_can_send_through_the_temporary_folder_or_there_are_none(
    monkeypatch, caplog, tmp_path, length, count
):
    folder = f"/{'t' * (length - 1)}"
    monkeypatch.setattr(workers, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr("tempfile.tempdir", folder)
    with caplog.at_level(logging.WARNING):
        assert workers.workers_that_fit(2, batch_bytes=1, processes=1) == count
    assert len(caplog.records) == (count == 0)
    own = "/pymp-12345678/listener-12345678"  # as multiprocessing names them
    assert (len(folder + own) <= 107) == (count > 0)
