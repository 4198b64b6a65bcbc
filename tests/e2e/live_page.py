"""A map for the live page to show, and what the page has to bear while one runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from selenium import webdriver
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.common.by import By

from bench.browser import BrowserWait
from common.errors import UserError
from tests.e2e.conftest import WORKERS, Stack

MARKUP = "<img src=x onerror=document.title=1>"
RUNNING = """
suppressMessages(library(future.kubernetes))
plan(kubernetes, workers = WORKERS)
labels <- paste0("nap-", 1:15)
labels[1:3] <- c(LABEL, strrep("ten megabytes ", 7e5), "two\\nlines\\tand more")
fs <- lapply(1:15, function(i) future(Sys.sleep(2 + i %% 3), label = labels[[i]]))
cat("SUBMITTED\\n")
invisible(value(fs))
cat("ALL DONE\\n")
""".replace("LABEL", repr(MARKUP)).replace("WORKERS", str(WORKERS))
"""A map that takes some fifteen seconds."""
_BROKER = """
for p in /proc/[0-9]*; do
  if tr '\\0' ' ' < $p/cmdline 2>/dev/null | grep -q 'broker[.]main import'; then kill -9 "${p#/proc/}"; fi
done
"""


def until(browser: webdriver.Chrome, what: Callable[[webdriver.Chrome], Any], seconds: float = 60) -> Any:
    try:
        return BrowserWait(browser, seconds, poll_frequency=0.2).until(what)
    except TimeoutException as error:
        shown = browser.find_element(By.TAG_NAME, "body").text[-3000:]
        raise AssertionError(f"waited {seconds} s; the page shows: {shown}") from error


def text(browser: webdriver.Chrome, name: str) -> str:
    return str(browser.find_element(By.ID, name).text)


@contextmanager
def r_session(stack: Stack, code: str) -> Iterator[subprocess.Popen[str]]:
    name = stack.scheduler()["metadata"]["name"]
    command = [str(stack.node.programs / "kubectl"), "-n", stack.namespace, "exec", "-i", name, "--", "Rscript", "-"]
    with subprocess.Popen(
        command, env=os.environ | {"KUBECONFIG": str(stack.node.kubeconfig)}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as session:  # fmt: skip
        assert session.stdin is not None
        session.stdin.write(code)
        session.stdin.close()
        yield session


@contextmanager
def wrong_clock(browser: webdriver.Chrome, hours: int) -> Iterator[None]:
    """Let the clock of the browser's next pages be off by so many hours."""
    off = f"const real = Date.now; Date.now = () => real() + {hours} * 3600e3"
    script = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": off})
    try:
        yield
    finally:
        browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)


def restart_broker(stack: Stack) -> None:
    """Kill the broker, which the scheduler's pod starts again."""
    name = stack.scheduler()["metadata"]["name"]
    stack.kubectl("exec", name, "--", "bash", "-c", _BROKER)


def measured_pods(browser: webdriver.Chrome) -> bool:
    """True if the page has the memory of each worker and of the session's pod, against the limit."""
    workers = re.findall(r"\d of [\d,]+ MiB", text(browser, "workers-table"))
    session = re.fullmatch(r"Their pod uses [\d,]+ of [\d,]+ MiB", text(browser, "memory-text"))
    return len(workers) >= WORKERS and session is not None


@contextmanager
def without_metrics_server(stack: Stack) -> Iterator[None]:
    """Remove the API that `kubectl top` asks until the block ends."""
    service = "apiservices/v1beta1.metrics.k8s.io"
    known = json.loads(stack.kubectl("get", service, "-o", "json"))
    kept = {name: known[name] for name in ("apiVersion", "kind", "spec")}
    kept["metadata"] = {"name": known["metadata"]["name"], "labels": known["metadata"].get("labels", {})}
    stack.kubectl("delete", service)
    try:
        assert not _is_measured(stack)
        yield
    finally:
        stack.kubectl("apply", "-f", "-", input=json.dumps(kept))
    stack.wait("the metrics to be back", 120, lambda: _is_measured(stack))


def _is_measured(stack: Stack) -> bool:
    """True if `kubectl top` has an answer."""
    with suppress(UserError):
        return bool(stack.kubectl("top", "pods"))
    return False
