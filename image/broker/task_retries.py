"""Decides what becomes of a task whose worker is lost: it runs again, or it ends with the pods and reasons."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Protocol

from ..common.blob import Blob
from .log import log
from .loss_causes import Cause, Outcomes
from .plans import REPEATS, Task
from .pool import Pool
from .reports import Reports
from .workers import Worker


class Tasks(Protocol):
    """Carries out the decision."""

    when_load_changes: Callable[[], None]

    def stop(self, task: Task) -> None:
        """The task runs no more."""

    def queue(self, task: Task, *, first: bool) -> None:
        """Let the task wait for a worker, before all others of its plan if it is the first."""

    def end(self, task: Task, outcome: str, body: Blob) -> None:
        """End the task."""


class Losses:
    """Counts the losses of each task, and decides."""

    def __init__(self, pool: Pool, outcomes: Outcomes, reports: Reports, tasks: Tasks) -> None:
        self._pool = pool
        self._outcomes = outcomes
        self._reports = reports
        self._tasks = tasks

    async def find_out(self, task: Task, worker: Worker) -> None:
        """Ask why a worker's connection has ended; nothing is lost if the worker comes back meanwhile."""
        lease = task.lease
        cause = await self._outcomes.cause(worker)
        if task.worker is worker and task.state == "running" and task.lease == lease:
            self.lost(task, worker.pod, cause)

    def lost(self, task: Task, pod: str, cause: Cause, tail: str = "") -> None:
        """Run the task again, or end it if that has happened too often. tail: the last lines that its R printed."""
        self._pool.pods[pod].losses += 1
        self._tasks.stop(task)
        plan = task.plan
        text = " ".join(cause.text.split())
        if cause.by_task:
            task.losses.append((pod, text))
        else:
            task.repeats += 1
        self._outcomes.count(text)
        log(f"{pod} was lost while it ran a task: {text}")
        self._reports.note("lost", task, worker=pod, reason=text)
        if task.payload is None:  # the session has it, and counts anew
            del plan.tasks[task.number]
            self._reports.tell(plan, f"unknown {task.number}")
        elif len(task.losses) > plan.retries or task.repeats > REPEATS:
            losses = task.losses or [(pod, f"{text}, the last of {task.repeats} losses")]
            fields = {"pods": [p for p, _ in losses], "reasons": [r for _, r in losses], "tail": tail}
            self._tasks.end(task, f"lost {task.number}", Blob.of(json.dumps(fields).encode()))
        else:
            task.attempt += 1
            self._reports.counters["repeated"] += 1
            self._reports.tell(plan, f"again {task.number} {pod} {text}")
            self._tasks.queue(task, first=True)
        self._tasks.when_load_changes()
