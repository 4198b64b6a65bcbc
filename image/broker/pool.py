"""The connected workers by state, and what is remembered of their pods."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..common import wire
from .log import log
from .workers import Worker

_RETURN_SECONDS = 15.0
_FORGOTTEN = 1000
"""Pods that may have gone before they are forgotten."""


@dataclass
class Pod:
    """Memory of a worker's pod across its connections."""

    node: str
    uses: int = 0
    losses: int = 0
    draining: bool = False
    expected_until: float = 0.0
    """Deadline (loop time) by which a released worker is expected to reconnect; until then it counts as free."""


class Pool:
    """The workers that are connected: idle, leased to sessions, or retiring."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.idle: OrderedDict[Worker, None] = OrderedDict()
        self.retiring: OrderedDict[Worker, None] = OrderedDict()
        """Connected but unready, so that Kubernetes deletes their pods first; they can be reinstated."""
        self.leased: dict[str, Worker] = {}
        self.lent = asyncio.Event()
        """Set with each lease; whoever looks at the leased workers clears it once there is none."""
        self.pods: dict[str, Pod] = {}
        self.joined_total = 0
        """Number of workers that connected for the first time."""
        self._connected: dict[Worker, float] = {}
        """Loop time at which each worker connected."""
        self._seconds = 0.0
        """Seconds that workers were connected which are not any more."""
        self._bound: dict[str, OrderedDict[Worker, None]] = {}
        self.when_idle: list[Callable[[], None]] = []
        """Called one after the other when a worker has become idle, as long as one is."""

    def enrol(self, worker: Worker) -> None:
        """Take in a worker that offers itself."""
        known = self.connections
        for other in known:
            if other.pod == worker.pod:  # the pod's agent is here anew, so its old connection is dead, noticed or not
                log(f"{worker.pod} is back; its old connection is dropped")
                other.drop()
        if len(self.pods) > 2 * len(self.workers) + _FORGOTTEN:
            here = {other.pod for other in known}
            self.pods = {name: pod for name, pod in self.pods.items() if name in here}
        self.joined_total += worker.pod not in self.pods
        self._connected[worker] = self._loop.time()
        pod = self.pods.setdefault(worker.pod, Pod(worker.node))
        pod.node, pod.draining, pod.expected_until = worker.node, False, 0.0

    def make_idle(self, worker: Worker) -> None:
        """Let sessions have a worker, unless its connection has ended or its pod is being deleted."""
        self.leased.pop(worker.lease, None)
        worker.lease = ""
        if not worker.open or self.draining(worker):
            return
        worker.enter("idle")
        self._put(worker)
        for serve in self.when_idle:
            if worker in self.idle:
                serve()

    def _put(self, worker: Worker) -> None:
        self.idle[worker] = None
        self._bound.setdefault(worker.bound, OrderedDict())[worker] = None

    def _take(self, worker: Worker) -> None:
        del self.idle[worker]
        bound = self._bound[worker.bound]
        del bound[worker]
        if not bound:
            del self._bound[worker.bound]

    def lease_for(self, key: str, lease: str) -> Worker:
        """Lease an idle worker: one whose R already works for ``key``, else a fresh one, else the longest idle."""
        found = self._bound.get(key) or self._bound.get("") or self.idle
        worker = next(iter(found))
        self._take(worker)
        self.lease(worker, lease)
        return worker

    def lease(self, worker: Worker, lease: str) -> None:
        """Note that a worker is leased."""
        worker.lease = lease
        self.leased[lease] = worker
        self.lent.set()

    def release(self, key: str) -> None:
        """Let the workers whose R works for ``key`` start a fresh one."""
        for worker in [*self._bound.get(key, ()), *self.leased.values()]:
            if worker.bound == key:
                worker.say(wire.encode(op="reset"))
                idle = worker in self.idle
                if idle:
                    self._take(worker)
                worker.bound = ""
                if idle:
                    self._put(worker)

    def forget(self, worker: Worker) -> None:
        """Remove a worker whose connection has ended."""
        if (since := self._connected.pop(worker, None)) is not None:
            self._seconds += self._loop.time() - since
        if worker in self.idle:
            self._take(worker)
        self.retiring.pop(worker, None)
        if self.leased.get(worker.lease) is worker:
            del self.leased[worker.lease]

    def drain(self, worker: Worker) -> None:
        """Note that the worker's pod is being deleted: it gets nothing more to do."""
        self.pods.setdefault(worker.pod, Pod(worker.node)).draining = True
        if worker in self.idle:
            self._take(worker)

    def draining(self, worker: Worker) -> bool:
        """True if the worker's pod is being deleted."""
        return self.pods[worker.pod].draining

    def expect(self, worker: Worker) -> None:
        """Count a released worker as free until it has reconnected with a fresh R, unless its pod is being deleted."""
        if not self.draining(worker):
            self.pods[worker.pod].expected_until = self._loop.time() + _RETURN_SECONDS

    @property
    def expected(self) -> int:
        """Number of released workers that are expected to reconnect."""
        now = self._loop.time()
        return sum(1 for pod in self.pods.values() if pod.expected_until > now and not pod.draining)

    @property
    def workers(self) -> list[Worker]:
        """The workers that sessions have or can have; without the retiring ones."""
        return [*self.idle, *self.leased.values()]

    @property
    def connections(self) -> list[Worker]:
        """All workers that are connected; the retiring ones too."""
        return [*self.workers, *self.retiring]

    @property
    def connected(self) -> int:
        """Number of workers that sessions have or can have; without the retiring ones."""
        return len(self.idle) + len(self.leased)

    def connected_seconds(self) -> float:
        """Seconds that workers were connected, summed over the workers; retiring and draining ones count."""
        now = self._loop.time()
        return self._seconds + sum(now - since for since in self._connected.values())

    def retire(self, worker: Worker, seconds: float) -> None:
        """Make an idle worker unready. It is reinstated if Kubernetes has not deleted its pod after ``seconds``."""
        worker.enter("retiring")
        self._take(worker)
        self.retiring[worker] = None
        worker.say(wire.encode(op="retire"))
        worker.after(seconds, lambda: self.reinstate(worker))

    def reinstate(self, worker: Worker) -> None:
        """Make a retiring worker ready and idle again."""
        if worker in self.retiring:
            log(f"{worker.pod} is reinstated")
            del self.retiring[worker]
            worker.say(wire.encode(op="reinstate"))
            self.make_idle(worker)

    def table(self) -> list[dict[str, Any]]:
        """One row for each connected worker; ``since`` is in seconds of the epoch."""
        return [
            {
                "pod": worker.pod,
                "node": worker.node,
                "state": "draining" if self.draining(worker) else worker.state,
                "since": round(worker.since, 3),
                "session": worker.session_pid,
                "lease": worker.lease,
                "uses": self.pods[worker.pod].uses,
                "losses": self.pods[worker.pod].losses,
                "memory": worker.memory_mib,
                "cpu": worker.cpu,
                "label": worker.task.label if worker.task else "",
            }
            for worker in self.workers
        ]
