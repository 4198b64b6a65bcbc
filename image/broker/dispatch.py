"""Gives the tasks of all plans to the workers, fairly, and takes their results."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from ..common import wire
from ..common.blob import Blob
from .background import Background
from .idle import Activity
from .incoming import Incoming
from .loss_causes import Cause, Outcomes
from .open_plans import OpenPlans
from .packages import Packages
from .plans import Plan, Task, may_live, parts_of
from .pool import Pool
from .reports import Reports
from .task_retries import Losses
from .workers import Result, Worker

STARVED_SECONDS = 2.0
"""A plan that has nothing running for so long, and something to run, gets the next worker."""

SETTLE_SECONDS = 3.0
"""Time in which the workers of a restarted broker have reconnected and said what they run."""


class Dispatcher:
    """Decides who works on what."""

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
        self._activity = activity
        self._background = background
        self._started = loop.time()
        self.reports = Reports()
        self.plans = OpenPlans(loop, pool, self.reports, activity, folder, self.cancel)
        self.wanted = Packages(loop, background, self.reports).wanted
        self.when_load_changes: Callable[[], None] = lambda: None
        self.plans.when_left = lambda: self.when_load_changes()
        self._incoming = Incoming(self._complete)
        self._losses = Losses(pool, outcomes, self.reports, self)
        pool.when_idle.append(self.serve)

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
        self.queue(task, first=False)

    def refuse(self, plan: Plan, number: int, text: str) -> None:
        """End a task that the broker cannot take."""
        task = plan.tasks[number] = Task(plan, number, "", None)
        self.end(task, f"refused {number}", Blob.of(text.encode()))

    def forget(self, plan: Plan, name: str) -> None:
        """Drop a large object, here and on the plan's workers."""
        plan.objects.pop(name, None)
        for worker in self._pool.workers:
            if worker.bound == plan.key and name in worker.objects:
                worker.objects.discard(name)
                worker.say(wire.encode(op="forget", id=name))

    def queue(self, task: Task, *, first: bool) -> None:
        """Let a task wait for a worker, before all others of its plan if it is the first."""
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

    def stop(self, task: Task) -> None:
        """The task runs no more."""
        task.plan.running -= 1
        task.worker = None

    def cancel(self, task: Task) -> None:
        """Forget a task; the R that runs it is ended."""
        plan = task.plan
        plan.tasks.pop(task.number, None)
        if task.state == "queued":
            plan.queue.remove(task)
        elif task.state == "running":
            worker = task.worker
            self.stop(task)
            if worker is not None and worker.task is task:
                self._end_on(worker)
        else:
            self._drop_result(task)
            plan.journal.got([task.number])
        if task.state != "ended":
            self.reports.counters["cancelled"] += 1
            self.reports.note("cancelled", task)
        task.state = "cancelled"
        self._activity.touch()
        self.when_load_changes()
        self.serve()

    def _end_on(self, worker: Worker) -> None:
        """End a worker's task, or drop its result, of which values are missing."""
        if worker in self._incoming:
            self._incoming.drop(worker)
            self._free(worker)
        else:
            worker.cancel()

    def _drop_result(self, task: Task) -> None:
        """Drop a result. Once no task of the plan is under way, no value of one is kept."""
        if task.result is not None:
            task.result.remove()
        if task.values:
            task.plan.values.release(task.values)
        if not task.plan.tasks:
            task.plan.values.clear()

    def collected(self, plan: Plan, numbers: list[int]) -> None:
        """The session has these results: they are dropped here."""
        for number in numbers:
            task = plan.tasks.get(number)
            if task is not None and task.state == "ended":
                del plan.tasks[number]
                self._drop_result(task)
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

    # Messages of workers.

    def condition(self, worker: Worker, lease: str, body: Blob | None) -> None:
        """Pass on a condition that the session is to see at once."""
        task = worker.task
        if task is not None and task.lease == lease and body is not None:
            self.reports.tell(task.plan, f"condition {task.number} {task.attempt} {body.size}", body)

    def finished(self, worker: Worker, result: Result) -> None:
        """A worker's R has sent what became of a task; the worker is free once all of it is here."""
        task, values = worker.task, result.values and result.body is not None
        if values and task is not None and task.lease == result.lease and task.state == "running":
            self._incoming.take(worker, task.plan, result)
        else:
            self._complete(worker, result)

    def value(self, worker: Worker, name: str, body: Blob | None) -> None:
        """A worker has sent a large value that its result has."""
        self._incoming.arrived(worker, name, body)

    def _complete(self, worker: Worker, result: Result) -> None:
        task, body = worker.task, result.body
        if task is not None and task.lease == result.lease and task.state == "running":
            self.stop(task)
            if body is None:
                text = Blob.of(b"the scheduler's disk is full, so that the result could not be kept")
                self.end(task, f"unkept {task.number}", text, worker)
            else:
                task.values = result.values
                self.end(task, f"{result.status} {task.number}", body, worker, result.received)
        else:
            result.forget()
        self._free(worker, result.lease)
        self.when_load_changes()

    def _free(self, worker: Worker, lease: str = "") -> None:
        """A worker's result is on disk or needed no more: the worker can forget it."""
        worker.task = None
        worker.say(wire.encode(op="ack", id=lease or worker.lease))
        self._activity.touch()
        self._pool.make_idle(worker)  # serves the next task

    def r_ended(self, worker: Worker, lease: str, text: str, tail: str) -> None:
        """The R of a task has ended, and its agent is there to say so; the worker has a new R soon."""
        if worker.state == "idle":
            return
        task, worker.task = worker.task, None
        worker.bound = ""
        if task is not None and task.lease == lease and task.state == "running":
            self._losses.lost(task, worker.pod, Cause(text, by_task=True), tail)
        self._pool.make_idle(worker)

    def connection_lost(self, worker: Worker) -> None:
        """A worker's connection has ended while it ran a task: find out why, and whether the worker comes back."""
        task = worker.task
        self._incoming.drop(worker)
        if task is not None and task.state == "running" and task.worker is worker:
            self._background.start(self._losses.find_out(task, worker))

    def returned(self, worker: Worker, lease: str, session: str, pid: int) -> bool:
        """A worker that has reconnected runs this attempt, or holds its result: True if it is still wanted."""
        key, number, attempt = parts_of(lease)
        plan = self.plans.get(key)
        if plan is None:
            if key != session or not may_live(pid):
                return False
            plan = self.plans.restored(key, pid)
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

    def end(self, task: Task, outcome: str, body: Blob, worker: Worker | None = None, received: int = 0) -> None:
        """End a task, and report that to its session.

        Args:
            task: the task.
            outcome: the line to its session.
            body: what follows that line.
            worker: the one that ran the task to its end.
            received: bytes of large values that the worker had to send with it.
        """
        plan = task.plan
        task.state, task.outcome, task.result, task.payload = "ended", outcome, body, None
        word = outcome.split()[0]
        self.reports.counters["finished" if word == "done" else "failed"] += 1
        values = [(name, plan.values[name]) for name in task.values]
        plan.values.hold(task.values)
        plan.journal.end(task.number, word, body, values)
        more: dict[str, object] = {}
        if worker is not None:
            more = {"worker": worker.pod, "peak_mib": worker.peak_mib}
            if worker.cpu_seconds is not None:
                more["cpu"] = worker.cpu_seconds
        size = body.size + sum(value.size for _, value in values)
        if values and size - body.size > received:
            more["saved"] = size - body.size - received
        self.reports.note("ended", task, outcome=word, bytes=size, **more)
        self.reports.end(task)

    # Numbers.

    def waiting_seconds(self) -> float:
        """Seconds for which a plan has waited longest that could run another task; since its last start of one."""
        now = self._loop.time()
        return max((now - plan.served for plan in self.plans.values() if plan.waiting), default=0.0)

    def in_use(self) -> bool:
        """True while a task waits or runs."""
        return any(plan.load for plan in self.plans.values())
