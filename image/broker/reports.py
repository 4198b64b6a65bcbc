"""Messages to sessions about their tasks, and the record of what happened to them."""

from __future__ import annotations

import time
from collections import deque
from typing import Protocol

from ..common import wire
from ..common.blob import Blob
from .plans import Plan, Task

EVENTS = 40_000
"""Bound of the events that are kept, which take some 17 MiB; 10,000 tasks have 30,000."""
_EVENT_SECONDS = 3600.0
_LOSSES = 20


class Stream(Protocol):
    """The connection of a plan's R session."""

    def tell(self, line: str, body: Blob | None = None) -> None:
        """Send one line and its body."""

    def give(self, name: str, value: Blob) -> None:
        """Let the session have a large value, unless it has it."""

    def forget(self, name: str) -> None:
        """The session needs a large value no more."""


class Reports:
    """Sends to the sessions that are connected, and keeps the events of the last hour within a bound."""

    def __init__(self) -> None:
        self.streams: dict[str, Stream] = {}
        """Connections of the sessions, by their plan's key."""
        self.events: deque[dict[str, object]] = deque(maxlen=EVENTS)
        self.noted = 0
        """Number of events so far, those that were dropped included."""
        self.losses: deque[dict[str, object]] = deque(maxlen=_LOSSES)
        """Events of the last losses, which outlive the many of tasks that end well."""
        self._started = time.time()
        self.counters = {"submitted": 0, "finished": 0, "failed": 0, "repeated": 0, "cancelled": 0}

    @property
    def held_since(self) -> float:
        """Time from which on no event is missing."""
        if self.noted == len(self.events):
            return self._started
        return float(str(self.events[0]["at"])) if self.events else time.time()

    def tell(self, plan: Plan, line: str, body: Blob | None = None) -> None:
        """Send a line to the plan's session, if it is connected."""
        stream = self.streams.get(plan.key)
        if stream is not None:
            stream.tell(line, body)

    def end(self, task: Task, *, whole: bool = False) -> None:
        """Report the end of a task: a large result is only announced, unless ``whole``."""
        body = task.result
        stream = self.streams.get(task.plan.key)
        if body is None or stream is None:
            return
        values = [(name, task.plan.values[name]) for name in task.values]
        size = body.size + sum(value.size for _, value in values)
        if size > wire.INLINE_BYTES and not whole:
            stream.tell(f"ready {task.number} {size}")
            return
        for name, value in values:
            stream.give(name, value)
        line = f"{task.outcome} {','.join(task.values)}" if values else task.outcome
        stream.tell(f"{line} {body.size}", body)

    def forget(self, plan: Plan, name: str) -> None:
        """Report to the plan's session that it needs a large value no more."""
        stream = self.streams.get(plan.key)
        if stream is not None:
            stream.forget(name)

    def want(self, plan: Plan, folder: str) -> None:
        """Ask a session on another machine for a package of its libraries."""
        name = Blob.of(folder.encode())
        self.tell(plan, f"want - {name.size}", name)

    def note(self, event: str, task: Task, **more: object) -> None:
        """Record what happened to a task."""
        now = time.time()
        while self.events and now - float(str(self.events[0]["at"])) > _EVENT_SECONDS:
            self.events.popleft()
        self.events.append(
            {"at": round(now, 3), "event": event, "session": task.plan.pid, "task": task.number,
             "label": task.label, "attempt": task.attempt,
             **({"run": task.plan.run} if task.plan.run else {}), **more}
        )  # fmt: skip
        self.noted += 1
        if event == "lost":
            self.losses.append(self.events[-1])
