"""The number of workers: asks Kubernetes for more, and scales down without ending a worker in use."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from . import diagnosis, idle
from .background import Background
from .hours import WorkHours
from .kubernetes import KubeError, KubernetesApi
from .log import log
from .pool import Pool
from .workers import Worker

_RETIRE_SECONDS = 90.0
_POLL_SECONDS = 2.0
_RETRY_SECONDS = 5.0
_REFUSED_PATIENCE_SECONDS = 60.0
"""A rolling update replaces refused workers within this time."""


def above_maximum(workers: int, maximum: int | None) -> KubeError:
    """The error for a number of workers that the release does not allow."""
    return KubeError("above-maximum", f"{workers} workers were asked for; this release allows 0 to {maximum}")


class Scaler:
    """Sets how many workers the release's Deployment asks for, one request after the other."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        pool: Pool,
        activity: idle.Activity,
        background: Background,
        environ: Mapping[str, str],
        refusal: Callable[[], str],
    ) -> None:
        self._loop = loop
        self._pool = pool
        self._activity = activity
        self._background = background
        self._environ = environ
        self._refusal = refusal
        self._config = Path(environ.get("FUTURE_KUBERNETES_CONFIG", "/etc/future-kubernetes/config"))
        self._retire_seconds = float(environ.get("FUTURE_KUBERNETES_RETIRE_SECONDS", _RETIRE_SECONDS))
        # One request after the other: a session that gives up sends the old number right behind its own.
        self._one_at_a_time = asyncio.Lock()
        self._scale_down: asyncio.Task[None] | None = None
        self._scale_down_to = 0
        self._created: float | None = None
        self._unread_hours = ""
        self._rest = "", 0
        """Reason why the workers were last scaled to 0, and how many had joined by then."""

    def _api(self) -> KubernetesApi:
        return KubernetesApi(self._environ)

    def setting(self, name: str) -> float:
        """A number of the release's settings, read each time as it changes without a restart; 0 when there is none."""
        try:
            return float((self._config / name).read_text())
        except (OSError, ValueError):
            return 0.0

    def text(self, name: str) -> str:
        """A text of the release's settings, read each time; empty when there is none."""
        try:
            return (self._config / name).read_text().strip()
        except (OSError, ValueError):
            return ""

    def closed_until(self) -> str:
        """Time at which ``workHours`` begin again, for people; empty within them, or without any.

        A text that cannot be read is no hours, which is logged once: an image without the time zone must not stop a
        session.
        """
        try:
            text = (self._config / "workHours").read_text().strip()
            opens = WorkHours.parse(text).closed_until(time.time()) if text else None
        except OSError:
            return ""
        except ValueError as error:
            if str(error) != self._unread_hours:
                self._unread_hours = str(error)
                log(f"workHours are not kept: {error}")
            return ""
        return f"{opens:%A %Y-%m-%d %H:%M} {opens.tzinfo}" if opens else ""

    def maximum(self) -> int | None:
        """The release's ``maxWorkers``; 0 when it cannot be read, as it bounds the cost; None outside of a release."""
        if not self._environ.get("FUTURE_KUBERNETES_RELEASE"):
            return None
        return int(self.setting("maxWorkers"))

    def lowering(self) -> bool:
        """True while the number is being lowered."""
        return self._scale_down is not None and not self._scale_down.done()

    def remember_rest(self, why: str) -> None:
        """Note why the workers are scaled to 0, for who waits for the next ones, until the first of them is here."""
        self._rest = why, self._pool.joined_total

    async def wanted(self) -> int:
        """Number of workers that the Deployment asks for."""
        return await asyncio.to_thread(self._api().wanted)

    async def placeholders(self) -> int:
        """Number of placeholders that their Deployment asks for."""
        return await asyncio.to_thread(self._api().wanted, "warm")

    async def set_placeholders(self, number: int) -> None:
        """Set the number of placeholders."""
        await asyncio.to_thread(self._api().scale, number, "warm")

    async def expired(self) -> bool:
        """True if ``ttlHours`` have passed since the release was first deployed."""
        hours = self.setting("ttlHours")
        if not hours:
            return False
        if self._created is None:
            self._created = await asyncio.to_thread(self._api().created)
        return idle.expired(time.time(), self._created, hours)

    async def scale(self, workers: int) -> str:
        """Set the number of workers; never below the number of those in use. Returns the number that was set.

        Raises:
            KubeError: when the number is out of bounds or Kubernetes refuses it.
        """
        async with self._one_at_a_time:
            self._activity.touch()
            await self._check(workers)
            if self._scale_down is not None:
                self._scale_down.cancel()
                self._scale_down = None
            wanted = await self.wanted()
            workers = max(workers, len(self._pool.leased))
            if workers >= wanted:
                if workers > wanted:
                    await asyncio.to_thread(self._api().scale, workers)
                    log(f"asked for {workers} workers instead of {wanted}")
                for worker in list(self._pool.retiring):
                    self._pool.reinstate(worker)
            else:
                self._scale_down_to = workers
                self._scale_down = self._background.start(self._lower(self._api(), workers))
            return str(workers)

    async def _check(self, workers: int) -> None:
        maximum = self.maximum()
        if workers < 0 or (maximum is not None and workers > maximum):
            raise above_maximum(workers, maximum)
        if workers and await self.expired():
            raise KubeError(
                "refused",
                f"this stack's time is over: it was given ttlHours = {self.setting('ttlHours'):g}. "
                "For more: 'pulumi config set ttlHours' with a larger number, and 'pulumi up'",
            )

        if workers and (refusal := self._outside_hours()):
            raise KubeError("refused", refusal)

    def _outside_hours(self) -> str:
        opens = self.closed_until()
        return opens and (
            f"no worker starts before {opens}: it is outside of this stack's workHours. "
            "For other hours: 'pulumi config set workHours', and 'pulumi up'"
        )

    async def _lower(self, api: KubernetesApi, workers: int) -> None:
        """Scale down safely.

        Mark surplus idle workers unready, wait until only unready pods would be deleted, then lower ``replicas``.
        """
        while True:
            try:
                stay = await self._safe_number(api, workers)
                await asyncio.to_thread(api.scale, stay)
                log(f"lowered the number of workers to {stay}")
                return
            except KubeError as error:
                log(f"could not lower the number of workers: {error}; it is tried again")
            await asyncio.sleep(_RETRY_SECONDS)

    async def _safe_number(self, api: KubernetesApi, workers: int) -> int:
        """Retire surplus workers and wait; the number to which ``replicas`` can be lowered then."""
        deadline = self._loop.time() + self._retire_seconds
        reported = False
        while True:
            found = [pod for pod in await asyncio.to_thread(api.pods) if not diagnosis.terminating(pod)]
            pods = {pod["metadata"]["name"]: diagnosis.is_ready(pod) for pod in found}
            ready = {name for name, is_ready in pods.items() if is_ready}
            busy = {worker.pod for worker in self._pool.leased.values()} & pods.keys()
            stay = max(workers, len(busy))
            self._keep(stay, pods)
            late = self._loop.time() > deadline
            idle_pods = {worker.pod for worker in self._pool.idle} & pods.keys()
            if busy <= ready and (late or (idle_pods <= ready and len(ready) <= stay)):
                # More are ready only where one did not turn unready in time. Kubernetes deletes unready pods first, so
                # those in use are safe as long as the number stays at that of the ready ones.
                return max(stay, len(ready)) if busy else stay
            if late and not reported:
                reported = True
                exposed = ", ".join(sorted(busy - ready))
                log(f"waits to lower the number of workers: not ready, but in use: {exposed}")
            await asyncio.sleep(_POLL_SECONDS)

    def _keep(self, number: int, pods: Mapping[str, bool]) -> None:
        """Keep ``number`` of the connected workers, and retire the others unless they are in use, unready ones first.

        Args:
            number: how many stay.
            pods: whether each pod is ready. A worker whose pod is missing is being deleted already.
        """

        def unready_first(workers: Iterable[Worker]) -> list[Worker]:
            return sorted((worker for worker in workers if worker.pod in pods), key=lambda worker: pods[worker.pod])

        connected = sum(1 for worker in [*self._pool.idle, *self._pool.leased.values()] if worker.pod in pods)
        for worker in unready_first(self._pool.idle)[: max(0, connected - number)]:
            log(f"{worker.pod} is retired: {number} workers are enough")
            self._pool.retire(worker, self._retire_seconds)
        for worker in unready_first(self._pool.retiring)[::-1][: max(0, number - connected)]:
            self._pool.reinstate(worker)  # a request for fewer came before this one

    async def status(self) -> str:
        """State of the workers, for a person who waits for them: the fields of the answer to ``status``.

        Raises:
            KubeError: when Kubernetes refuses or cannot be reached.
        """
        lowering = self.lowering()
        connected = {worker.pod for worker in self._pool.connections}
        found = await asyncio.to_thread(self._api().status, connected)
        # The number that it is being lowered to: a plan must not count on workers that are about to go.
        wanted = self._scale_down_to if lowering or self.lowering() else found.wanted
        problem, patience = found.problem, found.patience
        if not found.wanted and (refusal := self._outside_hours()):
            problem, patience = refusal, 0
        if not problem and (refusal := self._refusal()):
            problem, patience = refusal, _REFUSED_PATIENCE_SECONDS
        why, joined = self._rest
        text = found.text
        if why and joined == self._pool.joined_total:
            text = ", ".join(filter(None, [text, f"as all were released: {why}"]))
        numbers = f"{wanted} {self._pool.connected} {found.starting} {found.waiting}"
        return f"{numbers}\t{text}\t{problem}\t{patience:g}"
