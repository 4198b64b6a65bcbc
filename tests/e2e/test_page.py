"""The live page at /cluster/ in a real browser, behind the IDE's login."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from bench.browser import chromium, log_in
from common.errors import UserError
from tests.browser.axe import SCHEMES, violations
from tests.e2e.browsing import forwarded
from tests.e2e.conftest import WORKERS, Stack

pytestmark = pytest.mark.timeout(300)

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
REPORT = """
suppressMessages(library(future.kubernetes))
plan(kubernetes, workers = WORKERS, retries = 0)
fs <- lapply(1:9, function(i) future(Sys.sleep(0.5 + i %% 2), label = if (i == 1) LABEL else paste0("nap-", i)))
lost <- future(tools::pskill(Sys.getpid(), 9), label = "killed")
invisible(value(fs)); stopifnot(inherits(try(value(lost), silent = TRUE), "try-error"))
file <- report(tempfile(fileext = ".html"), price = 3, open = FALSE)
cat(readLines(file), sep = "\\n")
""".replace("LABEL", repr(MARKUP)).replace("WORKERS", str(WORKERS))
BROKER = """
for p in /proc/[0-9]*; do
  if tr '\\0' ' ' < $p/cmdline 2>/dev/null | grep -q 'broker[.]main import'; then kill -9 "${p#/proc/}"; fi
done
"""


@pytest.fixture(scope="module")
def address(stack: Stack) -> Iterator[str]:
    with forwarded(stack) as found:
        yield found


@pytest.fixture(scope="module")
def browser(stack: Stack, address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """A browser that is logged in, with the page open."""
    with chromium(tmp_path_factory.mktemp("browser")) as driver:
        log_in(driver, f"{address}/cluster/", stack.outputs()["password"])
        until(driver, lambda b: text(b, "link-text") == "Live")
        yield driver


def until(browser: webdriver.Chrome, what: Callable[[webdriver.Chrome], Any], seconds: float = 60) -> Any:
    return WebDriverWait(browser, seconds, poll_frequency=0.2).until(what)


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


class Refused(urllib.request.HTTPRedirectHandler):
    """Leaves a redirection to the login page as the answer."""

    def redirect_request(self, *_: Any) -> None:
        return None


@pytest.mark.parametrize(
    ("path", "status"),
    [("", 302), ("page.js", 302), ("events", 403), ("alive", 403)],
)
def test_page_and_its_events_are_refused_without_a_login(address: str, path: str, status: int) -> None:
    opener = urllib.request.build_opener(Refused, urllib.request.ProxyHandler({}))
    with pytest.raises(urllib.error.HTTPError) as answer:
        opener.open(f"{address}/cluster/{path}", timeout=20)
    assert answer.value.code == status
    assert status == 403 or "/login?next=" in answer.value.headers["Location"]


def test_a_running_map_shows_bars_and_short_labels(stack: Stack, browser: webdriver.Chrome, tmp_path: Path) -> None:
    title = browser.title
    unfold(browser)
    with r_session(stack, RUNNING) as session:
        until(browser, lambda b: text(b, "n-running") == str(WORKERS))
        until(browser, lambda b: MARKUP in text(b, "bars-table"))
        until(browser, lambda b: len(b.find_elements(By.CSS_SELECTOR, "#tiles .busy")) == WORKERS)
        until(browser, lambda b: re.search(r"\d of [\d,]+ MiB", text(b, "workers-table")))  # against its limit
        assert "plan(kubernetes)" in text(browser, "sessions")
        assert session.stdout is not None
        assert "ALL DONE" in session.stdout.read()
        until(browser, lambda b: text(b, "bars-table").count("done") >= 15)
        shown = text(browser, "bars-table")
        assert "two lines and more" in shown
        assert "megabytes ten megab…" in shown
        assert len(shown) < 5000
        assert int(browser.find_element(By.ID, "stream").get_attribute("data-bars") or 0) >= 15
    browser.save_screenshot(str(tmp_path / "page.png"))
    assert browser.title == title
    assert not browser.find_elements(By.CSS_SELECTOR, "main img")


def unfold(browser: webdriver.Chrome) -> None:
    browser.execute_script("for (const part of document.querySelectorAll('details')) part.open = true")


def test_axe_finds_nothing_on_the_page_while_a_map_runs(stack: Stack, browser: webdriver.Chrome) -> None:
    unfold(browser)
    with r_session(stack, RUNNING) as session:
        until(browser, lambda b: text(b, "n-running") == str(WORKERS))
        until(browser, lambda b: text(b, "waiting"))
        found = [each for scheme in SCHEMES for each in violations(browser, scheme)]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
        assert session.stdout is not None
        assert "ALL DONE" in session.stdout.read()
    assert not found, "\n".join(found)


def test_second_user_needs_a_login_and_sees_the_same_futures(
    stack: Stack, address: str, browser: webdriver.Chrome, tmp_path: Path
) -> None:
    with chromium(tmp_path) as other:
        other.get(f"{address}/cluster/")
        assert "/login?next=" in other.current_url, "the first user's login is not the second one's"
        assert not other.find_elements(By.ID, "tiles")
        log_in(other, f"{address}/cluster/", stack.outputs()["password"])
        until(other, lambda b: text(b, "link-text") == "Live")
        with r_session(stack, RUNNING.replace(MARKUP, "of-both")) as session:
            for page in (browser, other):
                unfold(page)
                until(page, lambda b: "of-both" in text(b, "bars-table"))
            other.get(f"{address}/logout")
            other.get(f"{address}/cluster/")
            assert "/login?next=" in other.current_url
            assert session.stdout is not None
            assert "ALL DONE" in session.stdout.read()
        assert text(browser, "link-text").startswith("Live")


@pytest.mark.parametrize("hours", [-24, 24])
def test_clock_of_the_browser_may_be_off(stack: Stack, address: str, tmp_path: Path, hours: int) -> None:
    off = f"const real = Date.now; Date.now = () => real() + {hours} * 3600e3"
    with chromium(tmp_path) as driver:
        driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": off})
        log_in(driver, f"{address}/cluster/", stack.outputs()["password"])
        until(driver, lambda b: text(b, "link-text") == "Live")
        unfold(driver)
        drawn = int(driver.find_element(By.ID, "stream").get_attribute("data-bars") or 0)
        begun = time.time()
        with r_session(stack, RUNNING.replace(MARKUP, f"off-by-{hours}")) as session:
            until(driver, lambda b: f"off-by-{hours}" in text(b, "bars-table"))
            assert session.stdout is not None
            assert "ALL DONE" in session.stdout.read()
        rows = until(driver, lambda b: ended(b, f"off-by-{hours}"))
        assert rows[3] in {time.strftime("%H:%M:%S", time.localtime(begun + late)) for late in range(60)}
        assert 2 <= float(rows[4]) < 10, "a nap of three seconds"
        until(driver, lambda b: int(b.find_element(By.ID, "stream").get_attribute("data-bars") or 0) >= drawn + 1)


def ended(browser: webdriver.Chrome, label: str) -> list[str]:
    """The row of a future that is done; empty for none."""
    rows: list[list[str]] = browser.execute_script(
        "return [...document.querySelectorAll('#bars-table tbody tr')].map(r => [...r.cells].map(c => c.textContent))"
    )
    return next((cells for cells in rows if cells[0] == label and cells[2] == "done"), [])


def test_memory_of_workers_is_shown_without_a_metrics_server(
    stack: Stack, address: str, browser: webdriver.Chrome
) -> None:
    """The agents say it; the API that `kubectl top` asks is removed."""
    service = "apiservices/v1beta1.metrics.k8s.io"
    known = json.loads(stack.kubectl("get", service, "-o", "json"))
    kept = {name: known[name] for name in ("apiVersion", "kind", "spec")}
    kept["metadata"] = {"name": known["metadata"]["name"], "labels": known["metadata"].get("labels", {})}
    stack.kubectl("delete", service)
    try:
        assert not is_measured(stack)
        browser.get(f"{address}/cluster/")
        until(browser, lambda b: text(b, "link-text") == "Live")
        unfold(browser)
        with r_session(stack, RUNNING.replace(MARKUP, "unmeasured")) as session:
            until(browser, lambda b: text(b, "n-running") == str(WORKERS))
            until(browser, lambda b: len(re.findall(r"\d of [\d,]+ MiB", text(b, "workers-table"))) >= WORKERS)
            until(browser, lambda b: re.fullmatch(r"Their pod uses [\d,]+ of [\d,]+ MiB", text(b, "memory-text")))
            assert session.stdout is not None
            assert "ALL DONE" in session.stdout.read()
    finally:
        stack.kubectl("apply", "-f", "-", input=json.dumps(kept))
    stack.wait("the metrics to be back", 120, lambda: is_measured(stack))


def is_measured(stack: Stack) -> bool:
    """True if `kubectl top` has an answer."""
    with suppress(UserError):
        return bool(stack.kubectl("top", "pods"))
    return False


def test_page_says_what_the_stack_costs(browser: webdriver.Chrome) -> None:
    assert text(browser, "cost") == "Cost: $0.00 an hour, with any number of workers."


def test_page_says_that_the_broker_was_restarted(stack: Stack, browser: webdriver.Chrome, tmp_path: Path) -> None:
    name = stack.scheduler()["metadata"]["name"]
    stack.kubectl("exec", name, "--", "bash", "-c", BROKER)
    until(browser, lambda b: "the broker was restarted" in text(b, "link-text"))
    browser.execute_script("for (const part of document.querySelectorAll('details')) part.open = false")
    browser.find_element(By.CSS_SELECTOR, "[data-span='60']").click()
    with r_session(stack, RUNNING.replace(MARKUP, "nap-1")) as session:
        until(browser, lambda b: text(b, "n-running") == str(WORKERS))
        until(browser, lambda b: int(text(b, "n-finished")) >= 9)
        browser.set_window_size(1200, 1000)
        browser.save_screenshot(str(tmp_path / "page.png"))
        assert session.stdout is not None
        assert "ALL DONE" in session.stdout.read()


def test_r_names_the_page_of_this_release(stack: Stack) -> None:
    printed = stack.rscript('library(future.kubernetes); stopifnot(identical(dashboard(), "/cluster/"))')
    assert "http://localhost:8787/cluster/" in printed


def test_first_notebook_of_an_empty_home_runs(stack: Stack) -> None:
    pod = stack.scheduler()["metadata"]["name"]
    cells = json.loads(stack.kubectl("exec", pod, "--", "cat", "start-here.ipynb"))["cells"]
    printed = stack.rscript("\n".join(cell["source"] for cell in cells if cell["cell_type"] == "code"))
    workers = {worker["metadata"]["name"] for worker in stack.pods("worker")}
    names = set(re.findall(r"[\w-]+-worker-[\w-]+", printed.split("elapsed")[0]))
    assert len(names) > 1, f"eight seconds of work, shared: {printed}"
    assert names <= workers
    assert "http://localhost:8787/cluster/" in printed


def test_report_of_r_is_one_file_without_needs(stack: Stack, browser: webdriver.Chrome, tmp_path: Path) -> None:
    said, _, html = stack.rscript(REPORT).partition("<!DOCTYPE html>")
    assert "10 futures in " in said
    assert "1 loss of a worker" in said
    file = tmp_path / "report.html"
    file.write_text(f"<!DOCTYPE html>{html}")
    for scheme in ("light", "dark"):
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        browser.set_window_size(1280, 1900)
        browser.get(f"file://{file}")
        browser.save_screenshot(str(tmp_path / f"report-{scheme}.png"))
        back = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", back)[:3])) < 300) == (scheme == "dark")
        assert not violations(browser, scheme)
    shown = browser.find_element(By.TAG_NAME, "main").text
    assert MARKUP in shown
    assert not browser.find_elements(By.CSS_SELECTOR, "img, script, [src], [href]")
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    bars = browser.find_elements(By.CSS_SELECTOR, "section[aria-labelledby=h-task-stream] rect")
    assert len(bars) == 10
    assert all(bar.size["width"] > 0 and bar.size["height"] > 5 for bar in bars)
    assert len(browser.find_elements(By.CSS_SELECTOR, "rect.l")) == 1
    assert re.search(r"Efficiency\n\d+ %", shown)
    assert "unknown" not in shown.split("Cost\n")[1].split("\n")[0]
    # By keyboard: each part that may scroll is reached, in order, and has a name.
    names = []
    for _ in browser.find_elements(By.CSS_SELECTOR, ".wide"):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        names.append(browser.switch_to.active_element.get_attribute("aria-label"))
    assert names[1:3] == ["Running and waiting, a drawing", "Task stream, a drawing"]
    assert len(set(names)) == len(names)
    # On paper nothing is cut off at the right.
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    browser.set_window_size(1050, 900)
    cut = "return [...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > innerWidth)"
    assert not browser.execute_script(cut)
