"""JupyterLab with a running map and the live page below its cell, by the port-forward.

The README's picture of JupyterLab is taken here.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

from bench.browser import BrowserWait, chromium, log_in
from tests import pictures
from tests.e2e.browsing import forwarded
from tests.e2e.conftest import WORKERS, Stack
from tests.e2e.notebooks import end_kernels, run_cells, write_notebook

pytestmark = pytest.mark.timeout(300)

NOTEBOOK = "bootstrap.ipynb"
CELLS = [
    "library(future)\nlibrary(future.apply)\nlibrary(future.kubernetes)\n"
    f"plan(kubernetes, workers = {WORKERS})\n\ndashboard(height = 545)",
    "resample <- function(i) {\n  Sys.sleep(runif(1, 0.5, 4))    # stands for a model\n"
    "  coef(lm(mpg ~ wt, mtcars[sample(32, replace = TRUE), ]))\n}\n"
    "slopes <- future_sapply(1:75, resample, future.seed = TRUE,\n"
    '                        future.scheduling = Inf, future.label = "bootstrap-%d")',
]


@contextmanager
def live_page(browser: webdriver.Chrome) -> Iterator[None]:
    """The frame below the cell."""
    frame = (By.CSS_SELECTOR, ".jp-OutputArea-output iframe[title=Cluster]")
    browser.switch_to.frame(BrowserWait(browser, 60).until(lambda b: b.find_elements(*frame))[0])
    try:
        BrowserWait(browser, 30).until(lambda b: b.find_element(By.ID, "link-text").text == "Live")
        yield
    finally:
        browser.switch_to.default_content()


def bars(browser: webdriver.Chrome) -> int:
    return int(browser.find_element(By.ID, "stream").get_attribute("data-bars") or 0)


def test_notebook_shows_its_map_on_live_page_below_cell(stack: Stack, tmp_path: Path) -> None:
    write_notebook(stack, NOTEBOOK, CELLS)
    with forwarded(stack) as address, chromium(tmp_path) as browser:
        log_in(browser, f"{address}/lab/tree/{NOTEBOOK}", stack.outputs()["password"])
        try:
            run_cells(browser, len(CELLS))
            with live_page(browser):
                BrowserWait(browser, 60).until(lambda b: bars(b) >= 5 * WORKERS)
                browser.find_element(By.CSS_SELECTOR, "[data-span='60']").click()
                browser.find_element(By.CSS_SELECTOR, "[data-zoom='0.5']").click()  # half a minute
                time.sleep(16)
                BrowserWait(browser, 30).until(lambda b: b.find_element(By.ID, "n-running").text == str(WORKERS))
                assert int(browser.find_element(By.ID, "n-queued").text) > 0
            side_bar = ".jp-SideBar.jp-mod-left .lm-TabBar-tab.lm-mod-current"
            for open_tab in browser.find_elements(By.CSS_SELECTOR, side_bar):  # more room for the notebook
                open_tab.click()
            with pictures.looking_as(browser, "light", 1280, 1035):
                browser.execute_script("document.querySelector('.jp-WindowedPanel-outer').scrollTop = 0")
                assert not browser.find_elements(By.CSS_SELECTOR, ".Toastify__toast"), "nobody is asked about news"
                time.sleep(2)
                pictures.take(browser, "jupyterlab")
        finally:
            browser.save_screenshot(str(tmp_path / "page.png"))
            end_kernels(browser)
