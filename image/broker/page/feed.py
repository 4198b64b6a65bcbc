"""Content of the page, as one state of everything and as what changed since the last one.

All pages that are open get the same changes, so that ten cost as much as one. The messages are in ``server.py``. Times
are seconds of the epoch, on the broker's clock.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter, deque
from collections.abc import Iterable
from typing import Any

from ..demand import Demand
from ..dispatch import Dispatcher
from ..idle import Activity
from ..kubernetes import KubeError
from ..leases import Leases
from ..memory import Memory
from ..plans import Plan, Task
from ..pool import Pool
from ..scaling import Scaler
from ..workers import Worker
from .words import Situation, cost, cure, cut, waiting

SAMPLE_SECONDS = 10.0
"""Interval of the history that a page finds when it opens."""
_SAMPLES = 360
_EVENTS_AT_ONCE = 2000
"""Events of tasks that one message describes at most; of more only the number is said."""
_EVENTS_FIRST = 10_000
"""Events of tasks that a page shows when it opens."""
_SESSIONS = 50
_ASK_SECONDS = 15.0
_ASK_WAITING_SECONDS = 2.0

Row = tuple[object, ...]
Bar = tuple[str, str, float, float, str, str]


class Feed:
    """Describes the broker's parts for the page."""

    def __init__(
        self,
        pool: Pool,
        dispatcher: Dispatcher,
        leases: Leases,
        demand: Demand,
        scaler: Scaler,
        activity: Activity,
        memory: Memory,
    ) -> None:
        self._pool = pool
        self._dispatcher = dispatcher
        self._leases = leases
        self._demand = demand
        self._scaler = scaler
        self._activity = activity
        self._memory = memory
        self._samples: deque[list[float]] = deque(maxlen=_SAMPLES)
        self._rows: dict[str, Row] = {}
        self._open: dict[str, Bar] = {}
        """Bars of the tasks that run, by the name of their attempt."""
        self._shown: set[str] = set()
        """Names of the bars that were said."""
        self._noted = 0
        self._said: dict[str, object] = {}
        self._asked = -math.inf  # a monotonic clock may begin at 0 with the machine
        self._wanted = 0
        self._starting = self._problem = self._error = ""

    @property
    def started(self) -> float:
        """Time at which this broker started: a page distinguishes a restart from a network that failed."""
        return round(self._activity.started, 3)

    # Messages.

    def everything(self) -> dict[str, Any]:
        """The state that a page starts with; call ``changes`` right before, so that the next ones continue it."""
        events = self._dispatcher.reports.events
        finished = list(self._bars(itertools.islice(events, max(0, len(events) - _EVENTS_FIRST), None), {}))
        return {
            "started": self.started,
            "at": round(time.time(), 3),
            "history": list(self._samples),
            "numbers": self._numbers(),
            "workers": list(self._rows.values()),
            "bars": [bar for bar in finished if bar[3]] + list(self._open.values()),
            **self._said,
        }

    def changes(self) -> dict[str, Any]:
        """Changes since the last call."""
        reports = self._dispatcher.reports
        rows = {worker.pod: self._row(worker) for worker in (*self._pool.workers, *self._pool.retiring)}
        before, self._rows = self._rows, rows
        new = min(reports.noted - self._noted, len(reports.events))
        dropped = max(0, new - _EVENTS_AT_ONCE)
        self._noted = reports.noted
        recent = list(itertools.islice(reversed(reports.events), new - dropped))
        bars = list(self._bars(reversed(recent), self._open))
        message: dict[str, Any] = {
            "at": round(time.time(), 3),
            "numbers": self._numbers(),
            "workers": [row for pod, row in rows.items() if before.get(pod) != row],
            "gone": [pod for pod in before if pod not in rows],
            "bars": bars + self._opened(),
        }
        if dropped:
            message["dropped"] = dropped
        for name, value in self._details():
            if self._said.get(name) != value:
                self._said[name] = message[name] = value
        return message

    def moved(self) -> tuple[int, ...]:
        """Another value whenever a task or a worker came, went or ended; cheap, however many workers there are."""
        return (self._dispatcher.reports.noted, *self._numbers())

    def sample(self) -> None:
        """Add to the history; also while no page is open."""
        self._samples.append([round(time.time(), 1), *self._numbers()])

    # Parts of a message.

    def _row(self, worker: Worker) -> Row:
        state = worker.state
        if self._pool.draining(worker):
            state = "draining"
        elif state == "busy" and worker.session is not None:
            state = "attached"
        label = cut(worker.task.label) if worker.task else ""
        pod = self._pool.pods[worker.pod]
        return (
            worker.pod, worker.node, state, round(worker.since, 1), worker.session_pid, label,
            worker.memory_mib, worker.memory_limit_mib, pod.uses, pod.losses,
        )  # fmt: skip

    def _numbers(self) -> list[int]:
        plans, counters = self._dispatcher.plans.values(), self._dispatcher.reports.counters
        return [
            sum(len(plan.queue) for plan in plans) + len(self._leases.queue),
            sum(plan.running for plan in plans),
            *(counters[name] for name in ("finished", "failed", "repeated", "cancelled")),
            self._pool.connected,
            self._wanted_now(),
        ]

    def _wanted_now(self) -> int:
        """Number of workers that are wanted, as far as that is known."""
        return max(self._demand.total(), self._wanted)

    @staticmethod
    def _bars(events: Iterable[dict[str, Any]], running: dict[str, Bar]) -> Iterable[Bar]:
        """The bars of these events that have ended; ``running`` gains and loses the others."""
        for event in events:
            name, at = f"{event['session']}-{event['task']}-{event['attempt']}", event["at"]
            if event["event"] == "started":
                running[name] = (name, event["worker"], at, 0, "", cut(event["label"]))
            elif event["event"] in ("ended", "lost", "cancelled") and name in running:
                outcome = event.get("outcome", event["event"])
                yield (*running.pop(name)[:3], at, outcome, cut(event["label"]))

    def _opened(self) -> list[Bar]:
        """Bars of tasks that run and were not said yet, those of before a restart of the broker included."""
        tasks = {name_of(task): task for worker in self._pool.leased.values() if (task := worker.task)}
        self._open = {
            name: self._open.get(name)
            or (name, task.worker.pod, round(task.worker.since, 3), 0, "", cut(task.label))
            for name, task in tasks.items()
            if task.worker is not None and task.state == "running"
        }  # fmt: skip
        new = [bar for name, bar in self._open.items() if name not in self._shown]
        self._shown = set(self._open)
        return new

    def _details(self) -> Iterable[tuple[str, object]]:
        """Parts that change seldom, by name."""
        queued, running, *_, connected, wanted = self._numbers()
        now = Situation(
            queued, connected, wanted, self._scaler.maximum(), self._starting, self._problem, self._error
        )  # fmt: skip
        yield "waiting", waiting(now)
        yield "problem", bool(self._problem or self._error) and wanted > connected
        yield "maximum", self._scaler.maximum()
        minutes = self._scaler.setting("idleMinutes")
        used = bool(queued or running) or self._leases.in_use()
        # Rounded each, so that the sum is the same number as long as no clock jumps.
        goes = round(self._activity.last_active + 60 * minutes) + round(time.time() - time.monotonic())
        yield "idle", {"minutes": minutes, "goes": goes if not used else 0}
        nodes = {worker.node for worker in (*self._pool.workers, *self._pool.retiring)} - {""}
        idle, maximum, each = (self._scaler.text(f"cost{name}") for name in ("Idle", "Max", "WorkerNode"))
        yield "cost", cost(idle, maximum, each, len(nodes))
        yield "sessions", self._sessions()
        yield "memory", self._memory.usage()
        yield "deaths", list(reversed(self._memory.deaths))
        yield "losses", [
            {"at": loss["at"], "label": cut(str(loss["label"])) or f"#{loss['task']}", "pod": loss["worker"],
             "reason": str(loss["reason"])[:300], "cure": cure(str(loss["reason"]))}
            for loss in reversed(self._dispatcher.reports.losses)
        ]  # fmt: skip

    def _sessions(self) -> list[list[object]]:
        """R sessions: process, mode, workers that it asks for, futures that run, futures that wait."""
        plans = itertools.islice(self._dispatcher.plans.values(), _SESSIONS)
        found: list[list[object]] = [
            [plan.pid, "plan(kubernetes)", _range(plan), plan.running, len(plan.queue)] for plan in plans
        ]
        attached = Counter(worker.session_pid for worker in self._pool.leased.values() if worker.session is not None)
        waits = Counter(session.pid for session in self._leases.queue)
        for pid in list(dict.fromkeys((*attached, *waits)))[: _SESSIONS - len(found)]:
            found.append([pid, "plan(cluster)", "", attached[pid], waits[pid]])
        return found

    # Kubernetes.

    async def ask_kubernetes(self) -> None:
        """Look up what keeps missing workers from starting, if that is due."""
        missing = self._wanted_now() > self._pool.connected
        if time.monotonic() - self._asked < (_ASK_WAITING_SECONDS if missing else _ASK_SECONDS):
            return
        try:
            numbers, text, problem, _ = (await self._scaler.status()).split("\t")
            self._wanted, self._starting, self._problem, self._error = int(numbers.split()[0]), text, problem, ""
        except KubeError as error:
            self._wanted, self._starting, self._problem = 0, "", ""
            self._error = "" if error.kind == "outside" else str(error)
        self._asked = time.monotonic()


def name_of(task: Task) -> str:
    """Name of a task's attempt, as its events have it."""
    return f"{task.plan.pid}-{task.number}-{task.attempt}"


def _range(plan: Plan) -> str:
    return f"{plan.range.minimum} to {plan.range.maximum}" if plan.range.elastic else str(plan.range.maximum)
