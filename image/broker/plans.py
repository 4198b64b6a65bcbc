"""The plans of R sessions and their tasks, as the broker knows them. Pure: no I/O.

A plan is one ``plan(kubernetes)`` of one R session. It has a key that only this session knows, tasks by number, and a
range of workers. What it *wants* of Kubernetes follows from its range and from its load; ``Range`` has the rule.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..common.blob import Blob
from ..common.process import alive
from .packages import Libraries
from .values import Values

if TYPE_CHECKING:
    from .journal import Journal
    from .workers import Worker

REST_SECONDS = 30.0
"""An elastic plan gives workers back that it has not needed for this long."""

AWAY_SECONDS = 24 * 3600.0
"""So long the plan of a session on another machine is kept after its connection has ended: a laptop may sleep."""

REPEATS = 20
"""Times that a task may run again after losses that it cannot have caused."""


class Range:
    """The number of workers that a plan wants now: all of a fixed plan, as many as an elastic one has work for.

    An elastic plan wants as many as it has tasks at once, and never gives one back that it has needed within
    ``REST_SECONDS``. A fixed plan wants its number until the workers are scaled to 0 for want of use; its next task
    asks for them again.
    """

    def __init__(self, minimum: int, maximum: int) -> None:
        self.minimum = minimum
        self.maximum = maximum
        self.level = minimum
        self._since: float | None = None
        self._peak = 0

    @property
    def elastic(self) -> bool:
        """True for a minimum and a maximum that differ."""
        return self.maximum > self.minimum

    def update(self, load: int, now: float, rest: float = REST_SECONDS) -> None:
        """Follow the load, in tasks that wait or run. ``now`` and ``rest`` in seconds."""
        need = min(self.maximum, max(self.minimum, load))
        if need >= self.level:
            if load or self.level:  # not one that rests
                self.level = need
            self._since = None
        elif self._since is None:
            self._since, self._peak = now, need
        else:
            self._peak = max(self._peak, need)
            if now - self._since >= rest:
                self.level, self._since, self._peak = self._peak, now, need

    def rest(self) -> None:
        """Want nothing until the next task: the workers were scaled to 0 for want of use."""
        self.level = 0
        self._since = None

    def wake(self) -> None:
        """Want at least the minimum: there is a task."""
        self.level = max(self.level, self.minimum)


@dataclass(eq=False)
class Task:
    """One future on its way: queued, running on a worker, or ended and not yet collected by its session."""

    plan: Plan
    number: int
    label: str
    payload: Blob | None
    """None after a restart of the broker, until the session has sent the task again."""
    needs: tuple[str, ...] = ()
    """Large objects of its plan that it refers to."""
    attempt: int = 1
    state: str = "queued"
    worker: Worker | None = None
    losses: list[tuple[str, str]] = field(default_factory=list)
    """Pod and reason of each loss that the task can have caused."""
    repeats: int = 0
    """Number of losses that it cannot have caused."""
    outcome: str = ""
    """Line to the session on how the task ended."""
    values: tuple[str, ...] = ()
    """Large values of its result, which its plan keeps."""
    result: Blob | None = None

    @property
    def lease(self) -> str:
        """Name of this attempt, in the whole release."""
        return f"{self.plan.key}-{self.number}-{self.attempt}"


def parts_of(lease: str) -> tuple[str, int, int]:
    """Key of the plan, number and attempt of a task, of the name of an attempt.

    Raises:
        ValueError: when it is none.
    """
    key, number, attempt = lease.rsplit("-", 2)
    return key, int(number), int(attempt)


def may_live(pid: int) -> bool:
    """False for a session of this pod whose process has ended. One on another machine (below 0) may come back."""
    return pid < 0 or alive(pid)


class Plan:
    """One plan of an R session: its range of workers, and its tasks."""

    def __init__(self, key: str, pid: int, range_: Range, retries: int, journal: Journal) -> None:
        self.key = key
        self.pid = pid
        """Process of its session in this pod; negative for a session on another machine, which has drawn it."""
        self.run = ""
        """Name of the batch run that its session belongs to; empty for none."""
        self.away_since: float | None = None
        """Loop time at which the connection of its session ended; None while there is one."""
        self.range = range_
        self.retries = retries
        self.tasks: dict[int, Task] = {}
        self.queue: deque[Task] = deque()
        self.objects: dict[str, Blob | None] = {}
        """Large objects by the hash of their content; None for one that the disk had no room for."""
        self.values = Values()
        self.libraries = Libraries()
        self.journal = journal
        self.running = 0
        self.served = 0.0
        """Loop time at which a task of it was last given to a worker, or at which it began to wait."""
        self.wanted_before: int | None = None
        """Number of workers that the release was set to have before this plan asked for more."""
        self.restored = False
        """True for a plan that a restarted broker knows from its workers only, until its session is back."""

    @property
    def load(self) -> int:
        """Number of tasks that wait or run."""
        return len(self.queue) + self.running

    @property
    def remote(self) -> bool:
        """True for a session on another machine: this pod has neither its process nor its files."""
        return self.pid < 0

    def ended(self, now: float) -> bool:
        """True if its session will not come back. ``now`` in loop time."""
        long_away = self.away_since is not None and now - self.away_since > AWAY_SECONDS
        return not may_live(self.pid) or (self.remote and long_away)

    @property
    def waiting(self) -> bool:
        """True if it has a task that could run on a further worker."""
        return bool(self.queue) and self.running < max(1, self.range.maximum)
