"""The worker's state, and its orderly end: after SIGTERM what runs may finish, and nothing follows."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import NoReturn

from .dialer import Dialer
from .line import Line
from .log import log
from .r_process import Children
from .work import Work

FAREWELL_SECONDS = 1.0

CONNECTED = frozenset({"idle", "busy", "draining"})
"""States in which the worker's connection stands: the readiness probe succeeds."""


class Duty:
    """State of the worker. The agent's loop changes it, and signals do in the attendant's thread.

    abandon: ends R without waiting, because this process ends next.
    """

    def __init__(self, dialer: Dialer, line: Line, children: Children, abandon: Callable[[], None]) -> None:
        self._dialer = dialer
        self._line = line
        self._children = children
        self._abandon = abandon
        self._lock = threading.Lock()
        self._said_so = False
        self._leave_at = math.inf
        self._used = time.monotonic()  # when this worker last worked, or its own start
        self.stopping = False
        """True after SIGTERM."""
        self.state = "starting"
        self.lease: str | None = None
        """Name of the lease while R is attached to a session."""
        self.work: Work | None = None
        """The task at hand."""

    def probed(self) -> tuple[str, bool]:
        """The state, and True if it is one of a ready worker."""
        return self.state, self.state in CONNECTED

    def unused(self) -> int:
        """Whole seconds since this worker last worked."""
        return int(time.monotonic() - self._used)

    # The broker's connection.

    def dialling(self) -> None:
        """There is no connection, and one is being made."""
        if not self.stopping:
            self.state = "connecting"

    def connected(self) -> None:
        """The connection stands."""
        self.state = "draining" if self.stopping else "busy" if self.work is not None else "idle"
        self._said_so = False

    def disconnected(self) -> None:
        """Take note of a connection that has ended."""
        if not self.stopping:
            self.state = "connecting"
        elif self.work is None:
            self.leave("the broker has gone: leaving")

    # Tasks and leases.

    def begin(self, work: Work) -> None:
        """A task has come; it may do so after SIGTERM, if the broker had sent it before it knew."""
        with self._lock:
            self._leave_at = math.inf
            self.work = work
            self.state = "draining" if self.stopping else "busy"

    def finish(self) -> None:
        """The task is no longer at hand."""
        with self._lock:
            self.work = None
            self._used = time.monotonic()
            if not self.stopping and self._line.channel is not None:
                self.state = "idle"

    def go_if_told(self) -> None:
        """Leave after SIGTERM, once no task is at hand."""
        with self._lock:
            if self.stopping and self.work is None:
                self.leave("what ran has finished: leaving")

    def begin_lease(self, lease: str) -> None:
        """R is about to be attached to a session."""
        with self._lock:
            self.lease = lease
            self.state = "busy"

    def end_lease(self) -> None:
        """R is attached no more; leave after SIGTERM."""
        with self._lock:
            self._used = time.monotonic()
            self.lease = None
            if self.stopping:
                self.leave("the session has released this worker: leaving")

    # The end.

    def signalled(self, number: int) -> None:
        """Handle a signal, in the attendant's thread."""
        if number == signal.SIGCHLD:
            self._children.reap()
            return
        name = signal.Signals(number).name
        with self._lock:
            if self.stopping:
                return
            if self.lease is None and self.work is None and self._line.channel is not None:
                # The broker may have sent a task already. It answers with "leave" unless it has.
                log(f"asked to end ({name}) while {self.state}")
                self.stopping = True
                self._leave_at = time.monotonic() + FAREWELL_SECONDS
                self._children.wake()
                return
            if self.lease is None and self.work is None:
                if self.state not in CONNECTED:  # no connection whose end says it; a session may count on the return
                    notice = threading.Thread(target=self._dialer.notify, kwargs={"op": "draining"}, daemon=True)
                    notice.start()
                    notice.join(FAREWELL_SECONDS)
                self.leave(f"asked to end ({name}) while {self.state}")
            self.stopping = True
            self.state = "draining"
        log(f"asked to end ({name}) while busy: what runs may finish, nothing follows")
        if self.lease is not None:
            message = {"op": "draining", "id": self.lease}
            threading.Thread(target=self._dialer.notify, kwargs=message, daemon=True).start()
        self._children.wake()

    def say_farewell(self) -> None:
        """Report SIGTERM to the broker once on each connection; leave if it does not answer in time."""
        if self.stopping and not self._said_so:
            self._said_so = self._line.say({"op": "draining"})
        if self.work is None and time.monotonic() >= self._leave_at:
            self.leave("leaving")

    def leave(self, reason: str) -> NoReturn:
        """End this process, and R."""
        log(reason)
        self._abandon()
        os._exit(0)
