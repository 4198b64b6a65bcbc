"""A real browser on the IDE's address, as a person uses it."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from local import debian_rootfs
from tests.e2e.conftest import Stack


@contextmanager
def forwarded(stack: Stack) -> Iterator[str]:
    """The IDE's address behind the stack's own port-forward command, on a port that is free here."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = stack.outputs()["portForward"].replace("8787:8787", f"{port}:8787")
    forward = subprocess.Popen(shlex.split(command), env=stack.environment(), stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while True:
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert time.monotonic() < deadline, command
            assert forward.poll() is None, command
            time.sleep(0.1)
        yield f"http://localhost:{port}"
    finally:
        forward.terminate()
        forward.wait(10)


@contextmanager
def chromium(folder: Path) -> Iterator[webdriver.Chrome]:
    """A headless browser whose profile is in ``folder``."""
    options = webdriver.ChromeOptions()
    options.binary_location = debian_rootfs.program("chromium", "chromium", "chromium-driver")
    for switch in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
        "--window-size=1280,900", f"--user-data-dir={folder}/profile",
    ):  # fmt: skip
        options.add_argument(switch)
    service = webdriver.ChromeService(debian_rootfs.program("chromedriver", "chromium-driver"), env=dict(os.environ))
    driver = webdriver.Chrome(options=options, service=service)
    try:
        yield driver
    finally:
        driver.quit()


def log_in(browser: webdriver.Chrome, page: str, password: str) -> None:
    """Open a page, and give the password on the login page that comes first."""
    browser.get(page)
    field = WebDriverWait(browser, 30).until(lambda b: b.find_element(By.ID, "password_input"))
    field.send_keys(password)
    browser.find_element(By.ID, "login_submit").click()
