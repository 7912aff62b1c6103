"""The report on W&B, checked as the objects that would be sent: no server, no key."""

from dataclasses import replace

import pytest
from wandb_workspaces.reports.v2.interface import BarPlot, LinePlot, PanelGrid, SummaryMetric

from distill3d.errors import InputError
from distill3d.evaluation.scores import Score
from distill3d.report.content import Arm, Comparison
from distill3d.report.costs import Cost
from distill3d.report.wandb_report import save, wandb_report

DICE = Score(key="dice", label="Dice", unit="", higher_is_better=True, digits=3)
HD95 = Score(key="hd95_um", label="HD95", unit="um", higher_is_better=False, digits=1)


def arm(name):
    return Arm(
        name=name,
        experiment=name,
        question="",
        settings={},
        labelled=None,
        runs=(),
        scores={},
        cost=Cost(),
        teacher="",
        random_teacher=False,
    )


COMPARISON = Comparison(
    title="scratch and inflate",
    created="2026-11-25T00:00:00Z",
    baseline="scratch",
    scores=(DICE, HD95),
    arms=(arm("scratch"), arm("inflate")),
)


@pytest.fixture
def folders(tmp_path):
    """Two runs of each arm, with the ids that the loggers leave."""
    made = {}
    for name in ("scratch", "inflate"):
        made[name] = tuple(tmp_path / name / f"seed{seed}" for seed in range(2))
        for seed, folder in enumerate(made[name]):
            folder.mkdir(parents=True)
            (folder / "wandb_id").write_text(f"{name}{seed}\n")
    return made


def grid_of(report):
    (grid,) = [block for block in report.blocks if isinstance(block, PanelGrid)]
    return grid


def test_it_holds_the_text_a_set_of_runs_per_arm_and_a_panel_per_score(folders):
    report = wandb_report(COMPARISON, folders, text="**inflate** is INCONCLUSIVE", project="distill3d", entity="team")
    assert (report.title, report.project, report.entity) == ("scratch and inflate", "distill3d", "team")
    assert report.blocks[0].text == "**inflate** is INCONCLUSIVE"
    grid = grid_of(report)
    assert [(runs.name, runs.project, runs.entity) for runs in grid.runsets] == [
        ("scratch", "distill3d", "team"),
        ("inflate", "distill3d", "team"),
    ]
    for name, runs in zip(folders, grid.runsets, strict=True):
        assert runs.filters == f"Metric(\"ID\") in ['{name}0', '{name}1']"
        assert runs.groupby == ["config.name"]
    curves = [panel.y for panel in grid.panels if isinstance(panel, LinePlot)]
    bars = [(panel.title, panel.metrics) for panel in grid.panels if isinstance(panel, BarPlot)]
    assert curves == [["val/dice"], ["train/loss"]]
    assert bars == [("Dice", [SummaryMetric("test/dice")]), ("HD95 (µm)", [SummaryMetric("test/hd95_um")])]


def test_panels_lie_side_by_side_and_do_not_overlap(folders):
    many = replace(COMPARISON, scores=tuple(replace(DICE, key=f"score{n}") for n in range(4)))
    grid = grid_of(wandb_report(many, folders, text="", project="p"))
    places = [(p.layout.x, p.layout.y) for p in grid.panels]
    assert places == [(0, 0), (12, 0), (0, 10), (12, 10), (0, 20), (12, 20)]
    assert {(p.layout.w, p.layout.h) for p in grid.panels} == {(12, 10)}


def test_runs_that_were_never_logged_there_are_named(folders):
    for folder in folders["inflate"]:
        (folder / "wandb_id").unlink()
    with pytest.raises(InputError, match="never logged to W&B") as caught:
        wandb_report(COMPARISON, folders, text="", project="p")
    assert len(caught.value.lines) == 2


def test_without_a_key_nothing_is_sent_and_it_says_what_to_do(folders, monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    report = wandb_report(COMPARISON, folders, text="", project="p")
    with pytest.raises(InputError, match="W&B knows no key; accepted: wandb login, or WANDB_API_KEY"):
        save(report)
