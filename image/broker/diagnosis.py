"""Explains from a pod's status and events why the pod does not start, and how it ended. Pure: no I/O.

The only place that turns Kubernetes' reasons into words for a person. It imports nothing of this project: the broker
uses it, and so do the programs that watch a release from outside of the cluster.
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
"""Seconds that each reason must last before it counts as permanent; all below 30 s, the longest wait for a message."""

_NOT_OF_CONTAINERS = {"Unschedulable", "FailedCreate", "ProvisioningFailed", "FailedMount", "FailedCreatePodSandBox"}

STUCK = frozenset(GRACE_SECONDS) - _NOT_OF_CONTAINERS
"""Reasons that a container's status shows."""

OTHER_GRACE_SECONDS = 20.0

PERMANENT_WORDS = ("not found", "manifest unknown", "denied", "unauthorized", "no such host")
"""Words in a registry's answer that no second attempt changes."""

PERMANENT_GRACE_SECONDS = 4.0

EARLIER_GRACE_SECONDS = 25.0
"""Seconds for a pod of an earlier, failed update to be replaced."""

CRASHES = 2
"""Restarts after which a container in CrashLoopBackOff counts as unable to start."""

Object = Mapping[str, Any]
"""An object of the Kubernetes API."""

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
    """A problem that keeps a pod from starting: Kubernetes' reason, the object, the full message, and the fix.

    ``earlier``: the pod is older than the update that is watched, which may be about to replace it.
    """

    reason: str
    subject: str
    message: str
    fix: str = ""
    earlier: bool = False

    def __str__(self) -> str:
        return f"{self.subject}: {self.reason}: {self.message}" + (f" ({self.fix})" if self.fix else "")

    @property
    def family(self) -> str:
        """The reason, or one word for reasons between which a pod alternates while nothing improves."""
        return "image" if "Image" in self.reason else self.reason

    @property
    def grace(self) -> float:
        """Seconds that the problem must last before it counts as permanent."""
        if self.earlier:
            return EARLIER_GRACE_SECONDS
        seconds = GRACE_SECONDS.get(self.reason, OTHER_GRACE_SECONDS)
        if self.family == "image" and any(word in self.message.lower() for word in PERMANENT_WORDS):
            return min(seconds, PERMANENT_GRACE_SECONDS)
        return seconds


def diagnose(pod: Object, events: Sequence[Object]) -> PodProblem | None:
    """The first problem that keeps a pod from starting now, permanent or not; None where there is none."""
    return next(iter(pod_problems(pod, events)), None)


def pod_problems(pod: Object, events: Sequence[Object]) -> list[PodProblem]:
    """All problems that keep a pod from starting now, permanent or not."""
    status, subject = pod.get("status", {}), f"pod {pod['metadata']['name']}"
    containers = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
    problems = [_container_problem(pod, container, events) for container in containers]
    for condition in status.get("conditions", []):
        unplaced = condition["type"] == "PodScheduled" and condition["status"] == "False"
        if unplaced and condition.get("reason", "Unschedulable") == "Unschedulable":
            message = condition.get("message", "") or "not yet scheduled"
            problems.append(PodProblem("Unschedulable", subject, message))
    if not is_ready(pod) and not _condition(pod, "PodReadyToStartContainers"):
        # Events of a mount that succeeded later stay for an hour; the condition (Kubernetes 1.29) shows that it did.
        for reason in ("FailedMount", "FailedCreatePodSandBox"):
            if message := _newest(events, pod["metadata"]["name"], reason):
                problems.append(PodProblem(reason, subject, message))
    return [problem for problem in problems if problem is not None]


def _container_problem(pod: Object, container: Object, events: Sequence[Object]) -> PodProblem | None:
    waiting = (container.get("state") or {}).get("waiting") or {}
    reason, name = waiting.get("reason", ""), pod["metadata"]["name"]
    if reason not in STUCK:
        return None
    if reason == "CrashLoopBackOff":
        if container.get("restartCount", 0) < CRASHES:
            return None
        message, fix = _crash(pod, container)
        return PodProblem(reason, f"pod {name}", message, fix)
    # The kubelet also sends an event "Error: ImagePullBackOff" of reason Failed, which explains nothing.
    message = _newest(events, name, "Failed", "failed to pull image") or waiting.get("message", "")
    message = message or f"container {container.get('name', '')}".rstrip()
    return PodProblem(reason, f"pod {name}", message, _FIXES.get(reason, ""))


_CREATION = ("FailedCreate", "ProvisioningFailed")


def creation_problems(events: Sequence[Object]) -> list[PodProblem]:
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


def last_seen(event: Object) -> str:
    """Time at which an event was last seen, as RFC 3339 text in whole seconds; it is in one of four fields."""
    series = event.get("series") or {}
    times = (series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime"))
    found = next((time for time in times if time), event.get("metadata", {}).get("creationTimestamp") or "")
    return f"{found[:19]}Z"


def is_ready(pod: Object) -> bool:
    """True if the pod's readiness probe has succeeded."""
    return _condition(pod, "Ready")


def terminating(pod: Object) -> bool:
    """True if the pod has been deleted and is shutting down; its controller no longer counts it."""
    return bool(pod["metadata"].get("deletionTimestamp"))


def summary(pods: Sequence[Object], events: Sequence[Object]) -> str:
    """Ready pods by component, and the newest event that explains a wait."""
    parts = []
    for component in ("scheduler", "worker"):
        members = [
            pod for pod in pods if pod["metadata"].get("labels", {}).get("app.kubernetes.io/component") == component
        ]
        if members:
            parts.append(f"{component}s ready {sum(map(is_ready, members))}/{len(members)}")
    telling = [event for event in events if event.get("reason") not in ("Scheduled", "SuccessfulCreate")]
    if telling and not all(map(is_ready, pods)):
        newest = max(telling, key=last_seen)
        parts.append(f"{newest.get('reason')}: {' '.join(newest.get('message', '').split())[:70]}")
    return "; ".join(parts) or "waiting for the first pod"


def description(pod: Object) -> str:
    """One sentence on a pod's state, for an error message."""
    name, status = pod["metadata"]["name"], pod.get("status", {})
    if terminating(pod):
        return f"{name} is being deleted"
    words = [f"{name} is {status.get('phase', 'Unknown')}"]
    for condition in status.get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            words.append(condition.get("message", ""))
    for container in status.get("containerStatuses", []):
        waiting = (container.get("state") or {}).get("waiting") or {}
        words.append(f"{waiting.get('reason', '')} {waiting.get('message', '')}".strip())
        ended = (container.get("lastState") or {}).get("terminated")
        if ended and ended.get("reason") == "OOMKilled":
            words.append(f"it {_out_of_memory(pod, container)} and was restarted")
        elif ended:
            words.append(f"it was restarted after {ended.get('reason', 'an end')} (status {ended.get('exitCode')})")
    return ", ".join(filter(None, words)) + f", since {status.get('startTime', 'a moment ago')}"


def unscheduled(pod: Object) -> str:
    """The scheduler's reason why the pod has no node; empty when it has one."""
    for condition in pod.get("status", {}).get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return str(condition.get("message", "")) or "not yet scheduled"
    return ""


def how_ended(pod: Object, since: float) -> str:
    """End of a pod or its container after ``since`` (seconds of the epoch), in words; empty while it runs."""
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
                limit = _memory_limit(pod, container) or "unknown"
                return f"its container was killed for want of memory (out of memory, limit {limit})"
            return f"its container ended with exit status {end.get('exitCode')}"
    return "its pod was deleted" if terminating(pod) else ""


def by_task(ended: str) -> bool:
    """True if what ran in a pod can have caused its end, as ``how_ended`` words it.

    What ran in a deleted, preempted or reclaimed pod has not caused its end. In one that was evicted because its node
    ran out of memory or disk it may have.
    """
    if ended.startswith("its pod was ended"):
        return "Evicted" in ended or "DeadlineExceeded" in ended
    return not ended.startswith("its pod was deleted")


def runs_since(pod: Object, name: str, earliest: float) -> bool:
    """True if the status shows a running container of that name that was started at ``earliest`` or later.

    Shortly after a restart the status is still about the container before.
    """
    for container in pod["status"].get("containerStatuses", []):
        running = container.get("state", {}).get("running")
        if running is not None and container.get("name", name) == name:
            return "startedAt" not in running or seconds_of(str(running["startedAt"])) >= earliest
    return False


def out_of_memory(pod: Object) -> str:
    """Notice for the users of a scheduler whose container last ended at its memory limit; else empty."""
    for container in pod["status"].get("containerStatuses", []):
        end = container.get("lastState", {}).get("terminated") or {}
        if end.get("reason") == "OOMKilled":
            limit = _memory_limit(pod, container) or "unknown"
            return (
                f"This pod ran out of memory at {end.get('finishedAt')} (limit {limit}) and was started again: the R "
                "sessions that ran in it are lost, the files are not"
            )
    return ""


def seconds_of(stamp: str) -> float:
    """Seconds of the epoch of a time that Kubernetes states."""
    return datetime.fromisoformat(stamp).timestamp()


def _condition(pod: Object, kind: str) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    return any(condition["type"] == kind and condition["status"] == "True" for condition in conditions)


def _memory_limit(pod: Object, container: Object) -> str:
    """The memory limit of a container, from its pod's spec; empty when there is none."""
    for each in pod.get("spec", {}).get("containers", []):
        if each.get("name") == container.get("name"):
            return str(each.get("resources", {}).get("limits", {}).get("memory", ""))
    return ""


def _out_of_memory(pod: Object, container: Object) -> str:
    """Words for a container that the kernel ended at its memory limit, with the limit and the setting to raise."""
    limit = _memory_limit(pod, container)
    component = pod["metadata"].get("labels", {}).get("app.kubernetes.io/component", "")
    setting = {"worker": "workerMemoryGiB", "scheduler": "schedulerMemoryGiB"}.get(component, "its memory limit")
    return f"ran out of memory{f' (limit {limit})' if limit else ''}: raise {setting}"


def _crash(pod: Object, container: Object) -> tuple[str, str]:
    """Last end of a container, and the fix."""
    ended = (container.get("lastState") or {}).get("terminated") or {}
    reason, code, name = ended.get("reason", "ended"), ended.get("exitCode", "?"), container.get("name", "")
    if reason == "OOMKilled":
        return f"container {name} {_out_of_memory(pod, container)}", ""
    times = container["restartCount"]
    return f"container {name} ended {times} times, last with exit code {code} ({reason})", _FIXES["CrashLoopBackOff"]


def _newest(events: Sequence[Object], name: str, reason: str, contains: str = "") -> str:
    """Message of the newest event of a reason about an object; empty when there is none."""
    matching = [
        event
        for event in events
        if event["involvedObject"].get("name") == name
        and event.get("reason") == reason
        and contains in event.get("message", "").lower()
    ]
    return str(max(matching, key=last_seen).get("message", "")) if matching else ""
