"""The check of a namespace's quotas counts exactly the pods that the chart makes, so that no new pod is forgotten."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import pytest

from components.clouds.base import PodSize
from components.clouds.existing import cluster as existing
from components.clouds.existing import namespace
from components.clouds.existing.pod_use import live_use
from components.settings.model import Settings
from tests.chart.conftest import CASES, Helm
from tests.unit.existing_clusters import CAMPUS, nodes, program, values

__all__ = ["nodes"]

TLS = {"tlsSecret": "r-tls"}
PUBLIC = {"host": "r.example.org", "chartValues": {"ingress": TLS}}
LOGIN = {
    **PUBLIC,
    "oidcIssuer": "https://login.example.org",
    "oidcClientId": "r",
    "oidcClientSecret": "a-long-secret",
    "oidcUsers": "*",
}
LIMITS = {"schedulerCpuLimit": "2", "workerCpuLimit": "3", "workerMemoryGiB": "4", "schedulerMemoryGiB": "3"}
LARGE_LOGIN = {"resources": {"requests": {"cpu": "150m"}, "limits": {"cpu": "1", "memory": "256Mi"}}}
WARM = {"worker": {"warmReplicas": 3}}

STACKS: dict[str, dict[str, Any]] = {
    "plain": {},
    "limits": LIMITS,
    "host": PUBLIC,
    "login": LOGIN,
    "large login": {**LOGIN, "chartValues": {"ingress": TLS, "oidc": LARGE_LOGIN}},
    "placeholders": {"maxWorkers": "6", "chartValues": WARM},
    "everything": {**LOGIN, **LIMITS, "maxWorkers": "40", "chartValues": {"ingress": TLS, **WARM}},
    "priority": {"chartValues": {part: {"priorityClassName": part} for part in ("scheduler", "worker")}},
}


def rendered(helm: Helm, given: dict[str, Any]) -> dict[str, float]:
    """The charge of all pods of the rendered Deployments by key of a quota. The test's pod comes with `helm test`."""
    total: dict[str, float] = defaultdict(float)
    # `lookup` finds no number of placeholders in a cluster, and the broker sets it.
    warm = min(given["worker"].get("warmReplicas", 0), given["worker"]["maxReplicas"] - given["worker"]["replicas"])
    for (kind, name), found in helm.objects(given).items():
        hook = "helm.sh/hook" in found["metadata"].get("annotations", {})
        assert kind not in ("StatefulSet", "DaemonSet", "Job", "CronJob", "ReplicaSet"), f"{kind} {name} is not counted"
        assert kind != "Pod" or hook, f"pod {name} is not counted"
        if kind == "Deployment":
            number = warm if name.endswith("-warm") else found["spec"].get("replicas", 1)
            for key, amount in live_use(found["spec"]["template"]).charge.items():
                total[key] += amount * number
    return total


def chart_values_of(config: dict[str, Any]) -> dict[str, Any]:
    """The chart's values of a stack on an existing cluster."""
    found: dict[str, Any] = json.loads(json.dumps(values(program({**CAMPUS, **config}))))
    return found


@pytest.fixture
def demands(nodes: list[Any], monkeypatch: pytest.MonkeyPatch) -> list[namespace.Demand]:
    """The demands that the program's check counts, one a run."""
    found: list[namespace.Demand] = []

    def check(_access: Any, settings: Settings, scheduler: PodSize, worker: PodSize) -> None:
        found.append(namespace.demand_of(settings, scheduler, worker))

    monkeypatch.setattr(existing, "check_namespace", check)
    secrets = [f"future-kubernetes:{key}" for key in ("password", "oidcClientSecret")]
    monkeypatch.setenv("PULUMI_CONFIG_SECRET_KEYS", json.dumps(secrets))
    return found


@pytest.mark.parametrize("stack", STACKS)
def test_check_counts_exactly_the_pods_of_the_chart(helm: Helm, demands: list[namespace.Demand], stack: str) -> None:
    made = rendered(helm, chart_values_of(STACKS[stack]))
    [demand] = demands
    counted: dict[str, float] = defaultdict(float)
    for pod, number in demand.counted:
        for key, amount in pod.charge.items():
            counted[key] += amount * number
    assert counted == pytest.approx(made)


def test_stacks_above_make_every_deployment_that_any_case_makes(helm: Helm, demands: list[namespace.Demand]) -> None:
    made = {part for config in STACKS.values() for part in deployments(helm, chart_values_of(config))}
    assert made == {part for case in CASES.values() for part in deployments(helm, case)}
    assert demands


def deployments(helm: Helm, given: dict[str, Any]) -> set[str]:
    """The ends of the names of the Deployments."""
    return {name.rsplit("-", 1)[-1] for kind, name in helm.objects(given) if kind == "Deployment"}
