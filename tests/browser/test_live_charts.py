"""The live page's charts in a browser, and the page without the library that draws them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By

from tests.browser.axe import SCHEMES, violations
from tests.browser.conftest import Site, text, until
from tests.browser.page import errors, row, submit, unfold

pytestmark = pytest.mark.timeout(180)


def hover(browser: webdriver.Chrome, name: str) -> str:
    """Move the pointer to a little left of the chart's right edge; return what the page says beside it."""
    chart = browser.find_element(By.ID, name)
    browser.execute_script("arguments[0].scrollIntoView({ block: 'center' })", chart)
    width = int(chart.size["width"])
    for step in (10, 14):  # a pointer that stands still says nothing
        ActionChains(browser).move_to_element_with_offset(chart, width // 2 - step, 0).perform()
    return text(browser, "tip")


def painted(browser: webdriver.Chrome, name: str, colour: str) -> int:
    """Number of a chart's pixels in a colour of the style sheet."""
    return int(
        browser.execute_script(
            """
            const colour = getComputedStyle(document.documentElement).getPropertyValue(`--${arguments[1]}`).trim();
            const wanted = [1, 3, 5].map(at => parseInt(colour.slice(at, at + 2), 16));
            return [...document.querySelectorAll(`#${arguments[0]} canvas`)].reduce((found, canvas) => {
              const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
              for (let i = 0; i < data.length; i += 4)
                if (data[i + 3] === 255 && wanted.every((value, j) => data[i + j] === value)) found += 1;
              return found;
            }, 0);
            """,
            name,
            colour,
        )
    )


def test_charts_show_counts_and_say_them_beside_the_pointer(
    site: Site, browser: webdriver.Chrome, tmp_path: Path, emulating: None
) -> None:
    site.bed.worker("a")
    with site.bed.plan(1) as plan:
        plan.result(plan.submit("sleep 0"))
    site.open(browser)
    errors(browser)
    browser.find_element(By.CSS_SELECTOR, "[data-span='60']").click()
    assert painted(browser, "ends", "failed") == 0
    until(browser, lambda b: painted(b, "ends", "done") > 20)
    labels = "return [...document.querySelectorAll(`#${arguments[0]} .dygraph-axis-label-y`)].map(e => e.textContent)"
    assert browser.execute_script(labels, "ends") == ["0", "1"], (
        "one that ended while no page was open is spread over intervals"
    )
    with site.bed.plan(1) as plan:
        for _ in range(2):
            plan.result(plan.submit("sleep 0"))
        end = submit(plan, tmp_path)
        until(browser, lambda b: {"running: 1", "workers: 1"} <= set(hover(b, "load").splitlines()))
        assert re.match(r"\d\d:\d\d:\d\d", text(browser, "tip"))
        until(browser, lambda b: "failed: 0" in hover(b, "ends"))
        assert browser.execute_script(labels, "load") == ["0", "1"], "whole numbers only"
        names = {name: browser.find_element(By.ID, name).accessible_name for name in ("load", "ends")}
        assert names["load"] == "Now 0 futures wait and 1 run on 1 workers"
        assert names["ends"] == "So far 3 done, 0 failed, 0 run again"
        light = "#2f9e74"
        media = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        style = "return getComputedStyle(document.documentElement).getPropertyValue('--done').trim()"
        assert browser.execute_script(style) != light
        until(browser, lambda b: painted(b, "ends", "done") > 20)
        end()
    assert errors(browser) == [], "the page's policy allows all that the library does"


def test_page_without_chart_library_says_so_and_shows_the_rest(
    site_at: Callable[..., Site], browser: webdriver.Chrome, tmp_path: Path, emulating: None
) -> None:
    site = site_at(FUTURE_KUBERNETES_CHARTS=str(tmp_path / "nothing"))
    site.bed.worker("a")
    site.open(browser)
    unfold(browser)
    with site.bed.plan() as plan:
        end = submit(plan, tmp_path)
        until(browser, lambda b: row(b, "fit-1", "running"))
        until(browser, lambda b: text(b, "n-running") == "1")
        for name in ("load", "ends"):
            said = text(browser, name)
            assert said.startswith("The charts are not drawn: their library did not load.")
            assert "the image lacks libjs-dygraphs: build it again" in said
        found = [complaint for scheme in SCHEMES for complaint in violations(browser, scheme)]
        assert not found, "\n".join(found)
        end()
        until(browser, lambda b: row(b, "fit-1", "done"))
