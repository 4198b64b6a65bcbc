"""JupyterLab with a running map and the live page below its cell, by the port-forward.

The README's picture of JupyterLab is taken here.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from bench.browser import chromium, log_in
from tests import pictures
from tests.e2e.browsing import forwarded
from tests.e2e.conftest import WORKERS, Stack

pytestmark = pytest.mark.timeout(300)

NOTEBOOK = "bootstrap.ipynb"
CELLS = [
    "library(future.apply)\nlibrary(future.kubernetes)\n"
    f"plan(kubernetes, workers = {WORKERS})\n\ndashboard(height = 470)",
    "resample <- function(i) {\n  Sys.sleep(runif(1, 0.5, 4))    # stands for a model\n"
    "  coef(lm(mpg ~ wt, mtcars[sample(32, replace = TRUE), ]))\n}\n"
    "slopes <- future_sapply(1:60, resample, future.seed = TRUE,\n"
    '                        future.scheduling = Inf, future.label = "bootstrap-%d")',
]


def write_notebook(stack: Stack) -> None:
    notebook = {
        "cells": [
            {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": cell, "id": f"c{i}"}
            for i, cell in enumerate(CELLS)
        ],
        "metadata": {"kernelspec": {"display_name": "R", "language": "R", "name": "ir"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    pod = stack.scheduler()["metadata"]["name"]
    stack.kubectl("exec", "-i", pod, "--", "sh", "-c", f"cat > {NOTEBOOK}", input=json.dumps(notebook))


def run_all(browser: webdriver.Chrome) -> None:
    """Run every cell. JupyterLab shows a kernel as idle before it takes cells, so look whether each began."""

    def begun(number: int, b: webdriver.Chrome) -> bool:
        cell = b.find_elements(By.CSS_SELECTOR, ".jp-Notebook .jp-CodeCell")[number]
        cell.find_element(By.CSS_SELECTOR, ".cm-content").click()
        ActionChains(b).key_down(Keys.SHIFT).send_keys(Keys.ENTER).key_up(Keys.SHIFT).perform()
        prompt = cell.find_element(By.CSS_SELECTOR, ".jp-InputPrompt")
        with suppress(TimeoutException):
            return WebDriverWait(b, 5).until(lambda _: bool(prompt.text.strip("[]: ")))
        return False

    idle = (By.CSS_SELECTOR, '.jp-Notebook-ExecutionIndicator[data-status="idle"]')
    WebDriverWait(browser, 90).until(lambda b: b.find_elements(*idle))
    for number in range(len(CELLS)):
        WebDriverWait(browser, 60).until(partial(begun, number))


@contextmanager
def live_page(browser: webdriver.Chrome) -> Iterator[None]:
    """The frame below the cell."""
    frame = (By.CSS_SELECTOR, ".jp-OutputArea-output iframe[title=Cluster]")
    browser.switch_to.frame(WebDriverWait(browser, 60).until(lambda b: b.find_elements(*frame))[0])
    try:
        WebDriverWait(browser, 30).until(lambda b: b.find_element(By.ID, "link-text").text == "Live")
        yield
    finally:
        browser.switch_to.default_content()


def bars(browser: webdriver.Chrome) -> int:
    return int(browser.find_element(By.ID, "stream").get_attribute("data-bars") or 0)


def end_kernels(browser: webdriver.Chrome, base: str) -> None:
    """End the notebook's R, so that its workers are free for the next test."""
    script = """
        const [base, done] = arguments;
        const token = document.cookie.match(/_xsrf=([^;]+)/)[1];
        const end = { method: "DELETE", headers: { "X-XSRFToken": token } };
        fetch(base + "api/sessions").then(a => a.json())
          .then(all => Promise.all(all.map(s => fetch(base + "api/sessions/" + s.id, end)))).then(() => done(true))
    """
    browser.execute_async_script(script, base)


def test_notebook_shows_its_map_on_live_page_below_cell(stack: Stack, tmp_path: Path) -> None:
    write_notebook(stack)
    with forwarded(stack) as address, chromium(tmp_path) as browser:
        log_in(browser, f"{address}/lab/tree/{NOTEBOOK}", stack.outputs()["password"])
        try:
            run_all(browser)
            with live_page(browser):
                WebDriverWait(browser, 60).until(lambda b: bars(b) >= 5 * WORKERS)
                browser.find_element(By.CSS_SELECTOR, "[data-span='60']").click()
                time.sleep(10)
                assert browser.find_element(By.ID, "n-running").text == str(WORKERS)
                assert int(browser.find_element(By.ID, "n-queued").text) > 0
            # More room for the notebook.
            browser.find_element(By.CSS_SELECTOR, ".jp-SideBar.jp-mod-left .lm-TabBar-tab.lm-mod-current").click()
            with pictures.looking_as(browser, "light", 1280, 940):
                browser.execute_script("document.querySelector('.jp-WindowedPanel-outer').scrollTop = 0")
                assert not browser.find_elements(By.CSS_SELECTOR, ".Toastify__toast"), "nobody is asked about news"
                time.sleep(2)
                pictures.take(browser, "jupyterlab")
        finally:
            browser.save_screenshot(str(tmp_path / "page.png"))
            end_kernels(browser, "/")
