"""The page in a real headless Chromium, from a file and without a network: it works, is accessible and stays safe."""

import shutil
import struct
import threading

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from comparisons import HOSTILE, compared, hostile, write_curves
from playwright.sync_api import expect, sync_playwright

from distill3d.report.comparison import run_folders
from distill3d.report.curves import curve_charts
from distill3d.report.dashboard import Dashboard, make_server
from distill3d.report.page import render
from distill3d.report.places import compare_places
from distill3d.report.snapshots import Picture, picture, scaled
from distill3d.report.worst import Card, WorstCase

WIDE, PHONE = {"width": 1400, "height": 900}, {"width": 390, "height": 844}
SLOW = 60_000  # ms; the machine may be busy
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium; playwright downloads none. Its event loop ends with this module."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on PATH: the page is not tested in a browser (Debian: apt-get install chromium)")
    with sync_playwright() as play:
        launched = play.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield launched
        launched.close()


def gradient(shade) -> Picture:
    flat = np.tile(np.linspace(0, shade, 120, dtype=np.uint8)[:, None, None], (1, 160, 3))
    return picture(scaled(flat, 200), f"gradient up to {shade}")


def worst_of(names):
    cards = [Card("Image", "brightest along z", (gradient(90), gradient(120)))]
    cards += [Card(name, f"note of {name}", (gradient(150), gradient(250)), place) for place, name in enumerate(names)]
    return [WorstCase("case_0", "rows 0 to 64, columns 0 to 64, all 8 slices", tuple(cards))]


def curves_of(comparison, folder):
    folders = {}
    for place, arm in enumerate(comparison.arms):
        folders[arm.name] = tuple(folder / str(place) / str(run.seed) for run in arm.runs)
        for seed, path in enumerate(folders[arm.name]):
            write_curves(path, seed=10 * place + seed)
    return curve_charts(folders, [arm.name for arm in comparison.arms])


def labels(comparison):
    """Labelled volumes by arm, so that there are low-data curves."""
    return {arm: 1 + place % 2 for place, arm in enumerate(comparison)}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    gains = {"op_scratch": 0.0, "op_kd_inflate": 0.06, "op_kd_cosine": 0.004, "op_shuffled": -0.08}
    comparison = compared(gains, cases=12, labelled=labels(gains), missing=True)
    page = render(
        comparison,
        curves=curves_of(comparison, folder),
        worst=worst_of([arm.name for arm in comparison.arms]),
    )
    (folder / "index.html").write_text(page)
    return folder / "index.html"


@pytest.fixture
def visit(browser):
    """Open a file in a context of its own; afterwards nothing may have been complained of or asked of a network."""
    opened, heard, asked = [], [], []

    def go(path, *, viewport=WIDE, scheme="light", **more):
        context = browser.new_context(viewport=viewport, color_scheme=scheme, offline=True, **more)
        context.set_default_timeout(SLOW)
        opened.append(context)
        page = context.new_page()
        page.on("console", lambda message: heard.append((message.type, message.text)))
        page.on("pageerror", lambda error: heard.append(("error", str(error))))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready=yes]")
        return page

    yield go
    for context in opened:
        context.close()
    assert heard == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []


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


def test_all_charts_that_are_shown_are_drawn(visit, file):
    page = visit(file)
    shown = page.eval_on_selector_all(".chart", "all => all.filter(c => c.offsetParent).length")
    drawn = page.eval_on_selector_all(".chart", "all => all.filter(c => c.querySelector('svg.main-svg')).length")
    assert shown == drawn >= 12  # four scores twice, two of cases, four of curves


def test_a_click_on_a_head_sorts_by_value_and_says_so(visit, file):
    page = visit(file)
    head = page.locator("#t-summary thead th").nth(1)
    head.get_by_role("button").click()
    values = [float(value) for value in column(page, "t-summary", 1)]
    assert values == sorted(values, reverse=True)
    assert head.get_attribute("aria-sort") == "descending"
    head.get_by_role("button").press("Enter")  # the keyboard works as well
    values = [float(value) for value in column(page, "t-summary", 1)]
    assert values == sorted(values)
    assert head.get_attribute("aria-sort") == "ascending"
    page.locator("#t-summary thead th").nth(0).get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "none"
    names = column(page, "t-summary", 0)
    assert names == sorted(names)


def test_what_has_no_value_sorts_last_in_both_directions(visit, file):
    page = visit(file)
    page.select_option("#pick-score", "1")
    place = page.eval_on_selector_all(
        "#t-cases-1 tbody tr",
        "rows => [...rows].map(r => [...r.cells].findIndex(c => c.dataset.sort === '')).find(i => i > 0)",
    )
    button = page.locator("#t-cases-1 thead th").nth(place).get_by_role("button")
    for reverse in (True, False):
        button.click()
        *values, last = column(page, "t-cases-1", place)
        assert last == ""
        assert [float(value) for value in values] == sorted(map(float, values), reverse=reverse)


def test_a_filter_keeps_rows_that_hold_all_words_and_counts_them(visit, file):
    page = visit(file)
    page.fill("#filter-t-summary", "OP_KD better")
    assert {*column(page, "t-summary", 0)} <= {"op_kd_inflate", "op_kd_cosine"}
    assert "op_kd_inflate" in column(page, "t-summary", 0)
    assert "of 5 rows" in page.inner_text('[data-count="t-summary"]')
    page.fill("#filter-t-summary", "nothing like this")
    assert column(page, "t-summary", 0) == []
    page.fill("#filter-t-summary", "")
    assert len(column(page, "t-summary", 0)) == 5


def test_a_legend_hides_an_arm_and_the_other_theme_keeps_it_hidden(visit, file):
    page = visit(file)
    chart = page.locator('[data-figure="cases-0"]')
    chart.scroll_into_view_if_needed()
    chart.locator(".legendtoggle").nth(1).click()
    expect(chart.locator(".legend .traces").nth(1)).to_have_css("opacity", "0.5")
    page.click("#theme")
    assert hidden_arms(page) == ["op_kd_inflate"]


def test_an_arms_button_hides_it_in_all_charts_and_brings_it_back(visit, file):
    page = visit(file)
    key = page.locator('.key[data-arm="op_shuffled"]')
    key.press("Space")
    assert key.get_attribute("aria-pressed") == "false"
    hidden = hidden_arms(page)
    assert set(hidden) == {"op_shuffled"}
    assert len(hidden) > 8
    key.click()
    assert hidden_arms(page) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_theme_follows_the_system_and_the_button_turns_it_with_the_charts(visit, file, scheme):
    page = visit(file, scheme=scheme)
    look = """() => {
        const chart = document.querySelector('[data-figure="forest-0"]');
        return [getComputedStyle(document.body).backgroundColor, chart.layout.font.color,
                document.querySelector('#theme').getAttribute('aria-pressed')];
    }"""
    dark, light = ["rgb(18, 21, 26)", "#e8ebef", "true"], ["rgb(255, 255, 255)", "#1b2028", "false"]
    first, second = (dark, light) if scheme == "dark" else (light, dark)
    assert page.evaluate(look) == first
    page.click("#theme")
    assert page.evaluate(look) == second


def test_a_picture_opens_in_a_dialog_escape_closes_it_and_focus_comes_back(visit, file):
    page = visit(file)
    opener = page.locator("button.zoom").nth(3)
    opener.focus()
    page.keyboard.press("Enter")
    dialog = page.locator("dialog#zoom")
    assert dialog.is_visible()
    assert dialog.locator("img").get_attribute("src") == opener.locator("img").get_attribute("src")
    assert dialog.locator("img").get_attribute("alt") == opener.locator("img").get_attribute("alt")
    assert page.evaluate("document.querySelector('dialog img').naturalWidth") == 200
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert opener.evaluate("node => node === document.activeElement")


def test_another_score_shows_its_cases(visit, file):
    page = visit(file)
    page.select_option("#pick-score", label="ESA (voxels)")
    shown = page.eval_on_selector_all('[data-panel="cases"]', "all => all.map(panel => panel.hidden)")
    assert shown == [True, True, True, False]
    assert page.locator('[data-figure="changes-3"] svg.main-svg').first.is_visible()


def test_a_command_is_copied_and_the_button_says_so(visit, file):
    page = visit(file)
    page.locator("#provenance details").first.evaluate("node => { node.open = true; }")
    button = page.locator("#provenance button.copy").first
    button.click()
    expect(button).to_have_text("Copied")
    page.evaluate("document.getElementById('filter-t-summary').focus()")
    page.keyboard.press("Control+V")
    assert page.input_value("#filter-t-summary") == "distill3d fit op_scratch seed=0"


def test_the_keyboard_skips_to_the_report(visit, file):
    page = visit(file)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the report"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


@pytest.mark.parametrize("viewport", [WIDE, PHONE], ids=["wide", "phone"])
def test_nothing_is_wider_than_the_screen(visit, file, viewport):
    page = visit(file, viewport=viewport)
    page.eval_on_selector_all("details", "all => all.forEach(d => { d.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") == viewport["width"]
    wide = page.evaluate(
        """width => [...document.querySelectorAll('main > section > *')]
            .filter(node => node.getBoundingClientRect().right > width + 1).map(node => node.className)""",
        viewport["width"],
    )
    assert wide == []


@pytest.mark.parametrize("viewport", [WIDE, PHONE], ids=["wide", "phone"])
def test_a_picture_of_the_whole_page_has_its_size_and_is_not_blank(visit, file, viewport):
    page = visit(file, viewport=viewport)
    shot = page.screenshot(full_page=True)
    width, height = struct.unpack(">II", shot[16:24])
    assert width == viewport["width"]
    assert height == page.evaluate("document.documentElement.scrollHeight")
    assert 3000 < height < 20_000
    assert len(shot) > 100_000  # a blank page compresses to some thousand bytes


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [WIDE, PHONE], ids=["wide", "phone"])
def test_axe_finds_no_serious_violation(visit, file, scheme, viewport):
    page = visit(file, scheme=scheme, viewport=viewport, bypass_csp=True)  # axe is a script from outside
    page.eval_on_selector_all("details", "all => all.forEach(d => { d.open = true; })")
    found = Axe().run(page).response["violations"]
    bad = [
        (row["id"], [node["html"][:200] for node in row["nodes"][:3]])
        for row in found
        if row["impact"] in {"serious", "critical"}
    ]
    assert bad == []


def test_a_printed_page_is_cut_off_nowhere(visit, file):
    page = visit(file, viewport={"width": 1030, "height": 700})  # A4 across within its margins, in CSS pixels
    page.emulate_media(media="print")
    page.eval_on_selector_all("details", "all => all.forEach(d => { d.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") == 1030


def test_printing_draws_every_chart_and_opens_every_detail(visit, file):
    page = visit(file)
    printed = page.pdf()
    assert printed.startswith(b"%PDF")
    assert page.eval_on_selector_all("details", "all => all.every(d => d.open)")


def test_hostile_names_do_nothing_and_are_read_as_they_are(visit, tmp_path):
    comparison = hostile()
    made = render(comparison, curves=curves_of(comparison, tmp_path), worst=worst_of(["op_scratch", HOSTILE]))
    (tmp_path / "bad.html").write_text(made)
    page = visit(tmp_path / "bad.html")
    page.hover('[data-figure="cases-0"] .points path', force=True)
    page.locator("button.zoom").last.click()
    assert page.inner_text("dialog .caption") == f"note of {HOSTILE}"
    page.keyboard.press("Escape")
    page.locator(".key").last.click()
    assert set(hidden_arms(page)) == {HOSTILE}
    assert page.inner_text("h1") == HOSTILE
    assert page.evaluate("window.hacked") is None
    assert page.locator('img[src="x"]').count() == 0
    assert page.locator("svg a").count() == 0
    names = page.locator('[data-figure="cases-0"] .legendtext').all_text_contents()
    assert names[1].startswith("</script><img")


def test_a_page_without_javascript_still_holds_the_numbers(browser, file):
    context = browser.new_context(java_script_enabled=False, offline=True)
    page = context.new_page()
    page.goto(file.as_uri())
    assert page.locator("#t-summary tbody tr").count() == 5
    assert page.locator(".noscript").is_visible()
    context.close()


def test_the_dashboard_reloads_after_a_change_and_keeps_what_the_reader_set(browser, tmp_path, write_run):
    for seed in range(3):
        for name in ("scratch", "kd"):
            settings = {"strategy": {"name": "none" if name == "scratch" else "features"}}
            write_curves(write_run(name, seed, settings=settings), seed=seed)

    def build(folders):
        comparison = compare_places(folders)
        return comparison, run_folders(comparison)

    board = Dashboard(tmp_path / "runs", build=build, every=0.3, pictures=False)
    server = make_server(board, port=0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    context = browser.new_context(viewport=WIDE)
    try:
        page, heard, asked = context.new_page(), [], []
        page.on("console", lambda message: heard.append(message.text))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        page.wait_for_selector("html[data-ready=yes]")
        page.fill("#filter-t-summary", "scratch")
        page.locator("#t-cases-0 thead th").nth(1).get_by_role("button").click()
        page.locator('.key[data-arm="kd"]').click()
        page.click("#theme")
        page.evaluate("scrollTo({top: 700, behavior: 'instant'})")
        going_on = write_run("kd", 9, done=False, settings={"trainer.steps": 240})
        write_curves(going_on, steps=120)
        expect(page.locator("#running h3")).to_have_text("kd/seed9", timeout=SLOW)
        page.wait_for_selector("html[data-ready=yes]")
        assert page.input_value("#filter-t-summary") == "scratch"
        assert page.locator("#t-summary tbody tr:visible").count() == 1
        assert page.locator("#t-cases-0 thead th").nth(1).get_attribute("aria-sort") == "descending"
        assert page.locator('.key[data-arm="kd"]').get_attribute("aria-pressed") == "false"
        assert page.locator("#theme").get_attribute("aria-pressed") == "true"
        assert page.evaluate("scrollY") == pytest.approx(700, abs=60)
        assert heard == []
        assert {url.split("/", 3)[3] for url in asked} == {"", "state"}
    finally:
        context.close()
        server.shutdown()
        server.server_close()
        thread.join()
