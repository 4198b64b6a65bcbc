"""Both mocked clouds behind one description, for promises that hold on either."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.unit import aws_cloud, google_cloud
from tests.unit.cloud_mocks import (
    DRAWN,
    Recorded,
    Recording,
)

_MOST: dict[str, Any] = {
    "workers": 8,
    "maxWorkers": 40,
    "spot": "fallback",
    "host": "r.example.org",
    "keepHome": True,
    "monthlyBudget": 500,
    "budgetEmail": "team@example.org",
}
MOST: dict[str, dict[str, Any]] = {
    "gke": {**_MOST, "sharedGiB": 1024, "buckets": "gs://team-data"},
    "eks": {**_MOST, "sharedGiB": 10, "buckets": "s3://team-data"},
}
"""Settings of a stack with most kinds of resources, by cloud."""


@dataclass(frozen=True, eq=False)
class Cloud:
    """A mocked cloud and the names of its resources. shared_gib: the smallest `sharedGiB` that it accepts."""

    name: str
    run: Callable[..., Recording]
    team: Callable[..., Recording]
    """The example stack."""
    sdk: str
    cluster: str
    pool: str
    network: str
    repository: str
    address: str
    drawn_name: str
    identifier: str
    plugin: list[str]
    shared_gib: int

    @property
    def everything(self) -> Recording:
        """A stack with every optional resource."""
        return self.run({"host": "r.example.org", "sharedGiB": self.shared_gib, "maxWorkers": 40})


GKE = Cloud(
    name="gke",
    run=google_cloud.gke,
    team=google_cloud.team,
    sdk="pulumi_gcp",
    cluster="container/cluster:Cluster",
    pool="nodePool:NodePool",
    network="network:Network",
    repository="us-west1-docker.pkg.dev/my-project/future-team-0a1b2c3/future-kubernetes",
    address="compute/address:Address",
    drawn_name="name",
    identifier="projects/my-project/locations/us-west1/clusters/",
    plugin=["gke-gcloud-auth-plugin"],
    shared_gib=1024,
)


EKS = Cloud(
    name="eks",
    run=aws_cloud.eks,
    team=aws_cloud.team,
    sdk="pulumi_aws",
    cluster="eks/cluster:Cluster",
    pool="nodeGroup:NodeGroup",
    network="ec2/vpc:Vpc",
    repository=f"123456789012.dkr.ecr.us-west-2.amazonaws.com/future-team-images-{DRAWN}",
    address="ec2/eip:Eip",
    drawn_name="nodeGroupName",
    identifier="arn:aws:eks:us-west-2:123456789012:",
    plugin=["aws", "eks", "get-token"],
    shared_gib=10,
)


@pytest.fixture(params=[GKE, EKS], ids=lambda cloud: cloud.name)
def cloud(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    monkeypatch.setattr(shutil, "which", lambda name: f"/nowhere/bin/{name}")
    found: Cloud = request.param
    return found


def own_release(done: Recording) -> Recorded:
    """The release of the project's own chart."""
    return next(entry for entry in done.all("v3:Release") if entry.inputs["chart"] == "./chart")
