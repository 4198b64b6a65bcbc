"""Quotas and limit ranges of a namespace that another team made: refused before creation, in Kubernetes' own shapes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest

from components.clouds.allocatable import Allocatable
from components.clouds.existing import cluster as existing
from components.clouds.existing import namespace
from components.clouds.existing.nodes import quantity
from tests.unit.cloud_mocks import Recording, unchecked
from tests.unit.existing_clusters import CAMPUS, nodes, printing, program, refusal, write_kubectl

__all__ = ["nodes"]

TEAM = {**CAMPUS, "namespace": "statistics", "createNamespace": "false", "homeGiB": "0"}
"""Four workers of 0.9 cores and 2 GiB, and a scheduler of 0.5 cores and 2 GiB."""
FORBIDDEN = "Error from server (Forbidden): resourcequotas is forbidden"
Cluster = Callable[..., Path]


def quota(hard: dict[str, str], used: dict[str, str] | None = None, name: str = "compute", **spec: Any) -> Any:
    """A quota as the API server answers, with its status."""
    return {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": name, "namespace": "statistics"},
        "spec": {"hard": hard, **spec},
        "status": {"hard": hard, "used": {**dict.fromkeys(hard, "0"), **(used or {})}},
    }


def limit_range(kind: str = "Container", **item: Any) -> Any:
    """A limit range with one item."""
    return {
        "apiVersion": "v1",
        "kind": "LimitRange",
        "metadata": {"name": "bounds", "namespace": "statistics"},
        "spec": {"limits": [{"type": kind, **item}]},
    }


def pod(requests: dict[str, str], phase: str = "Running") -> Any:
    """A running pod of this stack."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "future-dev-worker-1", "labels": {"app.kubernetes.io/instance": "future-dev"}},
        "spec": {"containers": [{"name": "worker", "image": "i", "resources": {"requests": requests}}]},
        "status": {"phase": phase},
    }


def claim(storage: str) -> Any:
    """The claim of this stack's home."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "future-dev-home"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": storage}}},
    }


@pytest.fixture
def cluster(nodes: list[Allocatable], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cluster:
    """A kubectl that answers with quotas, limit ranges and this stack's own objects; returns the file of its calls."""
    monkeypatch.setattr(existing, "check_namespace", namespace.check_namespace)
    monkeypatch.setenv("FUTURE_KUBERNETES_BIN", str(tmp_path))

    def answer(*items: Any, own: Sequence[Any] = (), bounds: str = "", objects: str = "") -> Path:
        for item in [*items, *own]:
            kubernetes_validate.validate(item, "1.36", strict=True)
        for name, content in (("bounds", items), ("own", own)):
            (tmp_path / name).write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": list(content)}))
        own_objects = "pods,persistentvolumeclaims '*' --selector app.kubernetes.io/instance=future-dev"
        return write_kubectl(
            tmp_path,
            {
                "*' resourcequotas,limitranges --namespace statistics '*": printing(tmp_path / "bounds", bounds),
                f"*' {own_objects} '*": printing(tmp_path / "own", objects),
            },
        )

    return answer


def warned(done: Recording) -> str:
    return "\n".join(done.warnings)


def test_namespace_without_quotas_is_asked_once(cluster: Cluster) -> None:
    calls = cluster()
    program(TEAM)
    assert calls.read_text().count("\n") == 1


def test_quota_too_small_is_refused_with_the_number_that_fits(cluster: Cluster) -> None:
    cluster(quota({"requests.cpu": "4", "pods": "50"}, {"requests.cpu": "500m", "pods": "1"}))
    message = refusal(TEAM)
    assert message == (
        "scheduler and 4 workers need 4.1 cores of quota compute (requests.cpu: hard 4 cores, used by others 0.5 "
        "cores) in namespace statistics\n    allowed: at most 3.5 cores\n    fix:     pulumi config set workers 3, or "
        "a larger quota: kubectl --namespace statistics describe quota compute"
    )
    assert program({**TEAM, "workers": "3"}).warnings == []


@pytest.mark.parametrize(
    ("hard", "needs"),
    [
        ({"cpu": "4"}, "4.1 cores"),
        ({"memory": "9Gi"}, "10 GiB"),
        ({"requests.memory": "9Gi"}, "10 GiB"),
        ({"limits.memory": "9Gi"}, "10 GiB"),
        ({"pods": "4"}, "need 5 of"),
        ({"count/pods": "4"}, "need 5 of"),
    ],
)
def test_each_kind_of_amount_is_counted(cluster: Cluster, hard: dict[str, str], needs: str) -> None:
    cluster(quota(hard))
    assert needs in refusal(TEAM)


def test_quota_without_room_for_the_scheduler_asks_for_smaller_pods(cluster: Cluster) -> None:
    cluster(quota({"requests.memory": "2Gi"}, {"requests.memory": "1Gi"}))
    message = refusal(TEAM)
    assert "at most 1 GiB" in message
    assert (
        "fix:     smaller pods (schedulerCpu, schedulerMemoryGiB, workerCpu, workerMemoryGiB), or a larger" in message
    )


def test_exact_room_is_enough_and_a_byte_less_is_not(cluster: Cluster) -> None:
    cluster(quota({"requests.cpu": "4100m", "requests.memory": "10Gi", "limits.memory": "10Gi", "pods": "5"}))
    assert program(TEAM).warnings == []
    cluster(quota({"requests.memory": str(10 * 2**30 - 1)}))
    assert "requests.memory" in refusal(TEAM)


def test_quota_of_cpu_limits_asks_for_the_limits_by_setting(cluster: Cluster) -> None:
    cluster(quota({"limits.cpu": "20"}))
    message = refusal(TEAM)
    assert "the scheduler has no limits.cpu, and quota compute asks for it" in message
    assert "pulumi config set schedulerCpuLimit 1" in message
    assert "pulumi config set workerCpuLimit 1" in message
    limits = {"workerCpuLimit": "2", "schedulerCpuLimit": "2"}
    assert program({**TEAM, **limits}).warnings == []
    by_chart = {part: {"resources": {"limits": {"cpu": "2"}}} for part in ("scheduler", "worker")}
    assert program({**TEAM, "chartValues": json.dumps(by_chart)}).warnings == []


def test_default_limits_of_a_limit_range_count_against_the_quota(cluster: Cluster) -> None:
    cluster(quota({"limits.cpu": "20"}), limit_range(default={"cpu": "2"}, defaultRequest={"cpu": "2"}))
    assert program(TEAM).warnings == []
    cluster(quota({"limits.cpu": "9"}), limit_range(default={"cpu": "2"}, defaultRequest={"cpu": "2"}))
    assert "need 10 cores of quota compute (limits.cpu" in refusal(TEAM)


def test_default_limit_below_the_request_is_refused(cluster: Cluster) -> None:
    cluster(limit_range(default={"cpu": "600m"}, defaultRequest={"cpu": "100m"}))
    message = refusal(TEAM)
    assert "the worker's requests.cpu is 0.9 cores" in message
    assert "at most 0.6 cores" in message
    assert "pulumi config set workerCpuLimit 0.9" in message
    assert program({**TEAM, "workerCpuLimit": "0.9"}).warnings == []
    assert "the scheduler" not in message


@pytest.mark.parametrize("kind", ["Container", "Pod"])
@pytest.mark.parametrize(
    ("item", "words", "fix"),
    [
        ({"max": {"memory": "1536Mi"}}, "the worker's limits.memory is 2 GiB", "workerMemoryGiB 1.5"),
        ({"min": {"cpu": "1"}}, "the scheduler's requests.cpu is 0.5 cores", "schedulerCpu 1"),
        ({"max": {"cpu": "2"}}, "the worker has no limits.cpu", "workerCpuLimit 2"),
        ({"maxLimitRequestRatio": {"cpu": "2"}}, "the worker has no limits.cpu", "workerCpuLimit 1"),
        (
            {"min": {"ephemeral-storage": "1Gi"}},
            "has no requests.ephemeral-storage",
            "requests.ephemeral-storage 1073741824",
        ),
    ],
)
def test_bounds_of_a_limit_range_are_held(
    cluster: Cluster, kind: str, item: dict[str, Any], words: str, fix: str
) -> None:
    cluster(limit_range(kind, **item))
    message = refusal(TEAM)
    assert words in message
    assert fix in message


def test_ratio_of_limit_to_request_is_held(cluster: Cluster) -> None:
    cluster(limit_range(maxLimitRequestRatio={"cpu": "2"}))
    wide = {**TEAM, "workerCpu": "1", "workerCpuLimit": "3", "schedulerCpuLimit": "1"}
    assert "the worker's limits.cpu is 3 cores, which limit range bounds refuses" in refusal(wide)
    assert program({**wide, "workerCpuLimit": "2"}).warnings == []


def test_pods_of_the_stack_itself_are_not_counted_twice(cluster: Cluster) -> None:
    full = quota({"requests.cpu": "4100m"}, {"requests.cpu": "4100m"})
    own = [pod({"cpu": "900m"}) for _ in range(4)] + [pod({"cpu": "500m"})]
    cluster(full, own=own)
    assert program(TEAM).warnings == []
    cluster(full, own=[*own[:-1], pod({"cpu": "500m"}, phase="Succeeded")])
    assert "used by others 0.5 cores" in refusal(TEAM)


@pytest.mark.parametrize(
    ("scope", "counted"),
    [
        ({"scopes": ["NotTerminating"]}, True),
        ({"scopes": ["NotBestEffort"]}, True),
        ({"scopes": ["Terminating"]}, False),
        ({"scopes": ["BestEffort"]}, False),
        ({"scopes": ["NotTerminating", "BestEffort"]}, False),
        ({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "Exists"}]}}, False),
        ({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "DoesNotExist"}]}}, True),
    ],
)
def test_quota_of_a_scope_counts_the_pods_in_it(cluster: Cluster, scope: dict[str, Any], counted: bool) -> None:
    cluster(quota({"pods": "1"}, **scope))
    if counted:
        assert "pods" in refusal(TEAM)
    else:
        assert program(TEAM).warnings == []


@pytest.mark.parametrize(("operator", "counted"), [("In", True), ("NotIn", False)])
def test_quota_of_a_priority_class_counts_its_workers(cluster: Cluster, operator: str, counted: bool) -> None:
    of_class = {"scopeName": "PriorityClass", "operator": operator, "values": ["low"]}
    cluster(quota({"pods": "3"}, scopeSelector={"matchExpressions": [of_class]}))
    message = ""
    config = {**TEAM, "chartValues": json.dumps({"worker": {"priorityClassName": "low"}})}
    if counted:
        message = refusal(config)
        assert "workers need 4 of quota compute" in message
    else:
        assert program(config).warnings == []


def test_room_for_fewer_than_max_workers_is_a_warning(cluster: Cluster) -> None:
    cluster(quota({"requests.cpu": "5"}))
    assert warned(program({**TEAM, "maxWorkers": "8"})) == (
        "the quotas of namespace statistics have room for 5 of 8 workers (maxWorkers): kubectl --namespace statistics "
        "describe quota"
    )


def test_claims_beyond_the_quota_are_refused_without_own_ones(cluster: Cluster) -> None:
    home = {**TEAM, "homeGiB": "10"}
    cluster(quota({"requests.storage": "15Gi", "persistentvolumeclaims": "1"}, {"requests.storage": "10Gi"}))
    assert "homeGiB need 10 GiB of quota compute (requests.storage: hard 15 GiB, used by others 10 GiB" in refusal(home)
    cluster(
        quota(
            {"requests.storage": "15Gi", "persistentvolumeclaims": "1"},
            {"requests.storage": "10Gi", "persistentvolumeclaims": "1"},
        ),
        own=[claim("10Gi")],
    )
    assert program(home).warnings == []


@pytest.mark.parametrize(("bound", "fix"), [({"min": {"storage": "20Gi"}}, "20"), ({"max": {"storage": "5Gi"}}, "5")])
def test_claim_beyond_a_limit_range_is_refused(cluster: Cluster, bound: dict[str, Any], fix: str) -> None:
    cluster(limit_range("PersistentVolumeClaim", **bound))
    assert f"pulumi config set homeGiB {fix}" in refusal({**TEAM, "homeGiB": "10"})


def test_what_may_not_be_read_is_named_as_unchecked(cluster: Cluster) -> None:
    cluster(bounds=FORBIDDEN)
    assert "whether quotas and limit ranges of namespace statistics admit the pods" in unchecked(program(TEAM))
    cluster(quota({"pods": "1"}), objects=FORBIDDEN.replace("resourcequotas", "pods"))
    assert "whether the quotas of namespace statistics have room for the pods" in unchecked(program(TEAM))


def test_quota_of_the_stack_itself_follows_its_settings(cluster: Cluster) -> None:
    cluster(quota({"pods": "1"}, name="future-dev"))
    assert program({**TEAM, "createNamespace": "true"}).warnings == []
    assert "quota future-dev" in refusal(TEAM)


@pytest.mark.parametrize(
    ("text", "number"),
    [("4", 4), ("500m", 0.5), ("1e3", 1000), ("2Gi", 2 * 2**30), ("1Pi", 2**50), ("3E", 3e18), ("129M", 129e6)],
)
def test_quantities_are_read_in_every_unit(text: str, number: float) -> None:
    assert quantity(text) == number


LOGIN = {
    **TEAM,
    "host": "r.example.org",
    "oidcIssuer": "https://login.example.org",
    "oidcClientId": "r",
    "oidcClientSecret": "a-long-secret",
    "oidcUsers": "*",
    "chartValues": json.dumps({"ingress": {"tlsSecret": "r-tls"}}),
}


@pytest.fixture
def secret(nodes: list[Allocatable], monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [f"future-kubernetes:{name}" for name in ("password", "oidcClientSecret")]
    monkeypatch.setenv("PULUMI_CONFIG_SECRET_KEYS", json.dumps(keys))


@pytest.mark.usefixtures("secret")
def test_login_pod_counts_against_the_quota(cluster: Cluster) -> None:
    cluster(quota({"requests.cpu": "4100m", "pods": "5"}))
    message = refusal(LOGIN)
    assert "scheduler, login and 4 workers need 4.12 cores of quota compute (requests.cpu: hard 4.1 cores" in message
    assert "need 6 of quota compute (pods: hard 5" in message
    cluster(quota({"requests.cpu": "4120m", "pods": "6"}))
    assert program(LOGIN).warnings == []


@pytest.mark.usefixtures("secret")
def test_quota_of_cpu_limits_asks_for_the_login_pods_too(cluster: Cluster) -> None:
    cluster(quota({"limits.cpu": "20"}))
    limited = {**LOGIN, "workerCpuLimit": "2", "schedulerCpuLimit": "2"}
    assert "fix:     pulumi config set --path chartValues.oidc.resources.limits.cpu 1" in refusal(limited)
    given = {"ingress": {"tlsSecret": "r-tls"}, "oidc": {"resources": {"limits": {"cpu": 1}}}}
    assert program({**limited, "chartValues": json.dumps(given)}).warnings == []


@pytest.mark.usefixtures("secret")
def test_limit_range_that_refuses_the_login_pod_names_its_value(cluster: Cluster) -> None:
    cluster(limit_range(min={"cpu": "50m"}))
    message = refusal(LOGIN)
    assert "the login's requests.cpu is 0.02 cores, which limit range bounds refuses" in message
    assert "pulumi config set --path chartValues.oidc.resources.requests.cpu 0.05" in message


def test_placeholders_count_against_the_quota_until_max_workers(cluster: Cluster) -> None:
    warm = {**TEAM, "maxWorkers": "6", "chartValues": json.dumps({"worker": {"warmReplicas": 9}})}
    cluster(quota({"pods": "6"}))
    assert "scheduler, 4 workers and 2 placeholders need 7 of quota compute" in refusal(warm)
    cluster(quota({"pods": "7"}))
    assert program(warm).warnings == []
