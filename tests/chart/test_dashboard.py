"""The dashboard: its source, its panels, and an answer to every query from what the broker exports."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ci import generate_dashboard
from tests.broker.conftest import Bed, wait_for
from tests.broker.metrics import families, get, values
from tests.chart.conftest import Helm, binary, merged
from tests.chart.monitoring import CASE, NAME, promtool, rules, series

__all__ = ["promtool"]

TARGET = {"namespace", "job", "pod", "instance", "service", "endpoint", "container"}
"""Labels that Prometheus gives to every series of a ServiceMonitor."""


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


def test_queries_and_alerts_use_metrics_that_the_broker_exports(
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
