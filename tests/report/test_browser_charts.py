"""Charts of the page in a real Chromium: all are drawn, arms can be hidden, the theme turns them."""

import pytest
from pages import hidden_arms
from playwright.sync_api import expect

pytestmark = pytest.mark.timeout(600)


def test_all_charts_that_are_shown_are_drawn(page):
    drawn = page.eval_on_selector_all(
        ".chart", "all => all.filter(c => c.offsetParent).map(c => c.querySelector('svg.main-svg') !== null)"
    )
    assert all(drawn)
    assert len(drawn) >= 14  # four scores twice, four of cases, four of curves


def test_a_legend_hides_an_arm_and_the_other_theme_keeps_it_hidden(visit, small_file):
    page = visit(small_file)
    chart = page.locator('[data-figure="cases-0"]')
    chart.scroll_into_view_if_needed()
    chart.locator(".legendtoggle").nth(1).click()
    expect(chart.locator(".legend .traces").nth(1)).to_have_css("opacity", "0.5")
    page.click("#theme")
    assert hidden_arms(page) == ["op_kd_inflate"]


def test_an_arms_button_hides_it_in_all_charts_and_brings_it_back(page):
    key = page.locator('.key[data-arm="op_shuffled"]')
    key.press("Space")
    assert key.get_attribute("aria-pressed") == "false"
    hidden = hidden_arms(page)
    assert set(hidden) == {"op_shuffled"}
    assert len(hidden) > 8
    key.click()
    assert hidden_arms(page) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_theme_follows_the_system_and_the_button_turns_it_with_the_charts(visit, small_file, scheme):
    page = visit(small_file, scheme=scheme)
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


def test_another_score_shows_its_cases(page):
    page.select_option("#pick-score", label="ESA (voxels)")
    shown = page.eval_on_selector_all('[data-panel="cases"]', "all => all.map(panel => panel.hidden)")
    assert shown == [True, True, True, False]
    for chart in ("changes", "cases", "profile", "ranks"):
        assert page.locator(f'[data-figure="{chart}-3"] svg.main-svg').first.is_visible()
        assert not page.locator(f'[data-figure="{chart}-0"]').is_visible()


def test_a_curve_of_a_profile_is_hidden_with_its_area(visit, small_file):
    page = visit(small_file)
    chart = page.locator('[data-figure="profile-0"]')
    chart.scroll_into_view_if_needed()
    before = chart.locator(".scatterlayer .js-fill").count()
    chart.locator(".legendtoggle").nth(1).click()
    expect(chart.locator(".legend .traces").nth(1)).to_have_css("opacity", "0.5")
    assert hidden_arms(page) == ["op_kd_inflate"] * 3  # both ends of the area and the curve
    assert chart.locator(".scatterlayer .js-fill").count() < before


def test_a_profile_has_steps_of_the_right_kind_and_an_area_per_arm(page):
    """A curve that falls holds its share up to the score on its left; one that rises, up to that on its right."""
    for place, shape in ((0, "vh"), (1, "hv")):
        page.select_option("#pick-score", str(place))
        chart = page.locator(f'[data-figure="profile-{place}"]')
        shapes = chart.evaluate("node => node.data.map(trace => trace.line.shape)")
        assert set(shapes) == {shape}
        fills = chart.evaluate("node => node.data.filter(trace => trace.fill).map(trace => trace.fillcolor)")
        assert len(set(fills)) == len(fills) == 4
        assert all(color.startswith("#") for color in fills)  # a theme's, no name of a property


def test_ranks_name_every_arm_beside_its_line_and_say_what_decides(page):
    card = page.locator("figure.card", has=page.locator('[data-figure="ranks-0"]'))
    names = [text.strip() for text in card.locator(".yaxislayer-above text").all_text_contents()]
    assert names[0] == "op_kd_inflate"
    assert set(names) == {"op_scratch", "op_kd_inflate", "op_kd_cosine", "op_shuffled"}
    assert card.locator("text.textpoint, .textpoint text").first.text_content().startswith("critical difference 1.35")
    assert "the verdict above is what decides" in card.locator("figcaption").inner_text()
    summary = card.locator("summary")
    summary.focus()
    page.keyboard.press("Enter")
    rows = card.locator("tbody tr")
    assert rows.count() == 4
    assert rows.first.locator("td").first.inner_text() == "1.00"


def test_without_ranks_one_line_says_why_and_no_chart_is_missing(visit, small_file):
    page = visit(small_file)
    assert page.locator(".spaced:visible").inner_text() == (
        "Ranks are not drawn: 4 arms with 3 cases and 3 seeds in common; ranks need 3 arms, 5 cases and 3 seeds."
    )
    assert page.locator('[data-figure="profile-0"] svg.main-svg').first.is_visible()
