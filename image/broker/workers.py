"""A worker's connection to the broker: greeting, tasks and what becomes of them, and leases of the attach mode."""

from __future__ import annotations

import asyncio
import errno
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..common import wire
from ..common.blob import MEMORY_BYTES, Blob
from .connections import Borrower, Connection
from .log import log
from .loss_causes import describe_end
from .plans import Task

_GREETING_SECONDS = 10.0
_ATTACH_SECONDS = 15.0
_SILENT_ERRORS = {errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH}
"""Errors with which the kernel ends a connection whose keepalive probes the peer does not answer."""


_NAME = re.compile(r"[a-zA-Z0-9._-]{1,253}")


def _name(text: object) -> str:
    """A name of Kubernetes, which R finds between spaces.

    Raises:
        ValueError: when it is none.
    """
    if not isinstance(text, str) or not _NAME.fullmatch(text):
        raise ValueError(f"{text!r} is no name of Kubernetes")
    return text


@dataclass
class Result:
    """Answer of a worker's R to a task."""

    lease: str
    status: str
    body: Blob | None
    """None if the disk had no room for it."""
    values: tuple[str, ...] = ()
    """Its large values in their order, by the hash of their content."""
    received: int = 0
    """Bytes of values that had to come for it."""

    def forget(self) -> None:
        """Remove the body."""
        if self.body is not None:
            self.body.remove()
            self.body = None


def _hash(text: object) -> str:
    """The hash of a content.

    Raises:
        ValueError: when it is none.
    """
    if not isinstance(text, str) or not text.isalnum():
        raise ValueError(f"{text!r} is no hash")
    return text


class Greeter(Protocol):
    """Takes the first message of a worker's connection, and what it says of its pod."""

    def greeted(self, worker: Worker, message: dict[str, Any]) -> None:
        """Handle the greeting."""

    def draining(self, worker: Worker) -> None:
        """The worker's pod is being deleted."""


class Lender(Protocol):
    """Hears what becomes of a worker that is offered or leased to a session as a whole."""

    def attached(self, worker: Worker) -> None:
        """The worker has accepted its lease."""

    def silent(self, worker: Worker) -> None:
        """The network of a leased worker has fallen silent."""

    def lost(self, worker: Worker) -> None:
        """The worker's connection has ended."""


class Employer(Protocol):
    """Hears what becomes of a task."""

    folder: Path
    """Folder of large results."""

    def condition(self, worker: Worker, lease: str, body: Blob | None) -> None:
        """The task has signalled a condition that its session is to see at once."""

    def finished(self, worker: Worker, result: Result) -> None:
        """The worker's R has sent what became of the task."""

    def value(self, worker: Worker, name: str, body: Blob | None) -> None:
        """The worker has sent a large value of its result."""

    def r_ended(self, worker: Worker, lease: str, text: str, tail: str) -> None:
        """The worker's R has ended, and how; ``tail`` has the last lines that it printed."""

    def connection_lost(self, worker: Worker) -> None:
        """The worker's connection has ended."""

    def wanted(self, worker: Worker, lease: str, name: str) -> None:
        """The task's R looks for a package, or for the list of them."""


class Worker(Connection):
    """A worker's connection. The peer has proved in the TLS handshake that it holds the token."""

    session: Borrower | None = None
    """The session that the worker is attached to as a whole, or offered to."""
    task: Task | None = None
    """The task that it runs."""
    bound = ""
    """Key of the plan that its R has worked for; empty while that is fresh."""
    ended_well = False
    """True if its R was told to quit."""
    was_silent = False
    """True if its connection ended because nothing came back from it."""
    memory_mib: int | None = None
    """Memory of its container, as it said last."""
    peak_mib = 0
    """Highest memory of R in its last task; 0 while unknown."""
    cpu_seconds: float | None = None
    """CPU time of R for its last task; None where the kernel or an agent of an earlier image does not say."""
    memory_limit_mib: int | None = None
    """Memory that its container may use, likewise; None without a limit."""
    cpu: float | None = None
    """CPUs that its container used since it said so before."""

    def __init__(self, loop: asyncio.AbstractEventLoop, greeter: Greeter, lender: Lender, employer: Employer) -> None:
        super().__init__()
        self.objects: set[str] = set()
        """Large objects of the plan ``bound`` that it has."""
        self._loop = loop
        self._greeter = greeter
        self._lender = lender
        self._employer = employer
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
        """Process of the session that the worker works for or is offered to; 0 when there is none."""
        if self.task is not None:
            return self.task.plan.pid
        return self.session.pid if self.session else 0

    def enter(self, state: str) -> None:
        """Change the state, and the time since when it holds."""
        self.state = state
        self.since = time.time()

    def line_received(self, line: bytes) -> None:
        """Handle a greeting, the answer to an offer, or what becomes of a task."""
        try:
            message = wire.decode(line)
            if self.state == "new":
                self._timer.cancel()
                self.pod, self.node = _name(message["pod"]), _name(message.get("node") or "-")
                self._greeter.greeted(self, message)
            elif self.state == "offered" and message.get("op") == "attached":
                self._timer.cancel()
                self._lender.attached(self)
            else:
                self._said(message)
        except (ValueError, KeyError, TypeError) as error:
            log(f"dropped {self.pod or 'a worker'}: {error!r}")
            self.drop()

    def _said(self, message: dict[str, Any]) -> None:
        operation = message.get("op")
        if operation == "result":
            lease, status = str(message["id"]), str(message["status"])
            if not status.isidentifier():
                raise ValueError(f"a result has the status {status!r}")
            size, folder = int(message["size"]), self._employer.folder
            self.peak_mib = int(message.get("peak", 0))
            spent = message.get("cpu")
            self.cpu_seconds = min(max(0.0, float(spent)), 1e9) if spent is not None else None
            values = tuple(map(_hash, message.get("values", ())))
            self.expect(size, lambda body: self._employer.finished(self, Result(lease, status, body, values)), folder)
        elif operation == "value":
            name, size = _hash(message["id"]), int(message["size"])
            if size <= MEMORY_BYTES:
                raise ValueError(f"a value of {size} bytes is part of its result")
            self.expect(size, lambda body: self._employer.value(self, name, body), self._employer.folder)
        elif operation == "condition":
            lease = str(message["id"])
            self.expect(int(message["size"]), lambda body: self._employer.condition(self, lease, body))
        elif operation == "ended":
            text = describe_end(message.get("status"), oom=bool(message.get("oom")), limit_mib=message.get("limit"))
            self._employer.r_ended(self, str(message["id"]), text, str(message.get("tail", "")))
        elif operation == "draining":
            self._greeter.draining(self)
        elif operation == "evicted":
            self.objects -= set(message["ids"])
        elif operation == "want":
            self._employer.wanted(self, str(message["id"]), str(message["name"]))
        elif operation == "usage":
            self.memory_mib, self.cpu = int(message["memory"]), float(message["cpu"])
            limit = message.get("limit")  # an agent of an earlier image states none
            self.memory_limit_mib = int(limit) if limit is not None else None
        else:
            raise ValueError(f"a worker that is {self.state} sent {operation!r}")

    # Tasks.

    def run(self, task: Task) -> int:
        """Send a task; returns the bytes of the large objects that had to go before it."""
        assert task.payload is not None
        plan = task.plan
        if self.bound != plan.key:
            self.objects = set()
        self.task, self.bound = task, plan.key
        self.enter("busy")
        sent = 0
        for need in [need for need in task.needs if need not in self.objects]:
            body = plan.objects[need]
            assert body is not None
            self.say(wire.encode(op="object", id=need, session=plan.key, size=body.size), body)
            self.objects.add(need)
            sent += body.size
        more: dict[str, Any] = {"needs": task.needs} if task.needs else {}
        if plan.libraries.packages:
            more["libraries"] = plan.libraries.generation
        header = wire.encode(op="task", id=task.lease, session=plan.key, pid=plan.pid, size=task.payload.size, **more)
        self.say(header, task.payload)
        return sent

    def resume(self, task: Task) -> None:
        """Note what the worker runs already."""
        self.task, self.bound = task, task.plan.key
        self.enter("busy")

    def cancel(self) -> None:
        """End the R that runs the task; the worker says so when it has."""
        self.say(wire.encode(op="cancel", id=self.lease))

    # Leases of the attach mode.

    def offer(self, lease: str, session: Borrower) -> None:
        """Offer the worker to a session. If it does not answer in time it is dropped, and another takes its place."""
        self.session = session
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
            self.was_silent = True
        if self.was_silent and self.session is not None:
            self._lender.silent(self)  # before the session sees the end and asks why
        super().connection_lost(error)
        self._employer.connection_lost(self)
        self._lender.lost(self)

    def finish(self) -> None:
        """Close. A large backlog that the worker has yet to read is dropped: its R ends anyway."""
        if self.transport.get_write_buffer_size() > wire.RELAY_BYTES:
            self.drop()
        else:
            super().finish()
