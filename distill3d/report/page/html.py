"""One HTML file from a comparison: everything inside, nothing loaded. It computes no statistics and judges nothing."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from distill3d.evaluation.figures.web import asset, content_policy, environment
from distill3d.report import numerals
from distill3d.report.content import Arm, Comparison
from distill3d.report.page.across_charts import MOST_BANDS, profile_chart, rank_chart, rank_rows
from distill3d.report.page.case_charts import case_changes, case_scatter
from distill3d.report.page.charts import Figure, arm_keys, forest
from distill3d.report.page.curves import TermChart, curve_charts, term_title
from distill3d.report.page.live import Live
from distill3d.report.page.low_data import LowDataLine, low_data, low_data_lines
from distill3d.report.page.palette import DARK, LIGHT, look, style_rules
from distill3d.report.page.rows import case_panels, head_table
from distill3d.report.page.worst import MOST_ARMS, Worst, worst_cases
from distill3d.report.text.markdown import CONTRASTS
from distill3d.report.text.wording import answer
from distill3d.storage.run_folder import write_text

HERE = "distill3d.report.page"


def write_page(comparison: Comparison, folders: Mapping[str, tuple[Path, ...]], out: Path) -> Path:
    """Write a comparison as one file that opens anywhere.

    Args:
        comparison: what to say.
        folders: arm -> its run folders, in the order of its runs; curves and projections are read from there.
        out: the file to write; its folder is made.

    Returns:
        ``out``.
    """
    curves = curve_charts(folders, [arm.name for arm in comparison.arms])
    write_text(out, render(comparison, curves=curves, worst=worst_cases(comparison, folders)))
    return out


def render(
    comparison: Comparison,
    *,
    curves: Sequence[TermChart] = (),
    worst: Worst = Worst(),  # noqa: B008 - immutable
    live: Live | None = None,
) -> str:
    """Return the page of a comparison.

    Args:
        comparison: what to say.
        curves: charts of learning curves.
        worst: pictures of the worst cases.
        live: what is going on, for the dashboard; such a page asks its server for changes.
    """
    lines = low_data_lines(comparison)
    plotly, script = _plotly(), asset("view.js") + asset("page.js", HERE)
    figures = _figures(comparison, curves, lines, live)
    content = {
        "c": comparison,
        "answer": answer(comparison),
        "head": head_table(comparison),
        "case_panels": case_panels(comparison) if comparison.arms else [],
        "curves": curves,
        "low_data": lines,
        "contrasts_intro": CONTRASTS,
        "worst": worst,
        "scenes": _scenes(worst),
        "live": live,
        "keys": arm_keys(comparison.arms),
        "sections": _sections(comparison, curves, lines, worst, live),
        "n_runs": sum(len(arm.runs) for arm in comparison.arms),
        "score_of": {score.key: score for score in comparison.scores},
        "ranking_of": {ranking.score: ranking for ranking in comparison.rankings},
        "most_bands": MOST_BANDS,
        "place_of": {arm.name: place for place, arm in enumerate(comparison.arms)},
        "shown_arms": _shown_arms(comparison),
        "created": _created(comparison.created),
        "version": version("distill3d"),
        "policy": content_policy((plotly, script), live=live is not None),
        "plotly": Markup(plotly),  # noqa: S704 - a file of the plotly package, and one of ours
        "script": Markup(script),  # noqa: S704
        "style": Markup(_style()),  # noqa: S704
        "figures": figures,
    }
    return _environment().get_template("page.html.j2").render(content)


def _environment() -> Environment:
    made = environment(HERE)
    helpers: dict[str, Any] = {
        name: getattr(numerals, name)
        for name in ("number", "interval", "probability", "titled", "unit_name", "short", "breakable")
    }
    made.globals.update(
        helpers, look=look, term_title=term_title, rank_rows=rank_rows, unique_packages=_unique_packages
    )
    return made


def _figures(
    comparison: Comparison, curves: Sequence[TermChart], lines: Sequence[LowDataLine], live: Live | None
) -> dict[str, Figure]:
    """Name -> chart."""
    figures: dict[str, Figure] = {}
    if len(comparison.arms) > 1:
        for place, score in enumerate(comparison.scores):
            figures[f"forest-{place}"] = forest(comparison, score)
            figures[f"cases-{place}"] = case_scatter(comparison, score)
            figures[f"changes-{place}"] = case_changes(comparison, score)
            figures[f"profile-{place}"] = profile_chart(comparison, score)
        places = {score.key: place for place, score in enumerate(comparison.scores)}
        ranked = [ranking for ranking in comparison.rankings if ranking.ranks]
        figures |= {f"ranks-{places[ranking.score]}": rank_chart(comparison, ranking) for ranking in ranked}
    if lines:
        figures |= {f"labels-{place}": low_data(lines, score) for place, score in enumerate(comparison.scores)}
    figures |= {f"curve-{place}": curve.figure for place, curve in enumerate(curves)}
    for place, run in enumerate(live.runs if live else ()):
        if run.figure is not None:
            figures[f"live-{place}"] = run.figure
    return figures


def _sections(
    comparison: Comparison,
    curves: Sequence[TermChart],
    lines: Sequence[LowDataLine],
    worst: Worst,
    live: Live | None,
) -> list[tuple[str, str]]:
    titles = {
        "running": "Going on" if live else "",
        "sweeps": "Sweeps" if live and live.sweeps else "",
        "summary": "Scores",
        "differences": "Differences",
        "cases": "Cases",
        "curves": "Curves" if curves else "",
        "labels": "Labels" if lines else "",
        "worst": "Worst cases" if worst.cases or worst.remark else "",
        "budget": "Budget",
        "provenance": "Provenance",
    }
    shown = titles if comparison.arms else {key: titles[key] for key in ("running", "sweeps")}
    return [(anchor, title) for anchor, title in shown.items() if title]


def _shown_arms(comparison: Comparison) -> str:
    count = len(comparison.arms)
    if count <= MOST_ARMS:
        return "every arm"
    return f"the baseline and the {MOST_ARMS - 1} other arms with the best mean, of {count}"


def _scenes(worst: Worst) -> list[dict[str, Any]]:
    """Return the trees to turn by case: the pictures of the walls, and of every card its scene or none."""
    return [
        {
            "walls": {name: picture.uri for name, picture in case.walls.items()},
            "cards": [card.scene for card in case.cards],
        }
        for case in worst.cases
    ]


def _created(stamp: str) -> str:
    try:
        return f"{datetime.fromisoformat(stamp):%d %B %Y, %H:%M %Z}".strip()
    except ValueError:
        return stamp


def _unique_packages(arm: Arm) -> list[str]:
    """Return the package lists of an arm's runs as text, each once."""
    versions = (", ".join(f"{name} {number}" for name, number in run.packages.items()) for run in arm.runs)
    return [text for text in dict.fromkeys(versions) if text]


@functools.cache
def _plotly() -> str:
    """Return Plotly's code, as it may stand in a page: its bundle of basic charts (MIT, npm plotly.js-basic-dist-min).

    The whole of Plotly is four times as large, and half of the time in which a page opens.
    """
    return asset("plotly-basic.min.js", HERE).replace("\r\n", "\n").replace("</script", "<\\/script")


def _style() -> str:
    """Return the style sheet with the arms' colors for light and dark."""
    dark = f"{asset('dark.css', HERE).strip()} {style_rules(DARK)}"
    return (asset("style.css", HERE) + asset("view.css")).replace("@light@", style_rules(LIGHT)).replace("@dark@", dark)
