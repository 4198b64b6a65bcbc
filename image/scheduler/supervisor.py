"""Runs the scheduler's processes: restarts what ends, stops all on SIGTERM, and lets R sessions save their data."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping

from ..common import process
from .ide import FRONT_DOOR, is_r_session, r_sessions

_SHORT_LIFE = 5.0
_LONGEST_DELAY = 10.0
_STOP_SECONDS = 10.0


def log(message: str) -> None:
    """Write one line on the container's log."""
    print(f"future-scheduler: {message}", file=sys.stderr, flush=True)


class Supervisor:
    """Runs named commands until SIGTERM, and reaps orphans."""

    def __init__(self, commands: Mapping[str, list[str]]) -> None:
        self._commands = commands
        self._saving: set[int] = set()
        self._running: dict[int, str] = {}
        self._started: dict[str, float] = {}
        self._short_lives: dict[str, int] = dict.fromkeys(commands, 0)
        self._stopping = threading.Event()

    def _start(self, name: str) -> None:
        self._started[name] = time.monotonic()
        pid = process.spawn(self._commands[name])
        self._running[pid] = name
        if self._stopping.is_set():  # SIGTERM came before the process was known: it has not been signalled
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGTERM)

    def _ended(self, name: str, pid: int, status: int) -> None:
        if self._stopping.is_set():
            return
        if name == FRONT_DOOR:
            self._end_rserver(pid)
        if time.monotonic() - self._started[name] >= _SHORT_LIFE:
            self._short_lives[name] = 0
        delay = min(_LONGEST_DELAY, 0.1 * 4.0 ** self._short_lives[name])
        self._short_lives[name] += 1
        log(f"{name} ended with status {status}; starting it again in {delay:.1f} s")
        if not self._stopping.wait(delay):
            self._start(name)

    def _end_rserver(self, group: int) -> None:
        """End the rserver that an ended Jupyter server left behind, since the next one starts its own.

        The sessions save their data, which the next session restores. Else they would keep their memory, unreachable.
        """
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGTERM)
        self._save_sessions()

    def _stop(self, *_: object) -> None:
        if self._stopping.is_set():
            return
        self._stopping.set()
        self._signal(signal.SIGTERM)
        signal.setitimer(signal.ITIMER_REAL, _STOP_SECONDS)
        self._save_sessions()

    def _save_sessions(self) -> None:
        """Let RStudio's sessions save their data and exit, as by `rstudio-server force-suspend-all`.

        They do so on SIGUSR2 (rstudio/rstudio: src/cpp/session/SessionSuspend.cpp, handleUSR2). Not every release of
        the server sends it (rstudio/rstudio issue 8917, PR 18091), and the sessions are not in its process group.
        """
        for pid in r_sessions(os.getpid()):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGUSR2)
                self._saving.add(pid)

    def _signal(self, number: signal.Signals) -> None:
        for pid in self._running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, number)

    def run(self) -> None:
        """Start all commands, and return once SIGTERM has stopped them and R sessions have saved their data.

        Saving may take as long as the pod's grace period, after which Kubernetes kills what is left.
        """
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        signal.signal(signal.SIGALRM, lambda *_: self._signal(signal.SIGKILL))
        for name in self._commands:
            self._start(name)
        while self._running:
            pid, status = os.waitpid(-1, 0)
            name = self._running.pop(pid, "")
            if name:
                self._ended(name, pid, os.waitstatus_to_exitcode(status))
        while any(is_r_session(pid) for pid in self._saving):
            with contextlib.suppress(ChildProcessError):
                os.waitpid(-1, os.WNOHANG)
            time.sleep(0.05)
