"""Idle kernels are shut down where that is asked for, and never while their futures wait or run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .conftest import Bed, wait_for
from .door import Door
from .kernels import Tab, api, kernel, kernelspec

OWN_PID = "import os; print(os.getpid())"
CHILD = "import subprocess; child = subprocess.Popen(['sleep', '600']); print(child.pid)"
SECOND = f"{1 / 60:.4f}"


@pytest.fixture
def door(bed: Bed, tmp_path: Path) -> Iterator[Door]:
    """A front door beside a broker, which looks at its kernels once a second."""
    folder = tmp_path / "door"
    (folder / "config").mkdir(parents=True)
    environ = {
        **kernelspec(folder), "FUTURE_KUBERNETES_CONFIG": f"{folder}/config", "FUTURE_KUBERNETES_RUN": str(bed.folder),
    }  # fmt: skip
    made = Door(folder, "jupyterlab", False, "/", environ, "--CullingKernelManager.cull_interval=1")
    assert made.log_in() == 302
    yield made
    made.end()


def ask_for(door: Door, cull: str = "true", minutes: str = SECOND) -> None:
    """Set the stack's settings, as Kubernetes puts them into the pod."""
    (door.folder / "config/idleMinutes").write_text(minutes)
    (door.folder / "config/cullIdleKernels").write_text(cull)


def lives(door: Door, name: str) -> bool:
    return name in {found["id"] for found in api(door, "GET", "/api/kernels")}


def stays(door: Door, name: str, seconds: float = 3) -> bool:
    time.sleep(seconds)
    return lives(door, name)


def test_kernel_is_shut_down_once_that_is_asked_for(door: Door) -> None:
    with kernel(door) as (name, tab):
        assert stays(door, name), "without the settings"
        ask_for(door, cull="false")
        assert stays(door, name)
        ask_for(door, minutes="0")
        assert stays(door, name), "idleMinutes 0 is never"
        tab.run("import time; time.sleep(6)")
        ask_for(door)
        assert stays(door, name), "it is busy"
        wait_for(lambda: not lives(door, name))
    assert "Culling 'idle' kernel" in door.log()


def pid_of(tab: Tab) -> int:
    return int(tab.output(OWN_PID))


def child_of(tab: Tab) -> int:
    return int(tab.output(CHILD))


@pytest.mark.parametrize("process", [pid_of, child_of])
def test_kernel_with_a_running_future_stays_until_it_has_ended(
    door: Door, bed: Bed, tmp_path: Path, process: Callable[[Tab], int]
) -> None:
    bed.worker("a")
    with kernel(door) as (name, tab), bed.plan(pid=process(tab)) as plan:
        flag = tmp_path / "flag"
        number = plan.submit(f"until {flag}")
        ask_for(door, minutes="0.1")
        assert stays(door, name, 10)
        flag.touch()
        plan.result(number)
        assert stays(door, name, 3), "its value can be collected"
        wait_for(lambda: not lives(door, name))


def test_kernel_that_holds_a_worker_stays(door: Door, bed: Bed) -> None:
    bed.worker("a")
    with kernel(door) as (name, tab):
        with bed.attach(pid=pid_of(tab)):
            ask_for(door)
            assert stays(door, name)
        wait_for(lambda: not lives(door, name))


def test_kernel_stays_while_the_broker_does_not_answer(door: Door, bed: Bed) -> None:
    with kernel(door) as (name, _):
        bed.broker.end()
        ask_for(door)
        assert stays(door, name)
        bed.start_broker()
        wait_for(lambda: not lives(door, name))


def test_futures_are_counted_by_process_and_its_children_only(bed: Bed) -> None:
    bed.worker("a")
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        with bed.plan(pid=child.pid) as plan:
            plan.submit("sleep 600")
            plan.submit("sleep 600")
            own = os.getpid()
            wait_for(lambda: bed.ask(f"futures {child.pid}") == "ok 2")
            assert bed.ask(f"futures {own}") == "ok 2"
            assert bed.ask("futures 1") in ("ok 0", "ok 2"), "pytest may be started by the first process"
            assert bed.ask(f"futures {bed.broker.process.pid}") == "ok 0"
            assert bed.ask("futures x").startswith("error not understood")
    finally:
        child.kill()
        child.wait()
