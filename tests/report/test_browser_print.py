"""The page as a real Chromium prints it: nothing is cut off, everything is drawn."""

import pytest

pytestmark = pytest.mark.timeout(600)


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
