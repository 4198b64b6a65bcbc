"""Alerts: promtool runs each on its symptom, and on much the same without a reason."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from tests.chart.conftest import CHART, Helm, merged
from tests.chart.monitoring import CASE, JOB, NAME, promtool, rules, series
from tests.unit.test_pages import anchors

__all__ = ["promtool"]


def test_promtool_takes_every_alert(helm: Helm, promtool: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = promtool("check", "rules", rules={"groups": helm.objects(CASE)["PrometheusRule", NAME]["spec"]["groups"]})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS: 6 rules found" in done.stdout
    wrong = {"groups": [{"name": "x", "rules": [{"alert": "X", "expr": "sum(future_kubernetes_workers"}]}]}
    assert promtool("check", "rules", rules=wrong).returncode != 0, "the check can fail"


def test_each_alert_has_severity_text_and_a_runbook_section(helm: Helm) -> None:
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


def test_the_readme_lists_every_alert(helm: Helm) -> None:
    table = re.findall(r"^\| `(FutureKubernetes\w+)` \|", (CHART / "README.md").read_text(), re.MULTILINE)
    assert table == [rule["alert"] for rule in rules(helm)]
