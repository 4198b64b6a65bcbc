"""The number of workers that all plans want together, and the requests to Kubernetes that follow from it.

Each plan has a number (``plans.Range``), which goes with it. What Kubernetes is asked for is their sum within
``maxWorkers``, and never fewer than are at work. A request that fails is made again until it has succeeded, so that
no request outlives the wish for it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from .background import Background
from .dispatch import Dispatcher
from .kubernetes import KubeError
from .log import log
from .plans import REST_SECONDS, Plan, Range
from .pool import Pool
from .scaling import Scaler, above_maximum

_CHECK_SECONDS = 0.5
_RETRY_SECONDS = 5.0


def _moves(plan: Plan) -> bool:
    """True if the plan's number may change by time only."""
    away = plan.remote and plan.away_since is not None and plan.range.level > 0
    return away or (plan.range.elastic and bool(plan.load or plan.range.level > plan.range.minimum))


class Demand:
    """Keeps the number of workers at what the plans want."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        pool: Pool,
        dispatcher: Dispatcher,
        scaler: Scaler,
        background: Background,
        rest_seconds: float = REST_SECONDS,
    ) -> None:
        self._loop = loop
        self._pool = pool
        self._dispatcher = dispatcher
        self._scaler = scaler
        self._background = background
        self._rest_seconds = rest_seconds
        self._asked = 0
        """Number that Kubernetes was last asked for on behalf of plans; 0 before that and after a rest."""
        self._lower_to: int | None = None
        self._woken = asyncio.Event()
        self._busy = asyncio.Lock()
        self._attempts = 0
        self._scaled = 0
        """Times that a session has set the number itself."""
        self._error: KubeError | None = None
        dispatcher.when_load_changes = self._woken.set
        dispatcher.plans.when_closed = self._closed

    def total(self) -> int:
        """Number of workers that all plans want together, within ``maxWorkers``."""
        return self._within(self._levels())

    def _levels(self, but_of: int = 0) -> int:
        """Number of workers that all plans want together, without those of one process."""
        return sum(plan.range.level for plan in self._dispatcher.plans.values() if plan.pid != but_of)

    def _within(self, workers: int) -> int:
        maximum = self._scaler.maximum()
        return workers if maximum is None else min(workers, maximum)

    def allowed(self, minimum: int, maximum: int) -> int:
        """The largest number that a plan of this range can have.

        Raises:
            KubeError: when it is below the plan's minimum.
        """
        bound = self._scaler.maximum()
        if bound is None:
            return maximum
        if minimum > bound:
            raise above_maximum(minimum, bound)
        return min(maximum, bound)

    def numbers(self) -> str:
        """Connected workers, and wanted ones: the answer to ``connected``."""
        return f"ok {self._pool.connected} {self.total()} {self._levels()}\n"

    def changed(self) -> None:
        """A plan wants another number. What Kubernetes was asked for before may have been changed by others."""
        self._asked = 0
        self._woken.set()

    def _closed(self, plan: Plan, abandoned: bool) -> None:
        """A plan has ended. An elastic one releases workers in time, one that never began at once."""
        if abandoned:
            if plan.wanted_before is not None:
                self._lower(max(plan.wanted_before, self.total()))
        elif plan.range.level > plan.range.minimum:
            self._loop.call_later(self._rest_seconds, self._give_back, plan.range.minimum, self._scaled)
        self.changed()

    def _give_back(self, minimum: int, scaled: int) -> None:
        if scaled == self._scaled:  # else a session has set the number since
            self._lower(max(minimum, self.total()))

    def rested(self, why: str) -> None:
        """The workers are scaled to 0 for want of use: none is wanted until the next task: it brings them back."""
        self._scaler.remember_rest(why)
        for plan in self._dispatcher.plans.values():
            plan.range.rest()
        self._asked = 0

    def _lower(self, number: int) -> None:
        self._lower_to = number
        self.changed()

    async def settled(self) -> str:
        """Ask Kubernetes for what is wanted now; the answer to ``demand``.

        Raises:
            KubeError: when Kubernetes refuses or cannot be reached.
        """
        attempts = self._attempts
        async with self._busy:
            if self._attempts == attempts:
                await self._adjust()
            elif self._error is not None:
                raise self._error  # of the attempt that was under way: another one would take as long
        return self.numbers().removeprefix("ok ").rstrip()

    def when_settled(self, action: Callable[[], object]) -> None:
        """Do ``action`` once Kubernetes has been asked for what is wanted now, or that has failed."""

        async def settle() -> None:
            with contextlib.suppress(KubeError):
                await self.settled()
            action()

        self._background.start(settle())

    async def scale(self, workers: int, pid: int = 0) -> str:
        """Set the number of workers as the session of ``pid`` asks, but not below what plans of other sessions want.

        Raises:
            KubeError: when the number is out of bounds or Kubernetes refuses it.
        """
        own = [plan for plan in self._dispatcher.plans.values() if plan.pid == pid]
        floor = self._within(self._levels(but_of=pid))
        self._scaled += 1
        async with self._busy:
            answer = await self._scaler.scale(workers if workers < 0 else max(workers, floor))
            for plan in own:
                if workers:
                    plan.range = Range(workers, workers)
                else:
                    plan.range.rest()
            self._asked, self._lower_to = int(answer), None
        return answer

    async def _adjust(self) -> None:
        """Make one attempt; ``_busy`` is held."""
        self._error = None
        try:
            await self._ask_kubernetes()
        except KubeError as error:
            self._error = error
            raise
        finally:
            self._attempts += 1

    async def _ask_kubernetes(self) -> None:
        total = self.total()
        if total > self._asked:
            before = await self._scaler.wanted()
            if total > before:
                for plan in self._dispatcher.plans.values():
                    if plan.wanted_before is None:
                        plan.wanted_before = before
            if total > before or self._scaler.lowering():
                await self._scaler.scale(total)
            self._asked = total
        if self._lower_to is not None:
            number = max(self._lower_to, self.total())  # a plan may have ended while Kubernetes was asked
            await self._scaler.scale(number)
            self._asked = number
            if max(self._lower_to, self.total()) >= number:  # else it has been lowered further meanwhile
                self._lower_to = None

    async def run(self) -> None:
        """Follow the load of the plans, and ask Kubernetes when what they want has changed."""
        while True:
            moving = self._lower_to is not None or any(map(_moves, self._dispatcher.plans.values()))
            try:
                async with asyncio.timeout(_CHECK_SECONDS if moving else None):
                    await self._woken.wait()
            except TimeoutError:
                pass
            self._woken.clear()
            for plan in list(self._dispatcher.plans.values()):
                before = plan.range.level
                if plan.remote and plan.away_since is not None and not plan.load:
                    # A laptop asleep holds no workers; its next task brings them back.
                    if self._loop.time() - plan.away_since > self._rest_seconds:
                        plan.range.rest()
                else:
                    plan.range.update(plan.load, self._loop.time(), self._rest_seconds)
                if plan.range.level < before:
                    self._lower_to = self.total()
            if self.total() > self._asked or self._lower_to is not None:
                try:
                    async with self._busy:
                        await self._adjust()
                except KubeError as error:
                    if error.kind != "outside":
                        log(f"could not set the number of workers: {error}; it is tried again")
                        await asyncio.sleep(_RETRY_SECONDS)
                        self._woken.set()
