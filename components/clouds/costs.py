"""The hourly cost of a stack: now, idle and at most, with a line for each part. Pure: no I/O.

Nothing here imports a cloud's SDK.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from components.clouds.base import UNKNOWN
from components.clouds.settings import ManagedSettings
from components.clouds.sizing import WorkerPool

HOURS_A_MONTH = 730
"""Hours by which both clouds divide a price for a month
(https://cloud.google.com/compute/vm-instance-pricing, https://docs.aws.amazon.com/ebs/latest/userguide/)."""


@dataclass(frozen=True)
class Numbers:
    """Counts of something with `workers` workers, with none, and with `maxWorkers`."""

    now: float
    idle: float
    maximum: float

    def times(self, factor: float) -> Numbers:
        """So many of each."""
        return Numbers(self.now * factor, self.idle * factor, self.maximum * factor)

    def plus(self, other: Numbers) -> Numbers:
        """The sum of both."""
        return Numbers(self.now + other.now, self.idle + other.idle, self.maximum + other.maximum)


ONE = Numbers(1, 1, 1)


def node_numbers(settings: ManagedSettings, pool: WorkerPool) -> Numbers:
    """Worker nodes. They stay where no autoscaler removes them, and where `warmWorkers` keep room."""
    if not settings.autoscaled:
        return Numbers(pool.nodes, pool.nodes, pool.max_nodes)
    now = pool.nodes_for(min(settings.workers + settings.warm_workers, settings.max_workers))
    return Numbers(now, pool.nodes_for(settings.warm_workers), pool.max_nodes)


@dataclass(frozen=True)
class Part:
    """One part of the bill in US dollars an hour; None where its price is unknown.

    note: replaces the three figures, for what is billed by use only. It is not part of the sums.
    """

    name: str
    now: float | None = None
    idle: float | None = None
    maximum: float | None = None
    note: str = ""

    @classmethod
    def of(cls, name: str, numbers: Numbers, price: float | None, *at_max: float | None) -> Part:
        """So many of one price an hour. at_max: prices of which the highest counts at most, where they differ."""
        highest = max_price(*at_max) if at_max else price
        return cls(name, product(numbers.now, price), product(numbers.idle, price), product(numbers.maximum, highest))

    @property
    def line(self) -> str:
        """The part's cost in a line."""
        if self.note:
            return self.note
        figures = [UNKNOWN if each is None else f"${each:.3f}" for each in (self.now, self.idle, self.maximum)]
        if len(set(figures)) == 1:
            return figures[0]
        return f"{figures[0]} now, {figures[1]} idle, {figures[2]} at most"


SNAPSHOTS = Part("home snapshots", note="by use: each GB-month of them, until they are deleted; not in the sums")


def keeps_snapshots(settings: ManagedSettings) -> bool:
    """True if the stack makes snapshots of the home."""
    return settings.keep_home or settings.home_snapshot_days > 0


def product(count: float, price: float | None) -> float | None:
    """The price of `count`. None of something costs nothing, whatever the price of one."""
    return 0.0 if count == 0 else None if price is None else count * price


def worker_node(settings: ManagedSettings, *prices: float | None) -> float | None:
    """The sum of these prices, which each worker node adds to `idle`; nothing where the nodes stay when idle."""
    if not settings.autoscaled:
        return 0.0
    known = [price for price in prices if price is not None]
    return sum(known) if len(known) == len(prices) else None


def max_price(*prices: float | None) -> float | None:
    """The highest price. None where one is unknown, since that one may be the highest."""
    known = [price for price in prices if price is not None]
    return max(known) if len(known) == len(prices) else None


@dataclass(frozen=True)
class Costs:
    """Every part of a stack's bill.

    excluded: what is billed by use and is in no figure. worker_node: what each worker node adds to `idle` in an hour;
    None where a price of it is unknown.
    """

    parts: Sequence[Part]
    excluded: str
    worker_node: float | None = None

    def output(self) -> dict[str, Any]:
        """The stack's output `hourlyCost`."""
        counted = [part for part in self.parts if not part.note]
        return {
            "now": total([(part.name, part.now) for part in counted]),
            "idle": total([(part.name, part.idle) for part in counted]),
            "max": total([(part.name, part.maximum) for part in counted]),
            "workerNode": UNKNOWN if self.worker_node is None else f"${self.worker_node:.3f}",
            "parts": {part.name: part.line for part in self.parts},
            "notIncluded": self.excluded,
        }


def total(parts: Sequence[tuple[str, float | None]]) -> str:
    """The sum of the known parts, with the names of the others. `unknown` where no price is known."""
    known = [cost for _, cost in parts if cost is not None]
    missing = [name for name, cost in parts if cost is None]
    if missing and not any(known):
        return UNKNOWN
    dollars = f"${sum(known):.2f}"
    return f"at least {dollars} (unknown: {', '.join(missing)})" if missing else dollars
