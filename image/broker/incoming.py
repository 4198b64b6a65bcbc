"""Results on their way from workers: complete once the broker has their large values, each of which is sent once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..common import wire
from ..common.blob import Blob
from .plans import Plan
from .workers import Result, Worker


@dataclass
class _Arriving:
    plan: Plan
    result: Result


class Incoming:
    """The results whose values are missing. complete: takes a worker's result, without a body if that was not kept."""

    def __init__(self, complete: Callable[[Worker, Result], None]) -> None:
        self._complete = complete
        self._arriving: dict[Worker, _Arriving] = {}
        self._asked: dict[tuple[str, str], Worker] = {}
        """Worker that sends a value, by the plan's key and the value's hash."""

    def __contains__(self, worker: Worker) -> bool:
        return worker in self._arriving

    def take(self, worker: Worker, plan: Plan, result: Result) -> None:
        """Take a result, and ask its worker for the values that no worker has sent."""
        self._arriving[worker] = _Arriving(plan, result)
        self._look(worker)

    def _look(self, worker: Worker) -> None:
        plan, result = self._arriving[worker].plan, self._arriving[worker].result
        missing = [name for name in result.values if name not in plan.values]
        if not missing:
            del self._arriving[worker]
            self._complete(worker, result)
            return
        ask = [name for name in missing if (plan.key, name) not in self._asked]
        for name in ask:
            self._asked[plan.key, name] = worker
        if ask:
            worker.say(wire.encode(op="need", id=result.lease, ids=ask))

    def arrived(self, worker: Worker, name: str, body: Blob | None) -> None:
        """A worker has sent a value: it is for all results that wait for it."""
        self._asked = {of: asked for of, asked in self._asked.items() if (of[1], asked) != (name, worker)}
        waiting = [
            other for other, arriving in self._arriving.items()
            if arriving.plan.key == worker.bound and name in arriving.result.values
        ]  # fmt: skip
        if body is None:  # the disk is full
            for other in waiting:
                result = self._arriving.pop(other).result
                result.forget()
                self._complete(other, result)
            return
        if not waiting:  # its task was cancelled
            body.remove()
            return
        self._arriving[waiting[0]].plan.values.put(name, body)
        if worker in self._arriving:
            self._arriving[worker].result.received += body.size
        for other in waiting:
            if other in self._arriving:
                self._look(other)

    def drop(self, worker: Worker) -> None:
        """Forget a worker's result: its task was cancelled or the worker is lost. Others send the values instead."""
        arriving = self._arriving.pop(worker, None)
        if arriving is None:
            return
        arriving.result.forget()
        self._asked = {of: asked for of, asked in self._asked.items() if asked is not worker}
        for other in [other for other, that in self._arriving.items() if that.plan is arriving.plan]:
            if other in self._arriving:
                self._look(other)
