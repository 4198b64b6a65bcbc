"""Texts of the page: what is waited for, and what cures a loss. Pure: no I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass

_CURES = (
    ("out of memory", "Raise 'workerMemoryGiB' of the stack, or send less data to each future."),
    ("Evicted", "The node ran short of memory or disk: raise 'workerMemoryGiB', or write fewer temporary files."),
    ("fell silent", "Nothing to do: the future runs again. Often: look at the node and its network."),
    ("pod was draining", "Nothing to do: a spot machine was reclaimed, a node drained, or the workers were updated."),
    ("pod was deleted", "Nothing to do: a node was removed, or the pod was deleted by hand."),
    ("ended by signal", "A package's compiled code crashed, or the process was killed: run the future by itself."),
    ("exit status", "R was told to quit, by quit() or a package: run the future by itself."),
)


_LABEL_CHARACTERS = 80


def cut(text: str) -> str:
    """A label on one line and of bounded length."""
    line = " ".join(text[: 4 * _LABEL_CHARACTERS].split())
    return line if len(line) <= _LABEL_CHARACTERS else line[: _LABEL_CHARACTERS - 1] + "…"


@dataclass(frozen=True)
class Situation:
    """Facts about the workers that are wanted, and of those that are there."""

    queued: int
    connected: int
    wanted: int
    """Number of workers that plans, or the Deployment, ask for."""
    maximum: int | None
    starting: str = ""
    """The missing workers as Kubernetes sees them; empty while unknown."""
    problem: str = ""
    """Reason for which waiting does not bring them; empty for none."""
    error: str = ""
    """Reason for which Kubernetes cannot be asked; empty if it can."""


def cure(reason: str) -> str:
    """Advice against a loss with this reason; empty where nothing is known."""
    return next((text for word, text in _CURES if word in reason), "")


def waiting(now: Situation) -> str:
    """Text of what is waited for; empty for nothing."""
    missing = max(0, now.wanted - now.connected)
    if missing and now.problem:
        return f"{_workers(missing)} cannot start: {now.problem}"
    if missing and now.error:
        return f"{_workers(missing)} to come. {now.error}"
    if missing:
        return f"{_workers(missing)} to come" + (f": {now.starting}" if now.starting else "")
    if now.queued and not now.connected:
        return f"{_futures(now.queued)} and no worker is wanted: see the scheduler's log"
    if now.queued and now.maximum is not None and now.connected >= now.maximum:
        return f"{_futures(now.queued)} for a free worker: all {now.maximum} that 'maxWorkers' allows are there"
    if now.queued:
        return f"{_futures(now.queued)} for a free worker"
    return ""


def cost(idle: str, most: str, worker_node: str, nodes: int) -> str:
    """Cost of the cluster now, when idle and at most; empty where the release has no figures.

    Args:
        idle: cost an hour without workers, as the stack's output `hourlyCost` has it.
        most: that with `maxWorkers`.
        worker_node: what each node with workers adds to `idle`.
        nodes: nodes with workers.
    """
    if not idle:
        return ""
    figures = (_sum(idle, worker_node, nodes), idle, most or _UNKNOWN)
    if set(figures) == {_UNKNOWN}:
        return "Cost: unknown, as no price list was read."
    if len(set(figures)) == 1:
        return f"Cost: {idle} an hour, with any number of workers."
    return f"Cost an hour: {figures[0]} now, {idle} when idle, {figures[2]} at most."


_UNKNOWN = "unknown"
_AMOUNT = re.compile(r"\$(\d+(?:\.\d+)?)")


def _sum(idle: str, worker_node: str, nodes: int) -> str:
    """The cost of `idle` and so many nodes; the words around its amount stay."""
    if not nodes:
        return idle
    begin, each = _AMOUNT.search(idle), _AMOUNT.fullmatch(worker_node)
    if begin is None or each is None:
        return _UNKNOWN
    dollars = float(begin[1]) + nodes * float(each[1])
    return f"{idle[: begin.start()]}${dollars:.2f}{idle[begin.end() :]}"


def _workers(number: int) -> str:
    return "1 worker" if number == 1 else f"{number:,} workers"


def _futures(number: int) -> str:
    return "1 future waits" if number == 1 else f"{number:,} futures wait"
