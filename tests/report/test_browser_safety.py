"""Names that are markup do nothing in a real Chromium."""

import pytest
from comparisons import HOSTILE, hostile
from pages import curves_of, hidden_arms, worst_of

from distill3d.report.page.html import render

pytestmark = pytest.mark.timeout(600)


def test_hostile_names_do_nothing_and_are_read_as_they_are(visit, tmp_path):
    comparison = hostile()
    made = render(comparison, curves=curves_of(comparison, tmp_path), worst=worst_of(["op_scratch", HOSTILE]))
    (tmp_path / "bad.html").write_text(made)
    page = visit(tmp_path / "bad.html")
    page.hover('[data-figure="cases-0"] .points path', force=True)
    page.locator("button.zoom").last.click()
    assert page.inner_text("#zoom .caption") == f"note of {HOSTILE}"
    page.keyboard.press("Escape")
    page.locator("button.turn").last.click()
    page.wait_for_selector("#turn .live")
    assert page.inner_text("#turn-title") == f"case_0: {HOSTILE}"
    page.keyboard.press("Escape")
    page.locator(".key").last.click()
    assert set(hidden_arms(page)) == {HOSTILE}
    assert page.inner_text("h1") == HOSTILE
    assert page.evaluate("window.hacked") is None
    assert page.locator('img[src="x"]').count() == 0
    assert page.locator("svg a").count() == 0
    names = page.locator('[data-figure="cases-0"] .legendtext').all_text_contents()
    assert names[1].startswith("</script><img")
