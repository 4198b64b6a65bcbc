"""The reason of a pod that does not start, reported while `pulumi up` waits for the Helm release."""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pulumi
import pytest

from common.kubectl import Kubectl
from components.release import wait_report
from components.release.pod_watch import PodWatch
from image.broker.diagnosis import GRACE_SECONDS
from tests.unit.cloud_mocks import Recording, run
from tests.unit.existing_clusters import CAMPUS, LOCAL, nodes

__all__ = ["nodes"]
pytestmark = pytest.mark.usefixtures("nodes")

REASON = 'pods "future-dev-scheduler-1" is forbidden: exceeded quota: compute, requested: pods=1, used: pods=5'
FAILED_CREATE = {
    "apiVersion": "v1",
    "kind": "Event",
    "metadata": {"name": "future-dev-scheduler-1.1", "namespace": "statistics"},
    "involvedObject": {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "future-dev-scheduler-1"},
    "reason": "FailedCreate",
    "message": REASON,
    "type": "Warning",
    "lastTimestamp": "2999-01-01T00:00:00Z",
}


class End(threading.Event):
    """The end of a wait, once something holds."""

    def __init__(self, holds: Callable[[], bool]) -> None:
        super().__init__()
        self.holds = holds

    def wait(self, timeout: float | None = None) -> bool:
        return super().wait(timeout) or self.holds()


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kubectl whose namespace refuses the scheduler's pod, asked often; returns the file of its calls."""
    kubernetes_validate.validate(FAILED_CREATE, "1.36", strict=True)
    (tmp_path / "events").write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": [FAILED_CREATE]}))
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(
        f'#!/bin/sh\nkubeconfig=${{1#--kubeconfig=}}\necho "$(stat --format %a "$kubeconfig") $*" >>{tmp_path}/calls\n'
        f"cat {tmp_path}/events\n"
    )
    kubectl.chmod(0o755)
    monkeypatch.setenv("FUTURE_KUBERNETES_BIN", str(tmp_path))
    monkeypatch.setattr(wait_report, "POLL_SECONDS", 0.02)
    monkeypatch.setitem(GRACE_SECONDS, "FailedCreate", 0.0)
    return tmp_path / "calls"


def waiting_release(config: dict[str, Any], seconds: float = 60, **options: Any) -> Recording:
    """Runs the program, whose release takes until a warning is seen, and at most `seconds`."""
    warned = threading.Event()
    warn = pulumi.log.warn

    def computed(type_: str, _name: str, _inputs: dict[str, Any]) -> dict[str, Any]:
        if type_.endswith("helm.sh/v3:Release"):
            warned.wait(seconds)
        return {}

    def noted(message: str, *more: Any) -> None:
        warn(message, *more)
        if message.startswith("release "):
            warned.set()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pulumi.log, "warn", noted)
        return run(config, {}, computed, stack_name="dev", **options)


GUEST = {**CAMPUS, "namespace": "statistics", "createNamespace": "false"}


def test_reason_is_reported_while_the_release_waits(calls: Path) -> None:
    done = waiting_release(GUEST)
    reported = [text for text in done.warnings if text.startswith("release future-dev waits for")]
    assert len(reported) == 1
    assert f"ReplicaSet future-dev-scheduler-1: FailedCreate: {REASON}" in reported[0]
    assert "fix:     Ctrl-C" in reported[0]
    mode, *command = calls.read_text().splitlines()[-1].split()
    assert mode == "600", "credentials are in it"
    assert "--namespace=statistics get pods,events" in " ".join(command)


def test_nothing_is_asked_in_a_preview_or_on_this_machine(calls: Path) -> None:
    waiting_release(GUEST, 0.3, preview=True)
    waiting_release(LOCAL, 0.3)
    assert not calls.exists()


def test_program_without_kubectl_reports_nothing(calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FUTURE_KUBERNETES_BIN")
    monkeypatch.setenv("PATH", "/nowhere")
    assert waiting_release(GUEST, 0.3).warnings == []
    assert not calls.exists()


def test_each_problem_is_said_once_and_credentials_go(
    calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    said: list[str] = []
    monkeypatch.setattr(pulumi.log, "warn", said.append)
    often = End(lambda: calls.exists() and len(calls.read_text().splitlines()) > 2)
    wait_report.watch(str(tmp_path / "kubectl"), "kind: Config", "statistics", "future-dev", often, 60)
    assert len(said) == 1
    assert list(tmp_path.glob("future-kubernetes-*")) == []


def test_report_ends_with_the_release(calls: Path, tmp_path: Path) -> None:
    finished = threading.Event()
    finished.set()
    pods = PodWatch(Kubectl(str(tmp_path / "kubectl"), tmp_path / "kubeconfig"), "future-dev")
    wait_report.report(pods, "future-dev", finished, 60, pytest.fail)
    assert not calls.exists()


def test_pod_that_waits_for_a_node_has_two_minutes(
    calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "future-dev-worker-1", "labels": {"app.kubernetes.io/instance": "future-dev"}},
        "spec": {"containers": [{"name": "worker", "image": "i"}]},
        "status": {"phase": "Pending", "conditions": [condition]},
    }
    kubernetes_validate.validate(pod, "1.36", strict=True)
    (tmp_path / "events").write_text(json.dumps({"items": [pod]}))
    said: list[str] = []
    monkeypatch.setattr(pulumi.log, "warn", said.append)
    assert GRACE_SECONDS["Unschedulable"] * wait_report.UNSCHEDULABLE_SCALE == 120
    arguments = (str(tmp_path / "kubectl"), "kind: Config", "statistics", "future-dev", End(lambda: bool(said)))
    monkeypatch.setitem(GRACE_SECONDS, "Unschedulable", 1.0)
    wait_report.watch(*arguments, 1.5)
    assert said == [], "an autoscaler may still add a node"
    monkeypatch.setitem(GRACE_SECONDS, "Unschedulable", 0.01)
    wait_report.watch(*arguments, 60)
    assert len(said) == 1
    assert "pod future-dev-worker-1: Unschedulable: 0/3 nodes" in said[0]
