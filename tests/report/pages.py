"""What tests of the page in a browser share: screens, what a page is made of, and what is read back from one."""

import numpy as np
from comparisons import write_curves

from distill3d.report.page.curves import curve_charts
from distill3d.report.page.snapshots import Picture, picture, scaled
from distill3d.report.page.worst import Card, Worst, WorstCase

WIDE, PHONE = {"width": 1400, "height": 900}, {"width": 390, "height": 844}
SLOW = 60_000  # ms; the machine may be busy


def gradient(shade) -> Picture:
    flat = np.tile(np.linspace(0, shade, 120, dtype=np.uint8)[:, None, None], (1, 160, 3))
    return picture(scaled(flat, 200), f"gradient up to {shade}")


def worst_of(names):
    cards = [Card("Image", "brightest along z", (gradient(90), gradient(120)))]
    cards += [Card(name, f"note of {name}", (gradient(150), gradient(250)), place) for place, name in enumerate(names)]
    return Worst((WorstCase("case_0", "rows 0 to 64, columns 0 to 64, all 8 slices", tuple(cards)),))


def curves_of(comparison, folder):
    folders = {}
    for place, arm in enumerate(comparison.arms):
        folders[arm.name] = tuple(folder / str(place) / str(run.seed) for run in arm.runs)
        for seed, path in enumerate(folders[arm.name]):
            write_curves(path, seed=10 * place + seed)
    return curve_charts(folders, [arm.name for arm in comparison.arms])


def column(page, table, cell):
    """Texts of a column of the rows that are shown."""
    return page.eval_on_selector_all(
        f"#{table} tbody tr:not([hidden])", f"rows => rows.map(row => row.cells[{cell}].dataset.sort)"
    )


def hidden_arms(page):
    """Traces that are not drawn, by chart."""
    return page.eval_on_selector_all(
        ".chart", "all => all.flatMap(c => (c.data ?? []).filter(t => t.visible === 'legendonly').map(t => t.meta))"
    )
