"""Decides when unused workers are scaled to 0."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from .kubernetes import KubeError
from .log import log

CHECK_SECONDS = 10.0
"""Seconds between two decisions of the broker."""

SETTLE_CHECKS = 6
"""Checks after the broker's start by which its workers have reconnected and stated how long they have been unused."""


def due(now: float, last_active: float, idle_minutes: float) -> bool:
    """True if the workers have been unused for ``idleMinutes``.

    Args:
        now: seconds of a clock that does not jump.
        last_active: when a session last used, released or asked for a worker, or scaled, by the same clock.
        idle_minutes: minutes without any of that; 0 is never.
    """
    return idle_minutes > 0 and now - last_active >= idle_minutes * 60


def expired(now: float, created: float, ttl_hours: float) -> bool:
    """True if the release has outlived ``ttlHours``.

    Args:
        now: seconds of the epoch.
        created: when the release was first deployed, likewise.
        ttl_hours: hours that the release was given; 0 is without limit.
    """
    return ttl_hours > 0 and now - created >= ttl_hours * 3600


@dataclass
class Activity:
    """Times at which sessions last used workers, by the monotonic clock.

    If the time of day jumped ahead, workers would go too soon; if it jumped back, they would stay and cost.
    """

    started: float = field(default_factory=time.time)
    """The start of the broker, in seconds of the epoch."""
    _begun: float = field(default_factory=time.monotonic)
    _last_active: float | None = None
    _last_use: float | None = None

    def touch(self) -> None:
        """Note that a session uses, releases or asks for workers now."""
        self._last_active = time.monotonic()

    def worker_unused(self, seconds: float) -> None:
        """Note what a worker states when it connects: how long no session has used it."""
        used = time.monotonic() - seconds
        self._last_use = used if self._last_use is None else max(self._last_use, used)

    @property
    def last_active(self) -> float:
        """The last touch, else the start of the broker."""
        return self._begun if self._last_active is None else self._last_active

    def resume(self) -> None:
        """Continue the count of before a restart of the broker, unless a session has been active since."""
        if self._last_use is not None and self._last_active is None:
            self._last_active = self._last_use
            log(f"the workers were last used {time.monotonic() - self._last_active:.0f} s ago")


class Scaling(Protocol):
    """Reads the number of workers for the decision, and changes it."""

    def setting(self, name: str) -> float:
        """A number of the release's settings."""

    def lowering(self) -> bool:
        """True while the number is being lowered."""

    async def expired(self) -> bool:
        """True if the release has outlived ``ttlHours``."""

    def closed_until(self) -> str:
        """Time at which ``workHours`` begin again; empty within them."""

    async def wanted(self) -> int:
        """Number of workers that the Deployment asks for."""

    async def scale(self, workers: int) -> str:
        """Set the number."""


class Usage(Protocol):
    """Reports whether workers are in use."""

    def in_use(self) -> bool:
        """True while a session has a worker or waits for one."""


class IdleWatch:
    """Scales to 0 workers that no session uses: after ``idleMinutes`` or ``ttlHours``, and outside of ``workHours``."""

    def __init__(
        self,
        activity: Activity,
        users: Sequence[Usage],
        scaling: Scaling,
        environ: Mapping[str, str],
        rested: Callable[[str], None] = lambda _why: None,
    ) -> None:
        self._activity = activity
        self._users = users
        self._rested = rested
        self._scaling = scaling
        self._check_seconds = float(environ.get("FUTURE_KUBERNETES_IDLE_CHECK_SECONDS", CHECK_SECONDS))

    async def run(self) -> None:
        """Decide again and again."""
        await asyncio.sleep(self._check_seconds * SETTLE_CHECKS)
        self._activity.resume()
        while True:
            await asyncio.sleep(self._check_seconds)
            if any(user.in_use() for user in self._users):
                self._activity.touch()
                continue
            try:
                await self._scale_down_unused()
            except KubeError as error:
                log(f"could not scale to 0: {error}")

    async def _scale_down_unused(self) -> None:
        minutes = self._scaling.setting("idleMinutes")
        if due(time.monotonic(), self._activity.last_active, minutes):
            why, name = f"no session has used a worker for {minutes:g} minutes", "idleMinutes"
            self._activity.touch()  # decide again in as many minutes, not in a few seconds
        elif await self._scaling.expired():
            why, name = f"the stack's {self._scaling.setting('ttlHours'):g} hours are over", "ttlHours"
        elif opens := self._scaling.closed_until():
            why, name = f"outside of workHours until {opens}", "workHours"
        else:
            return
        if not self._scaling.lowering() and await self._scaling.wanted():
            log(f"{why}: scaling to 0 ({name})")
            self._rested(f"{why} ({name})")
            await self._scaling.scale(0)
