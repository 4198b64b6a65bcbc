"""The number of workers, and which values restart which pods."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from ci.generate_chart import Value, chart_values, source
from tests.chart.conftest import CASES, CHART, VERSION, Helm, merged
from tests.chart.manifest import SCHEDULER, Objects, container, mounts, one, pod, pods

VALUES = chart_values(source())

# Values that define the scheduler's pod, beside those under `scheduler`. Any other value must never end an R session.
RESTART_THE_SCHEDULER = {
    "image", "imagePullPolicy", "imagePullSecrets", "anyUser", "ide", "auth.existingSecret", "shared.GiB",
    "shared.existingClaim", "fullnameOverride", "labels", "ingress.path",
}  # fmt: skip


def nested(value: Value) -> dict[str, Any]:
    """Values that set ``value`` to its example."""
    found: Any = value.example
    for key in reversed(value.path):
        found = {key: found}
    return dict(found)


def restarted(before: Objects, after: Objects) -> tuple[str, ...]:
    """Whose pod template differs."""
    components = {"scheduler": "scheduler", "workers": "worker"}
    return tuple(word for word, name in components.items() if pod(before, name) != pod(after, name))


@pytest.mark.parametrize("value", VALUES, ids=lambda value: value.name)
def test_a_changed_value_restarts_the_pods_that_its_description_names(helm: Helm, value: Value) -> None:
    before = CASES["oidc"] if value.path[0] == "oidc" else {}
    assert restarted(helm.objects(before), helm.objects(merged(before, nested(value)))) == value.restarts


# Without a cluster `lookup` finds no Deployment that could be paused: tests/e2e/test_upgrade.py upgrades with it.
VISIBLE = [value for value in VALUES if value.name != "pauseRollouts"]


@pytest.mark.parametrize("value", VISIBLE, ids=lambda value: value.name)
def test_a_changed_value_changes_an_object_of_the_release(helm: Helm, value: Value) -> None:
    # With what other values need: an Ingress, both volumes, placeholders, the objects for Prometheus.
    before: dict[str, Any] = {"host": "r.example.org", "shared": {"GiB": 1}}
    if value.name == "worker.warmPriorityClassName":
        before["worker"] = {"warmReplicas": 1}
    if value.path[0] == "monitoring" and value.name != "monitoring.enabled":
        before["monitoring"] = {"enabled": True}
    if value.path[0] == "oidc":
        before = merged(CASES["oidc"], {"oidc": {"issuer": "https://other.example.org", "clientId": "other"}})
        before["oidc"] |= {"existingSecret": "other", "users": ["*"]}
    assert helm.template(merged(before, nested(value))) != helm.template(before)


def test_first_installation_is_never_paused(helm: Helm) -> None:
    """Kubernetes makes no pod for a Deployment that is new and paused."""
    objects = helm.objects({"pauseRollouts": True})
    assert not any("paused" in found["spec"] for (kind, _), found in objects.items() if kind == "Deployment")


def test_only_values_about_its_pod_restart_the_scheduler() -> None:
    found = {value.name for value in VALUES if "scheduler" in value.restarts and value.path[0] != "scheduler"}
    assert found == RESTART_THE_SCHEDULER


@pytest.mark.parametrize("case", ["rstudio", "spot", "zero-workers", "quota", "closed-network", "host"])
def test_a_case_without_scheduler_values_has_the_default_scheduler_template(helm: Helm, case: str) -> None:
    show = ("--show-only", "templates/scheduler-deployment.yaml")
    assert helm.template({**CASES[case], "ide": "both"}, *show) == helm.template({"ide": "both"}, *show)


def test_another_host_restarts_no_pod(helm: Helm) -> None:
    hosts = [helm.objects({"host": host}) for host in ("", "r.example.org", "r.example.com")]
    assert restarted(hosts[0], hosts[1]) == restarted(hosts[1], hosts[2]) == ()


def test_a_new_chart_version_alone_restarts_no_pod(helm: Helm, tmp_path: Path) -> None:
    before = helm.objects({})
    helm.chart = shutil.copytree(CHART, tmp_path / "chart")
    description = helm.chart / "Chart.yaml"
    description.write_text(description.read_text().replace(f"\nversion: {VERSION}", "\nversion: 9.9.9"))
    after = helm.objects({})
    assert after["Deployment", SCHEDULER]["metadata"]["labels"]["helm.sh/chart"] == "future-kubernetes-9.9.9"
    assert list(pods(after)) == list(pods(before))


def test_the_scheduler_reads_worker_numbers_from_a_live_file(helm: Helm) -> None:
    objects = helm.objects(CASES["rstudio"])
    config = mounts(objects, "scheduler")["/etc/future-kubernetes/config"]["configMap"]["name"]
    assert objects["ConfigMap", config]["data"] == {
        "workers": "4",
        "maxWorkers": "40",
        "warmWorkers": "0",
        "idleMinutes": "30",
        "cullIdleKernels": "true",
        "ttlHours": "0",
        "workHours": "Mon-Fri 08:00-18:00 Europe/Berlin",
        "costIdle": "$0.42",
        "costMax": "$9.10",
        "costWorkerNode": "$0.217",
    }
    # A file mounted by subPath would never change in a running pod.
    assert not any("subPath" in mount for mount in container(objects, "scheduler")["volumeMounts"])
    assert one(helm.objects({}), "ConfigMap", "-config")["data"]["maxWorkers"] == "2"


@pytest.mark.parametrize(("case", "number"), [("minimal", 2), ("rstudio", 4), ("zero-workers", 0)])
def test_the_worker_deployment_has_the_replicas_of_the_values(helm: Helm, case: str, number: int) -> None:
    deployment = one(helm.objects(CASES[case]), "Deployment", "-worker")
    assert deployment["spec"]["replicas"] == number
    assert deployment["metadata"]["annotations"] == {"future-kubernetes/replicas": str(number)}


def test_update_never_starts_second_scheduler_or_surplus_worker(helm: Helm, case: dict[str, Any]) -> None:
    objects = helm.objects(case)
    scheduler = one(objects, "Deployment", "-scheduler")["spec"]
    assert (scheduler["replicas"], scheduler["strategy"]) == (1, {"type": "Recreate"})
    assert one(objects, "Deployment", "-worker")["spec"]["strategy"]["rollingUpdate"]["maxSurge"] == 0


@pytest.mark.parametrize("workers", [1, 3, 40, 5000])
def test_helm_waits_for_the_scheduler_and_for_no_worker(helm: Helm, workers: int) -> None:
    """Helm's rule for a Deployment: ready are its replicas without those that its strategy allows to be unavailable."""
    objects = helm.objects({"worker": {"replicas": workers}})

    def awaited(end: str) -> int:
        spec = one(objects, "Deployment", end)["spec"]
        share = spec["strategy"].get("rollingUpdate", {}).get("maxUnavailable", "0%")
        return int(spec["replicas"]) - int(spec["replicas"]) * int(share.removesuffix("%")) // 100

    assert awaited("-worker") == 0, "a lack of machines would take the IDE away"
    assert awaited("-scheduler") == 1


def test_autoscalers_and_drains_do_not_end_sessions(helm: Helm) -> None:
    annotation = "cluster-autoscaler.kubernetes.io/safe-to-evict"
    objects = helm.objects({})
    assert pod(objects, "scheduler")["metadata"]["annotations"][annotation] == "false"
    assert pod(objects, "worker")["metadata"]["annotations"][annotation] == "false"
    assert pod(helm.objects(CASES["spot"]), "worker")["metadata"]["annotations"][annotation] == "true"
    assert one(objects, "PodDisruptionBudget", "")["spec"]["minAvailable"] == 1
