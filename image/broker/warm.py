"""Keeps room for further workers (``warmWorkers``): sets the number of placeholder pods, which yield to workers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Protocol

from .idle import CHECK_SECONDS
from .kubernetes import KubeError
from .log import log


def placeholders(warm: int, workers: int, maximum: int, *, closed: bool) -> int:
    """Number of placeholders: room for ``warm`` further workers, as far as there may be more.

    Args:
        warm: the release's ``warmWorkers``.
        workers: number of workers that the Deployment asks for.
        maximum: the release's ``maxWorkers``.
        closed: True when no worker may start, so that room for one would only cost.
    """
    return 0 if closed else max(0, min(warm, maximum - workers))


class Numbers(Protocol):
    """Reads the release's settings and the number of workers, and sets that of the placeholders."""

    def setting(self, name: str) -> float:
        """A number of the release's settings."""

    def maximum(self) -> int | None:
        """The release's ``maxWorkers``."""

    def closed_until(self) -> str:
        """Time at which ``workHours`` begin again; empty within them."""

    async def expired(self) -> bool:
        """True if the release has outlived ``ttlHours``."""

    async def wanted(self) -> int:
        """Number of workers that the Deployment asks for."""

    async def placeholders(self) -> int:
        """Number of placeholders that their Deployment asks for."""

    async def set_placeholders(self, number: int) -> None:
        """Set the number of placeholders."""


class WarmRoom:
    """Holds the number of placeholders at what the settings, the hour and the workers ask for."""

    def __init__(self, numbers: Numbers, environ: Mapping[str, str]) -> None:
        self._numbers = numbers
        self._seconds = float(environ.get("FUTURE_KUBERNETES_IDLE_CHECK_SECONDS", CHECK_SECONDS))
        self._refusal = ""

    async def run(self) -> None:
        """Decide again and again. Without ``warmWorkers`` Kubernetes is not asked."""
        while True:
            await asyncio.sleep(self._seconds)
            warm = int(self._numbers.setting("warmWorkers"))
            if not warm:
                continue
            try:
                await self._set(warm)
                self._refusal = ""
            except KubeError as error:
                if str(error) != self._refusal:
                    self._refusal = str(error)
                    log(f"could not set the number of placeholders: {error}")

    async def _set(self, warm: int) -> None:
        closed = bool(self._numbers.closed_until()) or await self._numbers.expired()
        number = placeholders(warm, await self._numbers.wanted(), self._numbers.maximum() or 0, closed=closed)
        if number != await self._numbers.placeholders():
            await self._numbers.set_placeholders(number)
            log(f"keeps room for {number} further workers (warmWorkers)")
