"""Diagnoses pods from what the API server reports of them: why they do not come up, and how far they are. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    "FailedMount": 20.0,
    "FailedCreatePodSandBox": 20.0,
}
"""Seconds that a problem must last before it counts as permanent; all below 30, the longest wait for a message."""

OTHER_GRACE_SECONDS = 20.0

PERMANENT_WORDS = ("not found", "manifest unknown", "denied", "unauthorized", "no such host")
"""Words in a registry's answer that no second attempt will change."""

PERMANENT_GRACE_SECONDS = 4.0

EARLIER_GRACE_SECONDS = 25.0
"""Seconds for a pod of an earlier, failed update to be replaced."""

CRASHES = 2
"""Restarts after which a container in CrashLoopBackOff counts as unable to start."""

Object = Mapping[str, Any]


@dataclass(frozen=True)
class PodProblem:
    """Why a pod does not come up: Kubernetes' reason, the object, and the message in full.

    earlier: the pod is older than the update, which may be about to replace it.
    """

    reason: str
    subject: str
    message: str
    earlier: bool = False

    def __str__(self) -> str:
        return f"{self.subject}: {self.reason}: {self.message}"

    @property
    def family(self) -> str:
        """The same for ErrImagePull and ImagePullBackOff, between which a pod alternates without getting better."""
        return "image" if "Image" in self.reason else self.reason

    @property
    def grace(self) -> float:
        """Seconds that the problem must last before it counts as permanent."""
        seconds = GRACE_SECONDS.get(self.reason, OTHER_GRACE_SECONDS)
        if self.earlier:
            return EARLIER_GRACE_SECONDS
        if self.family == "image" and any(word in self.message.lower() for word in PERMANENT_WORDS):
            return min(seconds, PERMANENT_GRACE_SECONDS)
        return seconds


def pod_problems(pod: Object, events: Sequence[Object]) -> list[PodProblem]:
    """Everything that keeps a pod from running at this moment, permanent or not."""
    name = pod["metadata"]["name"]
    subject = f"pod {name}"
    problems = []
    status = pod.get("status", {})
    for entry in status.get("conditions", []):
        if entry["type"] == "PodScheduled" and entry["status"] == "False" and entry.get("reason") == "Unschedulable":
            problems.append(PodProblem("Unschedulable", subject, entry.get("message", "")))
    for container in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        waiting = (container.get("state") or {}).get("waiting") or {}
        reason = waiting.get("reason", "")
        if reason == "CrashLoopBackOff" and container.get("restartCount", 0) >= CRASHES:
            problems.append(PodProblem(reason, subject, _crash_message(pod, container)))
        elif reason in GRACE_SECONDS and reason != "CrashLoopBackOff":
            # The kubelet also sends an event "Error: ImagePullBackOff" of the same reason, which explains nothing.
            message = _event_message(events, name, "Failed", "failed to pull image") or waiting.get("message", "")
            problems.append(PodProblem(reason, subject, message or f"container {container['name']}"))
    if not status.get("containerStatuses") or not is_ready(pod):
        for reason in ("FailedMount", "FailedCreatePodSandBox"):
            message = _event_message(events, name, reason)
            if message:
                problems.append(PodProblem(reason, subject, message))
    return problems


def creation_problems(events: Sequence[Object]) -> list[PodProblem]:
    """Pods that a quota or an admission policy refused, and volumes that could not be provisioned."""
    return [
        PodProblem(
            "FailedCreate", f"{event['involvedObject']['kind']} {event['involvedObject']['name']}", event["message"]
        )
        for event in events
        if event["involvedObject"].get("kind") != "Pod"
        and event.get("reason") in ("FailedCreate", "ProvisioningFailed")
    ]


def is_ready(pod: Object) -> bool:
    """True where the pod's Ready condition is."""
    conditions = pod.get("status", {}).get("conditions", [])
    return any(entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions)


def last_seen(event: Object) -> str:
    """Time of an event's last occurrence, in RFC 3339 to the second; the API has three fields for it."""
    series = event.get("series") or {}
    times = (series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime"))
    found = next((time for time in times if time), event["metadata"].get("creationTimestamp") or "")
    return f"{found[:19]}Z"


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
    if "deletionTimestamp" in pod["metadata"]:
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
            words.append(f"it {_out_of_memory(pod, container['name'])} and was restarted")
        elif ended:
            words.append(f"it was restarted after {ended.get('reason', 'an end')} (status {ended.get('exitCode')})")
    return ", ".join(filter(None, words)) + f", since {status.get('startTime', 'a moment ago')}"


def _out_of_memory(pod: Object, container: str) -> str:
    """Words for a container that the kernel ended at its memory limit, with limit and setting."""
    limits = (
        each.get("resources", {}).get("limits", {}).get("memory")
        for each in pod.get("spec", {}).get("containers", [])
        if each.get("name") == container
    )
    component = pod["metadata"].get("labels", {}).get("app.kubernetes.io/component", "")
    key = {"worker": "workerMemoryGiB", "scheduler": "schedulerMemoryGiB"}.get(component, "its memory limit")
    limit = next((limit for limit in limits if limit), None)
    return f"ran out of memory{f' (limit {limit})' if limit else ''}: raise {key}"


def _crash_message(pod: Object, container: Object) -> str:
    ended = (container.get("lastState") or {}).get("terminated") or {}
    reason, code = ended.get("reason", "ended"), ended.get("exitCode", "?")
    if reason == "OOMKilled":
        return f"container {container['name']} {_out_of_memory(pod, container['name'])}"
    return (
        f"container {container['name']} ended {container['restartCount']} times, last with exit code {code} ({reason})"
    )


def _event_message(events: Sequence[Object], name: str, reason: str, contains: str = "") -> str:
    """Message of the newest event about the object with this reason and these words."""
    matching = [
        event
        for event in events
        if event["involvedObject"].get("name") == name
        and event.get("reason") == reason
        and contains in event.get("message", "").lower()
    ]
    return str(max(matching, key=last_seen)["message"]) if matching else ""
