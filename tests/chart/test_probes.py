"""The probes: their requests, against real servers, and their patience where a restart would end work."""

import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from common.patience import patience

from .conftest import Helm

Serve = Callable[[Mapping[str, int]], int]


def container(helm: Helm, values: Mapping[str, Any], component: str) -> dict[str, Any]:
    deployment = helm.objects(values)["Deployment", f"lab-future-kubernetes-{component}"]
    return dict(deployment["spec"]["template"]["spec"]["containers"][0])


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts a server that answers each path with the given status, others with 404; 0 means never. Gives its port."""
    servers = []
    stop = threading.Event()

    def start(statuses: Mapping[str, int]) -> int:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status = statuses.get(self.path, 404)
                if not status:
                    stop.wait(30)
                    return
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Quiet."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        return server.server_port

    yield start
    stop.set()
    for server in servers:
        server.shutdown()
        server.server_close()


def ready(helm: Helm, ide: str, ide_port: int, http_port: int) -> bool:
    """Runs the scheduler's readiness probe, with other ports, as the kubelet would."""
    command = container(helm, {"ide": ide}, "scheduler")["readinessProbe"]["exec"]["command"]
    assert command[:2] == ["bash", "-c"]
    script = (
        command[2]
        .replace("127.0.0.1 8787", f"127.0.0.1 {ide_port}")
        .replace("127.0.0.1 8785", f"127.0.0.1 {http_port}")
    )
    assert f"127.0.0.1 {ide_port}" in script
    assert f"127.0.0.1 {http_port}" in script
    return subprocess.run(["bash", "-c", script], capture_output=True, timeout=patience(20)).returncode == 0


@pytest.mark.parametrize("ide", ["rstudio", "jupyterlab", "both"])
def test_scheduler_is_ready_when_login_page_and_broker_answer(helm: Helm, serve: Serve, ide: str) -> None:
    assert ready(helm, ide, serve({"/login": 200}), serve({"/readyz": 200}))


@pytest.mark.parametrize("login", [302, 404, 503])
def test_the_scheduler_is_not_ready_without_a_login_page(helm: Helm, serve: Serve, login: int) -> None:
    assert not ready(helm, "jupyterlab", serve({"/login": login}), serve({"/readyz": 200}))


def test_the_scheduler_is_not_ready_without_the_broker(helm: Helm, serve: Serve) -> None:
    login = serve({"/login": 200})
    assert not ready(helm, "jupyterlab", login, serve({"/readyz": 503}))
    # Port 1 of loopback refuses.
    assert not ready(helm, "jupyterlab", login, 1)
    assert not ready(helm, "jupyterlab", 1, login)


def test_a_server_that_hangs_does_not_hang_the_probe(helm: Helm, serve: Serve) -> None:
    # ready() fails with TimeoutExpired long before the server answers.
    assert not ready(helm, "jupyterlab", serve({"/login": 0}), serve({"/readyz": 200}))


@pytest.mark.parametrize("ide", ["rstudio", "jupyterlab", "both"])
def test_only_five_minutes_without_a_login_page_restart_the_scheduler(helm: Helm, ide: str) -> None:
    probes = container(helm, {"ide": ide}, "scheduler")
    for kind in ("startupProbe", "livenessProbe"):
        assert probes[kind]["httpGet"] == {"path": "/login", "port": "ide"}
        assert probes[kind]["periodSeconds"] * probes[kind]["failureThreshold"] >= 300


def test_worker_that_waits_or_is_busy_is_not_restarted(helm: Helm) -> None:
    probes = container(helm, {}, "worker")
    assert (
        probes["startupProbe"]["httpGet"] == probes["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "http"}
    )
    assert probes["startupProbe"]["periodSeconds"] * probes["startupProbe"]["failureThreshold"] >= 24 * 3600
    # Not /readyz: a lost scheduler must not end workers that are in the middle of a future.
    assert probes["livenessProbe"]["httpGet"] == {"path": "/livez", "port": "http"}
    assert probes["livenessProbe"]["periodSeconds"] * probes["livenessProbe"]["failureThreshold"] >= 600
    assert {"name": "http", "containerPort": 8785} in probes["ports"]


def test_no_probe_of_a_worker_starts_a_process(helm: Helm) -> None:
    # Hundreds of workers share few cores, and each process costs some 30 ms of them.
    probes = container(helm, {}, "worker")
    assert not any("exec" in probes[kind] for kind in ("startupProbe", "readinessProbe", "livenessProbe"))


@pytest.mark.parametrize(("login", "readyz", "passes"), [(200, 200, True), (200, 503, False), (503, 200, False)])
def test_helm_test_checks_ide_and_broker_and_names_diagnosis_command(
    helm: Helm, serve: Serve, login: int, readyz: int, passes: bool
) -> None:
    found = helm.objects({"ide": "jupyterlab"})["Pod", "lab-future-kubernetes-test"]
    assert found["metadata"]["annotations"]["helm.sh/hook"] == "test"
    script = found["spec"]["containers"][0]["command"][2]
    for service, port in (
        ("lab-future-kubernetes-scheduler 8787", serve({"/login": login})),
        ("lab-future-kubernetes-broker 8785", serve({"/readyz": readyz})),
    ):
        assert service in script
        script = script.replace(service, f"127.0.0.1 {port}")
    script = script.replace("{1..60}", "{1..2}").replace("sleep 2", "sleep 0.1")
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=patience(30))
    assert (done.returncode == 0) is passes
    assert ("logs deployment/lab-future-kubernetes-scheduler" in done.stdout) is not passes
