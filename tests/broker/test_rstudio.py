"""The image's contract with RStudio Server: its build step, the environment of sessions, their end."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from image.scheduler import ide

from .conftest import ROOT, wait_for

SESSION = """#!/bin/sh
env >{folder}/session.env
echo $$ >{folder}/session.pid
echo "$@" >{folder}/session.arguments
trap 'sleep 0.3; echo saved >{folder}/session.saved; exit 0' USR2
while :; do sleep 0.05; done
"""
RSERVERS = {"HOME": "/home/x", "PATH": os.environ["PATH"], "RSTUDIO_VERSION": "2026.06.0+242"}
"""Environment that rserver gives to a session (rstudio/rstudio: src/cpp/core/system/PosixSystem.cpp, runProcess)."""

PR_SET_CHILD_SUBREAPER = 36


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A scheduler's folder, and a stand-in for rsession."""
    session = tmp_path / "rsession"
    session.write_text(SESSION.format(folder=tmp_path))
    session.chmod(0o755)
    monkeypatch.setenv("FUTURE_KUBERNETES_RUN", str(tmp_path / "run"))
    monkeypatch.setenv("FUTURE_KUBERNETES_RSESSION", str(session))
    return tmp_path / "run"


def end_session(folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        os.kill(int((folder / "session.pid").read_text()), signal.SIGKILL)


def test_rsession_gets_the_containers_environment_below_rservers(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXTRA", "two words, a 'quote', a $HOME and\na second line")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.setenv("NOT-A-NAME", "x")
    monkeypatch.setenv("HOME", "/elsewhere")
    monkeypatch.setenv("RSTUDIO_VERSION", "of the base image")
    ide.ide_command("rstudio", run)
    session = subprocess.Popen([ROOT / "image/bin/future-rsession", "--launcher-token", "123"], env=RSERVERS | {
        name: value for name, value in os.environ.items() if name.startswith("FUTURE_KUBERNETES_R")
    })  # fmt: skip
    try:
        wait_for((tmp_path / "session.arguments").exists)
    finally:
        session.kill()
        session.wait(5)
    environ = (tmp_path / "session.env").read_text()
    assert "EXTRA=two words, a 'quote', a $HOME and\na second line\n" in environ
    assert "\nEMPTY=\n" in environ
    assert "RS_LOGGER_TYPE=stderr\n" in environ
    assert "HOME=/elsewhere" not in environ
    assert "RSTUDIO_VERSION=2026.06.0+242\n" in environ
    assert (tmp_path / "session.arguments").read_text().endswith("--launcher-token 123\n")


def test_environment_file_is_readable_only_by_its_owner(run: Path) -> None:
    ide.ide_command("rstudio", run)
    assert (run / "rstudio/environment").stat().st_mode & 0o777 == 0o600


SUPERVISED = """
import subprocess, sys, time
rserver = "import subprocess; subprocess.Popen([{session!r}], process_group=0).wait()"
child = subprocess.Popen([sys.executable, "-c", rserver])
{then}
"""


@pytest.fixture
def supervise(run: Path, tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """Runs a supervisor with a front door whose child rserver has a session, and which then does something."""
    started = []

    def as_first_process() -> None:
        # An orphan becomes this process's child, as in a container.
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)

    def supervise(then: str) -> subprocess.Popen[bytes]:
        front_door = SUPERVISED.format(session=str(tmp_path / "rsession"), then=then)
        commands = {ide.FRONT_DOOR: [sys.executable, "-c", front_door]}
        code = f"from image.scheduler.supervisor import Supervisor; Supervisor({commands!r}).run()"
        process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, preexec_fn=as_first_process)
        started.append(process)
        wait_for((tmp_path / "session.arguments").exists)
        return process

    yield supervise
    for process in started:
        process.terminate()
        process.wait(20)  # its sessions have ended by then
    end_session(tmp_path)


def test_session_of_a_grandchild_is_found_and_no_strangers(run: Path, tmp_path: Path) -> None:
    front_door = SUPERVISED.format(session=str(tmp_path / "rsession"), then="time.sleep(600)")
    process = subprocess.Popen([sys.executable, "-c", front_door], start_new_session=True)
    other = subprocess.Popen(["sleep", "60"])
    try:
        wait_for((tmp_path / "session.arguments").exists)
        session = int((tmp_path / "session.pid").read_text())
        assert ide.r_sessions(os.getpid()) == {session}
        assert ide.r_sessions(other.pid) == set()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        end_session(tmp_path)
        other.kill()
        process.wait(5)
        other.wait(5)


def test_r_sessions_save_before_the_scheduler_exits(
    supervise: Callable[[str], subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    process = supervise("time.sleep(600)")
    process.terminate()
    assert process.wait(5) == 0
    assert (tmp_path / "session.saved").exists()


def test_r_sessions_save_when_the_front_door_dies(
    supervise: Callable[[str], subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    supervise(f"while not __import__('os').path.exists({str(tmp_path / 'session.arguments')!r}): time.sleep(0.05)")
    wait_for((tmp_path / "session.saved").exists)


def base_with_rstudio(root: Path, knows: str) -> None:
    """A root file system with an rsession that has these words in its binary."""
    rsession = root / "usr/lib/rstudio-server/bin/rsession"
    rsession.parent.mkdir(parents=True)
    rsession.write_bytes(b"\x7fELF\0" + knows.replace(" ", "\0").encode() + b"\0")
    rsession.chmod(0o755)


def test_secrets_of_the_base_image_are_removed(tmp_path: Path) -> None:
    base_with_rstudio(tmp_path, "")
    (tmp_path / "etc/rstudio").mkdir(parents=True)
    (tmp_path / "etc/rstudio/rserver.conf").touch()
    state = tmp_path / "var/lib/rstudio-server"
    state.mkdir(parents=True)
    for folder in (state, tmp_path / "etc/rstudio"):
        for name in ("session-rpc-key", "secure-cookie-key"):
            (folder / name).write_text("everyone's")
    subprocess.run(["sh", ROOT / "image/etc/adapt-rstudio-at-build", tmp_path], check=True)
    assert not list(tmp_path.rglob("*-key"))
    assert (tmp_path / "etc/rstudio/rserver.conf").read_text() == "rsession-path=/usr/local/bin/future-rsession\n"


@pytest.mark.parametrize(
    ("known", "written"),
    [
        ("session-timeout-minutes", ["session-timeout-minutes=0"]),
        (
            "session-timeout-minutes r-max-connections session-ephemeral-env-vars",
            [
                "session-timeout-minutes=0",
                "r-max-connections=4096",
                "session-ephemeral-env-vars=POD_NAME:NODE_NAME",
            ],
        ),
    ],
)
def test_rsession_gets_only_options_that_its_release_knows(tmp_path: Path, known: str, written: list[str]) -> None:
    base_with_rstudio(tmp_path, known)
    subprocess.run(["sh", ROOT / "image/etc/adapt-rstudio-at-build", tmp_path], check=True)
    assert (tmp_path / "etc/rstudio/rsession.conf").read_text().splitlines() == written


def test_base_without_rstudio_is_unchanged(tmp_path: Path) -> None:
    subprocess.run(["sh", ROOT / "image/etc/adapt-rstudio-at-build", tmp_path], check=True)
    assert not list(tmp_path.iterdir())


START_SCRIPT = """#!/bin/sh
[ "$1" != RHOME ] || { echo "$HOME_OF_R"; exit; }
## Startup
  exec ${debugger} ${debugger_args} "${R_binary}" ${args} "${@}"
exec "${R_binary}"  ${args} "${@}"
"""


@pytest.mark.parametrize("linked", [True, False])
def test_both_copies_of_rs_start_script_raise_the_connection_limit(tmp_path: Path, linked: bool) -> None:
    home = tmp_path / "lib/R"
    (home / "bin").mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    (home / "bin/R").write_text(START_SCRIPT)
    (home / "bin/R").chmod(0o755)
    started = tmp_path / "bin/R"
    if linked:  # as Debian's package does
        started.symlink_to(home / "bin/R")
    else:  # as `make install` does
        shutil.copy(home / "bin/R", started)
    (tmp_path / "bin/Rscript").write_text("#!/bin/sh\n")
    (tmp_path / "bin/Rscript").chmod(0o755)
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    environ = {"PATH": path, "HOME_OF_R": str(home), "R_binary": "/bin/true"}
    for _ in range(2):
        subprocess.run(["sh", ROOT / "image/etc/r-max-connections"], env=environ, check=True)
    for script in (home / "bin/R", started):
        assert script.read_text().endswith('exec "${R_binary}" --max-connections=4096 ${args} "${@}"\n')
        assert script.read_text().count("max-connections") == 1
    assert started.is_symlink() is linked
