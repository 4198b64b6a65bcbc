"""Watches the pods of a Helm release come up, and says early and in plain words why they will not.

Helm waits for its whole timeout on an image that does not exist. Pod states and events tell within seconds.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from common.patience import patience

POLL_SECONDS = 2.0

GRACE_SECONDS = {
    # A registry may hiccup once: the kubelet tries again within this time.
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
"""How long each reason must last before it counts as final; all below 30 s, which is what a person is asked to wait."""

FINAL_WORDS = ("not found", "manifest unknown", "denied", "unauthorized", "no such host")
"""What a registry says when trying again will not help."""

FINAL_SECONDS = 4.0

INHERITED_SECONDS = 25.0
"""What an earlier, failed try left behind is given this long to be replaced."""

CRASHES = 2
"""Restarts after which a container counts as one that will not start."""


@dataclass(frozen=True)
class Kubectl:
    """A kubectl program, with the kubeconfig that it uses."""

    program: str
    kubeconfig: Path

    def command(self, *arguments: str) -> list[str]:
        """The command line. The kubeconfig is given by path: its content belongs in no argument."""
        return [self.program, "--kubeconfig", str(self.kubeconfig), *arguments]

    def run(self, *arguments: str, stdin: str | None = None, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Runs it to its end; the caller looks at `returncode`."""
        return subprocess.run(
            self.command(*arguments), input=stdin, capture_output=True, text=True, timeout=timeout, check=False
        )


@dataclass(frozen=True)
class Trouble:
    """Why a pod will not come up: a reason in Kubernetes' own word, the object, and the message in full."""

    reason: str
    what: str
    message: str
    inherited: bool = False
    """Whether the pod is older than the rollout, and may be one that the rollout is about to replace."""

    def __str__(self) -> str:
        return f"{self.what}: {self.reason}: {self.message}"

    @property
    def family(self) -> str:
        """The same for states between which a pod goes to and fro while nothing gets better."""
        return "image" if "Image" in self.reason else self.reason

    @property
    def grace(self) -> float:
        """Seconds that it must last before it counts as final."""
        seconds = GRACE_SECONDS.get(self.reason, 20.0)
        if self.inherited:
            return INHERITED_SECONDS
        if self.family == "image" and any(word in self.message.lower() for word in FINAL_WORDS):
            return min(seconds, FINAL_SECONDS)
        return seconds


@dataclass
class Rollout:
    """The pods of one Helm release while they come up.

    Call `look` again and again; it returns what is wrong for good, or None, and `progress` says how far it is.
    grace_scale stretches the times of `GRACE_SECONDS`, as where an autoscaler may still add a node (Unschedulable).
    """

    kubectl: Kubectl
    namespace: str
    release: str
    grace_scale: Mapping[str, float] = field(default_factory=dict)
    clock: Callable[[], float] = time.monotonic
    progress: str = "waiting for the first pod"
    _since: dict[tuple[str, str], float] = field(default_factory=dict)
    _started_at: str = field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))

    def look(self) -> Trouble | None:
        """Asks the cluster once. An answer that fails to come is no trouble: the API may be restarting."""
        try:
            answer = self.kubectl.run(
                "get",
                "pods,events",
                "--namespace",
                self.namespace,
                "--output",
                "json",
                f"--request-timeout={patience(10):.0f}s",
                timeout=patience(20),
            )
            items = json.loads(answer.stdout)["items"] if answer.returncode == 0 else []
        except (subprocess.TimeoutExpired, ValueError, KeyError):
            return None
        pods = [item for item in items if item["kind"] == "Pod" and self._is_ours(item)]
        # Pods on their way out count against a quota: until they are gone, it may refuse their successors.
        ending = any(item["kind"] == "Pod" and item["metadata"].get("deletionTimestamp") for item in items)
        names = {pod["metadata"]["name"] for pod in pods}
        events = [item for item in items if item["kind"] == "Event" and self._concerns(item, names)]
        current = [
            replace(trouble, inherited=pod["metadata"].get("creationTimestamp", "~") < self._started_at)
            for pod in pods
            for trouble in pod_troubles(pod, events)
        ]
        current += [
            trouble for trouble in creation_troubles(events) if not (ending and "exceeded quota" in trouble.message)
        ]
        self.progress = in_words(pods, events)
        return self._lasting(current)

    def _is_ours(self, pod: Mapping[str, Any]) -> bool:
        labels = pod["metadata"].get("labels", {})
        return labels.get("app.kubernetes.io/instance") == self.release and not pod["metadata"].get("deletionTimestamp")

    def _concerns(self, event: Mapping[str, Any], pods: set[str]) -> bool:
        # Events outlive their cause by an hour, so those of an earlier try must not be taken for this one's.
        if last_seen(event) < self._started_at:
            return False
        kind, name = event["involvedObject"].get("kind"), event["involvedObject"].get("name", "")
        return name in pods if kind == "Pod" else kind in ("ReplicaSet", "PersistentVolumeClaim")

    def _lasting(self, current: Sequence[Trouble]) -> Trouble | None:
        now = self.clock()
        seen = {(trouble.what, trouble.family): trouble for trouble in current}
        self._since = {key: self._since.get(key, now) for key in seen}
        for key, trouble in seen.items():
            if now - self._since[key] >= patience(trouble.grace) * self.grace_scale.get(trouble.reason, 1.0):
                return trouble
        return None

    def last_words(self, trouble: Trouble) -> str:
        """The end of the log of a container that crashed, since the reason is there."""
        if trouble.reason != "CrashLoopBackOff":
            return ""
        pod = trouble.what.removeprefix("pod ")
        said = self.kubectl.run("logs", "--namespace", self.namespace, "--previous", "--tail=8", pod, timeout=20)
        return said.stdout.strip() if said.returncode == 0 else ""


def last_seen(event: Mapping[str, Any]) -> str:
    """When an event was last seen, in RFC 3339 by the second; events have three forms of this."""
    series = event.get("series") or {}
    times = (series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime"))
    found = next((time for time in times if time), event["metadata"].get("creationTimestamp") or "")
    return f"{found[:19]}Z"


def is_ready(pod: Mapping[str, Any]) -> bool:
    """Whether a pod's readiness probe has succeeded."""
    conditions = pod.get("status", {}).get("conditions", [])
    return any(entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions)


def pod_troubles(pod: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> list[Trouble]:
    """What keeps a pod from running now, final or not."""
    name = pod["metadata"]["name"]
    what = f"pod {name}"
    troubles = []
    status = pod.get("status", {})
    for entry in status.get("conditions", []):
        if entry["type"] == "PodScheduled" and entry["status"] == "False" and entry.get("reason") == "Unschedulable":
            troubles.append(Trouble("Unschedulable", what, entry.get("message", "")))
    for container in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        waiting = (container.get("state") or {}).get("waiting") or {}
        reason = waiting.get("reason", "")
        if reason == "CrashLoopBackOff" and container.get("restartCount", 0) >= CRASHES:
            troubles.append(Trouble(reason, what, crash_message(container)))
        elif reason in GRACE_SECONDS and reason != "CrashLoopBackOff":
            # Kubelet also says "Error: ImagePullBackOff" by an event of that reason.
            message = event_message(events, name, "Failed", "failed to pull image") or waiting.get("message", "")
            troubles.append(Trouble(reason, what, message or f"container {container['name']}"))
    if not status.get("containerStatuses") or not is_ready(pod):
        for reason in ("FailedMount", "FailedCreatePodSandBox"):
            message = event_message(events, name, reason)
            if message:
                troubles.append(Trouble(reason, what, message))
    return troubles


def crash_message(container: Mapping[str, Any]) -> str:
    """How a container ended the last time."""
    ended = (container.get("lastState") or {}).get("terminated") or {}
    reason, code = ended.get("reason", "ended"), ended.get("exitCode", "?")
    if reason == "OOMKilled":
        return f"container {container['name']} ran out of memory (raise workerMemoryGiB or schedulerMemoryGiB)"
    return (
        f"container {container['name']} ended {container['restartCount']} times, last with exit code {code} ({reason})"
    )


def event_message(events: Sequence[Mapping[str, Any]], name: str, reason: str, contains: str = "") -> str:
    """The newest event of a kind about an object."""
    matching = [
        event
        for event in events
        if event["involvedObject"].get("name") == name
        and event.get("reason") == reason
        and contains in event.get("message", "").lower()
    ]
    return str(max(matching, key=last_seen)["message"]) if matching else ""


def creation_troubles(events: Sequence[Mapping[str, Any]]) -> list[Trouble]:
    """Pods that were never made (a quota, a policy), and volumes that were not."""
    return [
        Trouble(
            "FailedCreate", f"{event['involvedObject']['kind']} {event['involvedObject']['name']}", event["message"]
        )
        for event in events
        if event["involvedObject"].get("kind") != "Pod"
        and event.get("reason") in ("FailedCreate", "ProvisioningFailed")
    ]


def in_words(pods: Sequence[Mapping[str, Any]], events: Sequence[Mapping[str, Any]]) -> str:
    """How far the pods are, by component, and what the last event said."""
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
