"""RStudio, JupyterLab, live page and web applications behind the one login, in a real browser on the cluster.

Each test runs twice: by the port-forward, and below a path of a host, through a proxy as an Ingress is.

RStudio Server itself is a stand-in: no package registry has it. The stand-in keeps what jupyter-rsession-proxy relies
on, and is in the home folder, which comes first in this stack's PATH. Its R session is a script that runs R.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By

from bench.browser import BrowserWait, chromium, log_in
from common.patience import patience
from local import image
from tests.browser.axe import SCHEMES, violations
from tests.browser.page import row, rows, unfold
from tests.e2e.conftest import WORKERS, Stack
from tests.e2e.doors import BIN, Way, new_tab, place, press, way_to
from tests.e2e.live_page import (
    MARKUP,
    RUNNING,
    measured_pods,
    r_session,
    restart_broker,
    text,
    until,
    without_metrics_server,
    wrong_clock,
)
from tests.e2e.notebooks import accept_dialogs, end_kernels, run_cells, write_notebook
from tests.e2e.rstudio import RSERVER, check_rstudio, check_session, session

pytestmark = pytest.mark.timeout(900)

TOO_OLD = f"""#!/bin/sh
export FAKE_RSERVER_LACKS=www-socket
exec {BIN}/rserver-of-now "$@"
"""
NOTEBOOK = "front-door.ipynb"
CELLS = [
    "library(future.apply)\nlibrary(future.kubernetes)\n"
    f"plan(kubernetes, workers = {WORKERS})\ndashboard(height = 470)",
    "x <- future_sapply(1:60, function(i) Sys.sleep(1.5), future.seed = TRUE, future.scheduling = Inf)",
]
SHINY = """
library(shiny)
library(promises)
library(future.kubernetes)
plan(kubernetes, workers = 1)
page <- fluidPage(textInput("name", "Name", "Ada"), textOutput("greeting"))
answer <- function(input, output) output$greeting <- renderText({
  name <- input$name
  future(paste("Hello", name, "of", Sys.info()[["nodename"]])) %...>% paste0(".")
})
runApp(shinyApp(page, answer), port = 3838, launch.browser = FALSE)
"""
KNOCK = """
const [base, sockets, done] = arguments;
const opened = path => new Promise(said => {
  const socket = new WebSocket(new URL(base + path, location.href).href.replace(/^http/, "ws"));
  socket.onopen = () => said("open");
  socket.onerror = () => said("refused");
});
Promise.all([fetch(base + "cluster/events").then(answer => answer.status), ...sockets.map(opened)])
  .then(done, error => done(String(error)));
"""
"""The status of the page's stream of events, and what becomes of each WebSocket."""
RSTUDIO = (By.CSS_SELECTOR, '.jp-LauncherCard[title*="RStudio"]')
TERMINAL = (By.CSS_SELECTOR, '.jp-LauncherCard[title*="terminal" i]')


@pytest.fixture(scope="module")
def reference(stack: Stack) -> str:
    """An image with both IDEs and Shiny."""
    return image.push(stack.node, image.ImageRequest("both", r_packages=("shiny",)))


@pytest.fixture(scope="module", params=["/", "/team/r/"], ids=["port-forward", "ingress"])
def way(
    request: pytest.FixtureRequest, stack: Stack, reference: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Way]:
    """The stack with both IDEs and RStudio's stand-in, and afterwards as it was."""
    stack.in_pod(f"mkdir -p {BIN} && rm -f session.*")
    for name, program in {
        "rserver": RSERVER,
        "rserver-of-now": RSERVER,
        "rsession": session(),
        "start": f'#!/bin/sh\nexec env FUTURE_KUBERNETES_RSESSION={BIN}/rsession future-rsession "$@"\n',
        "rserver.conf": f"rsession-path={BIN}/start\n",
        "shiny.R": SHINY,
    }.items():
        place(stack, name, program)
    environment = {
        "PATH": f"{BIN}:/opt/jupyter/bin:/usr/local/bin:/usr/bin:/bin",
        "FAKE_RSERVER_CONF": f"{BIN}/rserver.conf",
    }
    extra = [{"name": name, "value": value} for name, value in environment.items()]
    values = {"scheduler": {"extraEnv": extra}, "ingress": {"path": request.param}}
    try:
        stack.up(ide="both", image=reference, chartValues=json.dumps(values))
        with way_to(stack, request.param, tmp_path_factory.mktemp("ingress")) as found:
            yield found
    finally:
        stack.up()
        stack.in_pod(f"rm -rf {BIN} session.* {NOTEBOOK}")


@pytest.fixture(scope="module")
def browser(way: Way, tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with chromium(tmp_path_factory.mktemp("browser"), "--ignore-certificate-errors") as driver:
        log_in(driver, f"{way.address}/", way.stack.outputs()["password"])
        yield driver


@pytest.fixture(autouse=True)
def picture(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[None]:
    """A picture of the browser at the end of a test, which shows why it failed."""
    yield
    if "browser" in request.fixturenames:
        driver: webdriver.Chrome = request.getfixturevalue("browser")
        driver.save_screenshot(str(tmp_path / "page.png"))
        driver.switch_to.default_content()
        for handle in driver.window_handles[1:]:
            driver.switch_to.window(handle)
            driver.close()
        driver.switch_to.window(driver.window_handles[0])


def test_address_leads_to_rstudio_whose_help_viewer_and_websocket_work(way: Way, browser: webdriver.Chrome) -> None:
    browser.get(f"{way.address}/")
    check_rstudio(browser, way.address)
    assert way.lost() == []


def test_r_session_of_rstudio_has_the_pods_environment_and_workers(way: Way, browser: webdriver.Chrome) -> None:
    check_session(way.stack)


def test_tile_of_jupyterlab_opens_rstudio(way: Way, browser: webdriver.Chrome) -> None:
    browser.get(f"{way.address}/lab?reset")
    press(browser, RSTUDIO)
    with new_tab(browser):
        check_rstudio(browser, way.address)
    assert way.lost() == []


def test_axe_finds_nothing_on_what_is_added_to_jupyterlab(way: Way, browser: webdriver.Chrome) -> None:
    """JupyterLab's own pages are not this project's."""
    browser.get(f"{way.address}/lab?reset")
    BrowserWait(browser, 90).until(lambda b: b.find_elements(*RSTUDIO))
    gauge = '#jp-main-statusbar [title="Current resource usage"]'
    BrowserWait(browser, 60).until(lambda b: "Mem: " in b.find_element(By.CSS_SELECTOR, gauge).text)
    for scheme in SCHEMES:
        found = violations(browser, scheme, RSTUDIO[1], gauge)
        assert not found, "\n".join(found)


def test_terminal_of_jupyterlab_runs_a_command(way: Way, browser: webdriver.Chrome) -> None:
    browser.get(f"{way.address}/lab?reset")
    press(browser, TERMINAL)

    def typed(b: webdriver.Chrome) -> bool:
        """The terminal takes keys before its shell does: so look whether the command was run, and type it again."""
        accept_dialogs(b)
        b.find_element(By.CSS_SELECTOR, ".jp-Terminal .xterm-helper-textarea").send_keys("\nhostname > session.typed\n")
        return way.stack.in_pod("cat session.typed 2>/dev/null || true").strip() != ""

    BrowserWait(browser, 60).until(lambda b: b.find_elements(By.CSS_SELECTOR, ".jp-Terminal .xterm-helper-textarea"))
    BrowserWait(browser, 60, poll_frequency=2).until(typed)
    pod = way.stack.scheduler()["metadata"]["name"]
    assert way.stack.in_pod("cat session.typed").strip() == pod
    assert way.lost() == []


def test_shiny_application_answers_by_futures_on_a_worker(way: Way, browser: webdriver.Chrome) -> None:
    def greeted(name: str) -> bool:
        return browser.find_element(By.ID, "greeting").text in {f"Hello {name} of {worker}." for worker in workers}

    way.stack.in_pod(f"(Rscript {BIN}/shiny.R > session.shiny 2>&1 & echo $! > session.pid)")
    try:
        listening = "Listening on"
        way.stack.wait("Shiny", 60, lambda: listening in way.stack.in_pod("cat session.shiny"))
        workers = [worker["metadata"]["name"] for worker in way.stack.pods("worker")]
        browser.get(f"{way.address}/proxy/3838/")
        BrowserWait(browser, 60).until(lambda _: greeted("Ada"))
        browser.find_element(By.ID, "name").send_keys(" Lovelace")
        BrowserWait(browser, 60).until(lambda _: greeted("Ada Lovelace"))
        assert way.lost() == []
    finally:
        way.stack.in_pod("kill $(cat session.pid); true")


def bars(browser: webdriver.Chrome) -> int:
    return int(browser.find_element(By.ID, "stream").get_attribute("data-bars") or 0)


def test_notebook_shows_its_map_on_live_page_below_cell(way: Way, browser: webdriver.Chrome) -> None:
    write_notebook(way.stack, NOTEBOOK, CELLS)
    browser.get(f"{way.address}/lab/tree/{NOTEBOOK}?reset")
    frame = (By.CSS_SELECTOR, ".jp-OutputArea-output iframe[title=Cluster]")
    try:
        run_cells(browser, len(CELLS))
        browser.switch_to.frame(BrowserWait(browser, 60).until(lambda b: b.find_elements(*frame))[0])
        BrowserWait(browser, 60).until(lambda b: b.find_element(By.ID, "link-text").text == "Live")
        address = browser.execute_script("return location.href")
        assert address == f"{way.address}/cluster/"
        BrowserWait(browser, 60).until(lambda b: bars(b) >= 2 * WORKERS)
        BrowserWait(browser, 60).until(lambda b: b.find_element(By.ID, "n-running").text == str(WORKERS))
        before = bars(browser)
        if way.proxy is not None:
            way.proxy.cut()  # of a sudden, as an Ingress that restarts does; the page opens another stream
        BrowserWait(browser, 60).until(lambda b: bars(b) > before + WORKERS)
        loaded = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
        assert len(loaded) >= 8
        assert [name for name in loaded if not name.startswith(address)] == []
        for scheme in SCHEMES:
            found = violations(browser, scheme)
            assert not found, "\n".join(found)
    finally:
        browser.switch_to.default_content()
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
        end_kernels(browser, way.base)
    assert way.lost() == []


def open_live_page(way: Way, browser: webdriver.Chrome) -> None:
    browser.get(f"{way.address}/cluster/")
    until(browser, lambda b: text(b, "link-text") == "Live")
    unfold(browser)


def test_second_user_with_another_clock_sees_same_odd_labels(
    way: Way, browser: webdriver.Chrome, tmp_path: Path
) -> None:
    open_live_page(way, browser)
    title = browser.title
    with chromium(tmp_path / "second", "--ignore-certificate-errors") as other:
        other.get(f"{way.address}/cluster/")
        assert "/login?next=" in other.current_url, "the first user's login is not the second one's"
        assert not other.find_elements(By.ID, "tiles")
        log_in(other, f"{way.address}/cluster/", way.stack.outputs()["password"])
        begun = time.time()
        name = f"nap-{begun:.0f}-"
        with r_session(way.stack, RUNNING.replace("nap-", name)) as session:
            for hours in (-24, 24):
                with wrong_clock(other, hours):
                    open_live_page(way, other)
                    done = until(other, lambda b: [r for r in rows(b) if r[0].startswith(name) and r[2] == "done"])
                    label, _, _, start, seconds = done[0][:5]
                    assert start in {time.strftime("%H:%M:%S", time.localtime(begun + late)) for late in range(120)}
                    assert 2 <= float(seconds) < patience(10), f"{label} naps for four seconds at most"
            for page in (browser, other):
                until(page, lambda b: {MARKUP, "two lines and more"} <= {cells[0] for cells in rows(b)})
                labels = [cells[0] for cells in rows(page)]
                assert any(label.startswith("ten megabytes") and label.endswith("…") for label in labels)
                assert max(map(len, labels)) < 200
                assert not page.find_elements(By.CSS_SELECTOR, "main img")
                assert page.title == title
            other.get(f"{way.address}/logout")
            other.get(f"{way.address}/cluster/")
            assert "/login?next=" in other.current_url
            assert session.stdout is not None
            assert "ALL DONE" in session.stdout.read()
    assert text(browser, "link-text").startswith("Live")
    assert way.lost() == []


def test_live_page_bears_brokers_restart_and_no_metrics_server(way: Way, browser: webdriver.Chrome) -> None:
    """The agents report the memory; the session and its futures outlive the broker."""
    with without_metrics_server(way.stack):
        open_live_page(way, browser)
        with r_session(way.stack, RUNNING.replace("nap-", "restarted-")) as session:
            until(browser, lambda b: text(b, "n-running") == str(WORKERS))
            until(browser, measured_pods)
            restart_broker(way.stack)
            until(browser, lambda b: "the broker was restarted" in text(b, "link-text"))
            until(browser, measured_pods)
            assert session.stdout is not None
            assert "ALL DONE" in session.stdout.read()
            until(browser, lambda b: row(b, "restarted-15", "done"))
    assert way.lost() == []


def test_live_page_is_behind_the_same_login(way: Way, browser: webdriver.Chrome) -> None:
    browser.get(f"{way.address}/cluster/")
    BrowserWait(browser, 60).until(lambda b: b.find_element(By.ID, "link-text").text == "Live")
    browser.get(f"{way.address}/logout")
    for path in ("/cluster/", "/rstudio/", "/lab", "/proxy/3838/"):
        browser.get(f"{way.address}{path}")
        BrowserWait(browser, 30).until(lambda b: b.find_elements(By.ID, "password_input"))
        assert browser.current_url.startswith(f"{way.address}/login?next=")
    sockets = ("cluster/events", "terminals/websocket/1", "rstudio/p/80/", "proxy/3838/")
    answers = browser.execute_async_script(KNOCK, way.base, sockets)
    assert answers == [403, *["refused"] * len(sockets)]
    assert way.lost() == []


def test_r_session_saves_data_and_missing_rstudio_is_explained(way: Way, tmp_path: Path) -> None:
    """The last one of each way: it ends the pod, and so the port-forward."""
    way.stack.replace_scheduler()
    assert way.stack.in_pod("cat session.saved") == "saved\n"
    place(way.stack, "rserver", TOO_OLD)
    way.stack.replace_scheduler()
    said = tile_leads_to(way, tmp_path / "old", "RStudio (too old: 2023.03.0)")
    assert "RStudio Server 2023.03.0 is too old" in said
    assert "no option www-socket" in said
    way.stack.in_pod(f"rm {BIN}/rserver")
    way.stack.replace_scheduler()
    said = tile_leads_to(way, tmp_path / "missing", "RStudio (not in this image)")
    assert "This image has no RStudio Server (rserver)" in said
    assert "pulumi config set baseImage rocker/rstudio:" in said


def tile_leads_to(way: Way, folder: Path, label: str) -> str:
    """Text of the page that RStudio's tile opens where RStudio cannot be; the tile has this label and an arrow."""
    folder.mkdir()
    with (
        way_to(way.stack, way.base, folder) as now,
        chromium(folder / "browser", "--ignore-certificate-errors") as driver,
    ):
        log_in(driver, f"{now.address}/lab?reset", way.stack.outputs()["password"])
        try:
            BrowserWait(driver, 90, ignored_exceptions=(StaleElementReferenceException,)).until(
                lambda b: any(" ".join(card.text.split()).startswith(label) for card in b.find_elements(*RSTUDIO))
            )
            driver.save_screenshot(str(folder / "tile.png"))
            press(driver, RSTUDIO)
            with new_tab(driver):
                BrowserWait(driver, 60).until(lambda b: "RStudio cannot be opened" in b.page_source)
                for scheme in SCHEMES:
                    assert not violations(driver, scheme)
                link = driver.find_element(By.LINK_TEXT, "JupyterLab")
                assert link.get_attribute("href") == f"{now.address}/lab/"
                return str(driver.find_element(By.ID, "site").text)
        finally:
            driver.save_screenshot(str(folder / "page.png"))
