"""The live page in a browser: frames, an Ingress, other users, clocks that are off, labels of any kind."""

from __future__ import annotations

import http.server
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from bench.browser import chromium, log_in
from common.paths import REPO
from tests.broker.door import PASSWORD
from tests.browser.axe import SCHEMES, violations
from tests.browser.conftest import Site, text, until
from tests.browser.ingress import ingress
from tests.browser.page import errors, row, rows, submit, unfold

pytestmark = pytest.mark.timeout(180)

MARKUP = "<img src=x onerror=document.title=1><script>document.title=2</script>"


def test_second_user_needs_a_login_and_sees_the_same_futures(
    site: Site, browser: webdriver.Chrome, tmp_path: Path
) -> None:
    site.bed.worker("a")
    site.open(browser)
    with chromium(tmp_path) as other, site.bed.plan() as plan:
        other.get(f"{site.address}/cluster/")
        assert "/login?next=" in other.current_url, "the first user's login is not the second one's"
        assert not other.find_elements(By.ID, "tiles")
        site.open(other)
        end = submit(plan, tmp_path)
        for page in (browser, other):
            unfold(page)
            until(page, lambda b: row(b, "fit-1", "running"))
        other.get(f"{site.address}/logout")
        other.get(f"{site.address}/cluster/")
        assert "/login?next=" in other.current_url
        end()
        until(browser, lambda b: row(b, "fit-1", "done"))
        assert text(browser, "link-text") == "Live"


def test_page_works_in_a_frame_of_its_own_site_only(site: Site, browser: webdriver.Chrome, tmp_path: Path) -> None:
    """JupyterLab's frame below a cell, and one as narrow as RStudio's viewer."""
    site.bed.worker("a")
    site.open(browser)
    frame = """
        document.body.replaceChildren(Object.assign(document.createElement("iframe"),
          {src: arguments[0], style: "width: 380px; height: 600px; border: 0"}))
    """
    browser.get(f"{site.address}/login")  # a page of the front door itself
    browser.execute_script(frame, "/cluster/")
    with site.bed.plan() as plan:
        browser.switch_to.frame(0)
        until(browser, lambda b: text(b, "link-text") == "Live")
        unfold(browser)
        end = submit(plan, tmp_path)
        until(browser, lambda b: row(b, "fit-1", "running"))
        until(browser, lambda b: int(b.find_element(By.ID, "stream").get_attribute("data-bars") or 0) == 1)
        end()
        until(browser, lambda b: row(b, "fit-1", "done"))
        wide = "return document.documentElement.scrollWidth - innerWidth"
        assert browser.execute_script(wide) <= 0, "nothing is wider than the frame"
    browser.switch_to.default_content()
    # Another port of this host: the browser sends the login's cookie there too, and still may not show the page.
    with another_site() as other:
        browser.get(other)
        errors(browser)
        browser.execute_script(frame, f"{site.address}/cluster/")
        until(browser, lambda b: any("frame-ancestors" in message for message in errors(b)))
        browser.switch_to.frame(0)
        assert not browser.find_elements(By.ID, "tiles")
        browser.switch_to.default_content()


@pytest.mark.parametrize("base", ["/", "/team/r/"])
def test_page_works_in_rstudios_viewer(
    site_at: Callable[..., Site], browser: webdriver.Chrome, tmp_path: Path, base: str
) -> None:
    """The file that dashboard() gives to the viewer leads to the page, and not to a second login."""
    site = site_at(base)
    site.bed.worker("a")
    page = (REPO / "image/future.kubernetes/inst/viewer.html").read_text()
    (tmp_path / "cluster.html").write_text(page.replace("PAGE", f"{base}cluster/"))
    log_in(browser, f"{site.address}/rstudio/?view=session/cluster.html", PASSWORD)
    until(browser, lambda b: "RStudio (stand-in)" in b.title)
    with site.bed.plan() as plan:
        browser.switch_to.frame("viewer")
        until(browser, lambda b: text(b, "link-text") == "Live")
        unfold(browser)
        end = submit(plan, tmp_path)
        until(browser, lambda b: row(b, "fit-1", "running"))
        end()
        until(browser, lambda b: row(b, "fit-1", "done"))
    browser.switch_to.default_content()


@contextmanager
def another_site() -> Iterator[str]:
    """An empty page on a port of its own."""

    class Empty(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!DOCTYPE html><title>Another</title><body></body>")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Empty) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://localhost:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def test_everything_comes_from_an_ingress_path_which_may_be_cut(
    site_at: Callable[..., Site], browser: webdriver.Chrome, tmp_path: Path
) -> None:
    site = site_at("/team/r/")
    site.bed.worker("a")
    with ingress(tmp_path, site.door.port, "/team/r/") as proxy, site.bed.plan() as plan:
        page = f"{proxy.address}/team/r/cluster/"
        browser.get(page)
        assert browser.current_url.startswith(f"{proxy.address}/team/r/login?next=")
        site.open(browser, f"{proxy.address}/team/r")
        assert browser.current_url == page
        errors(browser)
        unfold(browser)
        end = submit(plan, tmp_path)
        until(browser, lambda b: row(b, "fit-1", "running"))
        proxy.cut()
        end()
        # Without a reload: the page opens another stream, and has missed nothing.
        until(browser, lambda b: row(b, "fit-1", "done"))
        until(browser, lambda b: text(b, "link-text") == "Live")
        loaded = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
        assert len(loaded) >= 8
        assert [name for name in loaded if not name.startswith(page)] == []
        assert proxy.refused == []
        linked = """
            const found = [...document.querySelectorAll("[src], [href]")];
            return found.map(e => e.getAttribute("src") ?? e.getAttribute("href"));
        """
        assert [link for link in browser.execute_script(linked) if re.match(r"/|\w+:", link)] == []
        name = f"username-localhost-{proxy.address.rpartition(':')[2]}"
        cookies = [cookie for cookie in browser.get_cookies() if cookie["name"] == name]
        assert [(cookie["secure"], cookie["path"]) for cookie in cookies] == [(True, "/team/r/")]


@pytest.mark.parametrize("hours", [-24, 24])
def test_clock_of_the_browser_may_be_off(site: Site, browser: webdriver.Chrome, tmp_path: Path, hours: int) -> None:
    off = f"const real = Date.now; Date.now = () => real() + {hours} * 3600e3"
    script = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": off})
    try:
        site.bed.worker("a")
        site.open(browser)
        unfold(browser)
        with site.bed.plan() as plan:
            begun = time.time()
            end = submit(plan, tmp_path)
            until(browser, lambda b: row(b, "fit-1", "running"))
            until(browser, lambda b: float(row(b, "fit-1", "running")[4]) >= 1)
            end()
            cells = until(browser, lambda b: row(b, "fit-1", "done"))
            assert cells[3] in {time.strftime("%H:%M:%S", time.localtime(begun + late)) for late in range(4)}
            assert float(cells[4]) < 30
        assert browser.find_element(By.ID, "stream").get_attribute("data-bars") == "1"
        assert re.fullmatch(r"\d+(\.\d)? s", table_cell(browser, 3))
    finally:
        browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)


def table_cell(browser: webdriver.Chrome, column: int) -> str:
    """A cell of the first worker's row."""
    return str(
        browser.execute_script(f"return document.querySelector('#workers-table tbody tr').cells[{column}].textContent")
    )


def test_broker_that_hangs_is_said_though_browsers_clock_went_back(
    site: Site, browser: webdriver.Chrome, tmp_path: Path
) -> None:
    site.open(browser)
    browser.execute_script("const real = Date.now; Date.now = () => real() - 3600e3")
    site.bed.broker.process.send_signal(signal.SIGSTOP)
    try:
        until(browser, lambda b: text(b, "link-text").startswith("Reconnecting: the broker does not answer"), 40)
    finally:
        site.bed.broker.process.send_signal(signal.SIGCONT)
    until(browser, lambda b: text(b, "link-text") == "Live")
    site.bed.restart_broker()
    until(browser, lambda b: text(b, "link-text").startswith("Live again: the broker was restarted at "))


def test_labels_of_any_kind_stay_one_line_of_text(site: Site, browser: webdriver.Chrome, tmp_path: Path) -> None:
    site.bed.worker("a")
    site.open(browser)
    title = browser.title
    unfold(browser)
    mirrored = "\u202egnp.exe \u0645\u0631\u062d\u0628\u0627"
    with site.bed.plan() as plan:
        for label in (MARKUP, "x" * 60_000, mirrored, "two\tcolumns\x0bthree", "&lt;b&gt;"):
            plan.result(plan.submit("sleep 0", label=label))
        until(browser, lambda b: len([cells for cells in rows(b) if cells[2] == "done"]) == 5)
    shown = {cells[0] for cells in rows(browser)}
    assert {MARKUP, "x" * 79 + "…", mirrored, "two columns three", "&lt;b&gt;"} == shown
    assert browser.title == title
    assert not browser.find_elements(By.CSS_SELECTOR, "main img, main script, main b b")
    assert browser.execute_script("return document.documentElement.scrollWidth - innerWidth") <= 0


def test_session_with_huge_label_is_refused_and_others_go_on(
    site: Site, browser: webdriver.Chrome, tmp_path: Path
) -> None:
    """The R package cuts a label; what speaks the protocol without it is cut off."""
    site.bed.worker("a")
    site.open(browser)
    unfold(browser)
    with site.bed.plan() as plan, site.bed.plan() as broken:
        try:
            broken.submit("sleep 0", label="y" * 10_000_000)
            assert broken.ended(10)
        except OSError:
            pass
        plan.result(plan.submit("sleep 0", label="after"))
        until(browser, lambda b: row(b, "after", "done"))
    assert "yyy" not in browser.page_source


def test_page_works_by_keys_and_names_all_for_screen_readers(
    site: Site, browser: webdriver.Chrome, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        site.bed.worker(name)
    site.open(browser)

    def press(*keys: str) -> None:
        browser.switch_to.active_element.send_keys(*keys)

    def go_to(name: str) -> None:
        """Tab from the page's begin until the element with this id, or this selector, has the focus."""
        browser.execute_script("document.activeElement.blur(); getSelection().collapse(document.body, 0)")
        browser.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
        for _ in range(30):
            if browser.execute_script("return document.activeElement.matches(arguments[0])", name):
                return
            press(Keys.TAB)
        raise AssertionError(f"no way to {name} by Tab")

    def is_pressed(selector: str) -> bool:
        return browser.find_element(By.CSS_SELECTOR, selector).get_attribute("aria-pressed") == "true"

    with site.bed.plan(2) as plan:
        end = submit(plan, tmp_path)
        until(browser, lambda b: text(b, "n-running") == "1")
        go_to("#tiles")
        tiles = browser.find_element(By.ID, "tiles")
        assert tiles.accessible_name == "Workers; arrow keys move, details below"
        until(browser, lambda b: re.search(r"\ba\b", text(b, "detail")))
        first = text(browser, "detail")
        press(Keys.ARROW_RIGHT)
        until(browser, lambda b: re.search(r"\bb\b", text(b, "detail")) and text(b, "detail") != first)
        active = tiles.get_attribute("aria-activedescendant")
        assert browser.find_element(By.ID, str(active)).get_attribute("aria-selected") == "true"

        go_to("[data-span='60']")
        press(Keys.ENTER)
        assert is_pressed("[data-span='60']")
        go_to("#stream")
        stream = browser.find_element(By.ID, "stream")
        until(browser, lambda b: re.search(r"2 lanes|2 workers", stream.accessible_name))
        press("+")
        assert not is_pressed("[data-span='60']")
        press("-")
        assert is_pressed("[data-span='60']")
        assert is_pressed("#follow")
        press(Keys.ARROW_LEFT)
        assert not is_pressed("#follow")
        press(Keys.HOME)
        assert is_pressed("#follow")

        for table in ("workers-table", "bars-table"):
            go_to(f"#{table} > summary")
            press(Keys.ENTER)
            assert browser.find_element(By.ID, table).get_attribute("open")
        until(browser, lambda b: row(b, "fit-1", "running"))
        go_to("#bars-table .scroll")
        assert browser.switch_to.active_element.accessible_name == "Table of futures"
        end()


def test_axe_finds_nothing_on_login_reason_and_live_page(
    site: Site, browser: webdriver.Chrome, tmp_path: Path, emulating: None
) -> None:
    found = []
    browser.get(f"{site.address}/login")
    browser.delete_all_cookies()
    browser.get(f"{site.address}/login")
    for scheme in SCHEMES:
        found += violations(browser, scheme)
    log_in(browser, f"{site.address}/cluster/", "wrong")
    until(browser, lambda b: "Invalid" in b.page_source)
    for scheme in SCHEMES:
        found += violations(browser, scheme)
    site.open(browser)
    browser.get(f"{site.address}/lab")  # which this door has not: its page says why
    for scheme in SCHEMES:
        found += violations(browser, scheme)
    for name, cost in (("costIdle", "$0.40"), ("costMax", "$9.10"), ("costWorkerNode", "$0.215")):
        (site.config / name).write_text(cost)
    browser.get(f"{site.address}/cluster/")
    until(browser, lambda b: text(b, "cost") == "Cost an hour: $0.40 now, $0.40 when idle, $9.10 at most.")
    site.bed.worker("a")
    site.bed.worker("b")
    until(browser, lambda b: text(b, "cost") == "Cost an hour: $0.83 now, $0.40 when idle, $9.10 at most.")
    with site.bed.plan(2) as plan:
        plan.result(plan.submit(f"once {tmp_path / 'died'}", label="dies once"))
        end = submit(plan, tmp_path)
        plan.submit("sleep 600")
        plan.submit("sleep 600", label="waits")
        until(browser, lambda b: text(b, "n-running") == "2" and text(b, "waiting"))
        until(browser, lambda b: "dies once" in text(b, "losses"))
        unfold(browser)
        for scheme in SCHEMES:
            found += violations(browser, scheme)
        end()
    assert not found, "\n".join(found)
