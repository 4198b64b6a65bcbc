"""The objects for Prometheus and Grafana: promtool runs every alert, and every query of the dashboard."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from ci import generate_dashboard
from tests.broker.conftest import Bed, wait_for
from tests.broker.metrics import families, get, values
from tests.chart.conftest import CASES, CHART, MINIMAL, ClusterStandIn, Helm, binary, merged
from tests.unit.test_pages import anchors

CASE = CASES["monitoring"]
NAME = "lab-future-kubernetes"
JOB = f"{NAME}-broker"
OF = f'namespace="team",job="{JOB}"'
TARGET = {"namespace", "job", "pod", "instance", "service", "endpoint", "container"}
"""Labels that Prometheus gives to every series of a ServiceMonitor."""
KINDS = {("ServiceMonitor", NAME), ("PrometheusRule", NAME), ("ConfigMap", f"{NAME}-dashboard")}
ALWAYS_THERE = "/api/v1/namespaces/team/configmaps/kube-root-ca.crt"
INSTALL = ["install", "lab", str(CHART), "--namespace", "team", "--dry-run=server", "--disable-openapi-validation"]


def rules(helm: Helm, case: Mapping[str, Any] = CASE) -> list[dict[str, Any]]:
    """The alerts of a release."""
    (group,) = helm.objects(case)["PrometheusRule", NAME]["spec"]["groups"]
    assert group["name"] == NAME
    return list(group["rules"])


def dashboard(helm: Helm) -> dict[str, Any]:
    """The dashboard as Grafana reads it from the ConfigMap."""
    data = helm.objects(CASE)["ConfigMap", f"{NAME}-dashboard"]["data"]
    (found,) = data.values()
    return dict(json.loads(found))


def queries(helm: Helm) -> dict[str, str]:
    """Every query of the dashboard by panel and legend, with its variables filled in as Grafana does."""
    found = dashboard(helm)
    constants = {each["name"]: each["query"] for each in found["templating"]["list"] if each["type"] == "constant"}
    return {
        f"{panel['title']}: {target['legendFormat']}": re.sub(
            r"\$(\w+)", lambda name: str(constants[name[1]]), target["expr"]
        )
        for panel in found["panels"]
        for target in panel["targets"]
    }


@pytest.fixture
def promtool(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs promtool on YAML files; the last one is the file that is checked or tested."""

    def run(*arguments: str, **files: Any) -> subprocess.CompletedProcess[str]:
        for name, content in files.items():
            (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False, width=10**6))
        command = [binary("promtool"), *arguments, *(f"{name}.yaml" for name in list(files)[-1:])]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)

    return run


@pytest.fixture
def exported(tmp_path: Path) -> Iterator[dict[str, list[dict[str, str]]]]:
    """Labels of each series by the metric's name, as a broker at work exports them."""
    bed = Bed(tmp_path)
    try:
        config = tmp_path / "config"
        config.mkdir()
        (config / "maxWorkers").write_text("10\n")
        bed.restart_broker(FUTURE_KUBERNETES_RELEASE="r", FUTURE_KUBERNETES_CONFIG=str(config), HOME=str(tmp_path))
        bed.worker("w1")
        with bed.plan() as plan:
            plan.submit("sleep 600")
            wait_for(lambda: "worker_memory_bytes w1" in values(bed))
            found = families(bed)
        samples: dict[str, list[dict[str, str]]] = {}
        for sample in (sample for family in found for sample in family.samples):
            samples.setdefault(sample.name, []).append(dict(sample.labels))
        # Only a container has a limit, and this worker is none.
        limit = "future_kubernetes_worker_memory_limit_bytes"
        assert limit in {family.name for family in found}
        samples.setdefault(limit, [{"worker": "w1"}])
        yield samples
    finally:
        bed.stop()


def test_nothing_for_prometheus_is_there_unless_it_is_asked_for(helm: Helm, case: dict[str, Any]) -> None:
    assert KINDS & set(helm.objects(case)) == (KINDS if case.get("monitoring") else set())


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


def test_a_cluster_without_the_operator_is_refused_before_anything_is_created(
    helm: Helm, cluster: ClusterStandIn
) -> None:
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


# Alerts.


def test_promtool_takes_every_alert(helm: Helm, promtool: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = promtool("check", "rules", rules={"groups": helm.objects(CASE)["PrometheusRule", NAME]["spec"]["groups"]})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS: 6 rules found" in done.stdout
    wrong = {"groups": [{"name": "x", "rules": [{"alert": "X", "expr": "sum(future_kubernetes_workers"}]}]}
    assert promtool("check", "rules", rules=wrong).returncode != 0, "the check can fail"


def test_each_alert_has_a_severity_words_and_a_section_of_the_runbook(helm: Helm) -> None:
    for rule in rules(helm):
        assert rule["alert"].startswith("FutureKubernetes")
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert set(rule["annotations"]) == {"summary", "description", "runbook"}
        page, _, section = rule["annotations"]["runbook"].partition("#")
        assert section in anchors(CHART.parent / page), rule["alert"]


def test_the_budget_has_an_alert_only_where_it_is_given(helm: Helm) -> None:
    def names(hours: int) -> list[str]:
        return [rule["alert"] for rule in rules(helm, merged(CASE, {"monitoring": {"workerHoursPerDay": hours}}))]

    assert set(names(1)) - set(names(0)) == {"FutureKubernetesWorkerHoursOverBudget"}


def series(name: str, values_: str, **labels: str) -> dict[str, str]:
    """A series of the release, in promtool's notation."""
    text = ",".join([OF, 'pod="scheduler"', *(f'{key}="{value}"' for key, value in labels.items())])
    return {"series": f"{name}{{{text}}}", "values": values_}


def metric(name: str, values_: str, **labels: str) -> dict[str, str]:
    """A series of one of the broker's metrics."""
    return series(f"future_kubernetes_{name}", values_, **labels)


FIRES = {
    "FutureKubernetesBrokerDown": (
        [series("up", "1x5 0x10")],
        "13m",
        {},
        "The scheduler of lab-future-kubernetes does not answer.",
        "Prometheus has not reached the broker for 5 minutes. R sessions may be lost, and no future is started. "
        "If the pod is ready, a network policy keeps Prometheus away.",
    ),
    "FutureKubernetesWorkersMissing": (
        [
            metric("workers_wanted", "0 10x40"),
            metric("workers", "0 2x40", state="idle"),
            metric("workers", "0 1x40", state="busy"),
            metric("workers_joined_total", "0 3x40"),
        ],
        "25m",
        {},
        "Workers of lab-future-kubernetes are wanted, and none came for 15 minutes.",
        "Sessions want 10 workers. Quota, image or machines may be the reason.",
    ),
    "FutureKubernetesWorkersOutOfMemory": (
        [
            metric("worker_losses_total", "0x10 1x10 2x10 3x20", cause="memory"),
            metric("worker_losses_total", "0x50", cause="crash"),
        ],
        "45m",
        {},
        "Workers of lab-future-kubernetes run out of memory again and again.",
        "3 workers were lost at their memory limit within an hour. Their futures run again and fail again.",
    ),
    "FutureKubernetesVolumeNearlyFull": (
        [
            metric("volume_size_bytes", "100x30", volume="home"),
            metric("volume_free_bytes", "9x30", volume="home"),
            metric("volume_size_bytes", "100x30", volume="shared"),
            metric("volume_free_bytes", "90x30", volume="shared"),
        ],
        "20m",
        {"volume": "home"},
        "The home volume of lab-future-kubernetes is nearly full.",
        "91% of it are used. On a full home volume sessions cannot be saved.",
    ),
    "FutureKubernetesBrokerRestarts": (
        [metric("start_time_seconds", "1000x10 2000x10 3000x10")],
        "30m",
        {},
        "The broker of lab-future-kubernetes was restarted again and again.",
        "2 restarts within an hour. R sessions are lost if the whole container was restarted, most often since it ran "
        "out of memory.",
    ),
    "FutureKubernetesWorkerHoursOverBudget": (
        [metric("worker_seconds_total", "0+600x1500")],
        "1d",
        {},
        "Workers of lab-future-kubernetes passed the budget of 200 hours a day.",
        "Workers were connected for 240 hours in the last 24 hours.",
    ),
}
"""For each alert: series with its symptom, when it fires, its further labels, its summary and its description."""

QUIET = {
    "FutureKubernetesBrokerDown": ([series("up", "1x5 0x3 1x20")], "10m"),
    # Workers are still missing, and one joins every four minutes.
    "FutureKubernetesWorkersMissing": (
        [
            metric("workers_wanted", "10x60"),
            metric("workers", "0x3 1x3 2x3 3x3 4x3 5x3 6x3 7x3", state="idle"),
            metric("workers_joined_total", "0x3 1x3 2x3 3x3 4x3 5x3 6x3 7x3"),
        ],
        "25m",
    ),
    "FutureKubernetesWorkersOutOfMemory": (
        [
            metric("worker_losses_total", "0x10 1x10 2x30", cause="memory"),
            metric("worker_losses_total", "0+1x60", cause="deletion"),
        ],
        "45m",
    ),
    "FutureKubernetesVolumeNearlyFull": (
        [metric("volume_size_bytes", "100x30", volume="home"), metric("volume_free_bytes", "11x30", volume="home")],
        "20m",
    ),
    "FutureKubernetesBrokerRestarts": ([metric("start_time_seconds", "1000x10 2000x30")], "30m"),
    "FutureKubernetesWorkerHoursOverBudget": ([metric("worker_seconds_total", "0+400x1500")], "1d"),
}
"""Much the same without a reason for the alert."""


def alert_case(alert: str, given: list[dict[str, str]], at: str, expected: list[Any]) -> dict[str, Any]:
    """promtool's file for one alert."""
    case = {
        "interval": "1m",
        "input_series": given,
        "alert_rule_test": [{"eval_time": at, "alertname": alert, "exp_alerts": expected}],
    }
    return {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": [case]}


def test_every_alert_is_tried(helm: Helm) -> None:
    assert set(FIRES) == set(QUIET) == {rule["alert"] for rule in rules(helm)}


@pytest.mark.parametrize("alert", FIRES)
def test_an_alert_fires_on_its_symptom_only(
    helm: Helm, promtool: Callable[..., subprocess.CompletedProcess[str]], alert: str
) -> None:
    groups = {"groups": [{"name": NAME, "rules": rules(helm)}]}
    given, at, labels, summary, description = FIRES[alert]
    (rule,) = [rule for rule in rules(helm) if rule["alert"] == alert]
    fired = {
        "exp_labels": {**rule["labels"], "namespace": "team", "job": JOB, **labels},
        "exp_annotations": {**rule["annotations"], "summary": summary, "description": description},
    }
    done = promtool("test", "rules", rules=groups, tests=alert_case(alert, given, at, [fired]))
    assert done.returncode == 0, done.stdout + done.stderr
    done = promtool("test", "rules", rules=groups, tests=alert_case(alert, *QUIET[alert], []))
    assert done.returncode == 0, done.stdout + done.stderr


# Dashboard.


def test_the_dashboard_is_generated_from_its_source() -> None:
    assert generate_dashboard.FILE.read_text() == generate_dashboard.text(), "run: make generate"


def test_two_releases_have_two_dashboards(helm: Helm) -> None:
    found = dashboard(helm)
    assert re.fullmatch(r"[0-9a-f]{16}", found["uid"]), "Grafana takes at most 40 characters"
    assert found["title"] == f"R workers: team/{NAME}"
    assert "__" not in json.dumps(found)
    (other,) = helm.objects(merged(CASE, {"fullnameOverride": "r"}))["ConfigMap", "r-dashboard"]["data"].values()
    assert json.loads(other)["uid"] != found["uid"]


def test_the_panels_of_the_dashboard_lie_beside_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in generate_dashboard.dashboard()["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < generate_dashboard.COLUMNS
        taken |= cells


def asked(query: str) -> list[tuple[str, set[str]]]:
    """The metrics of a query, each with the labels that are asked of it; ``by`` counts for all of them."""
    grouped = {label.strip() for found in re.findall(r"by \(([^)]*)\)", query) for label in found.split(",")}
    return [
        (name, grouped | set(re.findall(r'(\w+)="', matchers or "")))
        for name, matchers in re.findall(r"\b(future_kubernetes_\w+|up)\b(?:\{([^}]*)\})?", query)
    ]


def test_every_query_and_alert_names_metrics_and_labels_that_the_broker_exports(
    helm: Helm, exported: dict[str, list[dict[str, str]]]
) -> None:
    expressions = {**queries(helm), **{rule["alert"]: rule["expr"] for rule in rules(helm)}}
    used = set()
    for title, query in expressions.items():
        assert asked(query), title
        for name, labels in asked(query):
            used.add(name)
            assert {"namespace", "job"} <= labels, f"{title}: series of other releases would count"
            own = TARGET if name == "up" else TARGET | {label for found in exported[name] for label in found}
            assert labels <= own, title
    assert len(used) > 12


def test_promtool_finds_the_metrics_in_order(tmp_path: Path) -> None:
    """Names, units and types as Prometheus' own guide asks for them."""
    bed = Bed(tmp_path)
    try:
        text = get(bed, "/metrics").partition("\r\n\r\n")[2]
    finally:
        bed.stop()

    def check(metrics: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [binary("promtool"), "check", "metrics"], input=metrics, capture_output=True, text=True, check=False
        )

    done = check(text)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert check(text.replace("# HELP future_kubernetes_workers ", "# ")).returncode != 0, "the check can fail"


def test_every_query_of_the_dashboard_has_an_answer(
    helm: Helm,
    promtool: Callable[..., subprocess.CompletedProcess[str]],
    exported: dict[str, list[dict[str, str]]],
) -> None:
    given = [series(name, "1x2000", **labels) for name, found in exported.items() for labels in found]

    def counted(query: str) -> dict[str, Any]:
        return {"expr": f"count({query}) > bool 0", "eval_time": "1d", "exp_samples": [{"labels": "{}", "value": 1}]}

    def file(checks: list[dict[str, Any]]) -> dict[str, Any]:
        return {"tests": [{"interval": "1m", "input_series": given, "promql_expr_test": checks}]}

    done = promtool("test", "rules", tests=file([counted(query) for query in queries(helm).values()]))
    assert done.returncode == 0, done.stdout + done.stderr
    nothing = counted('sum(future_kubernetes_workers{state="nonsense"})')
    assert promtool("test", "rules", tests=file([nothing])).returncode != 0, "the check can fail"


def test_the_readme_lists_every_alert(helm: Helm) -> None:
    table = re.findall(r"^\| `(FutureKubernetes\w+)` \|", (CHART / "README.md").read_text(), re.MULTILINE)
    assert table == [rule["alert"] for rule in rules(helm)]
