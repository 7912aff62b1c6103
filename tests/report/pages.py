"""What tests of the page in a browser share: screens, what a page is made of, and what is read back from one."""

import base64
import contextlib
import io

import numpy as np
from comparisons import write_curves
from PIL import Image

from distill3d.evaluation.figures.canvas import FALSE, HIT, LOST
from distill3d.evaluation.figures.scene import scene
from distill3d.evaluation.figures.web import Picture, picture
from distill3d.report.page.curves import curve_charts
from distill3d.report.page.snapshots import scaled
from distill3d.report.page.worst import Card, Worst, WorstCase
from distill3d.volumes.tree import Tree

WIDE, PHONE = {"width": 1400, "height": 900}, {"width": 390, "height": 844}
GOLD = Tree(  # right above, missed below
    np.array([[10.0, 10, 10], [10, 10, 70], [10, 50, 70]]), np.ones(3), np.array([-1, 0, 1]), np.full(3, 3)
)
PRED = Tree(
    np.array([[10.0, 10, 10], [10, 10, 70], [18, 10, 10], [18, 50, 20]]),
    np.ones(4),
    np.array([-1, 0, -1, 2]),
    np.full(4, 3),
)
SLOW = 60_000  # ms; the machine may be busy
SET_BACK = """() => {
    const all = (query) => [...document.querySelectorAll(query)];
    all('.key[aria-pressed=false]').forEach((key) => key.click());
    all('[data-pick]').forEach((pick) => { pick.selectedIndex = 0; pick.dispatchEvent(new Event('change')); });
    all('[data-filter]').forEach((filter) => { filter.value = ''; filter.dispatchEvent(new Event('input')); });
    all('details').forEach((details) => { details.open = false; });
    all('dialog').forEach((dialog) => dialog.close());
    scrollTo({ top: 0, behavior: 'instant' });
}"""


@contextlib.contextmanager
def visits(browser):
    """Open files in contexts of their own; afterwards nothing may have been complained of or asked of a network."""
    opened, heard, requests = [], [], []

    def go(path, *, viewport=WIDE, scheme="light", **more):
        context = browser.new_context(viewport=viewport, color_scheme=scheme, offline=True, **more)
        context.set_default_timeout(SLOW)
        opened.append(context)
        page = context.new_page()
        page.on("console", lambda message: heard.append((message.type, message.text)))
        page.on("pageerror", lambda error: heard.append(("error", str(error))))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready=yes]")
        return page

    yield go
    for context in opened:
        context.close()
    assert heard == []
    assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []


def gradient(shade) -> Picture:
    flat = np.tile(np.linspace(0, shade, 120, dtype=np.uint8)[:, None, None], (1, 160, 3))
    return picture(scaled(flat, 200), f"gradient up to {shade}")


def worst_of(names):
    cards = [Card("Image", "brightest along z", (gradient(90), gradient(120)))]
    trees = scene(gold=GOLD, pred=PRED, shape_zyx=(20, 60, 80), spacing_um=(1.0, 1.0, 1.0))
    cards += [
        Card(name, f"note of {name}", (gradient(150), gradient(250)), place, trees) for place, name in enumerate(names)
    ]
    place, walls = "rows 0 to 64, columns 0 to 64, all 8 slices", {"z": gradient(90)}  # as an older run leaves it
    return Worst((WorstCase("case_0", place, tuple(cards), walls),))


def shares(page):
    """How much of the canvas has each color of what is found, false and missed, however far away."""
    code = page.locator("canvas").last.evaluate("node => node.toDataURL()").removeprefix("data:image/png;base64,")
    drawn = np.asarray(Image.open(io.BytesIO(base64.b64decode(code))).convert("RGB"), float)
    bright = drawn[drawn.max(axis=-1) > 90]
    hues = bright / bright.max(axis=-1, keepdims=True)
    return {
        name: int((np.abs(hues - np.array(color) / max(color)).max(axis=-1) < 0.06).sum())
        for name, color in (("found", HIT), ("false", FALSE), ("missed", LOST))
    }


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
