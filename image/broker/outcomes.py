"""How leases ended: the cause of a worker's loss, for the R session that asks for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Mapping

from . import kubernetes
from .tasks import Tasks
from .workers import Worker

_KEPT = 10_000
_LOOK_UP_SECONDS = 3.0
_LOOK_UPS_AT_ONCE = 4


class Outcomes:
    """Outcomes by lease: reported by the worker, seen by the broker, or looked up in Kubernetes."""

    def __init__(self, tasks: Tasks, environ: Mapping[str, str]) -> None:
        self._tasks = tasks
        self._environ = environ
        self._known: OrderedDict[str, str] = OrderedDict()
        self._look_ups: dict[str, asyncio.Task[None]] = {}
        self._at_once = asyncio.Semaphore(_LOOK_UPS_AT_ONCE)

    def __contains__(self, lease: str) -> bool:
        return lease in self._known

    def record(self, lease: str, text: str) -> None:
        """Remember how the worker of a lease ended; the oldest of 10,000 outcomes is forgotten."""
        self._known[lease] = text
        while len(self._known) > _KEPT:
            self._known.popitem(last=False)

    async def of(self, lease: str) -> str:
        """How the worker of a lease ended, after a look-up that is under way; empty while unknown."""
        if lease in self._look_ups:
            await asyncio.wait([self._look_ups[lease]])
        return self._known.get(lease, "")

    def look_up(self, worker: Worker) -> None:
        """Ask Kubernetes how a worker ended that could not report its end itself.

        With cgroup v2 the kernel may end the agent together with an R that is out of memory.
        """
        self._look_ups[worker.lease] = self._tasks.start(self._look_up(worker))

    async def _look_up(self, worker: Worker) -> None:
        try:
            with contextlib.suppress(kubernetes.KubeError, TimeoutError):
                api = kubernetes.KubernetesApi(self._environ)
                async with asyncio.timeout(_LOOK_UP_SECONDS):
                    while not (text := await self._ask(api, worker)):
                        await asyncio.sleep(0.25)
                self.record(worker.lease, text)
        finally:
            self._look_ups.pop(worker.lease, None)

    async def _ask(self, api: kubernetes.KubernetesApi, worker: Worker) -> str:
        async with self._at_once:  # a whole node's workers may be lost at once
            return await asyncio.to_thread(api.how_ended, worker.pod, worker.since)


def describe_end(status: int | None, *, oom: bool = False, limit_mib: int | None = None) -> str:
    """How an R process ended, in words; ``status`` is negative for a signal."""
    if oom:
        limit = f", limit {limit_mib} MiB" if limit_mib else ""
        return f"its R process was killed for want of memory (out of memory{limit})"
    if status is None:
        return "its R process closed the connection"
    if status < 0:
        return f"its R process was ended by signal {-status}"
    return f"its R process ended with exit status {status}"
