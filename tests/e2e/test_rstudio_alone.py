"""A stack whose `ide` is rstudio. Its image has no JupyterLab, and a stand-in where clouds have RStudio Server."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

from bench.browser import BrowserWait, chromium, log_in
from local import image
from tests.browser.axe import SCHEMES, violations
from tests.browser.page import errors, row, unfold
from tests.e2e.browsing import forwarded
from tests.e2e.conftest import Stack
from tests.e2e.rstudio import RSERVER, check_rstudio, check_session, session

pytestmark = pytest.mark.timeout(900)

PLACE = "/usr/lib/rstudio-server/bin"
VIEWING = """
# RStudio's viewer takes a file of R's temporary folder only (SessionViewer.cpp), and opens it below its own address.
options(viewer = function(url, height = NULL) {
  stopifnot(identical(normalizePath(dirname(url)), normalizePath(tempdir())))
  cat("VIEW", file.path("session", basename(url)), "\\n")
})
dashboard()
repeat value(future(Sys.sleep(1), label = "seen-in-viewer"))
"""
INSTALLED = "import importlib.util; print([importlib.util.find_spec(name) is not None for name in {}])"


@pytest.fixture(scope="module")
def address(stack: Stack) -> Iterator[str]:
    """The front door's, of the stack with RStudio only, and afterwards as it was."""
    programs = ((f"{PLACE}/rserver", RSERVER), (f"{PLACE}/rsession", session(VIEWING)))
    reference = image.push(stack.node, image.ImageRequest("rstudio", base_programs=programs))
    stack.in_pod("rm -f session.*")
    try:
        stack.up(ide="rstudio", image=reference)
        with forwarded(stack) as found:
            yield found
    finally:
        stack.up()
        stack.in_pod("rm -f session.*")


@pytest.fixture
def browser(stack: Stack, address: str, tmp_path: Path) -> Iterator[webdriver.Chrome]:
    with chromium(tmp_path / "browser") as driver:
        log_in(driver, f"{address}/", stack.outputs()["password"])
        try:
            yield driver
        finally:
            driver.save_screenshot(str(tmp_path / "page.png"))


def test_address_leads_to_rstudio_whose_session_has_a_worker(
    stack: Stack, address: str, browser: webdriver.Chrome
) -> None:
    check_rstudio(browser, address)
    check_session(stack)


def test_dashboard_opens_live_page_in_rstudios_viewer(stack: Stack, address: str, browser: webdriver.Chrome) -> None:
    check_rstudio(browser, address)
    said = ""

    def viewed() -> re.Match[str] | None:
        nonlocal said
        said = stack.in_pod("cat session.out session.err 2>&1; true")
        return re.search(r"VIEW (\S+)", said)

    opened: re.Match[str] = stack.wait("dashboard() to open the viewer", 120, viewed)
    browser.get(f"{address}/rstudio/?view={opened[1]}")
    browser.switch_to.frame(BrowserWait(browser, 30).until(lambda b: b.find_element(By.NAME, "viewer")))
    BrowserWait(browser, 60).until(lambda b: b.find_elements(By.ID, "link-text"))
    assert browser.execute_script("return location.href") == f"{address}/cluster/"
    BrowserWait(browser, 60).until(lambda b: b.find_element(By.ID, "link-text").text == "Live")
    unfold(browser)
    BrowserWait(browser, 60).until(lambda b: row(b, "seen-in-viewer", "done"), said)
    browser.switch_to.default_content()


def test_jupyterlab_is_absent_and_its_page_leads_to_rstudio(
    stack: Stack, address: str, browser: webdriver.Chrome
) -> None:
    python = INSTALLED.format("('jupyterlab', 'ipykernel', 'jupyter_rsession_proxy')")
    assert stack.in_pod(f'/opt/jupyter/bin/python -c "{python}"').strip() == "[False, False, True]"
    browser.get(f"{address}/lab")
    said = BrowserWait(browser, 30).until(lambda b: b.find_element(By.ID, "site").text)
    assert "JupyterLab cannot be opened" in said
    assert "This stack has only RStudio. For JupyterLab too: pulumi config set ide both" in said
    for scheme in SCHEMES:
        assert not violations(browser, scheme)
    browser.find_element(By.LINK_TEXT, "RStudio").click()
    check_rstudio(browser, address)


def test_live_page_and_its_charts_are_there(address: str, browser: webdriver.Chrome) -> None:
    browser.get(f"{address}/cluster/")
    BrowserWait(browser, 60).until(lambda b: b.find_element(By.ID, "link-text").text == "Live")
    drawn = "return ['load', 'ends'].every(name => document.querySelector(`#${name} canvas`))"
    BrowserWait(browser, 60).until(lambda b: b.execute_script(drawn))
    assert [message for message in errors(browser) if "/cluster/" in message] == [], (
        "RStudio's page, before, was refused a call"
    )
