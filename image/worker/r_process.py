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
from collections.abc import Mapping
from pathlib import Path

from ..common import cgroup, process

PROGRAM = Path(__file__).with_name("start.R")
_START_SECONDS = 120.0
_LEAVE_SECONDS = 0.3
_TAIL_BYTES = 4096
_TAIL_LINES = 10
_TAIL_SECONDS = 0.05
_SESSION_SECONDS = 30 * 24 * 3600
"""parallelly's default: the longest time that a session may stay silent."""


class Children:
    """Reaps every child, and orphans too when it is the first process, and remembers how each ended."""

    def __init__(self) -> None:
        self._ended: dict[int, int] = {}
        self._change = threading.Condition()
        self.woken, self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        """``woken`` is readable once a child has ended, or ``wake`` was called, until ``clear``."""

    def wake(self) -> None:
        """Make ``woken`` readable."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake, b"x")

    def clear(self) -> None:
        """Forget that a child has ended."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.woken, 4096)

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
        self.wake()

    def wait(self, pid: int, seconds: float) -> int | None:
        """Exit status of ``pid``, negative for a signal; None when it still runs after ``seconds``."""
        with self._change:
            self._change.wait_for(lambda: pid in self._ended, seconds)
            return self._ended.get(pid)

    def forget(self, pid: int) -> None:
        """Drop the status of ``pid``: the kernel may give the number to another process."""
        with self._change:
            self._ended.pop(pid, None)


class Printed:
    """Passes on to the pod's log what R prints outside of a future, and remembers the last lines."""

    def __init__(self) -> None:
        self._source, self.end = os.pipe2(os.O_CLOEXEC)
        self._last = b""
        self._lock = threading.Lock()

    def start(self) -> None:
        """Begin, once the child has its end of the pipe; until all processes that hold it have ended."""
        os.close(self.end)
        threading.Thread(target=self._pass_on, daemon=True).start()

    def _pass_on(self) -> None:
        with contextlib.suppress(OSError):
            while piece := os.read(self._source, 65536):
                os.write(2, piece)
                with self._lock:
                    self._last = (self._last + piece)[-_TAIL_BYTES:]
        os.close(self._source)

    def tail(self) -> str:
        """The last lines, at most ten."""
        time.sleep(_TAIL_SECONDS)  # what a process wrote before its end may not have been read yet
        with self._lock:
            return "\n".join(self._last.decode(errors="replace").splitlines()[-_TAIL_LINES:])


class RProcess:
    """One R process that runs start.R, connected to this agent over loopback."""

    def __init__(self, command: list[str], children: Children, environ: Mapping[str, str]) -> None:
        self._children = children
        self.folder = tempfile.mkdtemp(prefix="future-worker-")
        """Its folder of temporary files, which goes with it."""
        self._stopped = False
        self._cpu_before: float | None = None
        self._status: int | None = None
        self.oom_before = cgroup.oom_kills()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            self._printed = Printed()
            self.pid = process.spawn(
                [*command, f"PORT={port}", f"TIMEOUT={_SESSION_SECONDS}"],
                {**os.environ, **environ, "TMPDIR": self.folder},
                output=self._printed.end,
            )
            self._printed.start()
            self.socket = self._accept(listener)

    def tail(self) -> str:
        """The last lines that R, or what it started, has printed outside of a future."""
        return self._printed.tail()

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

    def begin_task(self) -> None:
        """Measure R's memory and CPU time from here on."""
        self._cpu_before = process.cpu_seconds(self.pid)
        # proc(5): 5 resets the process's highest resident set.
        with contextlib.suppress(OSError):
            Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def peak_mib(self) -> int:
        """R's highest resident set since ``begin_task``, in MiB; 0 where the kernel does not say."""
        with contextlib.suppress(OSError, IndexError, ValueError):
            return int(Path(f"/proc/{self.pid}/status").read_text().split("VmHWM:")[1].split()[0]) >> 10
        return 0

    def cpu_seconds(self) -> float | None:
        """CPU time of R, and of the children that it has waited for, since ``begin_task``; None where not known."""
        now = process.cpu_seconds(self.pid)
        return round(now - self._cpu_before, 2) if now is not None and self._cpu_before is not None else None

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
        shutil.rmtree(self.folder, ignore_errors=True)
        return self._status

    def abandon(self) -> None:
        """End R without waiting, because this process ends next."""
        self._kill(signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _kill(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)
