"""RStudio behind the one login, in a real browser on the cluster; RStudio Server itself is a stand-in.

No package registry has RStudio Server. The stand-in keeps what jupyter-rsession-proxy relies on, and is in the home
folder, which comes first in this stack's PATH. Its R session is a script that runs R.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from bench.browser import chromium, log_in
from common.paths import REPO
from local import image
from tests.e2e.browsing import forwarded
from tests.e2e.conftest import Stack

pytestmark = pytest.mark.timeout(900)

BIN = "/home/rstudio/stand-in"
SESSION = """#!/bin/sh
cd
trap 'echo saved > session.saved; exit 0' USR2
Rscript -e 'library(future.kubernetes); plan(kubernetes, workers = 1)
cat("POD", Sys.getenv("POD_NAME"), "WORKER", value(future(Sys.info()[["nodename"]])))' > session.out 2> session.err
while :; do sleep 0.1; done
"""


@pytest.fixture(scope="module")
def both(stack: Stack) -> Iterator[Stack]:
    """The stack with both IDEs, and afterwards as it was."""
    pod = stack.scheduler()["metadata"]["name"]
    files = {
        "rserver": (REPO / "tests/broker/fake_rserver.py").read_text().replace('"""', '#!/usr/bin/python3\n"""', 1),
        "rsession": SESSION,
        "start": f'#!/bin/sh\nexec env FUTURE_KUBERNETES_RSESSION={BIN}/rsession future-rsession "$@"\n',
        "rserver.conf": f"rsession-path={BIN}/start\n",
    }
    for name, text in files.items():
        place = f"mkdir -p {BIN} && cat > {BIN}/{name} && chmod +x {BIN}/{name}"
        stack.kubectl("exec", "-i", pod, "--", "sh", "-c", place, input=text)
    environment = {
        "PATH": f"{BIN}:/opt/jupyter/bin:/usr/local/bin:/usr/bin:/bin",
        "FAKE_RSERVER_CONF": f"{BIN}/rserver.conf",
    }
    values = {"scheduler": {"extraEnv": [{"name": name, "value": value} for name, value in environment.items()]}}
    reference = image.push(stack.node, image.ImageRequest("both"))
    try:
        stack.up(ide="both", image=reference, chartValues=json.dumps(values))
        yield stack
    finally:
        stack.up()
        stack.kubectl("exec", stack.scheduler()["metadata"]["name"], "--", "sh", "-c", f"rm -rf {BIN} session.*")


@pytest.fixture(scope="module")
def browser(both: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[webdriver.Chrome, str]]:
    with forwarded(both) as address, chromium(tmp_path_factory.mktemp("browser")) as driver:
        log_in(driver, address, both.outputs()["password"])
        yield driver, address


def test_address_leads_to_rstudio_with_working_help_viewer_and_websocket(
    browser: tuple[webdriver.Chrome, str], tmp_path: Path
) -> None:
    driver, address = browser
    try:
        WebDriverWait(driver, 60).until(lambda b: "RStudio (stand-in)" in b.title)
        assert driver.current_url.rstrip("?") == f"{address}/rstudio/"

        def seen(b: webdriver.Chrome) -> list[str]:
            found = [item.text for item in b.find_elements(By.CSS_SELECTOR, "#seen li")]
            return found if found[-1:] == ["end"] or any("failed" in text for text in found) else []

        assert WebDriverWait(driver, 60).until(seen) == [
            "session started",
            "without token 400",
            "events none",
            "help Fitting Linear Models",
            "terminal heard typed",
            "end",
        ]
        driver.switch_to.frame("viewer")
        assert driver.find_element(By.ID, "application").text == "an application"
    finally:
        driver.switch_to.default_content()
        driver.save_screenshot(str(tmp_path / "page.png"))


def test_r_session_of_rstudio_has_the_pods_environment_and_workers(
    both: Stack, browser: tuple[webdriver.Chrome, str]
) -> None:
    pod = both.scheduler()["metadata"]["name"]
    shown = ("exec", pod, "--", "sh", "-c", "cat session.out 2>&1; true")
    both.wait("the session's future", 120, lambda: "WORKER" in both.kubectl(*shown))
    printed = both.kubectl(*shown)
    found = re.search(r"POD (\S+) WORKER (\S+)", printed)
    assert found, printed
    assert found[1] == pod, printed
    assert found[2] in {worker["metadata"]["name"] for worker in both.pods("worker")}


def test_jupyterlab_is_beside_rstudio_and_has_its_tile(browser: tuple[webdriver.Chrome, str], tmp_path: Path) -> None:
    driver, address = browser
    driver.get(f"{address}/lab")
    try:
        tile = (By.CSS_SELECTOR, '.jp-LauncherCard[title*="RStudio"]')
        WebDriverWait(driver, 90).until(lambda b: b.find_elements(*tile))
    finally:
        driver.save_screenshot(str(tmp_path / "page.png"))


def test_live_page_is_behind_the_same_login(browser: tuple[webdriver.Chrome, str]) -> None:
    driver, address = browser
    driver.get(f"{address}/cluster/")
    WebDriverWait(driver, 60).until(lambda b: b.find_element(By.ID, "link-text").text == "Live")


def test_r_session_saves_its_data_when_the_pod_ends(both: Stack, browser: tuple[webdriver.Chrome, str]) -> None:
    before = both.scheduler()["metadata"]
    both.kubectl("delete", "pod", before["name"], "--wait=false")
    after = both.scheduler(other_than=before["uid"])["metadata"]["name"]
    assert both.kubectl("exec", after, "--", "cat", "session.saved") == "saved\n"
