"""Summarises the workers' pods and events for a person who waits for workers. Pure: no I/O."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from . import diagnosis

_AUTOSCALER = {"TriggeredScaleUp", "NotTriggerScaleUp", "FailedScaleUp"}
_MESSAGE_CHARACTERS = 300
_REFUSED_SECONDS = 3.0
_UNSCHEDULABLE_SECONDS = 30.0
"""An autoscaler needs some seconds to report whether it adds a node."""


@dataclass(frozen=True)
class Status:
    """Number of workers by state, and the same in words.

    ``problem`` is empty unless waiting does not bring the missing workers. It must last for ``patience`` seconds before
    it counts as final.
    """

    wanted: int
    running: int
    starting: int
    waiting: int
    text: str
    problem: str = ""
    patience: float = 0.0


def summarise(
    wanted: int,
    pods: Iterable[Mapping[str, Any]],
    events: Iterable[Mapping[str, Any]],
    connected: Container[str] = (),
) -> Status:
    """Counts the pods of a Deployment that asks for ``wanted``, and names what keeps the missing ones from starting.

    connected: names of pods whose worker is connected. They run, though kubelet's probe may say so half a minute later.
    """
    pods = [pod for pod in pods if not diagnosis.terminating(pod)]
    events = sorted(events, key=diagnosis.last_seen)
    running = sum(diagnosis.is_ready(pod) or pod["metadata"]["name"] in connected for pod in pods)
    unscheduled = [reason for pod in pods if (reason := diagnosis.unscheduled(pod))]
    missing = max(0, wanted - len(pods))
    starting = len(pods) - running - len(unscheduled)
    scaling, refusals = _autoscaler({pod["metadata"]["name"] for pod in pods}, events)
    parts = []
    if starting:
        parts.append(f"{starting} starting")
    if unscheduled:
        reason = "autoscaler adding nodes" if scaling else f"none fits yet: {unscheduled[0].split('. ')[0].rstrip('.')}"
        parts.append(f"{len(unscheduled)} waiting for a node ({reason})")
    if missing:
        parts.append(f"{missing} to be created")
    problem, patience = _problem(pods, events, missing)
    if not problem and unscheduled and not scaling:
        problem, patience = f"no node fits {len(unscheduled)} workers: {unscheduled[0]}", _UNSCHEDULABLE_SECONDS
        if refusals:
            problem += f" The cluster autoscaler cannot add a node for them either: {refusals[0]}"
            patience = _REFUSED_SECONDS
    return Status(wanted, running, starting, len(unscheduled) + missing, ", ".join(parts), problem, patience)


def _autoscaler(names: set[str], events: Sequence[Mapping[str, Any]]) -> tuple[bool, list[str]]:
    """True while the autoscaler adds a node for a pod of these names, and its refusals for the others."""
    # Its last word on each pod counts: a spot pool without capacity is a scale-up that failed after all.
    last = {event["involvedObject"]["name"]: event for event in events if event.get("reason") in _AUTOSCALER}
    scaling = {name for name in names & last.keys() if last[name]["reason"] == "TriggeredScaleUp"}
    return bool(scaling), [str(last[name].get("message", "")) for name in sorted(names & last.keys() - scaling)]


def _problem(pods: Sequence[Mapping[str, Any]], events: Sequence[Mapping[str, Any]], missing: int) -> tuple[str, float]:
    """The first problem that is not about nodes, on one line, and the seconds that it must last; empty for none."""
    for pod in pods:
        problem = diagnosis.diagnose(pod, events)
        if problem is not None and problem.reason != "Unschedulable":
            message = " ".join(problem.message.split())[:_MESSAGE_CHARACTERS]
            return str(replace(problem, message=message)), problem.grace
    refused = [problem for problem in diagnosis.creation_problems(events) if problem.reason == "FailedCreate"]
    if missing and refused:
        return f"{missing} pods cannot be created: {refused[-1].message}", _REFUSED_SECONDS
    return "", 0.0
