"""Figures of a report, from the events that ``reports.py`` keeps. Pure: no I/O. Times are seconds of the epoch."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..page.words import cut

Event = Mapping[str, Any]


@dataclass(frozen=True)
class Scope:
    """The part of the events that a report is about."""

    since: float
    session: int | None = None
    """Process of the R session; None for any."""
    run: str = ""
    """Name of the batch run; empty for any."""

    def has(self, event: Event) -> bool:
        """True if this event belongs to the report."""
        return bool(
            event["at"] >= self.since
            and (self.session is None or event["session"] == self.session)
            and (not self.run or event.get("run", "") == self.run)
        )


@dataclass
class Attempt:
    """One run of a future on a worker."""

    label: str
    number: int
    attempt: int
    worker: str
    began: float
    waited: float | None = None
    """Seconds in the queue; None where its submission is not known."""
    ended: float | None = None
    """None while it runs."""
    outcome: str = "running"
    """``running``, ``done`` (R sent a result, which may be an error of the user's code), ``lost``, ``cancelled``, or
    what kept a result from being sent: ``unread``, ``setup``, ``unsent``, ``unkept``."""
    cpu: float | None = None
    peak_mib: int = 0
    result: int = 0
    reason: str = ""

    @property
    def name(self) -> str:
        """Its label, or its number where it has none."""
        return self.label or f"#{self.number}"

    def seconds(self, now: float) -> float:
        """Seconds for which the attempt ran."""
        return max(0.0, (now if self.ended is None else self.ended) - self.began)


@dataclass
class Group:
    """Futures whose labels differ in the number at their end only."""

    name: str
    attempts: int = 0
    seconds: float = 0.0
    longest: float = 0.0
    cpu: float = 0.0
    cpu_known: int = 0
    peak_mib: int = 0
    bad: int = 0


@dataclass
class Lane:
    """Work of one worker."""

    worker: str
    attempts: list[Attempt] = field(default_factory=list)
    busy: float = 0.0
    began: float = math.inf
    ended: float = 0.0


@dataclass
class Figures:
    """Events of the run, in numbers."""

    scope: Scope
    now: float
    held_since: float
    """Events from here on were there to be counted."""
    attempts: list[Attempt] = field(default_factory=list)
    begin: float = 0.0
    """First submission, or first start where that is not known."""
    end: float = 0.0
    """Last end; now while a future waits or runs."""
    submitted: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    """Number of futures by how they ended, with those that wait and run."""
    unseen: int = 0
    """Futures that ended here and whose start is not known: they began before this report, or the broker restarted."""
    losses: list[Attempt] = field(default_factory=list)
    sent: int = 0
    objects: int = 0
    received: int = 0
    useful: float = 0.0
    """Seconds of the runs that gave a result."""
    wasted: float = 0.0
    """Seconds of the runs that gave none."""
    longest: float = 0.0
    cpu: float | None = None
    cpu_of: int = 0
    """Number of ended runs whose CPU time is known."""
    peak_workers: int = 0
    """Most runs at the same time."""
    lanes: list[Lane] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    waiting: list[tuple[float, int]] = field(default_factory=list)
    """Number of futures that wait, from each of these times on."""
    running: list[tuple[float, int]] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """False if the report asks for more than the broker holds."""
        return self.scope.since >= self.held_since

    @property
    def wall(self) -> float:
        """Seconds from the first submission to the last end."""
        return max(0.0, self.end - self.begin)

    @property
    def ideal(self) -> float:
        """Seconds that the useful work takes on as many workers without any pause; the longest future bounds it."""
        return max(self.useful / self.peak_workers, self.longest) if self.peak_workers else 0.0

    @property
    def efficiency(self) -> float | None:
        """Ideal over wall time; None where no future has ended well."""
        return min(1.0, self.ideal / self.wall) if self.wall > 0 and self.useful > 0 else None

    @property
    def worker_seconds(self) -> float:
        """Time of the workers, each from its first start here to its last end."""
        return sum(lane.ended - lane.began for lane in self.lanes)

    @property
    def first_wait(self) -> float:
        """Seconds until the first future ran."""
        return max(0.0, min(run.began for run in self.attempts) - self.begin) if self.attempts else self.wall


def figures(events: Iterable[Event], scope: Scope, now: float, held_since: float) -> Figures:
    """The figures of these events, which are all that happened from ``held_since`` on."""
    found = Figures(scope, now, held_since)
    _Reader(found).read(event for event in events if scope.has(event))
    _sum_up(found)
    return found


class _Reader:
    """Turns events into attempts."""

    def __init__(self, found: Figures) -> None:
        self._found = found
        self._waits: dict[tuple[int, int], float] = {}
        """Start of each future's wait."""
        self._runs: dict[tuple[int, int], Attempt] = {}
        self._waiting: list[tuple[float, int]] = []

    def read(self, events: Iterable[Event]) -> None:
        """Take all events, oldest first."""
        found, times = self._found, list[float]()
        for event in events:
            times.append(event["at"])
            key = (event["session"], event["task"])
            if event["event"] == "submitted":
                found.submitted += 1
                found.sent += event["bytes"]
                self._wait(key, event["at"])
            elif event["event"] == "started":
                self._started(key, event)
            elif event["event"] in ("ended", "lost", "cancelled"):
                self._over(key, event)
        alive = self._waits or self._runs
        found.begin = times[0] if times else found.now
        found.end = max(found.now, times[-1]) if alive and times else times[-1] if times else found.now
        if self._waits:
            found.outcomes["waiting"] = len(self._waits)
        if self._runs:
            found.outcomes["running"] = len(self._runs)
        found.waiting = _steps(self._waiting)

    def _wait(self, key: tuple[int, int], at: float) -> None:
        self._leave_queue(key, at)  # a later plan of the same session counts from 1 again
        self._waits[key] = at
        self._waiting.append((at, 1))

    def _leave_queue(self, key: tuple[int, int], at: float) -> float | None:
        since = self._waits.pop(key, None)
        if since is None:
            return None
        self._waiting.append((at, -1))
        return max(0.0, at - since)

    def _started(self, key: tuple[int, int], event: Event) -> None:
        waited = self._leave_queue(key, event["at"])
        run = Attempt(
            cut(event["label"]), event["task"], event["attempt"], cut(event["worker"]), event["at"], waited
        )  # fmt: skip
        self._found.objects += event.get("objects", 0)
        self._found.attempts.append(run)
        self._runs[key] = run

    def _over(self, key: tuple[int, int], event: Event) -> None:
        found, kind, at = self._found, event["event"], event["at"]
        run = self._runs.pop(key, None)
        if run is not None:
            run.ended = at
            run.outcome = event.get("outcome", kind)
            run.cpu, run.peak_mib = event.get("cpu"), event.get("peak_mib", 0)
        if kind == "lost":
            loss = run or Attempt(cut(event["label"]), event["task"], event["attempt"], cut(event["worker"]), at)
            loss.ended, loss.outcome, loss.reason = at, "lost", str(event["reason"])
            found.losses.append(loss)
            self._wait(key, at)  # again, unless an event of its end follows
            return
        self._leave_queue(key, at)
        outcome = event.get("outcome", kind)
        found.outcomes[outcome] = found.outcomes.get(outcome, 0) + 1
        if kind == "ended":
            found.received += event["bytes"] - event.get("saved", 0)
            if run is not None:
                run.result = event["bytes"]
            elif "worker" in event:
                found.unseen += 1


def _sum_up(found: Figures) -> None:
    lanes: dict[str, Lane] = {}
    groups: dict[str, Group] = {}
    changes: list[tuple[float, int]] = []
    for run in found.attempts:
        seconds, ended = run.seconds(found.end), found.end if run.ended is None else run.ended
        changes += [(run.began, 1), (ended, -1)]
        lane = lanes.setdefault(run.worker, Lane(run.worker))
        lane.attempts.append(run)
        lane.busy += seconds
        lane.began, lane.ended = min(lane.began, run.began), max(lane.ended, ended)
        group = groups.setdefault(group_of(run.label), Group(group_of(run.label)))
        group.attempts += 1
        group.seconds += seconds
        group.longest = max(group.longest, seconds)
        group.peak_mib = max(group.peak_mib, run.peak_mib)
        if run.cpu is not None:
            group.cpu += run.cpu
            group.cpu_known += 1
        if run.outcome == "done":
            found.useful += seconds
            found.longest = max(found.longest, seconds)
        elif run.outcome != "running":
            group.bad += 1
            found.wasted += seconds
    known = [run.cpu for run in found.attempts if run.cpu is not None]
    found.cpu, found.cpu_of = (math.fsum(known) if known else None), len(known)
    found.running = _steps(changes)
    found.peak_workers = max((number for _, number in found.running), default=0)
    found.lanes = sorted(lanes.values(), key=lambda lane: _natural(lane.worker))
    found.groups = sorted(groups.values(), key=lambda group: -group.seconds)


def _steps(changes: Sequence[tuple[float, int]]) -> list[tuple[float, int]]:
    """The sum of changes from each of their times on. At the same time what ends counts before what begins."""
    steps, number = list[tuple[float, int]](), 0
    for at, change in sorted(changes):
        number += change
        if steps and steps[-1][0] == at:
            steps[-1] = at, number
        else:
            steps.append((at, number))
    return steps


def group_of(label: str) -> str:
    """A label without the number at its end; ``fit-17`` and ``fit-18`` are of one group."""
    return re.sub(r"[\s._#:-]*\d+$", "", label) or label


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts ``w10`` after ``w9``."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)]
