"""A real browser, without a window."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.expected_conditions import staleness_of
from selenium.webdriver.support.ui import WebDriverWait

from image.broker.page import chart_library
from local import debian_rootfs


def need_charts() -> None:
    """Install the library of the live page's charts, as the image's build does, where this machine lacks it."""
    debian_rootfs.file(chart_library.path(), chart_library.PACKAGE)


@contextmanager
def chromium(folder: Path, *switches: str) -> Iterator[webdriver.Chrome]:
    """A headless browser whose profile is in ``folder``."""
    options = webdriver.ChromeOptions()
    options.binary_location = debian_rootfs.program("chromium", "chromium", "chromium-driver")
    for switch in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
        "--window-size=1280,900", f"--user-data-dir={folder}/profile", *switches,
    ):  # fmt: skip
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(debian_rootfs.program("chromedriver", "chromium-driver"), env=dict(os.environ))
    driver = webdriver.Chrome(options=options, service=service)
    try:
        yield driver
    finally:
        driver.quit()


def log_in(browser: webdriver.Chrome, page: str, password: str) -> None:
    """Open a page, and give the password on the login page that comes first; return once that page is left."""
    browser.get(page)
    field = WebDriverWait(browser, 30).until(lambda b: b.find_element(By.ID, "password_input"))
    field.send_keys(password)
    browser.find_element(By.ID, "login_submit").click()
    # Else the answer to the form may come after the caller's next address, and in its place. While the page changes,
    # chromedriver may answer "Node with given id does not belong to the document" before it says that it is stale.
    WebDriverWait(browser, 30, ignored_exceptions=(WebDriverException,)).until(staleness_of(field))
