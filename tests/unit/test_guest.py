"""Settings for a cluster that another team runs: login to a registry, limits, nodes, ports."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.clouds.allocatable import Allocatable
from components.clouds.existing import cluster as existing
from components.clouds.existing.nodes import read_nodes
from tests.unit.cloud_mocks import unchecked
from tests.unit.existing_clusters import CAMPUS, nodes, printing, program, refusal, values, write_kubectl

__all__ = ["nodes"]

GUEST = {**CAMPUS, "namespace": "statistics", "createNamespace": "false"}


@pytest.fixture
def kubectl(nodes: list[Allocatable], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Path]:
    """A kubectl that answers with nodes, and for Secrets with an error; returns the file with its calls."""
    monkeypatch.setattr(existing, "read_nodes", read_nodes)
    monkeypatch.setenv("FUTURE_KUBERNETES_BIN", str(tmp_path))

    def answer(*found: dict[str, Any], secrets: str = "") -> Path:
        (tmp_path / "nodes.json").write_text(json.dumps({"items": found or [node()]}))
        (tmp_path / "secrets").write_text(secrets)
        refused = f"cat {tmp_path}/secrets >&2; [ ! -s {tmp_path}/secrets ]"
        return write_kubectl(tmp_path, {"*secret*": refused, "*": printing(tmp_path / "nodes.json")})

    return answer


def node(labels: dict[str, str] | None = None, *taints: dict[str, str]) -> dict[str, Any]:
    """A ready node of 8 cores, as kubectl gives it."""
    return {
        "metadata": {"labels": labels or {}},
        "spec": {"taints": list(taints)},
        "status": {
            "allocatable": {"cpu": "8", "memory": "64Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def test_pull_secrets_of_the_namespace_reach_the_chart(kubectl: Callable[..., Path]) -> None:
    calls = kubectl()
    done = values(program({**GUEST, "imagePullSecrets": "registry-login,other-login"}))
    assert done["imagePullSecrets"] == [{"name": "registry-login"}, {"name": "other-login"}]
    assert "get secret registry-login --namespace statistics --output name" in calls.read_text()


def test_missing_pull_secret_is_refused_with_the_command_creating_it(
    kubectl: Callable[..., Path],
) -> None:
    kubectl(secrets='Error from server (NotFound): secrets "registry-login" not found')
    text = refusal({**GUEST, "imagePullSecrets": "registry-login"})
    assert "registry-login, which namespace statistics does not have" in text
    assert "kubectl --namespace statistics create secret docker-registry registry-login" in text


def test_pull_secret_hidden_from_the_caller_is_named_as_unchecked(kubectl: Callable[..., Path]) -> None:
    kubectl(secrets='Error from server (Forbidden): secrets "registry-login" is forbidden')
    done = program({**GUEST, "imagePullSecrets": "registry-login"})
    assert "whether there is a Secret registry-login in namespace statistics" in unchecked(done)


def test_pull_secrets_are_refused_in_the_stacks_own_namespace(nodes: list[Allocatable]) -> None:
    text = refusal({**CAMPUS, "imagePullSecrets": "registry-login"})
    assert "only in a namespace that exists before" in text
    assert "kubectl create namespace future-dev" in text


def test_limits_of_cpu_stand_beside_the_requests(nodes: list[Allocatable]) -> None:
    done = values(program({**GUEST, "workerCpuLimit": 2, "schedulerCpuLimit": 1.5}))
    assert done["worker"]["resources"]["limits"] == {"memory": "2048Mi", "cpu": "2000m"}
    assert done["scheduler"]["resources"]["limits"]["cpu"] == "1500m"
    assert "cpu" not in values(program(GUEST))["worker"]["resources"]["limits"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"workerCpuLimit": 0.5}, "at least what is requested (workerCpu), 0.9"),
        ({"workerCpuLimit": 1, "workerCpu": 2}, "at least what is requested (workerCpu), 2"),
        ({"schedulerCpuLimit": 0.1}, "at least what is requested (schedulerCpu), 0.5"),
        ({"nodeSelector": "pool"}, "'pool' has no ="),
        ({"nodeSelector": "-pool=a"}, "-pool=a is no label"),
        ({"nodeSelector": {"a/b/c": "d"}}, "a/b/c=d is no label"),
        ({"tolerations": "dedicated=statistics:Never"}, "'dedicated=statistics:Never' is not a taint"),
        ({"tolerations": ":NoSchedule"}, "':NoSchedule' is not a taint"),
        ({"dnsPorts": "5353/udp"}, "'5353/udp' is not a port"),
        ({"apiServerPorts": 0}, "'0' is not a port"),
        ({"apiServerPorts": 65536}, "'65536' is not a port"),
        ({"imagePullSecrets": "Login"}, "'Login' is not the name of a Secret"),
    ],
)
def test_wrong_settings_of_a_guest_are_refused(nodes: list[Allocatable], config: dict[str, Any], message: str) -> None:
    assert message in refusal({**GUEST, **config})


def test_node_selector_and_tolerations_hold_for_scheduler_and_workers(nodes: list[Allocatable]) -> None:
    chosen = {
        "nodeSelector": "pool=statistics,example.org/fast=true",
        "tolerations": "dedicated=statistics:NoSchedule gpu",
    }
    done = values(program({**GUEST, **chosen}))
    tolerations = [
        {"key": "dedicated", "operator": "Equal", "value": "statistics", "effect": "NoSchedule"},
        {"key": "gpu", "operator": "Exists"},
    ]
    for part in ("scheduler", "worker"):
        assert done[part]["nodeSelector"] == {"pool": "statistics", "example.org/fast": "true"}
        assert done[part]["tolerations"][-2:] == tolerations
    # Workers may still use the pool of another stack.
    assert done["worker"]["tolerations"][0]["key"] == "future-kubernetes/worker"
    assert done["worker"]["affinity"]


def test_room_is_counted_on_the_chosen_nodes(kubectl: Callable[..., Path]) -> None:
    taint = {"key": "dedicated", "value": "statistics", "effect": "NoSchedule"}
    theirs, other = node({"pool": "statistics"}, taint), node({"pool": "other"})
    kubectl(theirs, theirs, other)
    chosen = {"nodeSelector": "pool=statistics", "tolerations": "dedicated=statistics:NoSchedule"}
    assert program({**GUEST, **chosen}).outputs["nodes"][0] == "2 ready nodes of an existing cluster"
    assert program(GUEST).outputs["nodes"][0] == "1 ready nodes of an existing cluster"
    other_effect = {**chosen, "tolerations": "dedicated=statistics:NoExecute"}
    assert "no node can hold a worker" in refusal({**GUEST, **other_effect})
    other_value = {**chosen, "tolerations": "dedicated=biology"}
    assert "no node can hold a worker" in refusal({**GUEST, **other_value})


def test_ports_of_dns_and_api_server_replace_the_charts(nodes: list[Allocatable]) -> None:
    done = values(program({**GUEST, "dnsPorts": "5353", "apiServerPorts": [443, 16443]}))
    assert done["networkPolicy"]["dnsPorts"] == [5353]
    assert done["networkPolicy"]["apiServerPorts"] == [443, 16443]
    assert {"dnsPorts", "apiServerPorts"}.isdisjoint(values(program(GUEST))["networkPolicy"])
