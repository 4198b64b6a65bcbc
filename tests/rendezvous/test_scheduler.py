"""The scheduler pod's first process keeps its two children running, and stops them when told."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from image.rendezvous import scheduler

from .conftest import ROOT, wait_for

SUPERVISE = """
from image.rendezvous.scheduler import Supervisor
Supervisor({{"one": ["sh", "-c", "echo one >>{log}; exec sleep 600"],
            "two": ["sh", "-c", "echo two >>{log}; exec sleep 600"]}}).run()
"""


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_what_ends_is_started_again_and_all_is_stopped_on_sigterm(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = subprocess.Popen([sys.executable, "-c", SUPERVISE.format(log=log)], cwd=ROOT, start_new_session=True)
    try:
        wait_for(lambda: log.exists() and len(log.read_text().split()) == 2)
        for child in _children(process.pid):
            subprocess.run(["kill", "-9", str(child)], check=True)
        wait_for(lambda: sorted(log.read_text().split()) == ["one", "one", "two", "two"])
        process.send_signal(signal.SIGTERM)
        assert process.wait(3) == 0
    finally:
        process.kill()


def test_what_ends_at_once_is_started_again_ever_more_slowly(tmp_path: Path) -> None:
    code = (
        "from image.rendezvous.scheduler import Supervisor\n"
        f"Supervisor({{'one': ['sh', '-c', 'echo one >>{tmp_path}/log; exit 3']}}).run()"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    time.sleep(3)
    process.terminate()
    process.wait(1)
    assert process.stderr
    said = process.stderr.read()
    assert "one ended with status 3; starting it again in 1.6 s" in said
    assert 3 <= len((tmp_path / "log").read_text().split()) <= 4


def test_an_unknown_ide_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(SystemExit, match="'emacs'; it is 'jupyterlab' or 'rstudio'"):
        scheduler.ide_command("emacs")


def test_rstudio_without_root_is_refused_with_the_setting_that_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(SystemExit, match="runAsUser to 0, or ide to jupyterlab"):
        scheduler.ide_command("rstudio")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert scheduler.ide_command("rstudio")[0].endswith("rserver")


def test_the_login_password_is_never_an_argument(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "password").write_text("s3cret\n")
    calls: list[tuple[list[str], object]] = []

    def run(command: list[str], **rest: object) -> None:
        calls.append((command, rest["input"]))

    monkeypatch.setattr(subprocess, "run", run)
    scheduler.set_login_password(tmp_path / "password")
    assert calls == [(["chpasswd"], "rstudio:s3cret\n")]
