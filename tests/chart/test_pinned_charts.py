"""The charts of others that a cluster on a cloud gets, at their pinned versions, rendered with the program's values.

Helm downloads each chart once. Without a way to its repository the tests are skipped.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.paths import cache_dir
from common.patience import patience
from tests.chart.conftest import KUBERNETES, LOADER, binary
from tests.chart.test_validation import invalid
from tests.unit import aws_cloud, google_cloud
from tests.unit.cloud_mocks import Recorded, Recording
from tests.unit.conftest import docker_that_builds, event_loop_of_its_own, google_answers

__all__ = ["docker_that_builds", "event_loop_of_its_own", "google_answers"]

Objects = dict[tuple[str, str], dict[str, Any]]

PUBLIC = {"host": "r.example.org", "maxWorkers": 40}
STACKS: dict[str, tuple[Callable[..., Recording], dict[str, Any]]] = {
    "gke": (google_cloud.gke, PUBLIC),
    "gke, closed": (google_cloud.gke, {**PUBLIC, "hostNetworks": "203.0.113.0/24", "acmeEmail": "a@example.org"}),
    "eks": (aws_cloud.eks, PUBLIC),
    "eks, fallback": (aws_cloud.eks, {**PUBLIC, "spot": "fallback", "hostNetworks": "203.0.113.0/24"}),
}
CHARTS = [(stack, "traefik") for stack in STACKS] + [
    ("eks", "cluster-autoscaler"),
    ("eks, fallback", "cluster-autoscaler"),
]


@functools.cache
def downloaded(name: str, version: str, repository: str) -> Path | str:
    """The chart's archive, which one run of the tests downloads for all later ones; or why there is none."""
    file = cache_dir() / "charts" / f"{name}-{version}.tgz"
    if file.exists():
        return file
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        command = [
            binary("helm"), "pull", name, "--repo", repository, "--version", version, "--destination", folder,
        ]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=patience(30), check=False)
        except subprocess.TimeoutExpired:
            return f"no answer within {patience(30):.0f} s"
        if done.returncode != 0:
            return done.stderr.strip()[:200]
        shutil.move(Path(folder) / file.name, file)
    return file


@pytest.fixture
def release(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Recorded:
    """The release of a chart in a stack. The clouds' plugins need not be installed."""
    stack, chart = request.param
    run, config = STACKS[stack]
    with monkeypatch.context() as machine:
        machine.setattr(shutil, "which", lambda name: f"/nowhere/bin/{name}")
        [found] = [made for made in run(config).all("helm.sh/v3:Release") if made.inputs["chart"] == chart]
    return found


def archive(release: Recorded) -> Path:
    """The archive of the release's chart."""
    chart = release.inputs
    found = downloaded(chart["chart"], chart["version"], chart["repositoryOpts"]["repo"])
    if isinstance(found, str):
        pytest.skip(f"chart {chart['chart']} {chart['version']} cannot be downloaded: {found}")
    return found


def rendered(release: Recorded, folder: Path) -> Objects:
    """The objects that Helm makes of the release, which the chart's own schema accepts."""
    given = release.inputs
    values = folder / "values.yaml"
    values.write_text(yaml.safe_dump(given["values"]))
    command = [binary("helm"), "template", given["name"], str(archive(release)), "--values", str(values)]
    command += ["--kube-version", KUBERNETES, "--namespace", "of-the-release"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=patience(60), check=False)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr.lower(), done.stderr
    documents = [document for document in yaml.load_all(done.stdout, LOADER) if document]
    return {(document["kind"], document["metadata"]["name"]): document for document in documents}


def unknown_values(given: Mapping[str, Any], known: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Paths of values that the chart does not have. A default that is empty may hold any key, and so may arguments."""
    for key, value in given.items():
        if key not in known:
            yield f"{path}{key}"
        elif isinstance(value, Mapping) and isinstance(known[key], Mapping) and known[key] and key != "extraArgs":
            yield from unknown_values(value, known[key], f"{path}{key}.")


@pytest.mark.parametrize("release", CHARTS, indirect=True, ids=lambda pair: "-".join(pair))
def test_pinned_chart_makes_valid_objects_of_the_programs_values(release: Recorded, tmp_path: Path) -> None:
    made = rendered(release, tmp_path)
    assert {kind for kind, _ in made} >= {"Deployment", "Service", "ServiceAccount"}
    assert [(key, reason) for key, found in made.items() if (reason := invalid(found, "1.36"))] == []


@pytest.mark.parametrize("release", CHARTS[-2:], indirect=True, ids=lambda pair: pair[0])
def test_chart_without_a_schema_has_every_value_of_the_program(release: Recorded) -> None:
    command = [binary("helm"), "show", "values", str(archive(release))]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=patience(60), check=True).stdout
    known = yaml.load(shown, LOADER)
    assert list(unknown_values({"no-such-value": 1}, known)) == ["no-such-value"]
    assert list(unknown_values(release.inputs["values"], known)) == []


@pytest.mark.parametrize("release", CHARTS[:1], indirect=True, ids=lambda pair: pair[0])
def test_ingress_chart_refuses_unknown_values_by_its_schema(release: Recorded, tmp_path: Path) -> None:
    release.sent["values"]["no-such-value"] = 1
    try:
        with pytest.raises(AssertionError, match="no-such-value"):
            rendered(release, tmp_path)
    finally:
        del release.sent["values"]["no-such-value"]


@pytest.mark.parametrize("release", [("eks, fallback", "cluster-autoscaler")], indirect=True)
def test_autoscaler_gets_cluster_groups_and_priorities(release: Recorded, tmp_path: Path) -> None:
    made = rendered(release, tmp_path)
    [deployment] = [found for (kind, _), found in made.items() if kind == "Deployment"]
    pod = deployment["spec"]["template"]["spec"]
    [container] = pod["containers"]
    command = " ".join(container["command"])
    cluster = release.inputs["values"]["autoDiscovery"]["clusterName"]
    for argument in (
        "--cloud-provider=aws",
        f"k8s.io/cluster-autoscaler/{cluster}",
        "--expander=priority,least-waste",
        "--scale-down-unneeded-time=5m",
    ):
        assert argument in command
    assert container["image"].endswith(":" + release.inputs["values"]["image"]["tag"])
    assert pod["nodeSelector"] == {"future-kubernetes/role": "system"}
    assert pod["serviceAccountName"] == "cluster-autoscaler"
    [priorities] = [found for (_, name), found in made.items() if name == "cluster-autoscaler-priority-expander"]
    assert yaml.safe_load(priorities["data"]["priorities"]) == {10: [".*"], 20: ["^eks-future-team-workers$"]}


@pytest.mark.parametrize("release", [("gke, closed", "traefik")], indirect=True)
def test_ingress_serves_https_only_on_the_system_node(release: Recorded, tmp_path: Path) -> None:
    made = rendered(release, tmp_path)
    [service] = [found for (kind, _), found in made.items() if kind == "Service"]
    assert service["spec"]["type"] == "LoadBalancer"
    assert service["spec"]["externalTrafficPolicy"] == "Local"
    assert [port["port"] for port in service["spec"]["ports"]] == [443]
    [deployment] = [found for (kind, _), found in made.items() if kind == "Deployment"]
    pod = deployment["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"future-kubernetes/role": "system"}
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}
    arguments = pod["containers"][0]["args"]
    assert any("acme.email=a@example.org" in argument for argument in arguments)
