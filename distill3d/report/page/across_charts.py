"""Charts of all arms over all cases as plain Plotly dictionaries: profiles and ranks.

Profiles are drawn as in Agarwal et al. 2021, figure 7. Ranks are drawn as in Demsar 2006, figure 1, with every name to
the left of its line, so that a phone can show them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from distill3d.evaluation.scores import Score
from distill3d.report.content import Arm, Comparison, Profile, Ranking
from distill3d.report.numerals import number, titled
from distill3d.report.page.charts import FAINT, INK, Figure, label, layout, legend_height
from distill3d.report.page.palette import look

MOST_BANDS = 4  # areas that can be told from each other; where there are more arms, the first two have one
ROW, BAR = 27, 11  # pixels an arm and a level of bars take
LEVEL = BAR / ROW
MOST_TICKS = 10


def profile_chart(comparison: Comparison, score: Score) -> Figure:
    """Draw the share of pairs that reach a score over all scores, as steps; the first arms with their bands."""
    profiles = {profile.arm: profile for profile in comparison.profiles if profile.score == score.key and profile.taus}
    seen = [tau for profile in profiles.values() for tau in (profile.taus[0], profile.taus[-1])]
    low, high = (min(seen), max(seen)) if seen else (0.0, 1.0)
    pad = 0.04 * (high - low) or 0.05 * abs(high) or 0.05
    ends = (low - pad, high + pad)
    banded = MOST_BANDS if len(comparison.arms) <= MOST_BANDS else 2
    bands, lines = [], []
    for place, arm in enumerate(comparison.arms):
        if arm.name in profiles:
            profile = profiles[arm.name]
            bands += _band(profile, place, score) if place < banded and profile.lows else []
            lines.append(_steps(profile, place, score, ends))
    return {
        "data": [*bands, *lines],
        "layout": layout(
            x=titled(score),
            y="pairs that reach it",
            height=440 + legend_height(len(lines)),
            showlegend=True,
            xaxis={"range": list(ends), "zeroline": False},
            yaxis={"range": [-0.02, 1.03], "tickformat": ".0%", "zeroline": False},
        ),
    }


def _steps(profile: Profile, place: int, score: Score, ends: tuple[float, float]) -> Figure:
    how, up = look(place), score.higher_is_better
    side = "at least" if up else "at most"
    return {
        **_shared(profile),
        # beyond its scores an arm reaches all or nothing
        "x": [ends[0], *profile.taus, ends[1]],
        "y": [1, *profile.shares, 0] if up else [0, *profile.shares, 1],
        "line": {"color": how.color, "dash": how.dash, "width": 2, "shape": _shape(up=up)},
        "hovertemplate": f"%{{y:.0%}} {side} %{{x:.{score.digits}f}}<extra>{label(profile.arm)}</extra>",
    }


def _band(profile: Profile, place: int, score: Score) -> list[Figure]:
    """Draw two lines without width; the area is between them."""
    shared = {
        **_shared(profile),
        "x": list(profile.taus),
        "line": {"width": 0, "shape": _shape(up=score.higher_is_better)},
        "hoverinfo": "skip",
        "showlegend": False,
    }
    return [
        {**shared, "y": list(profile.lows)},
        {**shared, "y": list(profile.highs), "fill": "tonexty", "fillcolor": look(place).soft},
    ]


def _shared(profile: Profile) -> Figure:
    name = label(profile.arm)
    return {"type": "scatter", "mode": "lines", "name": name, "meta": profile.arm, "legendgroup": profile.arm}


def _shape(*, up: bool) -> str:
    """How steps join: a share holds for all scores down to the next lower one, or up to the next higher one."""
    return "vh" if up else "hv"


def rank_chart(comparison: Comparison, ranking: Ranking) -> Figure:
    """Draw average ranks on a line, each arm's name beside its own; a bar joins arms that are not told apart."""
    places = {arm.name: place for place, arm in enumerate(comparison.arms)}
    critical, n_arms = ranking.critical_difference or 0.0, len(ranking.ranks)
    right = max(n_arms, 1 + critical)
    pad = 0.04 * (right - 1)
    levels = _levels(ranking)
    top = -(max(levels, default=0) + 2) * LEVEL
    rows = [
        trace
        for row, (arm, rank) in enumerate(ranking.ranks.items())
        for trace in _leader(arm, places[arm], rank, row, left=1 - pad, top=top)
    ]
    bars = [
        _bar(group, ranking, top + (level + 1) * LEVEL) for group, level in zip(ranking.groups, levels, strict=True)
    ]
    ceiling = top - 3.2 * LEVEL
    ticks = [rank for rank in range(1, n_arms + 1) if n_arms <= MOST_TICKS or rank == 1 or rank % 5 == 0]
    plain = {"zeroline": False, "showgrid": False}
    return {
        "data": [*rows, *bars, _scale(critical, top - 1.2 * LEVEL)],
        "layout": layout(
            x="average rank (1 is best)",
            y="",
            height=int(64 + ROW * (n_arms - ceiling)),
            margin={"b": 8},
            showlegend=False,
            xaxis={
                "side": "top",
                "range": [1 - pad, right + pad],
                "tickvals": ticks,
                **plain,
            },
            yaxis={
                "range": [n_arms - 0.4, ceiling],
                "tickvals": list(range(n_arms)),
                "ticktext": [f"{label(arm)}  " for arm in ranking.ranks],
                **plain,
            },
        ),
    }


def _levels(ranking: Ranking) -> list[int]:
    """Say at which level each bar is: the uppermost that no bar before it reaches into."""
    free_from: list[float] = []  # by level, the last rank that is taken
    levels = []
    for group in ranking.groups:
        first, last = ranking.ranks[group[0]], ranking.ranks[group[-1]]
        level = next((at for at, taken in enumerate(free_from) if taken < first), len(free_from))
        free_from[level : level + 1] = [last]
        levels.append(level)
    return levels


def _leader(arm: str, place: int, rank: float, row: int, *, left: float, top: float) -> list[Figure]:
    """Draw the line from the axis down to the arm's row and to its name, and the point where it turns."""
    how = look(place)
    shared = {"type": "scatter", "name": label(arm), "meta": arm, "legendgroup": arm}
    line = {"color": how.color, "width": 1.3, "dash": how.dash}
    turn = {**shared, "mode": "lines", "x": [rank, rank, left], "y": [top, row, row], "line": line, "hoverinfo": "skip"}
    marker = {"color": how.color, "symbol": how.symbol, "size": 10}
    hover = f"{number(rank, 2)}<extra>{label(arm)}</extra>"
    return [
        turn,
        {**shared, "mode": "markers", "x": [rank], "y": [row], "marker": marker, "hovertemplate": hover},
    ]


def _bar(group: Sequence[str], ranking: Ranking, y: float) -> Figure:
    hover = ", ".join(label(arm) for arm in group[:8]) + ", ..." * (len(group) > 8)
    ends = [ranking.ranks[group[0]], ranking.ranks[group[-1]]]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "not told apart",
        "x": ends,
        "y": [y, y],
        "line": {"color": INK, "width": 5},
        "hovertemplate": f"not told apart: {hover}<extra></extra>",
    }


def _scale(critical: float, y: float) -> Figure:
    """Draw how long the critical difference is."""
    return {
        "type": "scatter",
        "mode": "lines+markers+text",
        "name": "critical difference",
        "x": [1, 1 + critical],
        "y": [y, y],
        "line": {"color": FAINT, "width": 2},
        "marker": {"symbol": "line-ns", "size": 9, "line": {"color": FAINT, "width": 2}},
        "text": [f"critical difference {number(critical, 2)}", ""],
        "textposition": "top right",
        "textfont": {"size": 11.5, "color": INK},
        "hoverinfo": "skip",
        "cliponaxis": False,
    }


def rank_rows(ranking: Ranking, arms: Sequence[Arm]) -> list[Mapping[str, object]]:
    """Return a row per arm, best first: name, place, rank, and the numbers of the groups it is in."""
    places = {arm.name: place for place, arm in enumerate(arms)}
    return [
        {
            "name": arm,
            "place": places[arm],
            "rank": number(rank, 2),
            "groups": ", ".join(str(at) for at, group in enumerate(ranking.groups, 1) if arm in group),
        }
        for arm, rank in ranking.ranks.items()
    ]
