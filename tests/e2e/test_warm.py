"""Room for further workers on a full node: a placeholder yields to a worker, and comes back where there is room."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.patience import patience
from image.broker.diagnosis import is_ready
from tests.e2e.conftest import Stack

pytestmark = pytest.mark.timeout(300)

MIB = {"Ki": 1 / 1024, "Mi": 1, "Gi": 1024}


@pytest.fixture(scope="module")
def warm(faulty: Stack, own_state: Path) -> Iterator[Stack]:
    """A stack of one worker that may become three, with room for two more. A full node is a fault for others."""
    values = json.dumps({"worker": {"warmReplicas": 2}})
    config = {"namespace": "warm", "workers": "1", "maxWorkers": "3", "workerMemoryGiB": "0.5", "chartValues": values}
    other = Stack(faulty.node, own_state / "warm", {**faulty.config, **config})
    other.up()
    yield other
    other.standin("down")


@pytest.fixture
def full_node(warm: Stack) -> Iterator[None]:
    """The node with less memory left than a worker requests, by a pod of ordinary priority."""
    warm.wait("two placeholders", 120, lambda: sum(map(is_ready, warm.pods("warm"))) == 2)
    room = int(free_mib(warm)) - 256
    pod: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "filler"},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [
                {
                    "name": "filler",
                    "image": warm.config["image"],
                    "command": ["sleep", "infinity"],
                    "resources": {"requests": {"memory": f"{room}Mi"}},
                }
            ],
        },
    }
    warm.node.kubectl("apply", "-n", "default", "-f", "-", input=json.dumps(pod))
    warm.node.kubectl("wait", "-n", "default", "--for=condition=Ready", "pod/filler", f"--timeout={patience(60):.0f}s")
    yield
    warm.node.kubectl("delete", "-n", "default", "pod", "filler")


def free_mib(stack: Stack) -> float:
    """Memory of the node that no pod requests."""
    (node,) = json.loads(stack.node.kubectl("get", "nodes", "-o", "json").stdout)["items"]
    pods = json.loads(stack.node.kubectl("get", "pods", "-A", "-o", "json").stdout)["items"]
    requests = [
        container["resources"].get("requests", {}).get("memory", "0Mi")
        for pod in pods
        if pod["status"]["phase"] in ("Pending", "Running")
        for container in pod["spec"]["containers"]
    ]
    return mib(node["status"]["allocatable"]["memory"]) - sum(map(mib, requests))


def mib(quantity: str) -> float:
    return float(quantity[:-2]) * MIB[quantity[-2:]]


def test_worker_takes_the_place_of_a_placeholder_at_once(warm: Stack, full_node: None) -> None:
    warm.kubectl("scale", warm.workload, "--replicas=2")
    warm.wait("the second worker", 60, lambda: sum(map(is_ready, warm.pods("worker"))) == 2)
    events = json.loads(warm.kubectl("get", "events", "--field-selector", "reason=Preempted", "-o", "json"))["items"]
    ended = {event["involvedObject"]["name"] for event in events}
    assert len(ended) == 1, events
    assert "-warm-" in ended.pop()
    # One more worker may come, so the broker keeps room for one.
    warm.wait("one placeholder", 60, lambda: [is_ready(pod) for pod in warm.pods("warm")] == [True])


def test_workers_and_placeholders_together_stay_within_the_maximum(warm: Stack) -> None:
    warm.kubectl("scale", warm.workload, "--replicas=3")
    warm.wait("no placeholder", 60, lambda: warm.pods("warm") == [])
    warm.kubectl("scale", warm.workload, "--replicas=1")
    warm.wait("two placeholders", 120, lambda: sum(map(is_ready, warm.pods("warm"))) == 2)
