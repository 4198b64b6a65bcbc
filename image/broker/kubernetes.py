"""The few calls to the Kubernetes API that the scheduler's role allows: read pods and events, scale its own workers.

Blocking, standard library; the broker calls it from a thread. ``summarise`` is pure: from what the API says to
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
from datetime import datetime
from pathlib import Path
from typing import Any

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TIMEOUT_SECONDS = 5.0

# Pods as the table that kubectl shows (https://kubernetes.io/docs/reference/using-api/api-concepts/, "Receiving
# resources as Tables"), or whole from a server that makes none. Who waits has them asked for every second: 1,000 pods
# are 0.16 MB as a table and 8.7 MB whole, which took the event loop 0.15 s to parse.
_TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io, application/json"
_WORKERS = "app.kubernetes.io/component=worker"
_EXPLAINED_AT_ONCE = 10

# Events of every pod's ordinary life, and what is not looked at: 1,000 pods have a megabyte of them.
_ORDINARY = (
    "Scheduled", "FailedScheduling", "Pulling", "Pulled", "Created", "Started", "Killing", "Unhealthy",
    "SuccessfulCreate", "SuccessfulDelete",
)  # fmt: skip

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


_CLOCKS_DIFFER_SECONDS = 3.0
_AUTOSCALER = {"TriggeredScaleUp", "NotTriggerScaleUp", "FailedScaleUp"}


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
        self._core = f"/api/v1/namespaces/{self._namespace}"
        self._deployment = f"/apis/apps/v1/namespaces/{self._namespace}/deployments/{self._release}-worker/scale"

    def _call(self, method: str, path: str, body: object = None, accept: str = "application/json") -> dict[str, Any]:
        try:
            token = (self._account / "token").read_text()  # read anew: Kubernetes rotates it
            context = ssl.create_default_context(cafile=str(self._account / "ca.crt"))
        except OSError as error:
            raise KubeError("permission", f"the scheduler has no service account token ({error})") from None
        request = urllib.request.Request(  # noqa: S310
            self._base + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": f"Bearer {token}",
                "Content-Type": "application/merge-patch+json",
                "Accept": accept,
            },
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

    def created(self) -> float:
        """When the release was first deployed, in seconds of the epoch: its Deployment outlives every upgrade."""
        return _seconds(str(self._call("GET", self._deployment)["metadata"]["creationTimestamp"]))

    def scale(self, workers: int) -> None:
        """Ask for that many workers."""
        self._call("PATCH", self._deployment, {"spec": {"replicas": workers}})

    def _pods(self, accept: str = "application/json", **query: str) -> dict[str, Any]:
        query = {"labelSelector": _WORKERS, **query}
        return self._call("GET", f"{self._core}/pods?{urllib.parse.urlencode(query)}", accept=accept)

    def pods(self) -> list[dict[str, Any]]:
        """The release's worker pods: their names, whether they are ready, have a node, and are on their way out."""
        answer = self._pods(_TABLE, includeObject="None")
        found = from_table(answer) if "rows" in answer else answer["items"]
        return [pod for pod in found if pod["metadata"]["name"].startswith(f"{self._release}-worker-")]

    def ending(self, name: str, since: float) -> str:
        """How a worker's pod ended after ``since``, in words; empty while nothing is seen of it."""
        found = self._pods(fieldSelector=f"metadata.name={name}")["items"]
        return ending(found[0], since) if found else "its pod was deleted"

    def _explain(self, pods: list[dict[str, Any]]) -> None:
        """Add what a table does not say, of those who are told of: why there is no node, why a container cannot run."""
        unplaced = [pod for pod in pods if pod.get("spec") == {}]
        if unplaced:
            some = self._pods(fieldSelector="spec.nodeName=", limit=str(_EXPLAINED_AT_ONCE))["items"]
            reason = next(filter(None, map(_unscheduled, some)), "")
            for pod in unplaced if reason else []:
                pod["status"]["conditions"].append({"type": "PodScheduled", "status": "False", "message": reason})
        stuck = next((pod for pod in pods if _hopeless(pod)), None)
        if stuck is not None and "spec" in stuck:
            with contextlib.suppress(KubeError):  # it is gone by now
                stuck["status"] = self._call("GET", f"{self._core}/pods/{stuck['metadata']['name']}")["status"]

    def events(self) -> list[dict[str, Any]]:
        """What happened to this release's worker pods and their ReplicaSet, but for every pod's ordinary life."""
        query = urllib.parse.urlencode({"fieldSelector": ",".join(f"reason!={reason}" for reason in _ORDINARY)})
        answer = self._call("GET", f"{self._core}/events?{query}")
        prefix = f"{self._release}-worker-"
        return [event for event in answer["items"] if event["involvedObject"].get("name", "").startswith(prefix)]

    def status(self) -> Status:
        """How the workers stand now."""
        wanted, pods = self.wanted(), self.pods()
        self._explain(pods)
        return summarise(wanted, pods, self.events())


def from_table(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The pods of a table, with as much of their objects as its columns tell; a ``spec`` that is empty has no node."""
    names = [column["name"] for column in table["columnDefinitions"]]
    pods = []
    for row in table["rows"]:
        cell = dict(zip(names, map(str, row["cells"]), strict=False))
        running, _, containers = cell["Ready"].partition("/")
        leaving = {"deletionTimestamp": "now"} if cell["Status"] == "Terminating" else {}
        waiting = [{"state": {"waiting": {"reason": cell["Status"]}}}] if cell["Status"] in _HOPELESS else []
        pods.append({
            "metadata": {"name": cell["Name"], **leaving},
            "spec": {} if cell["Node"] == "<none>" else {"nodeName": cell["Node"]},
            "status": {
                "conditions": [{"type": "Ready", "status": str(running == containers)}],
                "containerStatuses": waiting,
            },
        })  # fmt: skip
    return pods


def ready(pod: Mapping[str, Any]) -> bool:
    """Whether the pod is ready, as its probe says."""
    conditions = pod["status"].get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def leaving(pod: Mapping[str, Any]) -> bool:
    """Whether the pod has been deleted and only finishes; Kubernetes counts it no more."""
    return "deletionTimestamp" in pod["metadata"]


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


def _seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()


def ending(pod: Mapping[str, Any], since: float) -> str:
    """How a pod ended after ``since``, in words; empty when it has not."""
    status = pod["status"]
    if status.get("phase") == "Failed":
        return f"its pod was ended: {status.get('reason', '')} {status.get('message', '')}".rstrip()
    for container in status.get("containerStatuses", []):
        for state in (container.get("state", {}), container.get("lastState", {})):
            end = state.get("terminated")
            # Full seconds, of the node's clock.
            if not end or _seconds(str(end["finishedAt"])) < since - _CLOCKS_DIFFER_SECONDS:
                continue
            if end.get("reason") == "OOMKilled":
                limit = pod["spec"]["containers"][0].get("resources", {}).get("limits", {}).get("memory", "unknown")
                return f"its container was killed for want of memory (out of memory, limit {limit})"
            return f"its container ended with exit status {end.get('exitCode')}"
    return "its pod was deleted" if leaving(pod) else ""


def summarise(wanted: int, pods: Iterable[Mapping[str, Any]], events: Iterable[Mapping[str, Any]]) -> Status:
    """From the API's objects to numbers and words."""
    pods = [pod for pod in pods if not leaving(pod)]
    names = {pod["metadata"]["name"] for pod in pods}
    events = sorted(events, key=lambda e: str(e.get("lastTimestamp") or e.get("eventTime") or ""))
    running = sum(map(ready, pods))
    unscheduled = [reason for pod in pods if (reason := _unscheduled(pod))]
    missing = max(0, wanted - len(pods))
    starting = len(pods) - running - len(unscheduled)
    # What the autoscaler said last of each pod: a spot pool without capacity is a scale-up that failed after all.
    said = {e["involvedObject"]["name"]: e for e in events if e.get("reason") in _AUTOSCALER}
    scaling = {name for name in names & said.keys() if said[name]["reason"] == "TriggeredScaleUp"}
    refused = [said[name] for name in sorted(names & said.keys() - scaling)]
    problem = next((text for pod in pods if (text := _hopeless(pod))), "")
    if not problem and missing:
        failed = [e for e in events if e.get("reason") == "FailedCreate"]
        if failed:
            problem = f"{missing} pods cannot be created: {failed[-1].get('message', '')}"
    if not problem and unscheduled and not scaling:
        problem = f"no node fits {len(unscheduled)} workers: {unscheduled[0]}"
        if refused:
            problem += f" The cluster autoscaler cannot add a node for them either: {refused[0].get('message', '')}"
    parts = []
    if starting:
        parts.append(f"{starting} starting")
    if unscheduled:
        reason = "autoscaler adding nodes" if scaling else f"none fits yet: {unscheduled[0].split('. ')[0].rstrip('.')}"
        parts.append(f"{len(unscheduled)} waiting for a node ({reason})")
    if missing:
        parts.append(f"{missing} to be created")
    return Status(wanted, running, starting, len(unscheduled) + missing, ", ".join(parts), problem)
