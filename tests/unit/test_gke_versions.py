"""GKE under mocks: Kubernetes versions, and what moves with them."""

from __future__ import annotations

import urllib.parse
from collections.abc import Mapping
from typing import Any

import pytest

from components.clouds.google import rest
from components.clouds.google.rest import RestError
from tests.unit.cloud_mocks import Recording, unchecked
from tests.unit.google_cloud import CLUSTERS_PATH, CONFIG_PATH, cluster, gke, kubernetes_engine, refused

pytestmark = pytest.mark.usefixtures("installed_tools")

OLD, LIVE = "1.34.8-gke.1000000", "1.35.2-gke.1842000"


def stack_with(monkeypatch: pytest.MonkeyPatch, wanted: str | None, *clusters: Mapping[str, Any]) -> Recording:
    """Runs a stack on a project that has these clusters."""
    monkeypatch.setattr(rest, "fetch", kubernetes_engine(*clusters))
    config = {"kubernetesVersion": wanted} if wanted else {}
    return gke({"maxWorkers": 40, "spot": "fallback", **config}, {"never-called": lambda _args: {}})


def node_versions(done: Recording) -> set[str | None]:
    found = done.all("nodePool:NodePool")
    assert len(found) == 3
    return {pool.inputs.get("version") for pool in found}


def told(done: Recording) -> list[str]:
    return [text for _, text in done.said if "becomes" in text or "cannot go back" in text]


def test_unset_version_is_left_to_google_and_asks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    known = kubernetes_engine()

    def fetch(url: str, project: str, token: str) -> dict[str, Any]:
        asked.append(url)
        return known(url, project, token)

    monkeypatch.setattr(rest, "fetch", fetch)
    done = gke({"maxWorkers": 40, "spot": "fallback"}, {"never-called": lambda _args: {}})
    assert "minMasterVersion" not in done.one("container/cluster:Cluster").inputs
    assert node_versions(done) == {None}
    assert not [url for url in asked if "//container." in url]


def test_new_cluster_starts_with_the_version_in_its_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    done = stack_with(monkeypatch, "1.34", cluster("1.36.0-gke.1", stack="another"))
    (inputs,) = (made.inputs for made in done.all("container/cluster:Cluster"))
    assert inputs["minMasterVersion"] == "1.34"
    assert inputs["releaseChannel"] == {"channel": "REGULAR"}
    assert node_versions(done) == {None}, "GKE starts nodes with the control plane's version"
    assert told(done) == []


def test_upgrade_brings_every_pool_to_the_control_planes_new_version(monkeypatch: pytest.MonkeyPatch) -> None:
    done = stack_with(monkeypatch, "1.35", cluster(OLD))
    made = done.one("container/cluster:Cluster")
    assert made.inputs["minMasterVersion"] == "1.35"
    assert node_versions(done) == {"1.35.2-gke.1842000"}
    for pool in done.all("nodePool:NodePool"):
        assert done.goes_before(pool, made), f"{pool.name} would be newer than the control plane"
    (text,) = told(done)
    assert f"{OLD} (nodes: {OLD}) becomes 1.35" in text
    assert "ends running R sessions" in text


@pytest.mark.parametrize("pools", [(LIVE,), (LIVE, "1.35.5-gke.1163012")])
def test_nodes_of_the_wanted_version_are_left_to_gke(monkeypatch: pytest.MonkeyPatch, pools: tuple[str, ...]) -> None:
    done = stack_with(monkeypatch, "1.35", cluster(LIVE, *pools))
    assert node_versions(done) == {None}, "a fixed version would undo GKE's own upgrades"
    assert told(done) == []


def test_interrupted_upgrade_is_finished_by_the_next_update(monkeypatch: pytest.MonkeyPatch) -> None:
    done = stack_with(monkeypatch, "1.35", cluster(LIVE, LIVE, OLD))
    assert node_versions(done) == {"1.35.2-gke.1842000"}
    assert f"nodes: {OLD}" in told(done)[0]


def test_version_that_google_passed_stops_no_update(monkeypatch: pytest.MonkeyPatch) -> None:
    done = stack_with(monkeypatch, "1.30", cluster(LIVE))
    assert node_versions(done) == {None}
    assert "kubernetesVersion is 1.30, and the cluster has 1.35.2-gke.1842000" in told(done)[0]


@pytest.mark.parametrize(
    ("wanted", "clusters", "said"),
    [
        ("1.21", (), "a version of release channel REGULAR: 1.34, 1.35, 1.36"),
        ("1.37", (), "pulumi config set kubernetesVersion 1.36"),
        ("1.37", (cluster("1.36.0-gke.1"),), "a version of release channel REGULAR"),
        ("1.36", (cluster(OLD),), "by one minor version at a time"),
        ("1.36", (cluster(OLD),), "pulumi config set kubernetesVersion 1.35"),
        ("1.36", (cluster(OLD), cluster(LIVE, status="STOPPING")), "by one minor version at a time"),
        ("1.3", (), "a minor version of Kubernetes in quotes"),
        ("v1.35", (), "a minor version of Kubernetes in quotes"),
        ("1.35.2-gke.1842000", (), "a minor version of Kubernetes in quotes"),
    ],
)
def test_versions_that_gke_refuses_are_refused_beforehand(
    monkeypatch: pytest.MonkeyPatch, wanted: str, clusters: tuple[dict[str, Any], ...], said: str
) -> None:
    monkeypatch.setattr(rest, "fetch", kubernetes_engine(*clusters))
    assert said in refused({"kubernetesVersion": wanted})


@pytest.mark.parametrize(
    ("hidden", "question"),
    [
        (CLUSTERS_PATH, "whether the cluster can be upgraded to kubernetesVersion"),
        (CONFIG_PATH, "whether GKE offers kubernetesVersion"),
    ],
)
def test_hidden_answer_is_said_and_stops_nothing(monkeypatch: pytest.MonkeyPatch, hidden: str, question: str) -> None:
    known = kubernetes_engine(cluster(OLD))

    def fetch(url: str, project: str, token: str) -> dict[str, Any]:
        if urllib.parse.urlsplit(url).path.endswith(hidden):
            raise RestError("403 container.clusters.list denied")
        return known(url, project, token)

    monkeypatch.setattr(rest, "fetch", fetch)
    done = gke({"kubernetesVersion": "1.35"}, {"never-called": lambda _args: {}})
    assert done.one("container/cluster:Cluster").inputs["minMasterVersion"] == "1.35"
    assert question in unchecked(done)
    assert "403 container.clusters.list denied" in unchecked(done)


def test_two_clusters_of_one_stack_leave_the_upgrade_unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    done = stack_with(monkeypatch, "1.35", cluster(OLD), cluster(LIVE))
    assert "2 clusters have this stack's label" in unchecked(done)
    assert node_versions(done) == {None}


@pytest.mark.parametrize(("zone", "location"), [(None, "us-west1"), ("us-west1-b", "us-west1-b")])
def test_versions_are_those_of_the_clusters_location(
    monkeypatch: pytest.MonkeyPatch, zone: str | None, location: str
) -> None:
    asked: dict[str, tuple[str, str]] = {}
    known = kubernetes_engine()

    def fetch(url: str, project: str, token: str) -> dict[str, Any]:
        # Compared below: the program takes an error here for a refusal of Google, and continues.
        asked[urllib.parse.urlsplit(url).path] = (project, token)
        return known(url, project, token)

    monkeypatch.setattr(rest, "fetch", fetch)
    gke({"kubernetesVersion": "1.35", **({"zone": zone} if zone else {})}, {"never-called": lambda _args: {}})
    of_clusters = {path: credentials for path, credentials in asked.items() if "/locations/" in path}
    assert f"/v1/projects/my-project/locations/{location}/serverConfig" in of_clusters
    assert len(of_clusters) == 2
    assert set(of_clusters.values()) == {("", "short-lived-token")}, "a project that pays takes a permission more"


def test_cluster_that_has_no_version_yet_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    starting = {
        name: value for name, value in cluster(LIVE, status="PROVISIONING").items() if name != "currentMasterVersion"
    }
    done = stack_with(monkeypatch, "1.35", starting, cluster(OLD))
    assert "clusters have this stack's label" not in unchecked(done)
    assert f"{OLD} (nodes: {OLD}) becomes 1.35" in told(done)[0]
