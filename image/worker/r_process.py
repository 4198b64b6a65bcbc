"""The worker's R process, and the reaping of all child processes."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from pathlib import Path

from ..common import process
from . import cgroup

PROGRAM = Path(__file__).with_name("worker.R")
_START_SECONDS = 120.0
_LEAVE_SECONDS = 0.3
_SESSION_SECONDS = 30 * 24 * 3600
"""parallelly's default: the longest time that a session may stay silent."""


class Children:
    """Reaps every child, and orphans too when it is the first process, and remembers how each ended."""

    def __init__(self) -> None:
        self._ended: dict[int, int] = {}
        self._change = threading.Condition()

    def reap(self) -> None:
        """Collect all children that have ended; called for each SIGCHLD."""
        with self._change:
            with contextlib.suppress(ChildProcessError):
                while True:
                    pid, status = os.waitpid(-1, os.WNOHANG)
                    if pid == 0:
                        break
                    self._ended[pid] = os.waitstatus_to_exitcode(status)
            self._change.notify_all()

    def wait(self, pid: int, seconds: float) -> int | None:
        """Exit status of ``pid``, negative for a signal; None when it still runs after ``seconds``."""
        with self._change:
            self._change.wait_for(lambda: pid in self._ended, seconds)
            return self._ended.get(pid)

    def forget(self, pid: int) -> None:
        """Drop the status of ``pid``: the kernel may give the number to another process."""
        with self._change:
            self._ended.pop(pid, None)


class RProcess:
    """One R process that waits in R's own worker loop, connected to this agent over loopback."""

    def __init__(self, command: list[str], children: Children) -> None:
        self._children = children
        self._folder = tempfile.mkdtemp(prefix="future-worker-")
        self._stopped = False
        self._status: int | None = None
        self.oom_before = cgroup.oom_kills()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            arguments = {
                "MASTER": "127.0.0.1",
                "PORT": port,
                "OUT": "",  # what R prints outside of a future goes to the pod's log
                "TIMEOUT": _SESSION_SECONDS,
                "XDR": "FALSE",
                "SETUPTIMEOUT": int(_START_SECONDS),
                "SETUPSTRATEGY": "sequential",
            }
            self.pid = process.spawn(
                [*command, *(f"{name}={value}" for name, value in arguments.items())],
                {**os.environ, "TMPDIR": self._folder},
            )
            self.socket = self._accept(listener)

    def _accept(self, listener: socket.socket) -> socket.socket:
        listener.settimeout(0.5)
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(TimeoutError):
                sock, _ = listener.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return sock
            status = self._children.wait(self.pid, 0)
            if status is not None:
                self.stop()
                raise OSError(f"R ended with status {status} before it was ready; its messages are above")
        self.stop()
        raise OSError(f"R was not ready within {_START_SECONDS:.0f} s; its messages are above")

    def wait(self, seconds: float) -> int | None:
        """R's exit status, negative for a signal; None when it still runs after ``seconds``."""
        return self._children.wait(self.pid, seconds)

    def stop(self) -> int | None:
        """End R and all that it started, remove its temporary files; R's exit status. May be called again."""
        if self._stopped:
            return self._status
        self._stopped = True
        if hasattr(self, "socket"):
            self.socket.close()
        status = self._children.wait(self.pid, _LEAVE_SECONDS)
        if status is None:
            self._kill(signal.SIGTERM)
            status = self._children.wait(self.pid, 1.0)
        self._kill(signal.SIGKILL)
        self._status = self._children.wait(self.pid, 5.0)
        self._children.forget(self.pid)
        shutil.rmtree(self._folder, ignore_errors=True)
        return self._status

    def abandon(self) -> None:
        """End R without waiting, because this process ends next."""
        self._kill(signal.SIGKILL)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _kill(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)
