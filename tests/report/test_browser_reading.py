"""The page in a real Chromium is readable: by keyboard, on a phone, by a screen reader, without scripts."""

import struct

import pytest
from axe_playwright_python.sync_playwright import Axe
from pages import PHONE, WIDE, shares, visits
from playwright.sync_api import expect

pytestmark = pytest.mark.timeout(600)


def test_a_picture_opens_in_a_dialog_escape_closes_it_and_focus_comes_back(page):
    opener = page.locator("button.zoom").nth(3)
    opener.focus()
    page.keyboard.press("Enter")
    dialog = page.locator("dialog#zoom")
    assert dialog.is_visible()
    assert dialog.locator("img").get_attribute("src") == opener.locator("img").get_attribute("src")
    assert dialog.locator("img").get_attribute("alt") == opener.locator("img").get_attribute("alt")
    assert page.evaluate("document.querySelector('#zoom img').naturalWidth") == 200
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert opener.evaluate("node => node === document.activeElement")


def test_the_trees_of_an_arm_turn_in_a_dialog_and_focus_comes_back(page):
    opener = page.locator("button.turn").nth(1)
    opener.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#turn .live")
    assert page.inner_text("#turn-title") == "case_0: op_kd_inflate"
    assert min(shares(page).values()) > 100
    assert page.locator("#turn .view-walls").is_hidden()
    page.keyboard.press("Escape")
    assert opener.evaluate("node => node === document.activeElement")


def test_a_command_is_copied_and_the_button_says_so(page):
    page.locator("#provenance details").first.evaluate("node => { node.open = true; }")
    button = page.locator("#provenance button.copy").first
    button.click()
    expect(button).to_have_text("Copied")
    page.evaluate("document.getElementById('filter-t-summary').focus()")
    page.keyboard.press("Control+V")
    assert page.input_value("#filter-t-summary") == "distill3d fit op_scratch seed=0"


def test_the_keyboard_skips_to_the_report(visit, small_file):
    page = visit(small_file)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the report"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


@pytest.fixture(scope="module", params=[(WIDE, "dark"), (PHONE, "light")], ids=["wide-dark", "phone-light"])
def unfolded(request, browser, file):
    """The page on a screen, all of it."""
    viewport, scheme = request.param
    with visits(browser) as go:
        page = go(file, viewport=viewport, scheme=scheme, bypass_csp=True)  # axe is a script from outside
        page.eval_on_selector_all("details", "all => all.forEach(d => { d.open = true; })")
        yield page


def test_nothing_is_wider_than_the_screen(unfolded):
    width = unfolded.viewport_size["width"]
    assert unfolded.evaluate("document.documentElement.scrollWidth") == width
    wide = unfolded.evaluate(
        """width => [...document.querySelectorAll('main > section > *')]
            .filter(node => node.getBoundingClientRect().right > width + 1).map(node => node.className)""",
        width,
    )
    assert wide == []


def test_a_picture_of_the_whole_page_has_its_size_and_is_not_blank(unfolded):
    shot = unfolded.screenshot(full_page=True)
    width, height = struct.unpack(">II", shot[16:24])
    assert width == unfolded.viewport_size["width"]
    assert height == unfolded.evaluate("document.documentElement.scrollHeight")
    assert 3000 < height < 20_000
    assert len(shot) > 100_000  # a blank page compresses to some thousand bytes


def test_axe_finds_no_serious_violation(unfolded):
    violations = Axe().run(unfolded).response["violations"]
    bad = [
        (row["id"], [node["html"][:200] for node in row["nodes"][:3]])
        for row in violations
        if row["impact"] in {"serious", "critical"}
    ]
    assert bad == []


def test_a_page_without_javascript_still_holds_the_numbers(browser, file):
    context = browser.new_context(java_script_enabled=False, offline=True)
    page = context.new_page()
    page.goto(file.as_uri())
    assert page.locator("#t-summary tbody tr").count() == 5
    assert page.locator(".noscript").is_visible()
    context.close()
