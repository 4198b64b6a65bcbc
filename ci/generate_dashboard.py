"""Generates chart/dashboard.json, the Grafana dashboard of a release.

    python -m ci.generate_dashboard

`make generate` runs it; a test compares the file with this source. The chart replaces the words in capitals.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from common.paths import REPO

FILE = REPO / "chart" / "dashboard.json"
OF = '{namespace="$namespace",job="$job"}'
COLUMNS = 24
"""Width of Grafana's grid."""

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True)
class Panel:
    """A panel of the dashboard. queries: PromQL by the legend. description: shown behind the panel's title.

    kind: `stat` for one number, `timeseries` for lines. unit: of Grafana's list. stacked: lines add up.
    """

    title: str
    description: str
    queries: dict[str, str]
    unit: str = "short"
    kind: str = "timeseries"
    stacked: bool = False
    maximum: float | None = None


def total(metric: str, by: str = "") -> str:
    """A metric of the release, summed over pods: a restarted scheduler is another pod."""
    return f"sum{f' by ({by}) ' if by else ''}(future_kubernetes_{metric}{OF})"


def rise(metric: str, window: str, by: str = "") -> str:
    """The increase of a counter within a window, summed in the same way."""
    return f"sum{f' by ({by}) ' if by else ''}(increase(future_kubernetes_{metric}{OF}[{window}]))"


USED = (
    f"1 - sum by (volume) (future_kubernetes_volume_free_bytes{OF})"
    f" / sum by (volume) (future_kubernetes_volume_size_bytes{OF})"
)
SHARE_OF_MEMORY = (
    f"max by (worker) (future_kubernetes_worker_memory_bytes{OF})"
    f" / max by (worker) (future_kubernetes_worker_memory_limit_bytes{OF})"
)

STATS = (
    Panel("Workers", "Connected now.", {"workers": total("workers")}, kind="stat"),
    Panel("Wanted", "Workers that sessions use or wait for.", {"wanted": total("workers_wanted")}, kind="stat"),
    Panel("Futures that wait", "For a worker.", {"futures": total("tasks_queued")}, kind="stat"),
    Panel(
        "Longest wait",
        "Time since a plan whose futures wait was given a worker.",
        {"wait": total("waiting_seconds")},
        unit="s",
        kind="stat",
    ),
    Panel("R sessions", "With a plan or a worker.", {"sessions": total("sessions")}, kind="stat"),
    Panel(
        "Worker hours, 24 hours",
        "Time for which workers were connected, which is what their machines cost.",
        {"hours": f"{rise('worker_seconds_total', '1d')} / 3600"},
        kind="stat",
    ),
)

CHARTS = (
    Panel(
        "Workers by state",
        "Wanted and not connected: Kubernetes starts them, or quota, image or machines are missing.",
        {
            "{{state}}": total("workers", "state"),
            "wanted": total("workers_wanted"),
            "maximum": total("workers_maximum"),
        },
    ),
    Panel(
        "Futures",
        "Running futures, and futures that wait for a worker.",
        {"running": total("tasks_running"), "waiting": total("tasks_queued")},
        stacked=True,
    ),
    Panel(
        "Futures by outcome",
        "In 5 minutes. A repeated future ran again since its worker was lost.",
        {"{{outcome}}": rise("tasks_total", "5m", "outcome")},
    ),
    Panel(
        "Lost workers by cause",
        "In an hour. memory: a worker reached its memory limit.",
        {"{{cause}}": rise("worker_losses_total", "1h", "cause")},
        stacked=True,
    ),
    Panel(
        "Memory of busy workers",
        "Share of the limit; the ten highest.",
        {"{{worker}}": f"topk(10, {SHARE_OF_MEMORY})"},
        unit="percentunit",
        maximum=1,
    ),
    Panel("CPUs of busy workers", "All workers together.", {"CPUs": total("worker_cpus")}),
    Panel(
        "Volumes",
        "Used share of the home volume and of /shared.",
        {"{{volume}}": USED},
        unit="percentunit",
        maximum=1,
    ),
    Panel(
        "Worker hours within a day",
        "The alert on the budget compares this with monitoring.workerHoursPerDay.",
        {"hours": f"{rise('worker_seconds_total', '1d')} / 3600"},
    ),
)


def panel(number: int, each: Panel, place: dict[str, int]) -> dict[str, Any]:
    """A panel as Grafana reads it."""
    defaults: dict[str, Any] = {"unit": each.unit, "min": 0}
    if each.maximum is not None:
        defaults["max"] = each.maximum
    if each.stacked:
        defaults["custom"] = {"stacking": {"mode": "normal"}, "fillOpacity": 20}
    return {
        "id": number,
        "type": each.kind,
        "title": each.title,
        "description": each.description,
        "datasource": DATASOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + index), "expr": query, "legendFormat": legend}
            for index, (legend, query) in enumerate(each.queries.items())
        ],
    }


def constant(name: str, value: str) -> dict[str, Any]:
    """A variable of the dashboard that its reader cannot change."""
    return {"name": name, "type": "constant", "query": value, "hide": 2}


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana imports it."""
    width = COLUMNS // len(STATS)
    placed = [(each, {"x": width * index, "y": 0, "w": width, "h": 4}) for index, each in enumerate(STATS)]
    placed += [
        (each, {"x": COLUMNS // 2 * (index % 2), "y": 4 + 8 * (index // 2), "w": COLUMNS // 2, "h": 8})
        for index, each in enumerate(CHARTS)
    ]
    return {
        "uid": "__UID__",
        "title": "R workers: __NAMESPACE__/__NAME__",
        "tags": ["future-kubernetes"],
        "schemaVersion": 39,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"},
                constant("namespace", "__NAMESPACE__"),
                constant("job", "__JOB__"),
            ]
        },
        "panels": [panel(number, each, place) for number, (each, place) in enumerate(placed, 1)],
    }


def text() -> str:
    """The file's content."""
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
    print(f"wrote {FILE.relative_to(REPO)}")
