"""The pages in a real browser: a real broker and front door on loopback, with stand-ins for workers and R."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

from bench import page
from bench.browser import BrowserWait, chromium, log_in, need_charts
from image.common import tls
from tests.broker.conftest import TOKEN, Bed, wait_for
from tests.broker.door import PASSWORD, Door


@dataclass
class Site:
    """A front door, and the broker whose live page is behind it."""

    bed: Bed
    door: Door

    @property
    def address(self) -> str:
        """Address without the last slash."""
        return f"http://localhost:{self.door.port}{self.door.base}".rstrip("/")

    @property
    def config(self) -> Path:
        """Folder of the release's settings."""
        return self.bed.folder.parent / "config"

    def open(self, browser: webdriver.Chrome, address: str = "") -> None:
        """Log in, and open the live page."""
        log_in(browser, f"{address or self.address}/cluster/", PASSWORD)
        until(browser, lambda b: text(b, "link-text") == "Live")


def until(browser: webdriver.Chrome, what: Callable[[webdriver.Chrome], Any], seconds: float = 20) -> Any:
    """The first true value."""
    return BrowserWait(browser, seconds, poll_frequency=0.1).until(what)


def text(browser: webdriver.Chrome, name: str) -> str:
    """Text of an element by its id."""
    return str(browser.find_element(By.ID, name).text)


@contextmanager
def stand_ins(bed: Bed, number: int) -> Iterator[None]:
    """That number of workers, all in this process; a task's data says how long it takes and how it ends."""
    loop = asyncio.new_event_loop()
    context = tls.context(TOKEN.encode(), server=False)
    few = asyncio.Semaphore(50)

    async def play() -> None:
        await asyncio.gather(*(page.worker(bed.ports["workers"], context, i, few) for i in range(number)))

    playing = loop.create_task(play())

    def run() -> None:
        with suppress(asyncio.CancelledError):
            loop.run_until_complete(playing)
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        wait_for(lambda: len(bed.table()) == number, 60)
        yield
    finally:
        loop.call_soon_threadsafe(playing.cancel)
        thread.join()


@pytest.fixture(scope="session", autouse=True)
def charts() -> None:
    """The library of the charts, which a broker reads when it starts."""
    need_charts()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with chromium(tmp_path_factory.mktemp("browser"), "--ignore-certificate-errors") as driver:
        yield driver


@pytest.fixture
def site_at(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """Starts a broker, with these variables, and a front door below a path."""
    doors: list[Door] = []
    beds: list[Bed] = []

    def start(base: str = "/", **broker: str) -> Site:
        for name in ("bed", "door", "config"):
            (tmp_path / name).mkdir()
        beds.append(Bed(tmp_path / "bed", FUTURE_KUBERNETES_CONFIG=str(tmp_path / "config"), **broker))
        environ = {"FUTURE_KUBERNETES_RUN": str(tmp_path / "bed"), "FAKE_RSERVER_TEMP": str(tmp_path)}
        doors.append(Door(tmp_path / "door", "both", True, base, environ))
        return Site(beds[-1], doors[-1])

    yield start
    for door in doors:
        door.end()
    for bed in beds:
        bed.stop()


@pytest.fixture
def site(site_at: Callable[..., Site]) -> Site:
    return site_at()


@pytest.fixture
def emulating(browser: webdriver.Chrome) -> Iterator[None]:
    """The dark colours, or what else a test lets the browser pretend, end with it."""
    yield
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
