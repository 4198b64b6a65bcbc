"""The scheduler's pod runs out of memory: what has ended is named, once, with the setting that helps."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from image.broker.memory import Memory, r_processes
from image.common import cgroup, out_of_memory

from .conftest import Bed, wait_for
from .test_page import Page

V1 = {"limit": "memory/memory.limit_in_bytes", "used": "memory/memory.usage_in_bytes", "stat": "memory/memory.stat"}
V2 = {"limit": "memory.max", "used": "memory.current", "stat": "memory.stat"}


class ControlGroup:
    """Files of a control group; the kernel's words in them are those of Linux 6.18."""

    def __init__(self, folder: Path, version: int) -> None:
        self.folder, self.version = folder, version
        (folder / "memory").mkdir(parents=True)
        for name, text in {
            "limit": f"{2 << 30}\n",
            "used": f"{900 << 20}\n",
            "stat": f"cache 1\n{'total_' if version == 1 else ''}inactive_file {100 << 20}\nunevictable 0\n",
        }.items():
            (folder / (V1 if version == 1 else V2)[name]).write_text(text)
        self.kills = 0
        self.kill(0)

    def kill(self, count: int) -> None:
        """Count so many kills."""
        self.kills = count
        if self.version == 1:
            text, name = f"oom_kill_disable 0\nunder_oom 0\noom_kill {count}\n", "memory/memory.oom_control"
        else:
            text, name = f"low 0\nhigh 0\nmax 9\noom 1\noom_kill {count}\noom_group_kill 0\n", "memory.events"
        (self.folder / name).write_text(text)


@pytest.fixture(params=[1, 2])
def group(request: pytest.FixtureRequest, tmp_path: Path) -> ControlGroup:
    return ControlGroup(tmp_path / "cgroup", request.param)


@pytest.fixture
def watched(group: ControlGroup, bed: Bed) -> Bed:
    """A broker in that control group."""
    return bed


StartR = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start_r(tmp_path: Path) -> Iterator[StartR]:
    """Start a process that the kernel knows as R, or by another name."""
    started = []

    def start(name: str = "R", *words: str) -> subprocess.Popen[bytes]:
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text("#!/bin/sh\nwhile :; do sleep 0.05; done\n")
        program.chmod(0o755)
        started.append(subprocess.Popen([program, *words]))
        # The broker looks at these only: other programs of this machine may be R, too.
        (tmp_path / f"proc/{started[-1].pid}").symlink_to(f"/proc/{started[-1].pid}")
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_memory_is_what_the_kernel_cannot_take_back(watched: Bed) -> None:
    assert watched.ask("memory") == "ok 800 2048"


def test_memory_is_unknown_without_a_control_group(bed: Bed) -> None:
    assert bed.ask("memory") == "ok - -"


@pytest.mark.parametrize(
    ("command", "words", "said", "noted"),
    [
        ("rsession", [], "The R session of RStudio before this one (process {pid}) ended", True),
        ("R", [], "The R process (process {pid}) ended", True),
        ("R", ["-e", "IRkernel::main()"], "The R kernel of a notebook before this one (process {pid}) ended", False),
    ],
)
def test_killed_session_is_named_once_in_log_notice_and_page(
    watched: Bed, group: ControlGroup, start_r: StartR, command: str, words: list[str], said: str, noted: bool
) -> None:
    process = start_r(command, *words)
    other = start_r("R")
    with Page(watched.folder) as page:
        page.event()
        wait_for(lambda: Path(f"/proc/{process.pid}/comm").read_text() == f"{command}\n")
        for _ in range(5):  # a second each, in which the same loop looks at the processes once at least
            page.event()
        group.kill(1)  # the kernel counts before the process ends
        process.kill()
        text = said.format(pid=process.pid)
        wait_for(lambda: text in watched.broker.log())
        [death] = page.until(lambda: page.details.get("deaths"))
        assert f"process {process.pid}" in death["what"]
        assert "pod limit 2 GiB" in death["what"]
        assert "pulumi config set schedulerMemoryGiB 4" in death["cure"]
        assert page.details["memory"] == [800, 2048]
    process.wait()  # a notice for a zombie, which a shell or rserver reaps late
    other.kill()
    other.wait()
    page_log = watched.broker.log()
    wait_for(lambda: other.poll() is not None)
    notice = watched.folder / "memory-notice"
    assert notice.exists() is noted
    if noted:
        assert text in notice.read_text()
        assert "pulumi config set schedulerMemoryGiB 4" in notice.read_text()
    assert page_log.count("lack of memory") == 1, "the other one was killed by somebody else"


@pytest.mark.parametrize(
    ("state", "flags", "runs"), [("R", 0x400000, True), ("D", 0x400004, False), ("Z", 0x400000, False)]
)
def test_process_whose_end_has_begun_runs_no_longer(state: str, flags: int, runs: bool, tmp_path: Path) -> None:
    folder = tmp_path / "7"
    folder.mkdir()
    words = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    words[0], words[6] = state, str(flags)
    (folder / "stat").write_text(f"7 (R) {' '.join(words)}\n")
    (folder / "comm").write_text("R\n")
    (folder / "cmdline").write_bytes(b"R\0--no-save\0")
    assert r_processes(str(tmp_path)) == ({7: "r"} if runs else {})


def test_other_killed_process_is_logged_without_a_notice(watched: Bed, group: ControlGroup) -> None:
    group.kill(1)
    wait_for(lambda: "A process of this pod ended at" in watched.broker.log(), 15)
    assert not (watched.folder / "memory-notice").exists()


@pytest.mark.parametrize(("used", "pause"), [(900, 1.0), (400, 4.0)])
def test_pod_whose_memory_is_free_is_looked_at_less_often(
    used: int, pause: float, group: ControlGroup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (group.folder / (V1 if group.version == 1 else V2)["used"]).write_text(f"{used << 20}\n")
    monkeypatch.setattr(cgroup, "_ROOT", group.folder)
    memory = Memory(tmp_path, {"FUTURE_KUBERNETES_PROC": str(tmp_path)})
    assert memory.pause() == pause
    group.kill(1)
    memory.check()
    assert memory.pause() == 1.0, "an end is looked into at once"


def test_text_doubles_the_limit_and_does_without_one() -> None:
    assert "schedulerMemoryGiB 1'" in out_of_memory.ended("rstudio", 7, 0, 512)
    assert "pod limit 0.5 GiB" in out_of_memory.ended("rstudio", 7, 0, 512)
    assert "with a larger number" in out_of_memory.ended("", 0, 0, None)
    assert "pod limit unknown" in out_of_memory.ended("", 0, 0, None)


def test_no_limit_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "_ROOT", tmp_path)
    assert cgroup.memory_limit_mib() is None
    assert cgroup.memory_mib() is None
    (tmp_path / "memory.max").write_text("max\n")
    assert cgroup.memory_limit_mib() is None
    (tmp_path / "memory.current").write_text(f"{5 << 20}\n")
    assert cgroup.memory_mib() == 5, "without memory.stat"
