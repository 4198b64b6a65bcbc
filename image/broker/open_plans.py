"""The plans of all sessions: opened, taken up again after a lost connection or a restart of the broker, and closed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, ValuesView
from pathlib import Path

from ..common.process import run_of
from .idle import Activity
from .journal import Journal, left_behind
from .log import log
from .plans import Plan, Range, Task, may_live
from .pool import Pool
from .reports import Reports, Stream

_CHECK_SECONDS = 1.0


class OpenPlans:
    """The plans by their keys. cancel: ends a task of a plan that is closed."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        pool: Pool,
        reports: Reports,
        activity: Activity,
        folder: Path,
        cancel: Callable[[Task], None],
    ) -> None:
        self._loop = loop
        self._pool = pool
        self._reports = reports
        self._activity = activity
        self._folder = folder
        self._cancel = cancel
        self._by_key: dict[str, Plan] = {}
        self._absent = asyncio.Event()
        """Set while the session of a plan may be absent."""
        self.when_left: Callable[[], None] = lambda: None
        """Called when a plan's session has lost its connection."""
        self.when_closed: Callable[[Plan, bool], None] = lambda _plan, _abandoned: None
        """Called with each plan that has ended, and whether it never began."""

    def __contains__(self, key: str) -> bool:
        return key in self._by_key

    def get(self, key: str) -> Plan | None:
        """The open plan of this key."""
        return self._by_key.get(key)

    def values(self) -> ValuesView[Plan]:
        """All open plans."""
        return self._by_key.values()

    def open(self, key: str, pid: int, range_: Range, retries: int, stream: Stream) -> Plan:
        """The plan of this key, new or taken up again by its session, which gets what it has yet to collect."""
        plan = self.get(key)
        if plan is None:
            for other in [other for other in self.values() if other.pid == pid]:
                if other.key not in self._reports.streams:
                    self.close(other)  # its session has gone on to another plan while this broker was away
            plan = self._new(key, pid, range_)
        plan.pid, plan.retries, plan.restored, plan.away_since = pid, retries, False, None
        plan.run = run_of(pid) if not plan.remote else ""
        if range_.minimum != plan.range.minimum or range_.maximum != plan.range.maximum:
            plan.range = range_
        self._reports.streams[key] = stream
        self._activity.touch()
        for task in plan.tasks.values():
            if task.state == "ended":
                self._reports.end(task)
        for folder, asked in plan.libraries.asked.items():
            if not asked.done():
                self._reports.want(plan, folder)
        return plan

    def _new(self, key: str, pid: int, range_: Range) -> Plan:
        plan = self._by_key[key] = Plan(key, pid, range_, 0, Journal(self._folder, key, pid))
        plan.values.when_dropped = lambda name: self._reports.forget(plan, name)
        return plan

    def restored(self, key: str, pid: int) -> Plan:
        """A plan of which this broker knows only what a worker or the broker before it says."""
        plan = self._new(key, pid, Range(0, 0))
        plan.restored, plan.away_since = True, self._loop.time()
        self._absent.set()
        plan.libraries.generation = time.time_ns()  # what has changed meanwhile is not known
        return plan

    def restore(self) -> None:
        """Take over the results that a broker before this one has left, of sessions that live."""
        for key, pid, waiting in list(left_behind(self._folder)):
            if not may_live(pid):
                for ended in waiting.values():
                    ended.remove()
                continue
            plan = self.restored(key, pid)
            for number, ended in waiting.items():
                task = plan.tasks[number] = Task(
                    plan, number, "", None, state="ended", values=tuple(n for n, _ in ended.values)
                )
                task.outcome, task.result = f"{ended.word} {number}", ended.body
                for name, value in ended.values:
                    if name not in plan.values:  # else it is the same file
                        plan.values.put(name, value)
                plan.values.hold(task.values)
                plan.journal.end(number, ended.word, ended.body, ended.values)
            log(f"{len(waiting)} results of the R session {pid} wait for it")

    def left(self, plan: Plan, stream: Stream) -> None:
        """The connection of the plan's session has ended; the session may come back."""
        if self._reports.streams.get(plan.key) is stream:
            del self._reports.streams[plan.key]
            plan.away_since = self._loop.time()
            self._absent.set()
            self._check_sessions()
            self.when_left()

    def close(self, plan: Plan, *, abandoned: bool = False) -> None:
        """End a plan: what it runs is ended, what it has not collected is dropped."""
        self._by_key.pop(plan.key, None)
        self._reports.streams.pop(plan.key, None)
        for task in list(plan.tasks.values()):
            self._cancel(task)
        plan.journal.remove()
        plan.values.clear()
        self._pool.release(plan.key)
        self._activity.touch()
        self.when_closed(plan, abandoned)

    def _check_sessions(self) -> None:
        """Close the plans of sessions that are connected no more and whose process has ended."""
        for plan in list(self.values()):
            if plan.key not in self._reports.streams and plan.ended(self._loop.time()):
                log(f"the R session {plan.pid} has ended: its tasks are dropped")
                self.close(plan)

    async def run(self) -> None:
        """Look after sessions that have gone, as long as there are any."""
        while True:
            if len(self._reports.streams) >= len(self._by_key):
                self._absent.clear()
                await self._absent.wait()
            await asyncio.sleep(_CHECK_SECONDS)
            self._check_sessions()
