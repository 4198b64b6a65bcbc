"""The pictures of README.md and docs/analyst.md that need no cluster: login, and the live page under load."""

from __future__ import annotations

import random
import time

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

from common.paths import REPO
from tests import pictures
from tests.broker.r_session import PlanSession
from tests.browser.conftest import Site, stand_ins, text, until

pytestmark = pytest.mark.timeout(240)

WORKERS = 20
WAVES = (("bootstrap", 70, 5.0), ("cross-validate", 50, 9.0), ("fit-model", 40, 14.0))
"""Maps of an analysis: label, futures, mean seconds."""
SECONDS = 75


def test_login_page_is_taken(site: Site, browser: webdriver.Chrome) -> None:
    browser.get(f"{site.address}/")
    with pictures.looking_as(browser, "light", 760, 400):
        assert browser.find_element(By.ID, "password_input").is_displayed()
        pictures.take(browser, "login")


def submit_wave(plan: PlanSession, chance: random.Random, name: str, futures: int, seconds: float) -> None:
    """A map: its futures take about so long, and one in sixty fails."""
    for number in range(1, futures + 1):
        ends = "unread" if chance.random() < 1 / 60 else "done"
        plan.submit(f"{seconds * chance.uniform(0.4, 1.8):.2f} {ends}", label=f"{name}-{number}")


def test_live_page_under_load_is_taken_in_light_and_dark(site: Site, browser: webdriver.Chrome) -> None:
    chance = random.Random(7)
    settings = {"maxWorkers": "40", "idleMinutes": "30"}
    prices = {"costIdle": "$0.31", "costMax": "$8.95", "costWorkerNode": "$0.216"}
    for name, value in (settings | prices).items():
        (site.config / name).write_text(value)
    with (
        stand_ins(site.bed, WORKERS),
        site.bed.plan(WORKERS - 6) as plan,
        site.bed.plan(6, pid=1, retries=0) as other,
    ):
        site.open(browser)
        browser.find_element(By.CSS_SELECTOR, "[data-span='60']").click()
        begun = time.monotonic()
        for name, futures, seconds in WAVES:
            submit_wave(plan, chance, name, futures, seconds)
        submit_wave(other, chance, "simulate", 40, 6.0)
        other.submit("6 dies", label="simulate-41")  # out of memory
        submit_wave(other, chance, "predict", 60, 6.0)
        until(browser, lambda b: text(b, "n-running") == str(WORKERS))
        until(browser, lambda b: time.monotonic() - begun > SECONDS, SECONDS + 10)
        assert int(text(browser, "n-finished")) > WORKERS
        assert int(text(browser, "n-queued")) > 0
        assert "simulate-41" in text(browser, "losses")
        assert int(browser.find_element(By.ID, "stream").get_attribute("data-bars") or 0) > 2 * WORKERS
        for scheme in ("light", "dark"):
            end = browser.execute_script(
                "return document.querySelector('.pair').getBoundingClientRect().bottom + scrollY"
            )
            with pictures.looking_as(browser, scheme, 1280, round(end) + 8):
                pictures.take(browser, f"live-page-{scheme}")


def test_diagram_of_rstudio_fits_its_text_and_needs_nothing_else(browser: webdriver.Chrome) -> None:
    browser.get((REPO / "docs/rstudio.svg").as_uri())
    outside = """
        const { width, height } = document.rootElement.viewBox.baseVal;
        return [...document.querySelectorAll("text")].filter(text => {
          const box = text.getBBox();
          return box.x < 0 || box.y < 0 || box.x + box.width > width || box.y + box.height > height;
        }).map(text => text.textContent);
    """
    assert len(browser.find_elements(By.TAG_NAME, "text")) > 15
    assert browser.execute_script(outside) == []
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
