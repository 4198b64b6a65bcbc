"""A real browser, without a window."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.expected_conditions import staleness_of
from selenium.webdriver.support.ui import WebDriverWait

from common.patience import patience
from image.broker.page import chart_library
from local import debian_rootfs

_SCRIPT_SECONDS = 30
"""WebDriver's own limit for a script."""


class BrowserWait(WebDriverWait[webdriver.Chrome]):
    """A wait for something on a page. Its limit is widened on a slow machine, as all others are."""

    def __init__(
        self,
        driver: webdriver.Chrome,
        seconds: float,
        poll_frequency: float = 0.5,
        ignored_exceptions: Iterable[type[Exception]] | None = None,
    ) -> None:
        super().__init__(driver, patience(seconds), poll_frequency, ignored_exceptions)


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
    driver.set_script_timeout(patience(_SCRIPT_SECONDS))
    try:
        yield driver
    finally:
        driver.quit()


def log_in(browser: webdriver.Chrome, page: str, password: str) -> None:
    """Open a page, and give the password on the login page that comes first; return once that page is left."""
    browser.get(page)
    field = BrowserWait(browser, 30).until(lambda b: b.find_element(By.ID, "password_input"))
    field.send_keys(password)
    browser.find_element(By.ID, "login_submit").click()
    # Else the answer to the form may come after the caller's next address, and in its place. While the page changes,
    # chromedriver may answer "Node with given id does not belong to the document" before it says that it is stale.
    BrowserWait(browser, 30, ignored_exceptions=(WebDriverException,)).until(staleness_of(field))
