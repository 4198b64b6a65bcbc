"""Explains from a pod's status and events why the pod does not start, and how it ended. Pure: no I/O.

The only place that turns Kubernetes' reasons into words for a person. It imports nothing of this project, so that the
local cluster's rollout can use it as well as the broker.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

GRACE_SECONDS = {
    # A registry may fail once: the kubelet tries again within this time.
    "ErrImagePull": 12.0,
    "ImagePullBackOff": 8.0,
    "InvalidImageName": 0.0,
    "ErrImageNeverPull": 0.0,
    "CreateContainerConfigError": 12.0,
    "CreateContainerError": 8.0,
    "RunContainerError": 8.0,
    "CrashLoopBackOff": 0.0,
    "Unschedulable": 15.0,
    "FailedCreate": 10.0,
    "ProvisioningFailed": 20.0,
    "FailedMount": 20.0,
    "FailedCreatePodSandBox": 20.0,
}
"""Seconds that each reason must last before it counts as final; all below 30 s, the longest that a person waits."""

_NOT_OF_CONTAINERS = {"Unschedulable", "FailedCreate", "ProvisioningFailed", "FailedMount", "FailedCreatePodSandBox"}

STUCK = frozenset(GRACE_SECONDS) - _NOT_OF_CONTAINERS
"""Reasons that a container's status shows."""

FINAL_WORDS = ("not found", "manifest unknown", "denied", "unauthorized", "no such host")
"""Words in a registry's answer that no second try changes."""

FINAL_SECONDS = 4.0

CRASHES = 2
"""Restarts after which a container counts as one that does not start."""

_IMAGE_FIX = "check the image's name, and that the nodes may pull it (imagePullSecrets)"
_FIXES = {
    "ErrImagePull": _IMAGE_FIX,
    "ImagePullBackOff": _IMAGE_FIX,
    "InvalidImageName": _IMAGE_FIX,
    "ErrImageNeverPull": _IMAGE_FIX,
    "CreateContainerConfigError": "a Secret or ConfigMap that the pod needs is missing: deploy the release again",
    "CrashLoopBackOff": "see 'kubectl logs --previous' of that pod",
}
_CLOCK_SKEW_SECONDS = 3.0


@dataclass(frozen=True)
class PodProblem:
    """A problem that keeps a pod from starting: Kubernetes' reason, the object, the full message, and the fix."""

    reason: str
    subject: str
    message: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.subject}: {self.reason}: {self.message}" + (f" ({self.fix})" if self.fix else "")

    @property
    def family(self) -> str:
        """The reason, or one word for reasons between which a pod alternates while nothing improves."""
        return "image" if "Image" in self.reason else self.reason

    @property
    def grace_seconds(self) -> float:
        """Seconds that the problem must last before it counts as final."""
        seconds = GRACE_SECONDS.get(self.reason, 20.0)
        if self.family == "image" and any(word in self.message.lower() for word in FINAL_WORDS):
            return min(seconds, FINAL_SECONDS)
        return seconds


def diagnose(pod: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> PodProblem | None:
    """The problem that keeps a pod from starting now, final or not; None where there is none."""
    name, status = pod["metadata"]["name"], pod.get("status", {})
    subject = f"pod {name}"
    for container in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        waiting = (container.get("state") or {}).get("waiting") or {}
        reason = waiting.get("reason", "")
        if reason == "CrashLoopBackOff":
            if container.get("restartCount", 0) >= CRASHES:
                message, fix = _crash(container)
                return PodProblem(reason, subject, message, fix)
        elif reason in STUCK:
            # The kubelet also reports "Error: ImagePullBackOff" by an event of reason Failed.
            message = _newest(events, name, "Failed", "failed to pull image") or waiting.get("message", "")
            message = message or f"container {container.get('name', '')}".rstrip()
            return PodProblem(reason, subject, message, _FIXES.get(reason, ""))
    for condition in status.get("conditions", []):
        unplaced = condition["type"] == "PodScheduled" and condition["status"] == "False"
        if unplaced and condition.get("reason", "Unschedulable") == "Unschedulable":
            return PodProblem("Unschedulable", subject, condition.get("message", "") or "not yet scheduled")
    if not ready(pod) and not _condition(pod, "PodReadyToStartContainers"):
        # Events of a mount that succeeded later stay for an hour; the condition (Kubernetes 1.29) shows that it did.
        for reason in ("FailedMount", "FailedCreatePodSandBox"):
            if message := _newest(events, name, reason):
                return PodProblem(reason, subject, message)
    return None


_CREATION = ("FailedCreate", "ProvisioningFailed")


def creation_problems(events: Sequence[Mapping[str, Any]]) -> list[PodProblem]:
    """Problems of pods that were never created (a quota, a policy), and of volumes that were not."""
    return [
        PodProblem(
            event["reason"],
            f"{event['involvedObject'].get('kind', 'object')} {event['involvedObject']['name']}",
            event.get("message", ""),
        )
        for event in events
        if event["involvedObject"].get("kind") != "Pod" and event.get("reason") in _CREATION
    ]


def last_seen(event: Mapping[str, Any]) -> str:
    """Time at which an event was last seen, as RFC 3339 text in whole seconds; it is in one of four fields."""
    series = event.get("series") or {}
    times = (series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime"))
    found = next((time for time in times if time), event.get("metadata", {}).get("creationTimestamp") or "")
    return f"{found[:19]}Z"


def ready(pod: Mapping[str, Any]) -> bool:
    """True if the pod's readiness probe has succeeded."""
    return _condition(pod, "Ready")


def terminating(pod: Mapping[str, Any]) -> bool:
    """True if the pod has been deleted and is shutting down; its controller no longer counts it."""
    return bool(pod["metadata"].get("deletionTimestamp"))


def unscheduled(pod: Mapping[str, Any]) -> str:
    """The scheduler's reason why the pod has no node; empty when it has one."""
    for condition in pod.get("status", {}).get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return str(condition.get("message", "")) or "not yet scheduled"
    return ""


def how_ended(pod: Mapping[str, Any], since: float) -> str:
    """How a pod or its container ended after ``since`` (seconds of the epoch), in words; empty while it runs."""
    status = pod["status"]
    if status.get("phase") == "Failed":
        return f"its pod was ended: {status.get('reason', '')} {status.get('message', '')}".rstrip()
    for container in status.get("containerStatuses", []):
        for state in (container.get("state", {}), container.get("lastState", {})):
            end = state.get("terminated")
            # In whole seconds, by the node's clock.
            if not end or seconds_of(str(end["finishedAt"])) < since - _CLOCK_SKEW_SECONDS:
                continue
            if end.get("reason") == "OOMKilled":
                limit = pod["spec"]["containers"][0].get("resources", {}).get("limits", {}).get("memory", "unknown")
                return f"its container was killed for want of memory (out of memory, limit {limit})"
            return f"its container ended with exit status {end.get('exitCode')}"
    return "its pod was deleted" if terminating(pod) else ""


def seconds_of(stamp: str) -> float:
    """Seconds of the epoch of a time that Kubernetes states."""
    return datetime.fromisoformat(stamp).timestamp()


def _condition(pod: Mapping[str, Any], kind: str) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    return any(condition["type"] == kind and condition["status"] == "True" for condition in conditions)


def _crash(container: Mapping[str, Any]) -> tuple[str, str]:
    """How a container ended the last time, and the fix."""
    ended = (container.get("lastState") or {}).get("terminated") or {}
    reason, code, name = ended.get("reason", "ended"), ended.get("exitCode", "?"), container.get("name", "")
    if reason == "OOMKilled":
        return f"container {name} ran out of memory", "raise workerMemoryGiB or schedulerMemoryGiB"
    times = container["restartCount"]
    return f"container {name} ended {times} times, last with exit code {code} ({reason})", _FIXES["CrashLoopBackOff"]


def _newest(events: Sequence[Mapping[str, Any]], name: str, reason: str, contains: str = "") -> str:
    """Message of the newest event of a reason about an object; empty when there is none."""
    matching = [
        event
        for event in events
        if event["involvedObject"].get("name") == name
        and event.get("reason") == reason
        and contains in event.get("message", "").lower()
    ]
    return str(max(matching, key=last_seen).get("message", "")) if matching else ""
