"""Ways to the front door, and what a person does behind it in a browser."""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from selenium import webdriver
from selenium.common.exceptions import ElementClickInterceptedException, StaleElementReferenceException

from bench.browser import BrowserWait
from tests.browser.ingress import Ingress, ingress
from tests.e2e.browsing import forwarded
from tests.e2e.conftest import Stack
from tests.e2e.notebooks import accept_dialogs

BIN = "/home/rstudio/stand-in"
"""Folder of RStudio's stand-in in the pod."""


@dataclass(frozen=True)
class Way:
    """A way to the front door: its address without the last slash, and the proxy that is on the way, if any."""

    stack: Stack
    base: str
    address: str
    proxy: Ingress | None = None

    def lost(self) -> list[str]:
        """Paths that a page has asked for beside the front door's, since the last call."""
        if self.proxy is None:
            return []
        # A browser asks for the icon by itself where a page names none, as Shiny's.
        found = [path for path in self.proxy.refused if path != "/favicon.ico"]
        self.proxy.refused.clear()
        return found


@contextmanager
def way_to(stack: Stack, base: str, folder: Path) -> Iterator[Way]:
    with forwarded(stack) as address:
        if base == "/":
            yield Way(stack, base, address)
        else:
            with ingress(folder, urllib.parse.urlsplit(address).port or 0, base) as proxy:
                yield Way(stack, base, f"{proxy.address}{base}".rstrip("/"), proxy)


def place(stack: Stack, name: str, text: str) -> None:
    stack.in_pod(f"cat > {BIN}/{name}.new && chmod +x {BIN}/{name}.new && mv {BIN}/{name}.new {BIN}/{name}", input=text)


def press(browser: webdriver.Chrome, card: tuple[str, str]) -> None:
    """Click on a tile of JupyterLab's launcher once it is there and no dialog is in front of it."""

    def pressed(b: webdriver.Chrome) -> bool:
        accept_dialogs(b)
        try:
            found = b.find_elements(*card)
            if found:
                found[0].click()
            return bool(found)
        except (ElementClickInterceptedException, StaleElementReferenceException):
            return False

    BrowserWait(browser, 90).until(pressed)


@contextmanager
def new_tab(browser: webdriver.Chrome) -> Iterator[None]:
    """The tab that has just been opened."""
    first = browser.current_window_handle
    BrowserWait(browser, 60).until(lambda b: len(b.window_handles) == 2)
    browser.switch_to.window(next(each for each in browser.window_handles if each != first))
    try:
        yield
    finally:
        browser.close()
        browser.switch_to.window(first)
