"""Tables of the page in a real Chromium: they sort, filter and follow the score; the page as it prints it, uncut."""

import pytest
from pages import column

pytestmark = pytest.mark.timeout(600)


def test_a_click_on_a_head_sorts_by_value_and_says_so(page):
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


def test_what_has_no_value_sorts_last_in_both_directions(page):
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


def test_a_filter_keeps_rows_that_hold_all_words_and_counts_them(page):
    page.fill("#filter-t-summary", "OP_KD better")
    assert {*column(page, "t-summary", 0)} <= {"op_kd_inflate", "op_kd_cosine"}
    assert "op_kd_inflate" in column(page, "t-summary", 0)
    assert "of 5 rows" in page.inner_text('[data-count="t-summary"]')
    page.fill("#filter-t-summary", "nothing like this")
    assert column(page, "t-summary", 0) == []
    page.fill("#filter-t-summary", "")
    assert len(column(page, "t-summary", 0)) == 5


def test_a_printed_page_is_cut_off_nowhere(visit, file):
    page = visit(file, viewport={"width": 1030, "height": 700})  # A4 across within its margins, in CSS pixels
    page.emulate_media(media="print")
    page.eval_on_selector_all("details", "all => all.forEach(d => { d.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") == 1030


def test_printing_draws_every_chart_and_opens_every_detail(page):
    printed = page.pdf()
    assert printed.startswith(b"%PDF")
    assert page.eval_on_selector_all("details", "all => all.every(d => d.open)")
