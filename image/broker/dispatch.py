"""Gives the tasks of all plans to the workers, fairly, and decides what becomes of a task whose worker is lost."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path

from ..common import wire
from ..common.blob import Blob
from ..common.process import run_of
from .background import Background
from .idle import Activity
from .journal import Journal, left_behind
from .log import log
from .outcomes import Cause, Outcomes
from .packages import Packages
from .plans import REPEATS, Plan, Range, Task, may_live, parts_of
from .pool import Pool
from .reports import Reports, Stream
from .workers import Worker

STARVED_SECONDS = 2.0
"""A plan that has nothing running for so long, and something to run, gets the next worker."""

SETTLE_SECONDS = 3.0
"""Time in which the workers of a restarted broker have reconnected and said what they run."""

_CHECK_SECONDS = 1.0


class Dispatcher:
    """The plans of all sessions, and who works on what."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        pool: Pool,
        outcomes: Outcomes,
        activity: Activity,
        background: Background,
        folder: Path,
    ) -> None:
        self.folder = folder
        self._loop = loop
        self._pool = pool
        self._outcomes = outcomes
        self._activity = activity
        self._background = background
        self._started = loop.time()
        self.plans: dict[str, Plan] = {}
        self.reports = Reports()
        self.wanted = Packages(loop, background, self.reports).wanted
        self.when_load_changes: Callable[[], None] = lambda: None
        self.when_closed: Callable[[Plan, bool], None] = lambda _plan, _abandoned: None
        """Called with each plan that has ended, and whether it never began."""
        pool.when_idle.append(self.serve)

    # Plans.

    def open(self, key: str, pid: int, range_: Range, retries: int, stream: Stream) -> Plan:
        """The plan of this key, new or taken up again by its session; tells the session what it has yet to collect."""
        plan = self.plans.get(key)
        if plan is None:
            for other in [other for other in self.plans.values() if other.pid == pid]:
                if other.key not in self.reports.streams:
                    self.close(other)  # its session has gone on to another plan while this broker was away
            plan = self._new(key, pid, range_)
        plan.pid, plan.retries, plan.restored, plan.away_since = pid, retries, False, None
        plan.run = run_of(pid) if not plan.remote else ""
        if range_.least != plan.range.least or range_.most != plan.range.most:
            plan.range = range_
        self.reports.streams[key] = stream
        self._activity.touch()
        for task in plan.tasks.values():
            if task.state == "ended":
                self.reports.end(task)
        for folder, asked in plan.libraries.asked.items():
            if not asked.done():
                self.reports.want(plan, folder)
        return plan

    def _new(self, key: str, pid: int, range_: Range) -> Plan:
        plan = self.plans[key] = Plan(key, pid, range_, 0, Journal(self.folder, key, pid))
        return plan

    def _restored(self, key: str, pid: int) -> Plan:
        plan = self._new(key, pid, Range(0, 0))
        plan.restored, plan.away_since = True, self._loop.time()
        plan.libraries.generation = time.time_ns()  # what has changed meanwhile is not known
        return plan

    def restore(self) -> None:
        """Take over the results that a broker before this one has left, of sessions that live."""
        for key, pid, waiting in list(left_behind(self.folder)):
            if not may_live(pid):
                for _, body in waiting.values():
                    body.remove()
                continue
            plan = self._restored(key, pid)
            for number, (word, body) in waiting.items():
                task = plan.tasks[number] = Task(plan, number, "", None, state="ended")
                task.outcome, task.result = f"{word} {number}", body
                plan.journal.end(number, word, body)
            log(f"{len(waiting)} results of the R session {pid} wait for it")

    def left(self, plan: Plan, stream: Stream) -> None:
        """The connection of the plan's session has ended; the session may come back."""
        if self.reports.streams.get(plan.key) is stream:
            del self.reports.streams[plan.key]
            plan.away_since = self._loop.time()
            self.check_sessions()
            self.when_load_changes()

    def close(self, plan: Plan, *, abandoned: bool = False) -> None:
        """End a plan: what it runs is ended, what it has not collected is dropped."""
        self.plans.pop(plan.key, None)
        self.reports.streams.pop(plan.key, None)
        for task in list(plan.tasks.values()):
            self.cancel(task)
        plan.journal.remove()
        self._pool.release(plan.key)
        self._activity.touch()
        self.when_closed(plan, abandoned)

    def check_sessions(self) -> None:
        """Close the plans of sessions that are connected no more and whose process has ended."""
        for plan in list(self.plans.values()):
            if plan.key not in self.reports.streams and plan.ended(self._loop.time()):
                log(f"the R session {plan.pid} has ended: its tasks are dropped")
                self.close(plan)

    async def run(self) -> None:
        """Look after sessions that have gone."""
        while True:
            await asyncio.sleep(_CHECK_SECONDS)
            if len(self.reports.streams) < len(self.plans):
                self.check_sessions()

    # Tasks.

    def submit(self, plan: Plan, number: int, label: str, payload: Blob, needs: tuple[str, ...] = ()) -> None:
        """Queue a task, or give a task its data back that a restarted broker knows from its worker only."""
        if any(need not in plan.objects for need in needs):
            self.reports.tell(plan, f"unknown {number}")
            return
        if any(plan.objects[need] is None for need in needs):
            self.refuse(plan, number, "the scheduler's disk is full: no room for an object that it needs")
            return
        known = plan.tasks.get(number)
        if known is not None:
            if known.payload is None:
                known.payload, known.needs = payload, needs
            return
        task = plan.tasks[number] = Task(plan, number, label, payload, needs)
        self.reports.counters["submitted"] += 1
        self.reports.note("submitted", task, bytes=payload.size)
        self._activity.touch()
        self._queue(task, first=False)

    def refuse(self, plan: Plan, number: int, text: str) -> None:
        """End a task that the broker cannot take."""
        task = plan.tasks[number] = Task(plan, number, "", None)
        self._end(task, f"refused {number}", Blob.of(text.encode()))

    def forget(self, plan: Plan, name: str) -> None:
        """Drop a large object, here and on the plan's workers."""
        plan.objects.pop(name, None)
        for worker in self._pool.workers:
            if worker.bound == plan.key and name in worker.objects:
                worker.objects.discard(name)
                worker.say(wire.encode(op="forget", id=name))

    def _queue(self, task: Task, *, first: bool) -> None:
        plan = task.plan
        if not plan.load:
            plan.served = self._loop.time()
        task.state, task.worker = "queued", None
        (plan.queue.appendleft if first else plan.queue.append)(task)
        plan.range.wake()
        self.serve()
        self.when_load_changes()

    def serve(self) -> None:
        """Give tasks to the idle workers."""
        while self._pool.idle:
            bound = next(iter(self._pool.idle)).bound if len(self._pool.idle) == 1 else ""
            plan = self._next(bound)
            if plan is None:
                return
            task = plan.queue.popleft()
            worker = self._pool.lease_for(plan.key, task.lease)
            self._start(task, worker)

    def _next(self, bound: str) -> Plan | None:
        """The plan whose task runs next: one that starves, else one with the fewest running, best ``bound`` to it."""
        waiting = [plan for plan in self.plans.values() if plan.waiting]
        if len(waiting) <= 1:
            return waiting[0] if waiting else None
        now = self._loop.time()
        starved = [plan for plan in waiting if not plan.running and now - plan.served > STARVED_SECONDS]
        if starved:
            return min(starved, key=lambda plan: plan.served)
        fewest = min(plan.running for plan in waiting)
        best = [plan for plan in waiting if plan.running == fewest]
        return next((plan for plan in best if plan.key == bound), None) or min(best, key=lambda plan: plan.served)

    def _start(self, task: Task, worker: Worker) -> None:
        plan = task.plan
        task.state, task.worker = "running", worker
        plan.running += 1
        plan.served = self._loop.time()
        self._pool.pods[worker.pod].uses += 1
        objects = worker.run(task)
        self.reports.note("started", task, worker=worker.pod, **({"objects": objects} if objects else {}))

    def _stop(self, task: Task) -> None:
        """The task runs no more."""
        task.plan.running -= 1
        task.worker = None

    def cancel(self, task: Task) -> None:
        """Forget a task; the R that runs it is ended."""
        task.plan.tasks.pop(task.number, None)
        if task.state == "queued":
            task.plan.queue.remove(task)
        elif task.state == "running":
            if task.worker is not None and task.worker.task is task:
                task.worker.cancel()
            self._stop(task)
        if task.state != "ended":
            self.reports.counters["cancelled"] += 1
            self.reports.note("cancelled", task)
        task.state = "cancelled"
        self._activity.touch()
        self.when_load_changes()
        self.serve()

    def collected(self, plan: Plan, numbers: list[int]) -> None:
        """The session has these results: they are dropped here."""
        for number in numbers:
            task = plan.tasks.get(number)
            if task is not None and task.state == "ended":
                del plan.tasks[number]
                if task.result is not None:
                    task.result.remove()
        plan.journal.got(numbers)

    def fetch(self, plan: Plan, number: int) -> None:
        """Send a result that was only announced because of its size."""
        task = plan.tasks.get(number)
        if task is not None and task.state == "ended":
            self.reports.end(task, whole=True)

    def unknown(self, plan: Plan, numbers: list[int]) -> None:
        """Of the tasks that the session holds, ask for those that this broker does not know, to be sent again."""
        pause = max(0.0, self._started + SETTLE_SECONDS - self._loop.time())
        self._loop.call_later(pause, self._ask_again, plan, numbers)

    def _ask_again(self, plan: Plan, numbers: list[int]) -> None:
        for number in numbers:
            task = plan.tasks.get(number)
            if task is None or (task.payload is None and task.state != "ended"):
                self.reports.tell(plan, f"unknown {number}")

    # What workers say.

    def condition(self, worker: Worker, lease: str, body: Blob | None) -> None:
        """Pass on a condition that the session is to see at once."""
        task = worker.task
        if task is not None and task.lease == lease and body is not None:
            self.reports.tell(task.plan, f"condition {task.number} {task.attempt} {body.size}", body)

    def finished(self, worker: Worker, lease: str, status: str, body: Blob | None) -> None:
        """A worker's R has sent what became of a task; the worker is free."""
        task, worker.task = worker.task, None
        if task is not None and task.lease == lease and task.state == "running":
            self._stop(task)
            if body is None:
                status, body = "unkept", Blob.of(b"the scheduler's disk is full, so that the result could not be kept")
            self._end(task, f"{status} {task.number}", body, worker)
        elif body is not None:
            body.remove()
        worker.say(wire.encode(op="ack", id=lease))  # once it is on disk
        self._activity.touch()
        self._pool.make_idle(worker)  # serves the next task
        self.when_load_changes()

    def r_ended(self, worker: Worker, lease: str, text: str, tail: str) -> None:
        """The R of a task has ended, and its agent is there to say so; the worker has a new R soon."""
        if worker.state == "idle":
            return
        task, worker.task = worker.task, None
        worker.bound = ""
        if task is not None and task.lease == lease and task.state == "running":
            self._pool.pods[worker.pod].losses += 1
            self._stop(task)
            self._lost(task, worker.pod, Cause(text, by_task=True), tail)
        self._pool.make_idle(worker)

    def connection_lost(self, worker: Worker) -> None:
        """A worker's connection has ended while it ran a task: find out why, and whether the worker comes back."""
        task = worker.task
        if task is not None and task.state == "running" and task.worker is worker:
            self._background.start(self._find_out(task, worker))

    async def _find_out(self, task: Task, worker: Worker) -> None:
        lease = task.lease
        cause = await self._outcomes.cause(worker)
        if task.worker is worker and task.state == "running" and task.lease == lease:
            self._pool.pods[worker.pod].losses += 1
            self._stop(task)
            self._lost(task, worker.pod, cause, "")

    def returned(self, worker: Worker, lease: str, session: str, pid: int) -> bool:
        """A worker that has reconnected runs this attempt, or holds its result: True if it is still wanted."""
        key, number, attempt = parts_of(lease)
        plan = self.plans.get(key)
        if plan is None:
            if key != session or not may_live(pid):
                return False
            plan = self._restored(key, pid)
        task = plan.tasks.get(number)
        if task is None:
            if not plan.restored and self._loop.time() - self._started > SETTLE_SECONDS:
                return False
            task = plan.tasks[number] = Task(plan, number, "", None, attempt=attempt)
        elif task.state == "queued":
            plan.queue.remove(task)
        elif task.state == "running" and task.attempt == attempt:
            plan.running -= 1
        else:
            return False
        task.attempt, task.state, task.worker = attempt, "running", worker
        plan.running += 1
        self._pool.lease(worker, lease)
        worker.resume(task)
        return True

    # Ends.

    def _lost(self, task: Task, pod: str, cause: Cause, tail: str) -> None:
        plan = task.plan
        text = " ".join(cause.text.split())
        if cause.by_task:
            task.losses.append((pod, text))
        else:
            task.repeats += 1
        self._outcomes.count(text)
        log(f"{pod} was lost while it ran a task: {text}")
        self.reports.note("lost", task, worker=pod, reason=text)
        if task.payload is None:  # the session has it, and counts anew
            del plan.tasks[task.number]
            self.reports.tell(plan, f"unknown {task.number}")
        elif len(task.losses) > plan.retries or task.repeats > REPEATS:
            losses = task.losses or [(pod, f"{text}, the last of {task.repeats} losses")]
            fields = {"pods": [p for p, _ in losses], "reasons": [r for _, r in losses], "tail": tail}
            self._end(task, f"lost {task.number}", Blob.of(json.dumps(fields).encode()))
        else:
            task.attempt += 1
            self.reports.counters["repeated"] += 1
            self.reports.tell(plan, f"again {task.number} {pod} {text}")
            self._queue(task, first=True)
        self.when_load_changes()

    def _end(self, task: Task, outcome: str, body: Blob, worker: Worker | None = None) -> None:
        task.state, task.outcome, task.result, task.payload = "ended", outcome, body, None
        good = outcome.startswith("done")
        self.reports.counters["finished" if good else "failed"] += 1
        task.plan.journal.end(task.number, outcome.split()[0], body)
        more: dict[str, object] = {}
        if worker is not None:
            more = {"worker": worker.pod, "peak_mib": worker.peak_mib}
            if worker.cpu_seconds is not None:
                more["cpu"] = worker.cpu_seconds
        self.reports.note("ended", task, outcome=outcome.split()[0], bytes=body.size, **more)
        self.reports.end(task)

    # Numbers.

    def waiting_seconds(self) -> float:
        """Seconds for which a plan has waited longest that could run another task; since its last start of one."""
        now = self._loop.time()
        return max((now - plan.served for plan in self.plans.values() if plan.waiting), default=0.0)

    def in_use(self) -> bool:
        """True while a task waits or runs."""
        return any(plan.load for plan in self.plans.values())
