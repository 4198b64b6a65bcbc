"""Reports to the broker on the worker's task: usage, needs, the result, and the end of R."""

from __future__ import annotations

import time
from collections.abc import Sequence

from ..common import cgroup, wire
from ..common.blob import Blob
from .line import Line
from .r_process import RProcess
from .work import Work

_FIRST_USAGE_SECONDS = 2.0


class Reports:
    """Messages of a worker about its task. Without a connection they are dropped; a result is sent on the next one."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._usage = cgroup.Usage()
        self._usage_due = 0.0

    def begin(self) -> None:
        """A task has come: its usage is due in a moment."""
        self._usage_due = time.monotonic() + _FIRST_USAGE_SECONDS

    def seconds(self) -> float:
        """Seconds until the next report of a task's usage."""
        return max(0.0, self._usage_due - time.monotonic())

    def send_due(self, work: Work, r: RProcess | None) -> None:
        """Send the result unless it has been sent on this connection; before there is one, the usage in its time."""
        if work.result is None:
            self._send_usage()
        elif not work.sent:
            peak, cpu = (r.peak_mib(), r.cpu_seconds()) if r is not None else (0, None)
            message = {
                "op": "result", "id": work.id, "status": work.status, "peak": peak, "size": work.result.size,
                **({"cpu": cpu} if cpu is not None else {}),
                **({"values": [name for name, _ in work.values]} if work.values else {}),
            }  # fmt: skip
            work.sent = self._line.say(message, work.result)

    def _send_usage(self) -> None:
        now = time.monotonic()
        if now < self._usage_due:
            return
        self._usage_due = now + wire.USAGE_SECONDS
        usage = self._usage.since_last()
        if usage is not None:
            limit = cgroup.memory_limit_mib()
            self._line.say({"op": "usage", "memory": usage[0], "limit": limit, "cpu": round(usage[1], 3)})

    def condition(self, work: Work, body: Blob) -> None:
        """R has signaled a condition that is to be seen at once."""
        self._line.say({"op": "condition", "id": work.id, "size": body.size}, body)

    def missing_package(self, work: Work) -> None:
        """R waits for a package of the session."""
        if work.looks_for is not None:
            self._line.say({"op": "want", "id": work.id, "name": work.looks_for})

    def values(self, work: Work, names: Sequence[str]) -> None:
        """Send those values of the result that the broker has not."""
        values = dict(work.values)
        for name in names:
            self._line.say({"op": "value", "id": name, "size": values[name].size}, values[name])

    def evicted(self, names: Sequence[str]) -> None:
        """Large objects are no longer here: the next task that needs one brings it again."""
        if names:
            self._line.say({"op": "evicted", "ids": names})

    def ended(
        self, work: Work, status: int | None = None, oom: bool = False, limit: int | None = None, tail: str = ""
    ) -> None:
        """R has ended before there was a result. Without a status, the broker had cancelled the task."""
        self._line.say({"op": "ended", "id": work.id, "status": status, "oom": oom, "limit": limit, "tail": tail})
