"""A worker's connection to the broker: greeting, offers and orders, until it is joined to an R session."""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Callable
from typing import Any, Protocol

from ..common import wire
from .connections import Borrower, Connection
from .log import log

_GREETING_SECONDS = 10.0
_ATTACH_SECONDS = 3.0
_SILENT_ERRORS = {errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH}
"""Errors with which the kernel ends a connection whose keepalive probes nobody answers."""


class Greeter(Protocol):
    """Takes the first message of a worker's connection."""

    def greeted(self, worker: Worker, message: dict[str, Any]) -> None:
        """Handle the greeting."""


class Lender(Protocol):
    """Is told what becomes of a worker that is offered or leased."""

    def attached(self, worker: Worker) -> None:
        """The worker has accepted its lease."""

    def silent(self, worker: Worker) -> None:
        """The network of a leased worker has fallen silent."""

    def lost(self, worker: Worker) -> None:
        """The worker's connection has ended."""


class Worker(Connection):
    """A worker's connection. The peer has proved in the TLS handshake that it holds the token."""

    session: Borrower | None = None
    """The session that uses the worker, or that it is offered to."""
    ended_well = False
    """True if its R was told to quit."""

    def __init__(self, loop: asyncio.AbstractEventLoop, greeter: Greeter, lender: Lender) -> None:
        super().__init__()
        self._loop = loop
        self._greeter = greeter
        self._lender = lender
        self.pod = self.node = self.lease = ""
        self.state = "new"
        self.since = time.time()
        self.silent_checks = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait ten seconds for the greeting."""
        super().connection_made(transport)
        self._timer = self._loop.call_later(_GREETING_SECONDS, self.drop)

    @property
    def session_pid(self) -> int:
        """Process of the session that uses the worker, or that it is offered to; 0 when there is none."""
        return self.session.pid if self.session else 0

    def enter(self, state: str) -> None:
        """Change the state, and the time since when it holds."""
        self.state = state
        self.since = time.time()

    def line_received(self, line: bytes) -> None:
        """Handle a greeting, or the answer to an offer."""
        try:
            message = wire.decode(line)
            if self.state == "new":
                self._timer.cancel()
                self.pod, self.node = str(message["pod"]), str(message.get("node", ""))
                self._greeter.greeted(self, message)
            elif self.state == "offered" and message.get("op") == "attached":
                self._timer.cancel()
                self._lender.attached(self)
            else:
                raise ValueError(f"a worker that is {self.state} sent {message.get('op')!r}")
        except (ValueError, KeyError) as error:
            log(f"dropped {self.pod or 'a worker'}: {error!r}")
            self.drop()

    def offer(self, lease: str, session: Borrower) -> None:
        """Offer the worker to a session. If it does not answer in time it is dropped, and another takes its place."""
        self.lease, self.session = lease, session
        self.enter("offered")
        self.say(wire.encode(op="attach", id=lease))
        self.after(_ATTACH_SECONDS, self.drop)

    def after(self, seconds: float, action: Callable[[], object]) -> None:
        """Do ``action`` after so many seconds, in place of an earlier one."""
        self._timer.cancel()
        self._timer = self._loop.call_later(seconds, action)

    def connection_lost(self, error: Exception | None) -> None:
        """Report the loss, and close the session that uses the worker."""
        self._timer.cancel()
        if isinstance(error, OSError) and error.errno in _SILENT_ERRORS and self.state == "busy":
            self._lender.silent(self)  # before the session sees the end and asks why
        super().connection_lost(error)
        self._lender.lost(self)

    def finish(self) -> None:
        """Close. A large backlog that the worker has yet to read is dropped: its R ends anyway."""
        if self.transport.get_write_buffer_size() > wire.RELAY_BYTES:
            self.drop()
        else:
            super().finish()
