"""The few calls to the Kubernetes API that the scheduler's role allows: read pods and events, scale its own workers.

Blocking, standard library; the rendezvous calls it from a thread. ``summarise`` is pure: from what the API says to
what a person who waits for workers is told.
"""

from __future__ import annotations

import contextlib
import json
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TIMEOUT_SECONDS = 5.0

# Reasons in a container's status that no waiting cures, and what cures them.
_IMAGE = "check the image's name, and that the nodes may pull it (imagePullSecrets)"
_HOPELESS = {
    "ErrImagePull": _IMAGE,
    "ImagePullBackOff": _IMAGE,
    "InvalidImageName": _IMAGE,
    "ErrImageNeverPull": _IMAGE,
    "CreateContainerConfigError": "a Secret or ConfigMap that the pod needs is missing: deploy the release again",
    "CrashLoopBackOff": "see 'kubectl logs' of that pod",
}


class KubeError(Exception):
    """The API refused or could not be reached; ``kind`` is permission, unreachable, outside or refused."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


@dataclass(frozen=True)
class Status:
    """How the workers stand, in numbers and in words.

    ``problem`` is empty unless waiting alone will not bring the missing workers.
    """

    wanted: int
    running: int
    starting: int
    waiting: int
    text: str
    problem: str


class Cluster:
    """The API server as the pod's service account sees it."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._release = environ.get("FUTURE_KUBERNETES_RELEASE", "")
        self._namespace = environ.get("FUTURE_KUBERNETES_NAMESPACE", "")
        host, port = environ.get("KUBERNETES_SERVICE_HOST", ""), environ.get("KUBERNETES_SERVICE_PORT", "443")
        self._base = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
        self._account = Path(environ.get("FUTURE_KUBERNETES_ACCOUNT", _ACCOUNT))
        if not host or not self._release:
            raise KubeError(
                "outside", "this scheduler does not run in a Kubernetes release, so it cannot scale workers"
            )
        self._deployment = f"/apis/apps/v1/namespaces/{self._namespace}/deployments/{self._release}-worker/scale"

    def _call(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        try:
            token = (self._account / "token").read_text()  # read anew: Kubernetes rotates it
            context = ssl.create_default_context(cafile=str(self._account / "ca.crt"))
        except OSError as error:
            raise KubeError("permission", f"the scheduler has no service account token ({error})") from None
        request = urllib.request.Request(  # noqa: S310
            self._base + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/merge-patch+json"},
        )
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        try:
            with opener.open(request, timeout=_TIMEOUT_SECONDS) as response:
                answer: dict[str, Any] = json.load(response)
                return answer
        except urllib.error.HTTPError as error:
            text = error.read(2000).decode(errors="replace")
            with contextlib.suppress(ValueError, KeyError, TypeError):
                text = json.loads(text)["message"]
            if error.code in (401, 403):
                raise KubeError(
                    "permission",
                    f"the scheduler's service account may not do this: {text}. "
                    f"Its Role is {self._release}-scheduler: deploy the release again",
                ) from None
            raise KubeError("refused", f"the Kubernetes API refused: {text}") from None
        except (OSError, ValueError) as error:
            raise KubeError("unreachable", f"the Kubernetes API cannot be reached: {error}") from None

    def wanted(self) -> int:
        """How many workers the Deployment asks for."""
        return int(self._call("GET", self._deployment)["spec"].get("replicas", 0))

    def scale(self, workers: int) -> None:
        """Ask for that many workers."""
        self._call("PATCH", self._deployment, {"spec": {"replicas": workers}})

    def pods(self) -> list[dict[str, Any]]:
        """The release's worker pods."""
        query = urllib.parse.urlencode({"labelSelector": "app.kubernetes.io/component=worker"})
        answer = self._call("GET", f"/api/v1/namespaces/{self._namespace}/pods?{query}")
        return [pod for pod in answer["items"] if pod["metadata"]["name"].startswith(f"{self._release}-worker-")]

    def events(self) -> list[dict[str, Any]]:
        """Warnings about, and scale-ups for, this release's worker pods and their ReplicaSet."""
        answer = self._call("GET", f"/api/v1/namespaces/{self._namespace}/events")
        prefix = f"{self._release}-worker-"
        return [event for event in answer["items"] if event["involvedObject"].get("name", "").startswith(prefix)]

    def status(self) -> Status:
        """How the workers stand now."""
        return summarise(self.wanted(), self.pods(), self.events())


def ready(pod: Mapping[str, Any]) -> bool:
    """Whether the pod is ready, as its probe says."""
    conditions = pod["status"].get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _unscheduled(pod: Mapping[str, Any]) -> str:
    """Why no node was found, empty when one was."""
    for condition in pod["status"].get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return str(condition.get("message", "")) or "not yet scheduled"
    return ""


def _hopeless(pod: Mapping[str, Any]) -> str:
    for container in pod["status"].get("containerStatuses", []):
        waiting = container.get("state", {}).get("waiting", {})
        reason = waiting.get("reason", "")
        if reason in _HOPELESS:
            said = " ".join(str(waiting.get("message", "")).split())[:300]
            return f"{pod['metadata']['name']}: {reason}: {said} ({_HOPELESS[reason]})"
    return ""


def summarise(wanted: int, pods: Iterable[Mapping[str, Any]], events: Iterable[Mapping[str, Any]]) -> Status:
    """From the API's objects to numbers and words."""
    pods = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]
    names = {pod["metadata"]["name"] for pod in pods}
    events = list(events)
    running = sum(map(ready, pods))
    unscheduled = [reason for pod in pods if (reason := _unscheduled(pod))]
    missing = max(0, wanted - len(pods))
    starting = len(pods) - running - len(unscheduled)
    scaling = {e["involvedObject"]["name"] for e in events if e.get("reason") == "TriggeredScaleUp"} & names
    refused = {e["involvedObject"]["name"] for e in events if e.get("reason") == "NotTriggerScaleUp"} & names
    problem = next((text for pod in pods if (text := _hopeless(pod))), "")
    if not problem and missing:
        created = [e for e in events if e.get("reason") == "FailedCreate"]
        created.sort(key=lambda e: str(e.get("lastTimestamp") or ""))
        if created:
            problem = f"{missing} pods cannot be created: {created[-1].get('message', '')}"
    if not problem and unscheduled and not scaling:
        problem = f"no node fits {len(unscheduled)} workers: {unscheduled[0]}"
        if refused:
            problem += " The cluster autoscaler cannot add a node for them either"
    parts = []
    if starting:
        parts.append(f"{starting} starting")
    if unscheduled:
        parts.append(
            f"{len(unscheduled)} waiting for a node ({'autoscaler adding nodes' if scaling else 'none fits yet'})"
        )
    if missing:
        parts.append(f"{missing} to be created")
    return Status(wanted, running, starting, len(unscheduled) + missing, ", ".join(parts), problem)
