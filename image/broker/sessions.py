"""An R session's connection: requests as lines of words on the loopback interface, so that base R can make them.

Each side's first line is ``protocol VERSION``. A session of another version is refused with ``error protocol TEXT``.

    attach PID SECONDS       -> ok LEASE POD NODE, then R's bytes | wait CONNECTED BUSY, while none is free | error TEXT
    count PID                -> ok FREE MINE OTHERS
    outcome LEASE            -> ok TEXT       how the worker of a lease ended; empty while unknown
    draining PID             -> ok LEASE ...  leases of process PID whose worker's pod is being deleted
    release SECONDS LEASE ... -> no answer    schedules a release: after so many seconds the broker ends these leases
                                              and lowers the number of workers. A second line adds leases and starts
                                              the time anew; closing the connection cancels it.
    cancel-release           -> ok RECLAIMED  cancels a pending release; returns how many workers were already reclaimed
    workers                  -> one line of JSON
    scale N                  -> ok N | error KIND TEXT   sets the number of workers
    status                   -> ok WANTED CONNECTED STARTING WAITING <tab> TEXT <tab> PROBLEM <tab> SECONDS
                                | error KIND TEXT        a PROBLEM that lasts for SECONDS is not cured by waiting
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ..common import protocol
from .connections import Borrower
from .idle import Activity
from .kubernetes import KubeError
from .leases import Leases
from .log import log
from .outcomes import Outcomes
from .pool import Pool
from .scaling import Scaler
from .tasks import Tasks


@dataclass(frozen=True)
class Services:
    """Parts of the broker that sessions ask."""

    loop: asyncio.AbstractEventLoop
    tasks: Tasks
    pool: Pool
    leases: Leases
    outcomes: Outcomes
    scaler: Scaler
    activity: Activity


class PendingRelease:
    """Workers that a session has no futures for, to be reclaimed unless the session cancels in time."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._leases: list[str] = []
        self._reclaimed = 0
        self._timer: asyncio.TimerHandle | None = None

    def schedule(self, seconds: float, leases: tuple[str, ...]) -> None:
        """Add leases, and reclaim all of them after so many seconds from now."""
        self._leases += leases
        self.stop()
        self._timer = self._services.loop.call_later(seconds, self._reclaim)

    def _reclaim(self) -> None:
        workers = self._services.leases.reclaim(self._leases)
        self._services.scaler.drop_reclaimed(workers)
        self._leases = []
        self._reclaimed += len(workers)

    def cancel(self) -> int:
        """Keep what is left; the number of workers that were reclaimed since the last call."""
        reclaimed, self._reclaimed, self._leases = self._reclaimed, 0, []
        return reclaimed

    def stop(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()


class Session(Borrower):
    """A connection from an R session in this pod."""

    def __init__(self, services: Services) -> None:
        super().__init__()
        self._services = services
        self._introduced = False
        self._release = PendingRelease(services)
        self._requests: dict[str, Callable[..., None]] = {
            "attach": self._attach,
            "count": self._count,
            "outcome": self._outcome,
            "draining": self._draining,
            "release": self._schedule_release,
            "cancel-release": self._cancel_release,
            "workers": self._workers,
            "scale": self._scale,
            "status": self._status,
        }

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """State this side's protocol version."""
        super().connection_made(transport)
        self.say(b"protocol %d\n" % protocol.VERSION)

    def line_received(self, line: bytes) -> None:
        """Handle the version, then requests."""
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
        self.pid = int(pid)
        self.deadline = self._services.loop.time() + float(seconds)
        self._services.leases.request(self)

    def _count(self, pid: str) -> None:
        self.say(b"ok %d %d %d\n" % self._services.leases.count(int(pid)))

    def _outcome(self, lease: str) -> None:
        self._later(self._services.outcomes.of(lease))

    def _draining(self, pid: str) -> None:
        self.say(f"ok {' '.join(self._services.leases.draining(int(pid)))}\n".encode())

    def _schedule_release(self, seconds: str, *leases: str) -> None:
        self._release.schedule(float(seconds), leases)

    def _cancel_release(self) -> None:
        self.say(b"ok %d\n" % self._release.cancel())

    def _workers(self) -> None:
        self.say(json.dumps(self._services.pool.table(), separators=(",", ":")).encode() + b"\n")

    def _scale(self, workers: str) -> None:
        self._later(self._services.scaler.scale(int(workers)))

    def _status(self) -> None:
        self._services.activity.touch()  # whoever waits is active: nodes may take longer to come than idleMinutes
        self._later(self._services.scaler.status())

    def _later(self, answer: Awaitable[str]) -> None:
        self._services.tasks.start(self._answer(answer))

    async def _answer(self, answer: Awaitable[str]) -> None:
        try:
            self.say(f"ok {await answer}\n".encode())
        except KubeError as error:
            self.say(f"error {error.kind} {' '.join(str(error).split())}\n".encode())

    def connection_lost(self, error: Exception | None) -> None:
        """Cancel what the session waited for and what it was about to release."""
        self._release.stop()
        self._services.leases.session_lost(self)  # before it loses sight of its worker
        super().connection_lost(error)
