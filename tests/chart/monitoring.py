"""A release with monitoring: its alerts, series of its metrics, and promtool."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.patience import patience
from tests.chart.conftest import CASES, Helm, binary

CASE = CASES["monitoring"]
NAME = "lab-future-kubernetes"
JOB = f"{NAME}-broker"
OF = f'namespace="team",job="{JOB}"'


def rules(helm: Helm, case: Mapping[str, Any] = CASE) -> list[dict[str, Any]]:
    """The alerts of a release."""
    (group,) = helm.objects(case)["PrometheusRule", NAME]["spec"]["groups"]
    assert group["name"] == NAME
    return list(group["rules"])


@pytest.fixture
def promtool(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs promtool on YAML files; the last one is the file that is checked or tested."""

    def run(*arguments: str, **files: Any) -> subprocess.CompletedProcess[str]:
        for name, content in files.items():
            (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False, width=10**6))
        command = [binary("promtool"), *arguments, *(f"{name}.yaml" for name in list(files)[-1:])]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=patience(120), check=False)

    return run


def series(name: str, values_: str, **labels: str) -> dict[str, str]:
    """A series of the release, in promtool's notation."""
    text = ",".join([OF, 'pod="scheduler"', *(f'{key}="{value}"' for key, value in labels.items())])
    return {"series": f"{name}{{{text}}}", "values": values_}
