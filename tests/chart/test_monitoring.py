"""Objects for Prometheus and Grafana: where they are there, what they select, and who may read the metrics."""

from __future__ import annotations

from typing import Any

from tests.chart.conftest import CASES, CHART, MINIMAL, ClusterStandIn, Helm, merged
from tests.chart.monitoring import CASE, JOB, NAME

KINDS = {("ServiceMonitor", NAME), ("PrometheusRule", NAME), ("ConfigMap", f"{NAME}-dashboard")}
ALWAYS_THERE = "/api/v1/namespaces/team/configmaps/kube-root-ca.crt"
INSTALL = ["install", "lab", str(CHART), "--namespace", "team", "--dry-run=server", "--disable-openapi-validation"]


def test_nothing_for_prometheus_is_there_unless_it_is_asked_for(helm: Helm, case: dict[str, Any]) -> None:
    kinds = {(kind, name.replace(NAME, case.get("fullnameOverride", NAME))) for kind, name in KINDS}
    assert kinds & set(helm.objects(case)) == (kinds if case.get("monitoring") else set())


def test_the_service_monitor_selects_the_brokers_port_only(helm: Helm) -> None:
    objects = helm.objects(CASE)
    monitor = objects["ServiceMonitor", NAME]
    assert set(monitor["spec"]) == {"selector", "endpoints"}
    assert monitor["spec"]["endpoints"] == [{"port": "http", "path": "/metrics", "interval": "30s"}]
    selected = {
        name
        for (kind, name), found in objects.items()
        if kind == "Service"
        and monitor["spec"]["selector"]["matchLabels"].items() <= found["metadata"]["labels"].items()
        and any(port["name"] == "http" for port in found["spec"]["ports"])
    }
    assert selected == {JOB}, "the name of the Service is the job of its series"


def test_prometheus_and_grafana_find_their_objects_by_their_labels(helm: Helm) -> None:
    objects = helm.objects(CASE)
    for kind in ("ServiceMonitor", "PrometheusRule"):
        assert objects[kind, NAME]["metadata"]["labels"]["release"] == "kube-prometheus-stack"
    config = objects["ConfigMap", f"{NAME}-dashboard"]
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert "release" not in config["metadata"]["labels"]
    # One key twice in an object would be an error of the API server.
    twice = merged(CASE, {"labels": {"release": "of-all"}})
    assert helm.objects(twice)["ServiceMonitor", NAME]["metadata"]["labels"]["release"] == "of-all"


def test_the_network_policy_lets_the_named_namespace_read_the_metrics(helm: Helm) -> None:
    def readers(values: dict[str, Any]) -> list[dict[str, Any]]:
        ingress = helm.objects(values)["NetworkPolicy", f"{NAME}-scheduler"]["spec"]["ingress"]
        (rule,) = [rule for rule in ingress if rule["ports"] == [{"protocol": "TCP", "port": "http"}]]
        return list(rule["from"][1:])  # the first one is the chart's test

    of = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    assert readers({}) == []
    assert readers(CASE) == [of]
    peers = CASES["closed-network"]["networkPolicy"]["metricsFrom"]
    named = {"networkPolicy": {"metricsFrom": peers}, "monitoring": {"namespace": ""}}
    assert readers(merged(CASE, named)) == peers


def test_metrics_that_no_prometheus_could_read_are_an_error(helm: Helm) -> None:
    nobody = merged(merged(MINIMAL, CASE), {"monitoring": {"namespace": ""}})
    assert "--set monitoring.namespace=NAME" in helm.refusal(nobody)
    assert helm.objects(merged(nobody, {"networkPolicy": {"enabled": False}}))


def test_cluster_without_the_operator_is_refused_before_creation(helm: Helm, cluster: ClusterStandIn) -> None:
    cluster.objects[ALWAYS_THERE] = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "kube-root-ca.crt"}}
    data = {"password": "cGFzcw==", "token": "dG9rZW4="}
    cluster.objects["/api/v1/namespaces/team/secrets/r-login"] = {"kind": "Secret", "apiVersion": "v1", "data": data}
    done = helm.run(*INSTALL, values=merged(MINIMAL, CASE))
    assert done.returncode != 0
    assert "this cluster has no ServiceMonitor: the Prometheus operator is not installed" in done.stderr
    assert "--set monitoring.enabled=false" in done.stderr
    assert helm.run(*INSTALL, values=MINIMAL).returncode == 0
    cluster.install_prometheus_operator()
    done = helm.run(*INSTALL, values=merged(MINIMAL, CASE))
    assert done.returncode == 0, done.stderr
