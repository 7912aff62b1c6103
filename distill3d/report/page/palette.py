"""Colors, dashes and markers of arms, the same in every chart.

A chart names colors as ``var(--arm-1)``; the page's style sheet gives them a value for light and for dark.
"""

from __future__ import annotations

from typing import NamedTuple, final

# Okabe and Ito's hues, darkened or lightened until they stand out at 3:1 from the page. The baseline is gray.
LIGHT = ("#5b6470", "#0072b2", "#c65200", "#00805a", "#a8488a", "#7a6100", "#4b3fa7", "#007c8f")
DARK = ("#a9b3bf", "#5bb0e8", "#ff9248", "#35c99d", "#e793c6", "#e0b93a", "#aba0ff", "#4fd3e6")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "x")
SOFT = "2e"  # opacity of a band, two hexadecimal digits


@final
class Look(NamedTuple):
    """How an arm is drawn."""

    color: str
    soft: str
    dash: str
    symbol: str


def look(index: int) -> Look:
    """Return how the arm at this place is drawn; 0 is the baseline. Hues repeat with another dash and marker.

    >>> look(1)
    Look(color='var(--arm-1)', soft='var(--arm-1-soft)', dash='solid', symbol='square')
    >>> look(8).color, look(8).dash, look(8).symbol
    ('var(--arm-1)', 'dash', 'diamond')
    """
    others = len(LIGHT) - 1
    lap, hue = (0, 0) if index == 0 else divmod(index - 1, others)
    hue += index > 0
    return Look(
        f"var(--arm-{hue})", f"var(--arm-{hue}-soft)", DASHES[lap % len(DASHES)], SYMBOLS[(index + lap) % len(SYMBOLS)]
    )


def style_rules(colors: tuple[str, ...]) -> str:
    """Return the custom properties of a style sheet that give arms their colors.

    >>> style_rules(("#5b6470",))
    '--arm-0: #5b6470; --arm-0-soft: #5b64702e;'
    """
    return " ".join(f"--arm-{n}: {color}; --arm-{n}-soft: {color}{SOFT};" for n, color in enumerate(colors))
