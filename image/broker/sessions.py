"""An R session's connection: requests as lines of words on the loopback interface, so that base R can make them.

Each side's first line is ``protocol VERSION``. A session of another version is refused with ``error protocol TEXT``.
One-off requests, each on a connection of its own:

    workers                  -> one line of JSON
    scale N [PID]            -> ok N | error KIND TEXT   sets the number of workers, and that of the plan of PID
    status                   -> ok WANTED CONNECTED STARTING WAITING <tab> TEXT <tab> PROBLEM <tab> SECONDS
                                | error KIND TEXT        a PROBLEM that lasts for SECONDS is not cured by waiting
    connected                -> ok CONNECTED WANTED ALL  workers that are there; that all plans want together within the
                                maximum, and without it
    demand                   -> ok N | error KIND TEXT   as connected, once Kubernetes has been asked for WANTED
    events                   -> one line of JSON         what happened to tasks in the last hour
    report WHOSE SINCE PRICE TITLE                       what futures did since a time, as one HTML file:
                             -> ok JSON                  "html" and a summary in "lines"; no "html" if there were none.
                                WHOSE is session:PID or run:NAME; SINCE is @ and a second of the epoch or, from
                                another machine's clock, seconds ago; PRICE is that of a worker and hour, or -
    memory                   -> ok MIB LIMIT             what this pod uses, and its limit in MiB; - for not known
    futures PID              -> ok N                     futures of this process and its children that wait or run, and
                                workers that attach mode holds for them
    about                    -> one line of JSON         R and packages of the image, for sessions on other machines

Attach mode, one connection a worker:

    attach PID SECONDS       -> ok LEASE POD NODE, then R's bytes | wait CONNECTED BUSY, while none is free | error TEXT
    count PID                -> ok FREE MINE OTHERS
    outcome LEASE            -> ok TEXT       how the worker of a lease ended; empty while unknown

Task mode, one connection a plan, see stream.py: ``open KEY PID MIN MAX RETRIES``.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from ..common import protocol
from ..common.process import descends
from .background import Background
from .connections import Borrower
from .demand import Demand
from .dispatch import Dispatcher
from .idle import Activity
from .kubernetes import KubeError
from .leases import Leases
from .log import log
from .loss_causes import Outcomes
from .memory import Memory
from .pool import Pool
from .run_report import report
from .run_report.figures import Scope
from .scaling import Scaler
from .stream import Stream

ABOUT = Path("/usr/local/lib/future-kubernetes/about.json")
"""Version and platform of R and versions of the packages, written when the image is built."""


@dataclass(frozen=True)
class Services:
    """Parts of the broker that sessions and the metrics ask."""

    loop: asyncio.AbstractEventLoop
    background: Background
    pool: Pool
    leases: Leases
    dispatcher: Dispatcher
    demand: Demand
    outcomes: Outcomes
    scaler: Scaler
    activity: Activity
    memory: Memory


class Session(Borrower):
    """A connection from an R session in this pod."""

    def __init__(self, services: Services) -> None:
        super().__init__()
        self._services = services
        self._introduced = False
        self._stream: Stream | None = None
        self._requests: dict[str, Callable[..., None]] = {
            "about": self._about,
            "attach": self._attach,
            "count": self._count,
            "outcome": self._outcome,
            "workers": self._workers,
            "connected": self._connected,
            "demand": self._demand,
            "events": self._events,
            "futures": self._futures,
            "memory": self._memory,
            "open": self._open,
            "report": self._report,
            "scale": self._scale,
            "status": self._status,
        }

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """State this side's protocol version."""
        super().connection_made(transport)
        self.say(b"protocol %d\n" % protocol.VERSION)

    def line_received(self, line: bytes) -> None:
        """Handle the version, then requests, and what a plan's stream says."""
        if self._stream is not None:
            self._stream.line_received(line)
            return
        words = line.decode(errors="replace").split()
        if not self._introduced:
            self._introduce(words)
            return
        try:
            self._requests[words[0]](*words[1:])
        except (KeyError, IndexError, TypeError, ValueError):
            self.refuse(f"not understood: {line[:80]!r}; known are {', '.join(self._requests)}")

    def _introduce(self, words: list[str]) -> None:
        self._introduced = True
        stated = int(words[1]) if len(words) == 2 and words[0] == "protocol" and words[1].isdecimal() else None
        mismatch = protocol.session_mismatch(stated)
        if mismatch:
            log(f"refused an R session: {mismatch}")
            self.refuse(f"protocol {mismatch}")

    def _attach(self, pid: str, seconds: str) -> None:
        if self.pid:
            raise ValueError("one worker a connection")
        self.pid = int(pid)
        self.deadline = self._services.loop.time() + float(seconds)
        self._services.leases.request(self)

    def _count(self, pid: str) -> None:
        self.say(b"ok %d %d %d\n" % self._services.leases.count(int(pid)))

    def _outcome(self, lease: str) -> None:
        self._later(self._services.outcomes.of(lease))

    def _workers(self) -> None:
        self.say(json.dumps(self._services.pool.table(), separators=(",", ":")).encode() + b"\n")

    def _connected(self) -> None:
        self.say(self._services.demand.numbers().encode())

    def _demand(self) -> None:
        self._later(self._services.demand.settled())

    def _events(self) -> None:
        self.say(json.dumps(list(self._services.dispatcher.reports.events), separators=(",", ":")).encode() + b"\n")

    def _report(self, whose: str, when: str, price: str, *title: str) -> None:
        kind, _, name = whose.partition(":")
        since = float(when[1:]) if when.startswith("@") else time.time() - float(when)
        each = None if price == "-" else float(price)
        if kind not in ("session", "run") or not name or not (each is None or 0 <= each < math.inf):
            raise ValueError(f"{whose} {price}")
        scope = Scope(since, session=int(name)) if kind == "session" else Scope(since, run=name)
        self._later(report(self._services.dispatcher.reports, scope, " ".join(title), each))

    def _futures(self, pid: str) -> None:
        ancestor, services = int(pid), self._services
        pids = [plan.pid for plan in services.dispatcher.plans.values() for _ in range(plan.load)]
        pids += [worker.session_pid for worker in services.pool.leased.values() if worker.session is not None]
        pids += [session.pid for session in services.leases.queue]
        family = {each: descends(each, ancestor) for each in set(pids)}
        self.say(b"ok %d\n" % sum(family[each] for each in pids))

    def _memory(self) -> None:
        used, limit = self._services.memory.usage() or (None, None)
        self.say(f"ok {used if used is not None else '-'} {limit or '-'}\n".encode())

    def _about(self) -> None:
        try:
            text = ABOUT.read_text()
        except OSError as error:
            self.refuse(f"unreachable this image does not say what is in it: {error}")
        else:
            self.say(" ".join(text.split()).encode() + b"\n")

    def _open(self, key: str, pid: str, minimum: str, maximum: str, retries: str) -> None:
        self._stream = Stream(self, self._services.dispatcher, self._services.demand)
        self._stream.open(key, int(pid), int(minimum), int(maximum), int(retries))

    def _scale(self, workers: str, pid: str = "0") -> None:
        self._later(self._services.demand.scale(int(workers), int(pid)))

    def _status(self) -> None:
        self._services.activity.touch()  # whoever waits is active: nodes may take longer to come than idleMinutes
        self._later(self._services.scaler.status())

    def _later(self, answer: Awaitable[str]) -> None:
        self._services.background.start(self._answer(answer))

    async def _answer(self, answer: Awaitable[str]) -> None:
        try:
            self.say(f"ok {await answer}\n".encode())
        except KubeError as error:
            self.say(f"error {error.kind} {' '.join(str(error).split())}\n".encode())

    def connection_lost(self, error: Exception | None) -> None:
        """Cancel what the session waited for."""
        if self._stream is not None:
            self._stream.lost()
        self._services.leases.session_lost(self)  # before it loses sight of its worker
        super().connection_lost(error)
