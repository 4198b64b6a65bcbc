"""The scheduler pod's first process keeps its children running, and stops them on SIGTERM."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from image.scheduler import ide

from .conftest import ROOT, children, wait_for

SUPERVISE = """
from image.scheduler.supervisor import Supervisor
Supervisor({{"one": ["sh", "-c", "echo one >>{log}; exec sleep 600"],
            "two": ["sh", "-c", "echo two >>{log}; exec sleep 600"]}}).run()
"""


def test_ended_process_is_restarted_and_sigterm_stops_all(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = subprocess.Popen([sys.executable, "-c", SUPERVISE.format(log=log)], cwd=ROOT, start_new_session=True)
    try:
        wait_for(lambda: log.exists() and len(log.read_text().split()) == 2)
        for child in children(process.pid):
            subprocess.run(["kill", "-9", str(child)], check=True)
        wait_for(lambda: sorted(log.read_text().split()) == ["one", "one", "two", "two"])
        process.send_signal(signal.SIGTERM)
        assert process.wait(3) == 0
    finally:
        process.kill()


def test_process_that_ends_at_once_is_restarted_with_growing_delay(tmp_path: Path) -> None:
    code = (
        "from image.scheduler.supervisor import Supervisor\n"
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


def test_process_started_during_sigterm_is_stopped_too() -> None:
    code = """
from image.common import process
from image.scheduler import supervisor as scheduler
spawn = process.spawn
def interrupted(command):
    pid = spawn(command)
    supervisor._stop()
    return pid
process.spawn = interrupted
scheduler._STOP_SECONDS = 600.0
supervisor = scheduler.Supervisor({"one": ["sleep", "60"]})
supervisor.run()
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, timeout=30).returncode == 0


def test_unknown_ide_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="'emacs'; it is one of 'rstudio', 'jupyterlab', 'both'"):
        ide.ide_command("emacs", tmp_path)
