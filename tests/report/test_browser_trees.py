"""A case's trees in a real Chromium: they turn by mouse and keyboard, hide, and are pictures where nothing can draw."""

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from comparisons import HOSTILE
from pages import GOLD, PHONE, PRED, shares

from distill3d.evaluation.figures.tree_page import tree_page

pytestmark = pytest.mark.timeout(600)
SEEN = "() => document.querySelector('canvas').toDataURL()"


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    image = np.zeros((20, 60, 80), np.uint8)
    image[:, 8:12, 8:72] = 50
    path = tmp_path_factory.mktemp("trees") / "case_3d.html"
    spacing = (1.0, 1.0, 1.0)
    return tree_page(path, HOSTILE, f"note of {HOSTILE}", image=image, gold=GOLD, pred=PRED, spacing_um=spacing)


def after(page, act):
    """The canvas once it shows something else."""
    before = page.evaluate(SEEN)
    act()
    page.wait_for_function(f"before => ({SEEN})() !== before", arg=before)
    return page.evaluate(SEEN)


def test_trees_turn_move_and_zoom_by_keyboard_mouse_and_buttons_and_reset(visit, trees):
    page = visit(trees)
    canvas, start = page.locator("canvas"), page.evaluate(SEEN)
    page.keyboard.press("Tab")
    while page.evaluate("document.activeElement.tagName") != "CANVAS":
        page.keyboard.press("Tab")
    assert canvas.evaluate("node => getComputedStyle(node).outlineStyle") == "solid"
    keys = ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Shift+ArrowLeft", "+", "-"]
    shown = {key: after(page, lambda key=key: page.keyboard.press(key)) for key in keys}
    assert shown["ArrowRight"] == shown["ArrowDown"] == start
    assert shown["-"] == shown["Shift+ArrowLeft"]
    assert len({start, *shown.values()}) == 5
    assert after(page, lambda: page.keyboard.press("0")) == start

    canvas.hover()
    middle = canvas.bounding_box()["x"] + 700
    after(page, lambda: page.mouse.wheel(0, -100))
    page.mouse.down()
    after(page, lambda: page.mouse.move(middle, 300))
    page.mouse.up()
    for name in ("Along z", "Along y", "Along x", "Zoom out", "Zoom in"):
        after(page, lambda name=name: page.get_by_role("button", name=name, exact=True).click())
    assert after(page, lambda: page.get_by_role("button", name="Reset").click()) == start


def test_each_tree_is_hidden_with_its_errors_and_the_legend_has_the_lengths(visit, trees):
    page = visit(trees)
    whole = shares(page)
    assert min(whole.values()) > 200
    after(page, lambda: page.get_by_role("button", name="Gold").click())
    assert page.get_by_role("button", name="Gold").get_attribute("aria-pressed") == "false"
    hidden = shares(page)
    assert (hidden["found"], hidden["missed"]) == (0, 0)
    assert hidden["false"] > 200
    page.get_by_role("button", name="Gold").click()
    after(page, lambda: page.get_by_role("button", name="Prediction").click())
    alone = shares(page)
    assert alone["false"] == 0
    assert min(alone["found"], alone["missed"]) > 200
    for name in ("Image", "Tips and branch points"):
        after(page, lambda name=name: page.get_by_role("button", name=name).click())
    legend = page.locator(".view-legend li").all_text_contents()
    assert [text.split(" ")[0] + text[-6:] for text in legend] == [
        "gold, 36 µm",
        "predicted, 41 µm",
        "gold, 64 µm",
        "predicted, 60 µm",
    ]


def test_a_phone_has_room_for_it_in_the_dark_axe_is_content_and_a_hostile_name_does_nothing(visit, trees):
    page = visit(trees, viewport=PHONE, scheme="dark", bypass_csp=True)
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 21, 26)"
    assert page.inner_text("h1") == page.title() == HOSTILE
    assert page.evaluate("window.hacked") is None
    assert page.locator('img[src="x"]').count() == 0
    violations = Axe().run(page).response["violations"]
    assert [row["id"] for row in violations if row["impact"] in {"serious", "critical"}] == []


@pytest.mark.parametrize("lacking", ["JavaScript", "canvas"])
def test_where_nothing_can_draw_the_projections_are_pictures_and_one_line_says_why(browser, trees, lacking):
    context = browser.new_context(java_script_enabled=lacking != "JavaScript", offline=True)
    page = context.new_page()
    page.add_init_script("HTMLCanvasElement.prototype.getContext = () => null")
    page.goto(trees.as_uri())
    images = page.locator(".view-walls img")
    assert [image.is_visible() for image in images.all()] == [True] * 3
    assert images.evaluate_all("all => all.map(i => [i.naturalWidth, i.naturalHeight])") == [
        [80, 60],
        [80, 20],
        [60, 20],
    ]
    assert "need JavaScript and a canvas" in page.inner_text(".view-none")
    assert page.locator("canvas").is_hidden()
    context.close()
