"""Causes of lost workers: reported by the worker, seen by the broker, or looked up in Kubernetes."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import diagnosis, kubernetes
from .background import Background

if TYPE_CHECKING:
    from .workers import Worker

_KEPT = 10_000
_LOOK_UP_SECONDS = 10.0
"""A kubelet with much to do reports the end of a container some seconds late. On cgroup v2 only this report says that
memory ran out, because the kernel ends the agent too."""
_RETURN_SECONDS = 1.5
"""An agent whose connection broke has dialled again within this time."""
_LOOK_UPS_AT_ONCE = 4


_CAUSES = (
    ("memory", ("out of memory",)),
    ("eviction", ("Evicted",)),
    ("deletion", ("its pod was draining", "its pod was deleted", "its pod was ended")),
    ("network", ("its network fell silent",)),
    ("crash", ("its R process", "its container ended")),
)
"""Causes of losses, each with words of which the texts of its losses have one; of several the first one counts."""


def kind_of(text: str) -> str:
    """The cause of a loss in one word, from the text that describes the loss."""
    return next((cause for cause, words in _CAUSES if any(word in text for word in words)), "unknown")


@dataclass(frozen=True)
class Cause:
    """Cause of a worker's loss, in words, and whether its task can have caused that."""

    text: str
    by_task: bool


class Outcomes:
    """Outcomes by lease in attach mode, and the causes of the losses of tasks."""

    def __init__(self, background: Background, environ: Mapping[str, str]) -> None:
        self._background = background
        self._environ = environ
        self.drained: Callable[[Worker], bool] = lambda _: False
        """True if a worker's pod is being deleted."""
        self._known: OrderedDict[str, str] = OrderedDict()
        self._look_ups: dict[str, asyncio.Task[None]] = {}
        self.losses = {**{cause: 0 for cause, _ in _CAUSES}, "unknown": 0}
        """Number of workers lost while they ran something, by cause. With zeros, so that a first loss is a rise."""
        self._at_once = asyncio.Semaphore(_LOOK_UPS_AT_ONCE)

    def record(self, lease: str, text: str) -> None:
        """Remember how the worker of a lease ended; the oldest of 10,000 outcomes is forgotten."""
        self._known[lease] = text
        while len(self._known) > _KEPT:
            self._known.popitem(last=False)

    def count(self, text: str) -> None:
        """Count a worker that was lost while it ran something."""
        self.losses[kind_of(text)] += 1

    def lost(self, worker: Worker) -> None:
        """Count a worker that attach mode lost, once it is known how that worker ended."""
        if worker.lease not in self._known and self.drained(worker):
            self.record(worker.lease, "its pod was draining, and its grace period was over")
        if worker.lease in self._known:
            self.count(self._known[worker.lease])
        else:
            self._look_up_end(worker)

    async def of(self, lease: str) -> str:
        """End of a lease's worker, after a look-up that is under way; empty while unknown."""
        if lease in self._look_ups:
            await asyncio.wait([self._look_ups[lease]])
        return self._known.get(lease, "")

    def _look_up_end(self, worker: Worker) -> None:
        """Ask Kubernetes how a worker ended that could not report its end itself.

        With cgroup v2 the kernel may end the agent together with an R that is out of memory.
        """
        self._look_ups[worker.lease] = self._background.start(self._look_up(worker))

    async def _look_up(self, worker: Worker) -> None:
        lease = worker.lease
        try:
            if text := await self._how_ended(worker):
                self.record(lease, text)
        finally:
            self._look_ups.pop(lease, None)
            self.count(self._known.get(lease, ""))

    async def _how_ended(self, worker: Worker) -> str:
        """Facts that Kubernetes shows of the end of a worker's pod or container; empty if it shows none in time."""
        with contextlib.suppress(kubernetes.KubeError, TimeoutError):
            api = kubernetes.KubernetesApi(self._environ)
            async with asyncio.timeout(_LOOK_UP_SECONDS):
                while not (text := await self._ask(api, worker)):
                    await asyncio.sleep(0.25)
                return text
        return ""

    async def cause(self, worker: Worker) -> Cause:
        """Cause of the end of a busy worker's connection, once its agent had time to dial again."""
        if worker.was_silent:
            return Cause("its network fell silent: its node may be gone", by_task=False)
        began = asyncio.get_running_loop().time()
        text = await self._how_ended(worker)
        await asyncio.sleep(max(0.0, began + _RETURN_SECONDS - asyncio.get_running_loop().time()) if not text else 0)
        if self.drained(worker):
            return Cause("its pod was draining, and its grace period was over", by_task=False)
        if text:
            return Cause(text, by_task=diagnosis.by_task(text))
        return Cause("its connection ended, and Kubernetes shows no reason", by_task=True)

    async def _ask(self, api: kubernetes.KubernetesApi, worker: Worker) -> str:
        async with self._at_once:  # a whole node's workers may be lost at once
            return await asyncio.to_thread(api.how_ended, worker.pod, worker.since)


def describe_end(status: int | None, *, oom: bool = False, limit_mib: int | None = None) -> str:
    """End of an R process, in words; ``status`` is negative for a signal."""
    if oom:
        limit = f", limit {limit_mib} MiB" if limit_mib else ""
        return f"its R process was killed for want of memory (out of memory{limit})"
    if status is None:
        return "its R process closed the connection"
    if status < 0:
        return f"its R process was ended by signal {-status}"
    return f"its R process ended with exit status {status}"
