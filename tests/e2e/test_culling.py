"""Idle kernels of notebooks are shut down where the stack asks for it, and never while their futures run.

Jupyter looks at the kernels one after another, the oldest first. So when a younger kernel has been shut down, an older
one that is still there has been looked at before, and has been left.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager

import pytest

from tests.broker.kernels import Tab, api, kernel
from tests.e2e.browsing import Visitor, forwarded
from tests.e2e.conftest import Stack

pytestmark = pytest.mark.timeout(600)

CONFIG = ".jupyter/jupyter_server_config.json"
EACH_SECOND = {"CullingKernelManager": {"cull_interval": 1}}
SUBMIT = """
library(future.kubernetes)
plan(kubernetes, workers = 1)
f <- future({{ writeLines("", "{file}"); while (file.exists("{file}")) Sys.sleep(0.2) }})
cat("submitted")
"""


@pytest.fixture
def visitor(stack: Stack) -> Iterator[Visitor]:
    """A person at the front door of a stack that shuts down kernels which are idle for a minute."""
    stack.in_pod(f"mkdir -p .jupyter && cat > {CONFIG}", input=json.dumps(EACH_SECOND))
    try:
        stack.up(cullIdleKernels="true", idleMinutes="1")
        stack.replace_scheduler()  # its settings are then there before its first kernel
        with forwarded(stack) as address:
            made = Visitor(address)
            assert made.log_in(stack.outputs()["password"]) == 302
            yield made
            for found in api(made, "GET", "/api/kernels"):
                api(made, "DELETE", f"/api/kernels/{found['id']}")
    finally:
        stack.in_pod(f"rm -f {CONFIG}")
        stack.up()
        stack.replace_scheduler()  # nor does the new one end idle workers, as this one may until it hears of the change


def test_idle_kernel_ends_and_one_whose_future_runs_stays(stack: Stack, visitor: Visitor) -> None:
    def kernels() -> set[str]:
        return {found["id"] for found in api(visitor, "GET", "/api/kernels")}

    with r_kernel(visitor) as (computing, tab):
        file = f"/tmp/computes-{computing}"
        assert tab.output(SUBMIT.format(file=file)).endswith("submitted")
        with r_kernel(visitor) as (idle, _):
            assert kernels() == {computing, idle}
            stack.wait("the idle kernel's end", 150, lambda: idle not in kernels())
        assert computing in kernels(), "its future runs"
        assert tab.output('cat(exists("f"))') == "TRUE"
        for pod in stack.pods("worker"):
            stack.kubectl("exec", pod["metadata"]["name"], "--", "rm", "-f", file)
        stack.wait("its end, a minute after its future's", 150, lambda: computing not in kernels())
    log = stack.kubectl("logs", stack.scheduler()["metadata"]["name"])
    assert log.count("Culling 'idle' kernel") == 2


def r_kernel(visitor: Visitor) -> AbstractContextManager[tuple[str, Tab]]:
    """An R kernel that answers, and a tab on it."""
    return kernel(visitor, "cat(6 * 7)", "42")
