"""The scheduler's pod runs out of memory: notebook, next R session, log and live page name it; gauges show it before.

The kernel ends the process that is too large. With cgroup v2 Kubernetes' default is that it ends the whole container,
as on clusters of others. The notice then is the broker's at its next start.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By

from bench.browser import BrowserWait, chromium, log_in
from common.patience import patience
from image.broker.memory import REST_SECONDS
from tests.broker.kernels import kernel
from tests.e2e.browsing import Visitor, forwarded
from tests.e2e.conftest import Stack

pytestmark = pytest.mark.timeout(300)

ENDED = "The R process (process"
"""In the log for each R outside of notebooks and RStudio that the kernel has ended."""
KERNEL = r"R kernel of a notebook \(process \d+\)"
TOO_MUCH = "x <- lapply(1:1000, function(i) rnorm(5e6))"


@pytest.fixture(scope="module")
def address(stack: Stack) -> Iterator[str]:
    with forwarded(stack) as found:
        yield found


@pytest.fixture(scope="module")
def visitor(stack: Stack, address: str) -> Visitor:
    made = Visitor(address)
    assert made.log_in(stack.outputs()["password"]) == 302
    return made


def log(stack: Stack) -> str:
    return stack.kubectl("logs", stack.scheduler()["metadata"]["name"])


def limit(stack: Stack) -> int:
    """MiB of memory that the pod may use."""
    text = stack.scheduler()["spec"]["containers"][0]["resources"]["limits"]["memory"]
    return int(text[:-2]) * {"Mi": 1, "Gi": 1024}[text[-2:]]


def test_cell_that_exceeds_the_pods_memory_says_so(stack: Stack, visitor: Visitor) -> None:
    with kernel(visitor, "cat(6 * 7, '\\n')", "42 \n") as (_, tab):
        pid = tab.output("cat(Sys.getpid())")
        # While memory is free the broker looks at the processes from time to time. One that it never saw has no name.
        time.sleep(REST_SECONDS + 1)
        cell = tab.run(TOO_MUCH)
        heard = tab.hear("restarting", time.monotonic() + patience(120))
        [said] = [content["text"] for kind, parent, content in heard if kind == "stream" and parent == cell]
        assert f"(process {pid}) ended at" in said
        assert f"pod limit {limit(stack) / 1024:.3g} GiB" in said
        assert f"pulumi config set schedulerMemoryGiB {limit(stack) / 512:g}'" in said
        assert tab.first_output("cat(Sys.getpid())") not in ("", pid)
    stack.wait("the log", 30, lambda: f"R kernel of a notebook before this one (process {pid}) ended" in log(stack))


def test_next_r_session_reads_once_of_one_out_of_memory(stack: Stack) -> None:
    pod = stack.scheduler()["metadata"]["name"]
    before = log(stack).count(ENDED)
    printed = stack.kubectl("exec", pod, "--", "sh", "-c", f"Rscript -e '{TOO_MUCH}'; echo STATUS $?", timeout=120)
    assert "STATUS 137" in printed
    stack.wait("the notice", 30, lambda: log(stack).count(ENDED) > before)
    start = ("exec", "-i", pod, "--", "sh", "-c", "R --interactive --no-save -q 2>&1")
    first = stack.kubectl(*start, input="future.kubernetes::workers()\n")
    assert "ended at" in first
    assert "pulumi config set schedulerMemoryGiB" in first
    uses = re.search(r"The scheduler's pod uses (\d+) of (\d+) MiB of memory", first)
    assert uses, first
    assert 50 < int(uses[1]) < int(uses[2]) == limit(stack)
    assert "lack of memory" not in stack.kubectl(*start, input="1\n"), log(stack)


def test_jupyterlab_and_live_page_show_the_pods_memory(stack: Stack, tmp_path: Path) -> None:
    with forwarded(stack) as address:
        looks_at_memory(stack, address, [r"R process \(process \d+\)", KERNEL], tmp_path)


def looks_at_memory(stack: Stack, address: str, ended: Sequence[str], tmp_path: Path) -> None:
    """The status bar of JupyterLab, and the live page with what ended before."""
    with chromium(tmp_path / "browser") as driver:
        log_in(driver, f"{address}/lab", stack.outputs()["password"])
        try:
            bar = (By.CSS_SELECTOR, "#jp-main-statusbar")
            found = BrowserWait(driver, 120).until(
                lambda b: re.search(r"Mem: ([\d.]+) / ([\d.]+) MB", " ".join(e.text for e in b.find_elements(*bar)))
            )
            assert found
            assert 50 < float(found[1]) < float(found[2]) == limit(stack)
            assert not driver.find_elements(By.CSS_SELECTOR, '[data-id="kernelusage-panel-id"]')
        finally:
            driver.save_screenshot(str(tmp_path / "lab.png"))
        driver.get(f"{address}/cluster/")
        try:
            text = BrowserWait(driver, 60).until(lambda b: b.find_element(By.ID, "memory-text").text)
            assert re.fullmatch(rf"Their pod uses [\d,]+ of {limit(stack):,} MiB", text)
            assert driver.find_element(By.ID, "memory-meter").is_displayed()
            losses = BrowserWait(driver, 60).until(lambda b: b.find_element(By.ID, "losses").text)
            for what in ended:
                assert re.search(rf"Out of memory at [\d:]+: {what}: pod limit", losses), log(stack)
            assert "schedulerMemoryGiB" in losses
        finally:
            driver.save_screenshot(str(tmp_path / "page.png"))


def test_next_r_session_reads_once_of_pod_out_of_memory(stack: Stack, tmp_path: Path) -> None:
    container = stack.scheduler()["status"]["containerStatuses"][0]["containerID"].rpartition("/")[2]
    switches = list(Path("/sys/fs/cgroup").rglob(f"{container}/memory.oom.group"))
    if not switches:
        pytest.skip("cgroup v1 ends no container as a whole")
    assert switches[0].read_text().strip() == "0", "one R session would end all of them"
    switches[0].write_text("1")
    pod = stack.scheduler()["metadata"]["name"]
    restarts = containers_restarts(stack)
    stack.in_pod(f"(setsid Rscript -e '{TOO_MUCH}' > /dev/null 2>&1 &)")
    stack.wait("another container", 120, lambda: containers_restarts(stack) > restarts)
    stack.wait("the notice", 120, lambda: "This pod ran out of memory at" in log(stack))
    start = ("exec", "-i", pod, "--", "sh", "-c", "R --interactive --no-save -q 2>&1")
    first = stack.kubectl(*start, input="1\n")
    assert "This pod ran out of memory at" in first
    assert "pulumi config set schedulerMemoryGiB" in first
    assert "ran out of memory" not in stack.kubectl(*start, input="1\n"), log(stack)
    with forwarded(stack) as address:
        looks_at_memory(stack, address, ["the whole pod, with all R sessions"], tmp_path)


def containers_restarts(stack: Stack) -> int:
    """Restarts of the scheduler pod's container, once it is ready."""
    return int(stack.scheduler()["status"]["containerStatuses"][0]["restartCount"])
