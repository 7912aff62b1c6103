"""`distill3d audit` shows what a fresh run transfers: the same rows, all of them, in a table that fits."""

import json
from typing import get_args

import forked
import lightning as L
import pytest
import torch

from distill3d.cli import app
from distill3d.config.registry import STRATEGIES, TEACHERS
from distill3d.data.datamodule import DistillDataModule
from distill3d.errors import ConfigError
from distill3d.experiment import load_experiment
from distill3d.training import fit
from distill3d.training.audit import audit_experiment
from distill3d.training.module import DistillModule
from distill3d.training.tables import FATES
from distill3d.transfer.base import Fate, TransferStrategy
from distill3d.transfer.none import NoTransferConfig

VIT = """
data: {name: simulated}
student: {name: vit3d}
teacher: {name: timm2d, architecture: vit_photo_patch8_96, weights: random}
"""
STRATEGY = {
    "vit_center": "{name: inflate, mode: center}",
    "vit_tubular": "{name: tubular, keep_block: true, fusion: concat, taps: 32}",
}
NAMES = ["inflate", "scratch", *STRATEGY]


@pytest.fixture(autouse=True)
def _no_start(monkeypatch):
    """Look at no patch: how near its teacher a student starts is `test_start`'s."""
    monkeypatch.setattr("distill3d.training.audit._start", lambda *_: None)


@pytest.fixture
def source(tmp_path):
    """Name -> what `audit` takes: a shipped experiment, or a file."""

    def get(name):
        if name not in STRATEGY:
            return name
        path = tmp_path / f"{name}.yaml"
        path.write_text(f"{VIT}strategy: {STRATEGY[name]}\n")
        return str(path)

    return get


@pytest.fixture
def call(capsys):
    def run_verb(*arguments):
        app(["audit", *arguments], standalone_mode=False)
        return capsys.readouterr().out

    return run_verb


def _fresh(experiment):
    """Build and transfer as a run does; also returns the student's entries before and after."""
    L.seed_everything(experiment.seed, workers=True, verbose=False)
    teacher = TEACHERS.build(experiment.teacher)
    module = DistillModule(experiment)
    before = {name: value.clone() for name, value in module.student.state_dict().items()}
    return module.transfer(teacher), before, module.student.state_dict()


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_those_of_a_fresh_module_with_its_true_norms(source, name):
    experiment = load_experiment(source(name))
    report = audit_experiment(experiment)
    audit, before, after = _fresh(experiment)
    assert report.audit == audit
    assert [row.name for row in report.audit.rows] == list(after)
    for row in report.audit.rows:
        assert row.shape == tuple(after[row.name].shape)
        assert row.norm_before == pytest.approx(float(torch.linalg.norm(before[row.name].double())), rel=1e-9)
        assert row.norm_after == pytest.approx(float(torch.linalg.norm(after[row.name].double())), rel=1e-9)


def test_rows_are_those_a_run_writes_although_a_run_prepares_data_first(tiny):
    experiment = tiny(
        "student={name: convnet3d, encoder: test_efficientnet, stages: 2}",
        "teacher={name: timm2d, architecture: test_efficientnet, weights: random}",
        "strategy={name: inflate, mode: center_noise}",
        "seed=5",
    )
    L.seed_everything(experiment.seed, workers=True, verbose=False)
    data = DistillDataModule(experiment)
    data.prepare_data()
    _, _, written = fit._build(experiment, data, None)
    assert audit_experiment(experiment).audit == written


@pytest.mark.parametrize("name", NAMES)
def test_totals_add_up_to_the_values_of_the_student(source, name):
    experiment = load_experiment(source(name))
    report = audit_experiment(experiment)
    student = DistillModule(experiment).student.state_dict()
    totals = report.audit.totals().values()
    assert sum(total["values"] for total in totals) == sum(value.numel() for value in student.values())
    assert sum(total["entries"] for total in totals) == len(student)
    assert report.as_dict()["counts"] == {fate: total["entries"] for fate, total in report.audit.totals().items()}


@pytest.mark.parametrize("name", NAMES)
def test_the_table_fits_and_names_every_entry_and_every_total(source, call, name):
    shown = call(source(name))
    report = audit_experiment(load_experiment(source(name)))
    assert max(map(len, shown.splitlines())) <= 100
    lines = {line.split()[0]: line.split() for line in shown.splitlines() if line.strip()}
    for row in report.audit.rows:
        assert row.name in lines
        assert row.fate in lines[row.name]
        assert ("*" in lines[row.name]) != row.trainable
        assert lines[row.name][-2:] == [f"{row.norm_before:.4g}", f"{row.norm_after:.4g}"]
    for fate, total in report.audit.totals().items():
        assert any(fate in line and f"{total['values']:,}" in line for line in shown.splitlines())
    assert f"transfer: {report.audit.copy_rate:.1%} of the student's trainable values" in shown


def test_the_longest_names_of_a_network_with_running_statistics_still_fit(call):
    shown = call("inflate", "student.encoder_norm=batch")
    assert "encoder.blocks.4.2.bn3.num_batches_tracked *" in shown
    assert max(map(len, shown.splitlines())) <= 100


def test_a_source_is_shown_where_its_name_differs(source, call):
    shown = call(source("vit_tubular"))
    assert "<- patch_embed.proj.weight; sum over" in shown
    assert "<- patch_embed.proj.bias" in shown
    assert shown.count("<- patch_embed") == 2
    assert "<- blocks" not in shown
    assert "THE TEACHER'S WEIGHTS ARE RANDOM" in shown


@pytest.mark.parametrize("name", NAMES)
def test_json_is_one_object_that_says_what_was_audited(source, call, name):
    printed = json.loads(call(source(name), "--json", "seed=3"))
    experiment = load_experiment(source(name), ["seed=3"])
    expected = audit_experiment(experiment)
    assert printed == json.loads(json.dumps(expected.as_dict()))
    assert (printed["experiment"], printed["seed"]) == (experiment.name, 3)
    assert printed["student"]["name"] == experiment.student.name
    assert printed["teacher"]["sha256"] == expected.teacher.sha256
    assert len(printed["rows"]) == sum(total["entries"] for total in printed["totals"].values())


def test_the_seed_reaches_the_student(source):
    zero, one = (audit_experiment(load_experiment("scratch", [f"seed={seed}"])).audit for seed in (0, 1))
    assert zero.rows[2].norm_before != one.rows[2].norm_before


def test_from_scratch_everything_is_new(call):
    report = audit_experiment("scratch")
    assert report.audit.totals().keys() == {"new"}
    assert report.audit.copy_rate == 0
    assert report.teacher.architecture == "none"
    assert "; no teacher" in call("scratch")


def test_a_strategy_that_keeps_no_audit_leaves_everything_new(tiny, monkeypatch):
    monkeypatch.setattr(STRATEGIES, "_entries", dict(STRATEGIES._entries))

    class Silent(TransferStrategy):
        """It moves nothing."""

    STRATEGIES.register("silent", config=NoTransferConfig)(Silent)
    report = audit_experiment(tiny("strategy={name: silent}"))
    assert report.audit.totals().keys() == {"new"}


def test_no_data_is_read_and_nothing_is_written(tmp_path, monkeypatch, call):
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / "real.yaml"
    path.write_text("data: {name: neurons, folder: /nowhere}\nstudent: {name: unet3d}\nruns: nowhere\n")
    monkeypatch.chdir(tmp_path)
    assert "head" in call(str(path))
    assert list(tmp_path.iterdir()) == [path]


def test_every_fate_is_explained():
    assert set(FATES) == set(get_args(Fate))


def test_a_pretraining_is_refused_in_one_line_with_exit_code_2():
    done = forked.run("audit", "pretrain_vit")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "distill3d: pretrain_vit trains a 2D teacher on photos; accepted: distill3d pretrain pretrain_vit"
    ]
    assert not done.stdout


@pytest.mark.parametrize(
    ("name", "override", "says"),
    [
        ("inflat", "seed=1", "did you mean 'inflate'"),
        ("inflate", "student.encodr=x", "did you mean 'encoder'"),
        ("inflate", "--jsn", "'--jsn' is neither an option nor an override"),
        ("inflate", "teacher={name: none}", "strategy inflate needs a teacher; set teacher.name"),
        ("inflate", "student={name: vit3d}", "'tf_efficientnet_lite0' is no ViT; set teacher.architecture"),
    ],
)
def test_what_is_wrong_is_one_line(call, name, override, says):
    with pytest.raises(ConfigError, match=says) as caught:
        call(name, override)
    assert "\n" not in str(caught.value)
