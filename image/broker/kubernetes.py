"""Client of the Kubernetes API for the few calls that the scheduler's role allows.

It reads pods and events and scales the release's own workers. Blocking, standard library only; the broker calls it from
a thread. diagnosis.py and status.py turn the answers into words.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from . import diagnosis
from .log import log
from .status import Status, summarise

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TIMEOUT_SECONDS = 5.0
"""Limit of one attempt. A request of R's, which waits 30 s for the broker, takes a few of them."""

# Pods as the table that kubectl shows, or complete from a server that makes no tables. See "Receiving resources as
# Tables" in https://kubernetes.io/docs/reference/using-api/api-concepts/. While a session waits, pods are listed every
# second: 1,000 pods are 0.16 MB as a table and 8.7 MB complete, which took the event loop 0.15 s to parse.
_TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io, application/json"
_WORKERS = "app.kubernetes.io/component=worker"
_EXPLAINED_AT_ONCE = 10

# Events that are not listed: those of every pod's normal life, of which 1,000 pods have a megabyte, and mounts that
# failed, because a table of pods does not show whether a later mount succeeded.
_IGNORED_EVENTS = (
    "Scheduled", "FailedScheduling", "Pulling", "Pulled", "Created", "Started", "Killing", "Unhealthy",
    "SuccessfulCreate", "SuccessfulDelete", "FailedMount", "FailedCreatePodSandBox",
)  # fmt: skip


class KubeError(Exception):
    """The API cannot do what is asked; ``kind`` is permission, unreachable, outside, above-maximum or refused."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class ApiBusyError(KubeError):
    """The API server took the request and did not answer, or asked to come again ``after`` so many seconds."""

    def __init__(self, kind: str, text: str, after: float = 0) -> None:
        super().__init__(kind, text)
        self.after = after


class KubernetesApi:
    """The API server as the pod's service account sees it.

    A busy one is asked a second time. That is done once per client, so that an answer to R does not come too late, and
    it is safe: each call reads, or sets a number.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._release = environ.get("FUTURE_KUBERNETES_RELEASE", "")
        self._namespace = environ.get("FUTURE_KUBERNETES_NAMESPACE", "")
        host, port = environ.get("KUBERNETES_SERVICE_HOST", ""), environ.get("KUBERNETES_SERVICE_PORT", "443")
        self._base = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
        self._account = Path(environ.get("FUTURE_KUBERNETES_ACCOUNT", _ACCOUNT))
        self._timeout = float(environ.get("FUTURE_KUBERNETES_API_SECONDS", _TIMEOUT_SECONDS))
        self._asked_again = False
        if not host or not self._release:
            raise KubeError(
                "outside", "this scheduler does not run in a Kubernetes release, so it cannot scale workers"
            )
        self._core = f"/api/v1/namespaces/{self._namespace}"

    def _call(self, method: str, path: str, body: object = None, accept: str = "application/json") -> dict[str, Any]:
        try:
            return self._attempt(method, path, body, accept)
        except ApiBusyError as busy:
            if self._asked_again:
                raise
            log(f"asks a second time: {busy}")
            self._asked_again = True
            time.sleep(min(busy.after, self._timeout))
            return self._attempt(method, path, body, accept)

    def _attempt(self, method: str, path: str, body: object, accept: str) -> dict[str, Any]:
        try:
            token = (self._account / "token").read_text()  # read each time: Kubernetes rotates it
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
            with opener.open(request, timeout=self._timeout) as response:
                answer: dict[str, Any] = json.load(response)
                return answer
        except urllib.error.HTTPError as error:
            text = _reason(error)
            if error.code in (401, 403):
                raise KubeError(
                    "permission",
                    f"the scheduler's service account may not do this: {text}. "
                    f"Its Role is {self._release}-scheduler: deploy the release again",
                ) from None
            refusal = f"the Kubernetes API refused: {text}"
            after = error.headers.get("Retry-After", "")
            if after.isdecimal() and (error.code == 429 or error.code >= 500):  # as client-go does
                raise ApiBusyError("refused", refusal, float(after)) from None
            raise KubeError("refused", refusal) from None
        except TimeoutError:  # of the answer; one while connecting is a URLError
            text = f"the Kubernetes API did not answer within {self._timeout:g} s"
            raise ApiBusyError("unreachable", text) from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise KubeError("unreachable", f"the Kubernetes API cannot be reached: {error}") from None

    def _scale(self, component: str) -> str:
        """Path of the scale of one of the release's Deployments: `worker`, or `warm` for the placeholders."""
        return f"/apis/apps/v1/namespaces/{self._namespace}/deployments/{self._release}-{component}/scale"

    def wanted(self, component: str = "worker") -> int:
        """Number of pods that a Deployment asks for: of workers, or of placeholders."""
        return int(self._call("GET", self._scale(component))["spec"].get("replicas", 0))

    def created(self) -> float:
        """Time of the first deployment, in seconds of the epoch: the worker Deployment outlives every upgrade."""
        return diagnosis.seconds_of(str(self._call("GET", self._scale("worker"))["metadata"]["creationTimestamp"]))

    def scale(self, number: int, component: str = "worker") -> None:
        """Set the number of pods that a Deployment asks for: of workers, or of placeholders."""
        self._call("PATCH", self._scale(component), {"spec": {"replicas": number}})

    def _pods(self, accept: str = "application/json", **query: str) -> dict[str, Any]:
        query = {"labelSelector": _WORKERS, **query}
        return self._call("GET", f"{self._core}/pods?{urllib.parse.urlencode(query)}", accept=accept)

    def pods(self) -> list[dict[str, Any]]:
        """The release's worker pods, with name, readiness, node and termination."""
        answer = self._pods(_TABLE, includeObject="None")
        found = from_table(answer) if "rows" in answer else answer["items"]
        return [pod for pod in found if pod["metadata"]["name"].startswith(f"{self._release}-worker-")]

    def pod(self, name: str) -> dict[str, Any]:
        """One pod of the namespace."""
        return self._call("GET", f"{self._core}/pods/{urllib.parse.quote(name, safe='')}")

    def how_ended(self, name: str, since: float) -> str:
        """End of a worker's pod after ``since``, in words; empty while Kubernetes does not show it."""
        found = self._pods(fieldSelector=f"metadata.name={name}")["items"]
        return diagnosis.how_ended(found[0], since) if found else "its pod was deleted"

    def _complete(self, pods: list[dict[str, Any]]) -> None:
        """Add what a table lacks: why pods have no node, and why the first stuck pod does not run."""
        unplaced = [pod for pod in pods if pod.get("spec") == {}]
        if unplaced:
            some = self._pods(fieldSelector="spec.nodeName=", limit=str(_EXPLAINED_AT_ONCE))["items"]
            reason = next(filter(None, map(diagnosis.unscheduled, some)), "")
            for pod in unplaced if reason else []:
                pod["status"]["conditions"].append({"type": "PodScheduled", "status": "False", "message": reason})
        stuck = next((pod for pod in pods if pod["status"].get("containerStatuses") and "spec" in pod), None)
        if stuck is not None:
            with contextlib.suppress(KubeError):  # it is gone by now
                stuck["status"] = self._call("GET", f"{self._core}/pods/{stuck['metadata']['name']}")["status"]

    def events(self) -> list[dict[str, Any]]:
        """Events of this release's worker pods and their ReplicaSet, without those of a normal life."""
        query = urllib.parse.urlencode({"fieldSelector": ",".join(f"reason!={reason}" for reason in _IGNORED_EVENTS)})
        answer = self._call("GET", f"{self._core}/events?{query}")
        prefix = f"{self._release}-worker-"
        return [event for event in answer["items"] if event["involvedObject"].get("name", "").startswith(prefix)]

    def status(self, connected: Container[str]) -> Status:
        """Current state of the workers; ``connected`` has the names of the pods whose worker is."""
        wanted, pods = self.wanted(), self.pods()
        self._complete(pods)
        return summarise(wanted, pods, self.events(), connected)


def _reason(refusal: urllib.error.HTTPError) -> str:
    """Reason that the server gives, or the HTTP status where no reason comes."""
    text = f"{refusal.code} {refusal.reason}"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, http.client.HTTPException):
        text = refusal.read(2000).decode(errors="replace") or text
        text = json.loads(text)["message"]
    return text


def from_table(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Pods of a table, as far as its columns show them; a pod with an empty ``spec`` has no node."""
    names = [column["name"] for column in table["columnDefinitions"]]
    pods = []
    for row in table["rows"]:
        cell = dict(zip(names, map(str, row["cells"]), strict=False))
        running, _, containers = cell["Ready"].partition("/")
        terminating = {"deletionTimestamp": "now"} if cell["Status"] == "Terminating" else {}
        stuck = {"restartCount": _first_number(cell["Restarts"]), "state": {"waiting": {"reason": cell["Status"]}}}
        pods.append({
            "metadata": {"name": cell["Name"], **terminating},
            "spec": {} if cell["Node"] == "<none>" else {"nodeName": cell["Node"]},
            "status": {
                "conditions": [{"type": "Ready", "status": str(running == containers)}],
                "containerStatuses": [stuck] if cell["Status"] in diagnosis.STUCK else [],
            },
        })  # fmt: skip
    return pods


def _first_number(cell: str) -> int:
    """The number of a cell such as ``3 (2m ago)``."""
    words = cell.split()
    return int(words[0]) if words and words[0].isdecimal() else 0
