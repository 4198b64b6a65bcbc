"""Kernels that end for lack of memory, and the pod's memory in JupyterLab's status bar."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from .door import Door, Stranger
from .kernels import Tab, api, kernel, kernelspec
from .test_memory import ControlGroup

OWN_PID = "import os; print(os.getpid())"


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    folder = tmp_path_factory.mktemp("door")
    made = Door(folder, "jupyterlab", False, "/", kernelspec(folder))
    assert made.log_in() == 302
    yield made
    made.end()


@pytest.fixture(scope="module")
def group(door: Door) -> ControlGroup:
    """The control group that the front door reads each time."""
    return ControlGroup(door.folder / "cgroup", 2)


def killed(group: ControlGroup, pid: int) -> None:
    """Let the kernel of the machine end a process for lack of memory."""
    group.kill(group.kills + 1)
    os.kill(pid, signal.SIGKILL)


def notices(heard: list[tuple[str, str, dict[str, str]]]) -> list[tuple[str, str]]:
    """Cell and text of each line on standard error."""
    return [(cell, content["text"]) for kind, cell, content in heard if kind == "stream"]


def next_output(tab: Tab) -> str:
    """Output of the first cell that the restarted kernel runs."""
    return tab.first_output("print('alive')")


def test_cell_that_took_the_memory_names_cause_and_setting(door: Door, group: ControlGroup) -> None:
    with kernel(door) as (_, tab):
        pid = int(tab.output(OWN_PID))
        cell = tab.run("import time; time.sleep(600)")
        waiting = tab.run("1 + 1")
        assert tab.hear("execute_input")[-1][1] == cell
        killed(group, pid)
        [(where, text)] = notices(tab.hear("restarting"))
        assert where == cell != waiting
        assert f"(process {pid}) ended at" in text
        assert "pod limit 2 GiB" in text
        assert "pulumi config set schedulerMemoryGiB 4" in text
        assert tab.first_output(OWN_PID) not in ("", f"{pid}\n")
        assert "memory" not in tab.output("print(1)"), "said once"


def test_kernel_that_ended_at_rest_is_said_in_next_cell(door: Door, group: ControlGroup) -> None:
    with kernel(door) as (name, tab):
        other = Tab(door, name)
        pid = int(tab.output(OWN_PID))
        killed(group, pid)
        assert not notices(tab.hear("restarting"))
        text = next_output(tab)
        assert "alive" in text
        assert f"(process {pid}) ended at" in text
        assert "memory" not in other.first_output("print(2)")


@pytest.mark.parametrize(("number", "counted"), [(signal.SIGKILL, 0), (signal.SIGALRM, 1)])
def test_kernel_that_ended_otherwise_is_no_lack_of_memory(
    door: Door, group: ControlGroup, number: signal.Signals, counted: int
) -> None:
    with kernel(door) as (_, tab):
        pid = int(tab.output(OWN_PID))
        group.kill(group.kills + counted)
        os.kill(pid, number)
        assert not notices(tab.hear("restarting"))
        assert next_output(tab) == "alive\n"


def test_restart_of_the_pod_is_said_in_next_cell_once(door: Door, group: ControlGroup) -> None:
    with kernel(door) as (_, tab):
        (door.folder / "run/restart-notice.notebook").write_text("This pod ran out of memory\n")
        assert "This pod ran out of memory\n" in tab.output("print('x')")
        assert tab.output("print('x')") == "x\n"
        assert not list((door.folder / "run").glob("restart-notice*"))


def test_status_bar_has_pods_memory_and_warns_near_the_limit(tmp_path: Path) -> None:
    group = ControlGroup(tmp_path / "cgroup", 1)
    made = Door(tmp_path, "jupyterlab", False, "/", {})
    try:
        assert Stranger(made).ask("/api/metrics/v1")[0] == 403
        made.log_in()
        said = {"rss": 800 << 20, "limits": {"memory": {"rss": 2 << 30, "warn": False}}}
        assert api(made, "GET", "/api/metrics/v1") == said
        (group.folder / "memory/memory.usage_in_bytes").write_text(str(2000 << 20))
        assert api(made, "GET", "/api/metrics/v1")["limits"]["memory"]["warn"] is True
    finally:
        made.end()
