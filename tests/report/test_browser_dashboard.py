"""The dashboard in a real Chromium: it reloads after a change and keeps what the reader set."""

import json
import threading

import pytest
from axe_playwright_python.sync_playwright import Axe
from comparisons import write_curves
from pages import PHONE, SLOW, WIDE, visits
from PIL import Image
from playwright.sync_api import expect

from distill3d.report.build import compare_places
from distill3d.report.comparison.compare import run_folders
from distill3d.report.live.dashboard import Dashboard, make_server

pytestmark = pytest.mark.timeout(600)


def test_the_dashboard_reloads_after_a_change_and_keeps_what_the_reader_set(browser, tmp_path, write_run):
    for seed in range(3):
        for name in ("scratch", "kd"):
            settings = {"strategy": {"name": "none" if name == "scratch" else "features"}}
            write_curves(write_run(name, seed, settings=settings), seed=seed)

    def build(folders):
        comparison = compare_places(folders)
        return comparison, run_folders(comparison)

    board = Dashboard(tmp_path / "runs", build=build, every=0.3)
    server = make_server(board, port=0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    context = browser.new_context(viewport=WIDE)
    try:
        page, heard, requests = context.new_page(), [], []
        page.on("console", lambda message: heard.append(message.text))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
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
        assert {url.split("/", 3)[3] for url in requests} == {"", "state"}
    finally:
        context.close()
        server.shutdown()
        server.server_close()
        thread.join()


def test_runs_and_trials_that_go_on_are_filtered_and_read_well_on_a_phone_too(browser, tmp_path, write_run):
    runs = tmp_path / "runs"
    for number, steps in (("0000", 60), ("0001", 120)):
        place = runs / "sweeps" / "lr" / "trials" / number
        going = write_run("unet", 0, root=place, done=False, settings={"trainer.steps": 240})
        write_curves(going, steps=steps)
        (place / "arguments.json").write_text(json.dumps({"optimizer.lr": 0.1, "neurons": "{name: t4_linear, x: y}"}))
        Image.new("L", (246, 80), 60).save(going / "validation.png")
    write_curves(write_run("kd", 9, done=False, settings={"strategy": {"name": "features"}}), steps=120)
    file = tmp_path / "page.html"
    file.write_bytes(Dashboard(runs, build=None, every=1e6).page())
    with visits(browser) as go:
        for viewport, scheme in ((WIDE, "light"), (PHONE, "dark")):
            page = go(file, viewport=viewport, scheme=scheme, bypass_csp=True)  # axe is a script from outside
            assert page.evaluate("document.documentElement.scrollWidth") == viewport["width"]
            assert page.locator("#running figure:visible").count() == 3
            page.fill("#filter-running-cards", "sweep:lr")
            names = page.locator("#running figure:visible h3").all_inner_texts()
            assert sorted(names) == [f"sweeps/lr/trials/000{k}/unet/seed0" for k in (0, 1)]
            assert page.inner_text('[data-count="running-cards"]') == "2 of 3 runs"
            assert page.locator(".seen:visible").count() == 2
            page.fill("#filter-t-sweep-0", "0001")
            assert page.locator("#t-sweep-0 tbody tr:visible").count() == 1
            violations = Axe().run(page).response["violations"]
            assert [row["id"] for row in violations if row["impact"] in {"serious", "critical"}] == []
