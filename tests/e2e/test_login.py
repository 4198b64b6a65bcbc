"""The way in, as a person takes it: the printed port-forward, a real browser, the password."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

from bench.browser import BrowserWait, chromium, log_in
from bench.r_package import WRITE_PACKAGE
from tests.e2e.browsing import forwarded
from tests.e2e.conftest import Stack
from tests.e2e.notebooks import end_kernels, run_cells, write_notebook

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def page(stack: Stack) -> Iterator[str]:
    with forwarded(stack) as address:
        yield address


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    with chromium(tmp_path) as driver:
        yield driver


def test_the_generated_password_opens_the_ide_with_an_r_kernel(
    stack: Stack, page: str, browser: webdriver.Chrome, tmp_path: Path
) -> None:
    log_in(browser, page, stack.outputs()["password"])
    try:
        BrowserWait(browser, 60).until(lambda b: b.find_elements(By.CSS_SELECTOR, "#jp-main-dock-panel"))
        card = (By.CSS_SELECTOR, '.jp-LauncherCard[title="R"], .jp-LauncherCard[data-category="Notebook"][title*="R"]')
        BrowserWait(browser, 60).until(lambda b: b.find_elements(*card))
    finally:
        browser.save_screenshot(str(tmp_path / "page.png"))
    assert "/lab" in browser.current_url


def test_a_wrong_password_is_refused(page: str, browser: webdriver.Chrome) -> None:
    log_in(browser, page, "not the password")
    BrowserWait(browser, 30).until(lambda b: "Invalid" in b.page_source)
    assert "/lab" not in browser.current_url
    browser.get(f"{page}/lab")
    BrowserWait(browser, 30).until(lambda b: b.find_elements(By.ID, "password_input"))


def test_package_a_notebook_installs_reaches_workers_in_next_cell(
    stack: Stack, page: str, browser: webdriver.Chrome, tmp_path: Path
) -> None:
    cells = [
        WRITE_PACKAGE
        + """
        install_package("nbpkg", "f <- function() readLines('data.txt')")
        writeLines("of the notebook's folder", "data.txt")
        """,
        """
        library(future.kubernetes)
        plan(kubernetes, workers = 1)
        cat("SEEN", value(future(nbpkg::f())), "ON", value(future(Sys.info()[["nodename"]])))
        plan(sequential)
        """,
    ]
    write_notebook(stack, "world/world.ipynb", cells)
    log_in(browser, f"{page}/lab/tree/world/world.ipynb", stack.outputs()["password"])
    try:
        run_cells(browser, len(cells))
        outputs = (By.CSS_SELECTOR, ".jp-OutputArea-output")

        def seen(b: webdriver.Chrome) -> str:
            return next((found.text for found in b.find_elements(*outputs) if "SEEN" in found.text), "")

        printed = BrowserWait(browser, 120).until(seen)
    finally:
        browser.save_screenshot(str(tmp_path / "page.png"))
        end_kernels(browser)
        stack.kubectl("exec", stack.scheduler()["metadata"]["name"], "--", "rm", "-rf", "world")
    assert "SEEN of the notebook's folder ON" in printed
    assert printed.split("ON ")[1].split()[0] in {pod["metadata"]["name"] for pod in stack.pods("worker")}


def test_a_changed_password_holds_at_once_and_the_scheduler_stays(
    stack: Stack, page: str, browser: webdriver.Chrome, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = stack.scheduler()["metadata"]
    generated = stack.outputs()["password"]

    def until_mounted(password: str) -> None:
        """Wait for the Secret in the pod: kubelet takes a change up in a minute, or at the next change of the pod."""
        stack.kubectl("annotate", "pod", before["name"], f"test/look-again={len(password)}", "--overwrite")
        mounted = ("exec", before["name"], "--", "cat", "/etc/future-kubernetes/secret/password")
        stack.wait("the Secret to be mounted anew", 120, lambda: stack.kubectl(*mounted).strip() == password)

    monkeypatch.setenv("FUTURE_KUBERNETES_PASSWORD", "a new one, twenty-four letters")
    stack.up()
    try:
        until_mounted("a new one, twenty-four letters")
        log_in(browser, page, "a new one, twenty-four letters")
        BrowserWait(browser, 60).until(lambda b: b.find_elements(By.CSS_SELECTOR, "#jp-main-dock-panel"))
        assert stack.scheduler()["metadata"]["uid"] == before["uid"]
    finally:
        monkeypatch.delenv("FUTURE_KUBERNETES_PASSWORD")
        stack.up()
        until_mounted(generated)  # the tests that follow log in with it
