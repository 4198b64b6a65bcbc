"""The image's contract with RStudio Server: password helper, start of sessions, their end."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from image.scheduler import ide, main

from .conftest import ROOT, wait_for

RSERVER = Path(__file__).parent / "fake_rserver.py"
SESSION = """#!/bin/sh
env >{folder}/session.env
echo $$ >{folder}/session.pid
echo "$@" >{folder}/session.arguments
trap 'sleep 0.3; echo saved >{folder}/session.saved; exit 0' USR2
while :; do sleep 0.05; done
"""
PR_SET_CHILD_SUBREAPER = 36


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A scheduler's folder, and a stand-in for rsession."""
    session = tmp_path / "rsession"
    session.write_text(SESSION.format(folder=tmp_path))
    session.chmod(0o755)
    monkeypatch.setenv("FUTURE_KUBERNETES_RUN", str(tmp_path / "run"))
    monkeypatch.setenv("FUTURE_KUBERNETES_RSESSION", str(session))
    monkeypatch.setattr(ide, "SESSION", str(ROOT / "image/bin/future-rsession"))
    monkeypatch.setattr(ide, "PASSWORD_CHECK", str(ROOT / "image/bin/future-check-password"))
    return tmp_path / "run"


def rserver(run: Path, *words: str) -> list[str]:
    """The command of the IDE, with a stand-in for rserver."""
    command = ide.ide_command("rstudio", run)
    at = command.index("/usr/lib/rstudio-server/bin/rserver")
    return [*command[:at], sys.executable, str(RSERVER), *command[at + 1 :], *words]


def end_session(folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        os.kill(int((folder / "session.pid").read_text()), signal.SIGKILL)


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("rstudio", "s3cret"), 0),
        (("rstudio", "s3cret", "123456"), 0),
        (("rstudio", "s3cret "), 1),
        (("rstudio", "("), 1),
        (("rstudio", "!"), 1),
        (("rstudio", "-n"), 1),
        (("(", "s3cret"), 1),
        (("!", "s3cret"), 1),
    ],
)
def test_password_helper_accepts_or_refuses_and_never_wants_a_one_time_password(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], status: int
) -> None:
    (tmp_path / "password").write_text("s3cret")
    monkeypatch.setenv("FUTURE_KUBERNETES_PASSWORD_FILE", str(tmp_path / "password"))
    assert subprocess.run(rserver(run, "login", *words), check=False).returncode == status


def test_password_helper_refuses_when_the_secret_is_unreadable(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUTURE_KUBERNETES_PASSWORD_FILE", str(run))  # a folder
    run.mkdir()
    assert subprocess.run(rserver(run, "login", "rstudio", "s3cret"), check=False, stderr=-3).returncode == 1


def test_verify_runs_rserver_with_the_options_of_the_pod(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executed: list[str] = []

    def execvp(_: str, command: list[str]) -> None:
        executed.extend(command)
        raise SystemExit

    monkeypatch.setattr(os, "execvp", execvp)
    monkeypatch.setattr(sys, "argv", ["-c", "--verify"])
    monkeypatch.setenv("FUTURE_KUBERNETES_IDE", "rstudio")
    with pytest.raises(SystemExit):
        main.main()
    assert executed == [*ide.ide_command("rstudio", run), "--verify-installation=1"]


def test_build_warns_when_rserver_cannot_start(tmp_path: Path) -> None:
    step = re.search(
        r'^RUN \[ "\$\{IDE\}" != rstudio \].*?[^\\]$', (ROOT / "image/Dockerfile").read_text(), re.M | re.S
    )
    assert step
    script = step[0].removeprefix("RUN ").replace("\\\n", "").replace("/tmp/verify", str(tmp_path / "verify"))
    program = tmp_path / "future-scheduler"
    program.write_text('#!/bin/sh\nmkdir -p "$FUTURE_KUBERNETES_RUN"\n[ "$1" = --verify ] && exit "$STATUS"\n')
    program.chmod(0o755)

    def warned(ide: str, status: int) -> bool:
        environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "IDE": ide, "STATUS": str(status)}
        built = subprocess.run(["sh", "-c", script], env=environ, check=True, capture_output=True, text=True)
        assert not (tmp_path / "verify").exists()
        return "WARNING" in built.stderr

    assert not warned("rstudio", 0)
    assert warned("rstudio", 1)
    assert not warned("jupyterlab", 1)


def test_rserver_logs_to_the_container(run: Path) -> None:
    command = ide.ide_command("rstudio", run)
    assert command[: command.index("/usr/lib/rstudio-server/bin/rserver")] == ["env", "RS_LOGGER_TYPE=stderr"]


def test_rsession_gets_the_containers_environment_below_rservers(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXTRA", "two words, a 'quote', a $HOME and\na second line")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.setenv("NOT-A-NAME", "x")
    monkeypatch.setenv("HOME", "/elsewhere")
    monkeypatch.setenv("RSTUDIO_VERSION", "of the base image")
    server = subprocess.Popen(rserver(run, "session"))
    try:
        wait_for((tmp_path / "session.arguments").exists)
    finally:
        end_session(tmp_path)
        server.terminate()
        server.wait(5)
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


def test_r_sessions_save_before_the_scheduler_exits(run: Path, tmp_path: Path) -> None:
    commands = {"rstudio": rserver(run, "session")}
    code = f"from image.scheduler.supervisor import Supervisor; Supervisor({commands!r}).run()"

    def as_first_process() -> None:
        # An orphan becomes this process's child, as in a container.
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)

    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        preexec_fn=as_first_process,
    )
    try:
        wait_for((tmp_path / "session.arguments").exists)
        process.terminate()
        assert process.wait(5) == 0
        assert (tmp_path / "session.saved").exists()
    finally:
        process.kill()
        end_session(tmp_path)


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
    subprocess.run(["sh", ROOT / "image/etc/rstudio-server", tmp_path], check=True)
    assert not list(tmp_path.rglob("*-key"))
    assert (tmp_path / "etc/rstudio/rserver.conf").exists()


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
    subprocess.run(["sh", ROOT / "image/etc/rstudio-server", tmp_path], check=True)
    assert (tmp_path / "etc/rstudio/rsession.conf").read_text().splitlines() == written


def test_base_without_rstudio_is_unchanged(tmp_path: Path) -> None:
    subprocess.run(["sh", ROOT / "image/etc/rstudio-server", tmp_path], check=True)
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
