"""A stand-in for RStudio Server on the cluster, as no package registry has it, and what it shows.

It keeps what jupyter-rsession-proxy relies on. Its R session is a script that runs R.
"""

from __future__ import annotations

import re

from selenium import webdriver
from selenium.webdriver.common.by import By

from bench.browser import BrowserWait
from common.paths import REPO
from tests.e2e.conftest import Stack

RSERVER = (REPO / "tests/broker/fake_rserver.py").read_text().replace('"""', '#!/usr/bin/python3\n"""', 1)
_SESSION = """#!/bin/sh
cd
trap 'echo saved > session.saved; exit 0' USR2
export RSTUDIO=1
Rscript - > session.out 2> session.err <<'END' &
library(future.kubernetes); plan(kubernetes, workers = 1)
cat("POD", Sys.getenv("POD_NAME"), "WORKER", value(future(Sys.info()[["nodename"]])), "\\n")
MORE
END
while :; do sleep 0.1; done
"""


def session(more: str = "") -> str:
    """Program of the R session, whose R computes on a worker and then runs more code."""
    return _SESSION.replace("MORE", more)


def seen(browser: webdriver.Chrome) -> list[str]:
    """Lines of the stand-in's page, once it has done all that it does."""
    found = [item.text for item in browser.find_elements(By.CSS_SELECTOR, "#seen li")]
    return found if found[-1:] == ["end"] or any("failed" in text for text in found) else []


def check_rstudio(browser: webdriver.Chrome, address: str) -> None:
    """The page that is open is the stand-in's, and all of it has worked. address: the front door's."""
    BrowserWait(browser, 60).until(lambda b: "RStudio (stand-in)" in b.title)
    assert browser.current_url.rstrip("?") == f"{address}/rstudio/"
    assert BrowserWait(browser, 60).until(seen) == [
        "session started",
        "without token 400",
        "events none",
        "help Fitting Linear Models",
        "terminal heard typed",
        "end",
    ]
    browser.switch_to.frame("viewer")
    assert browser.find_element(By.ID, "application").text == "an application"
    browser.switch_to.default_content()


def check_session(stack: Stack) -> None:
    """The R session has the pod's environment, and a worker."""
    pod = stack.scheduler()["metadata"]["name"]
    printed = ""

    def computed() -> bool:
        nonlocal printed
        printed = stack.in_pod("cat session.out session.err 2>&1; true")
        return "WORKER" in printed

    stack.wait("the session's future", 120, computed)
    found = re.search(r"POD (\S+) WORKER (\S+)", printed)
    assert found, printed
    assert found[1] == pod, printed
    assert re.match(re.escape(stack.workload.rpartition("/")[2]), found[2]), printed
