"""The live page at /cluster/ in a real browser, behind the IDE's login; what it has to bear is in test_front_door."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from bench.browser import chromium, log_in
from common.patience import patience
from tests.browser.axe import SCHEMES, violations
from tests.browser.page import unfold
from tests.e2e.browsing import forwarded
from tests.e2e.conftest import WORKERS, Stack
from tests.e2e.live_page import MARKUP, RUNNING, r_session, text, until

pytestmark = pytest.mark.timeout(300)

REPORT = """
suppressMessages(library(future.kubernetes))
plan(kubernetes, workers = WORKERS, retries = 0)
fs <- lapply(1:9, function(i) future(Sys.sleep(0.5 + i %% 2), label = if (i == 1) LABEL else paste0("nap-", i)))
lost <- future(tools::pskill(Sys.getpid(), 9), label = "killed")
invisible(value(fs)); stopifnot(inherits(try(value(lost), silent = TRUE), "try-error"))
file <- report(tempfile(fileext = ".html"), price = 3, open = FALSE)
cat(readLines(file), sep = "\\n")
""".replace("LABEL", repr(MARKUP)).replace("WORKERS", str(WORKERS))


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
        opener.open(f"{address}/cluster/{path}", timeout=patience(20))
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


def test_page_says_what_the_stack_costs(browser: webdriver.Chrome) -> None:
    assert text(browser, "cost") == "Cost: $0.00 an hour, with any number of workers."


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
