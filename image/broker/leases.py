"""Leases: which R session uses which worker, and which sessions wait for one (the *attach* mode).

A session asks on a connection of its own. The longest idle worker is offered to it; when the worker accepts, both
connections are joined and the lease lasts until either end closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import deque
from typing import cast

from .connections import Borrower
from .idle import Activity
from .log import log
from .loss_causes import Outcomes
from .pool import Pool
from .workers import Worker

_PROGRESS_SECONDS = 2.0


class Leases:
    """Gives the workers of the pool to the sessions that wait, first come, first served."""

    def __init__(self, loop: asyncio.AbstractEventLoop, pool: Pool, outcomes: Outcomes, activity: Activity) -> None:
        self._loop = loop
        self._pool = pool
        self._outcomes = outcomes
        self._activity = activity
        self.queue: deque[Borrower] = deque()
        self.attached_total = 0
        self.lost_total = 0
        self._number = itertools.count(1)
        self._epoch = f"{int(time.time()):x}"  # after a restart of the broker no lease of before is valid
        pool.when_idle.append(self._serve)

    # Sessions.

    def request(self, session: Borrower) -> None:
        """Queue a session that asks for a worker."""
        self._activity.touch()
        session.asked = self._loop.time()
        self.queue.append(session)
        self._serve()
        if session in self.queue:
            self._report_progress(session)

    def _serve(self) -> None:
        while self.queue and self._pool.idle:
            session = self.queue.popleft()
            if session.open:
                lease = f"{self._epoch}-{next(self._number)}"
                self._pool.lease_for("", lease).offer(lease, session)

    def _report_progress(self, session: Borrower) -> None:
        if not session.open or session not in self.queue:
            return
        connected, leased = self._pool.connected, len(self._pool.leased)
        if self._loop.time() >= session.deadline:
            self.queue.remove(session)
            session.refuse(
                f"no worker is free: {connected} connected, {leased} in use. "
                "Give back those of another session with plan(sequential) there, or add workers"
            )
            return
        session.say(b"wait %d %d\n" % (connected, leased))
        pause = min(_PROGRESS_SECONDS, max(0.05, session.deadline - self._loop.time()))
        self._loop.call_later(pause, self._report_progress, session)

    def session_lost(self, session: Borrower) -> None:
        """Forget a session that has closed its connection, or died."""
        if session.peer is not None:
            self._activity.touch()
        session.left = True
        with contextlib.suppress(ValueError):
            self.queue.remove(session)

    # Workers.

    def attached(self, worker: Worker) -> None:
        """Join a worker that has accepted its lease to the session."""
        session = cast(Borrower, worker.session)
        if not session.open:
            worker.drop()
            return
        worker.enter("busy")
        self.attached_total += 1
        self._pool.pods[worker.pod].uses += 1
        session.say(f"ok {worker.lease} {worker.pod} {worker.node}\n".encode())
        worker.peer, session.peer = session, worker

    def silent(self, worker: Worker) -> None:
        """Record that the network of a leased worker has fallen silent."""
        self._outcomes.record(worker.lease, "its network fell silent")

    def lost(self, worker: Worker) -> None:
        """Forget a worker whose connection has ended, and find out whether that was a loss."""
        self._pool.forget(worker)
        if worker.state == "offered":
            session = cast(Borrower, worker.session)
            log(f"{worker.pod} did not join; another takes its place")
            if session.open:
                self.queue.appendleft(session)
                self._serve()
        elif worker.session is None:
            return
        elif worker.state == "busy" and (worker.session.left or worker.ended_well):
            self._pool.expect(worker)
        elif worker.state == "busy":
            self._loss(worker)

    def _loss(self, worker: Worker) -> None:
        self.lost_total += 1
        self._pool.pods[worker.pod].losses += 1
        self._outcomes.lost(worker)
        log(f"{worker.pod} was lost while a session used it")

    # Numbers.

    def in_use(self) -> bool:
        """True while a session has a worker as a whole or waits for one."""
        return bool(self.queue) or any(worker.session for worker in self._pool.leased.values())

    def waiting_seconds(self) -> float:
        """Seconds for which the session that has waited longest has waited for a worker; 0 for none."""
        return max((self._loop.time() - session.asked for session in self.queue), default=0.0)

    def count(self, pid: int) -> tuple[int, int, int]:
        """Number of workers that are free or about to be, leased to process ``pid``, and leased to others."""
        # A released worker's connection closes after its session's, and the session may ask again in between.
        released = {worker for worker in self._pool.leased.values() if worker.session and worker.session.left}
        leaving = sum(1 for worker in released if not self._pool.draining(worker))
        held = [worker for worker in self._pool.leased.values() if worker not in released]
        mine = sum(1 for worker in held if worker.session_pid == pid)
        return len(self._pool.idle) + leaving + self._pool.expected, mine, len(held) - mine
