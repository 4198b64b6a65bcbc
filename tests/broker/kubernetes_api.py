"""A stand-in for the Kubernetes API: one Deployment's scale, its pods and events."""

from __future__ import annotations

import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from image.broker import diagnosis

if TYPE_CHECKING:
    from .conftest import Bed

SCALE = "/apis/apps/v1/namespaces/team/deployments/r-worker/scale"
WARM = "/apis/apps/v1/namespaces/team/deployments/r-warm/scale"


def pod(name: str, *, ready: bool = True, waiting: str = "", unscheduled: str = "") -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": str(ready)}]
    if unscheduled:
        conditions.append({"type": "PodScheduled", "status": "False", "message": unscheduled})
    containers = [{"state": {"waiting": {"reason": waiting, "message": "said"}}}] if waiting else []
    return {
        "metadata": {"name": f"r-worker-{name}"},
        "status": {"conditions": conditions, "containerStatuses": containers},
    }


def row(item: dict[str, Any]) -> list[Any]:
    """The pod as the API server shows it in a table (printPod in kubernetes/pkg/printers/internalversion)."""
    status = item["status"]
    unscheduled = any(c["type"] == "PodScheduled" and c["status"] == "False" for c in status["conditions"])
    waiting = [c["state"]["waiting"]["reason"] for c in status["containerStatuses"]]
    shown = "Terminating" if "deletionTimestamp" in item["metadata"] else "Pending" if unscheduled else "Running"
    ready = "1/1" if diagnosis.is_ready(item) else "0/1"
    return [item["metadata"]["name"], ready, *(waiting or [shown]), 0, "<none>" if unscheduled else "node"]


def table(pods: list[dict[str, Any]]) -> dict[str, Any]:
    columns = [{"name": name} for name in ("Name", "Ready", "Status", "Restarts", "Node")]
    return {"kind": "Table", "columnDefinitions": columns, "rows": [{"cells": row(item)} for item in pods]}


class Api(ThreadingHTTPServer):
    """Serves one Deployment's scale, pods and events over TLS, and records each new number."""

    def __init__(self, certificate: Path, key: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.replicas = 2
        self.placeholders = 0
        self.placeholders_asked: list[int] = []
        self.pods: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.status = 200
        self.busy: list[str] = []
        """Each is for one request: "silence" gives no answer, a number asks to come again in so many seconds."""
        self.body_sent: float = 1
        """Part of each answer's body that is sent before the connection is left open or, if ``breaks``, closed."""
        self.breaks = False
        self.tables = False
        self.created = "2026-01-01T00:00:00Z"
        self.asked: list[str] = []
        self.read: list[str] = []
        self.answers = threading.Event()
        """Cleared, a new number is taken and not answered until it is set."""
        self.answers.set()
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    server: Api
    known: ClassVar = {"pods", "events"}

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, body: object) -> None:
        status = self.server.status
        self._send(status, {"message": "no"} if status != 200 else body)

    def _send(self, status: int, body: object, retry_after: str = "") -> None:
        assert self.headers["Authorization"] == "Bearer account-token"
        data = json.dumps(body).encode()
        self.send_response(status)
        if retry_after:
            self.send_header("Retry-After", retry_after)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        sent = data[: int(len(data) * self.server.body_sent)]
        self.wfile.write(sent)
        if sent != data and not self.server.breaks:
            self.rfile.read(1)  # until the client goes

    def _busy(self) -> bool:
        """True if this request was left without an answer, or refused for now."""
        busy = self.server.busy.pop(0) if self.server.busy else ""
        if busy == "silence":
            self.rfile.read(1)  # until the client goes
        elif busy:
            self._send(429, {"message": "too many requests"}, retry_after=busy)
        return bool(busy)

    def do_GET(self) -> None:
        if self._busy():
            return
        path, _, query = self.path.partition("?")
        self.server.read.append(path)
        name = path.rsplit("/", 1)[1]
        if self.server.tables and "includeObject" in query:
            assert "as=Table" in self.headers["Accept"]
            self._answer(table(self.server.pods))
        elif self.server.tables and "spec.nodeName" in query:
            self._answer({"items": [item for item in self.server.pods if row(item)[-1] == "<none>"]})
        elif self.path == SCALE:
            self._answer(
                {
                    "metadata": {"creationTimestamp": self.server.created},
                    "spec": {"replicas": self.server.replicas} if self.server.replicas else {},
                }
            )
        elif self.path == WARM:
            self._answer({"spec": {"replicas": self.server.placeholders} if self.server.placeholders else {}})
        elif name in self.known:
            self._answer({"items": getattr(self.server, name)})
        elif found := [item for item in self.server.pods if item["metadata"]["name"] == name]:
            self._answer(found[0])
        else:
            self._send(404, {"kind": "Status", "reason": "NotFound", "message": f'pods "{name}" not found'})

    def do_PATCH(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self._busy():
            return
        if self.path == WARM:
            if self.server.status == 200:
                self.server.placeholders = body["spec"]["replicas"]
                self.server.placeholders_asked.append(self.server.placeholders)
            self._answer({})
            return
        assert self.path == SCALE
        if self.server.status == 200:
            self.server.replicas = body["spec"]["replicas"]
            self.server.asked.append(str(self.server.replicas))
        assert self.server.answers.wait(30)
        self._answer({})


def environ(api: Api, folder: Path) -> dict[str, str]:
    config = folder / "config"
    config.mkdir(exist_ok=True)
    (config / "maxWorkers").write_text("10\n")
    return {
        "KUBERNETES_SERVICE_HOST": "127.0.0.1",
        "KUBERNETES_SERVICE_PORT": str(api.server_address[1]),
        "FUTURE_KUBERNETES_RELEASE": "r",
        "FUTURE_KUBERNETES_NAMESPACE": "team",
        "FUTURE_KUBERNETES_ACCOUNT": str(folder / "account"),
        "FUTURE_KUBERNETES_CONFIG": str(config),
    }


def start(bed: Bed, api: Api, *names: str) -> None:
    """Start these workers: wanted, connected, and ready in the API."""
    for name in names:
        bed.worker(f"r-worker-{name}")
    api.replicas = len(names)
    api.pods = [pod(name) for name in names]


def state(bed: Bed, name: str) -> str:
    """The state that the worker's agent answers to a probe; a retiring one is in no table."""
    return bed.probe(f"r-worker-{name}")[1]
