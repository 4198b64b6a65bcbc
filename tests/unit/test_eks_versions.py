"""EKS under mocks: Kubernetes versions, machine images, and what moves with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tests.unit.aws_cloud import eks, refuse, refused
from tests.unit.cloud_mocks import unchecked

pytestmark = pytest.mark.usefixtures("installed_tools")


def running(*versions: str) -> dict[str, Any]:
    """AWS's answers about clusters of this stack, one of each version, and about one that is deleted."""
    clusters = {f"future-team-{index}": version for index, version in enumerate(versions)}
    arn = "arn:aws:eks:us-west-2:123456789012:cluster/"

    def cluster(args: Mapping[str, Any]) -> dict[str, Any]:
        if args["name"] not in clusters:
            raise PermissionError("ResourceNotFoundException: No cluster found for name")
        return {"id": args["name"], "name": args["name"], "version": clusters[args["name"]]}

    return {
        "aws:resourcegroupstaggingapi/getResources:getResources": lambda args: {
            "id": "r",
            "resourceTagMappingLists": [{"resourceArn": arn + name} for name in (*clusters, "future-team-deleted")]
            if args["resourceTypeFilters"] == ["eks:cluster"]
            else [],
        },
        "aws:eks/getCluster:getCluster": cluster,
    }


def test_nodes_addons_and_autoscaler_follow_the_clusters_version() -> None:
    done = eks({"kubernetesVersion": "1.34", "maxWorkers": 40})
    assert done.one("eks/cluster:Cluster").inputs["version"] == "1.34"
    assert [group.inputs["version"] for group in done.all("nodeGroup:NodeGroup")] == ["1.34", "1.34"]
    assert {addon.inputs["addonVersion"] for addon in done.all("eks/addon:Addon")} == {"v1.2.3-for-1.34"}
    assert done.one("v3:Release", "autoscaler").inputs["values"]["image"] == {"tag": "v1.34.0"}


def test_unset_version_is_that_of_the_cluster() -> None:
    done = eks({"maxWorkers": 40})
    assert "version" not in done.one("eks/cluster:Cluster").inputs, "a default of ours would upgrade running clusters"
    assert [group.inputs["version"] for group in done.all("nodeGroup:NodeGroup")] == ["1.35", "1.35"]
    assert done.one("v3:Release", "autoscaler").inputs["values"]["image"] == {"tag": "v1.35.0"}


def test_node_release_is_kept_pinned_or_the_newest() -> None:
    def releases(config: dict[str, Any]) -> list[str | None]:
        return [group.inputs.get("releaseVersion") for group in eks(config).all("nodeGroup:NodeGroup")]

    assert releases({}) == [None, None], "a change of the number of workers would replace the scheduler's node"
    assert releases({"nodeRelease": "1.35.1-20260501"}) == ["1.35.1-20260501"] * 2
    assert releases({"nodeRelease": "latest"}) == ["1.35.2-20260601"] * 2
    newest = eks({"nodeRelease": "latest", "kubernetesVersion": "1.34"})
    assert {group.inputs["releaseVersion"] for group in newest.all("nodeGroup:NodeGroup")} == {"1.34.2-20260601"}
    (asked,) = {args["name"] for token, args, _ in newest.asked if token.startswith("aws:ssm/")}
    assert asked == (
        "/aws/service/eks/optimized-ami/1.34/amazon-linux-2023/x86_64/standard/recommended/release_version"
    )
    assert not newest.one("nodeGroup:NodeGroup", "system").secrets, "the release would be hidden in previews"


@pytest.mark.parametrize(
    ("config", "live", "said"),
    [
        ({"kubernetesVersion": "1.21"}, (), "a version in standard support: 1.33, 1.34, 1.35, 1.36"),
        ({"kubernetesVersion": "1.21"}, (), "pulumi config set kubernetesVersion 1.36"),
        ({"kubernetesVersion": "1.37"}, ("1.36",), "a version in standard support: 1.33, 1.34, 1.35, 1.36"),
        ({"kubernetesVersion": "1.34"}, ("1.35",), "EKS cannot go back"),
        ({"kubernetesVersion": "1.34"}, ("1.35",), "pulumi config set kubernetesVersion 1.35"),
        ({"kubernetesVersion": "1.36"}, ("1.34",), "by one minor version at a time"),
        ({"kubernetesVersion": "1.36"}, ("1.34",), "pulumi config set kubernetesVersion 1.35"),
        ({"kubernetesVersion": "1.3"}, (), "a minor version of Kubernetes in quotes"),
        ({"kubernetesVersion": "v1.35"}, (), "a minor version of Kubernetes in quotes"),
        ({"nodeRelease": "newest"}, (), "or latest"),
        (
            {"kubernetesVersion": "1.35", "nodeRelease": "1.34.1-20260501"},
            (),
            "a release for kubernetesVersion 1.35, or latest",
        ),
    ],
)
def test_versions_that_eks_would_refuse_are_refused_before_creation(
    config: dict[str, Any], live: tuple[str, ...], said: str
) -> None:
    assert said in refused(config, running(*live))


@pytest.mark.parametrize(
    ("wanted", "live"), [("1.35", ("1.35",)), ("1.35", ("1.34",)), ("1.30", ("1.30",)), ("1.34", ("1.35", "1.33"))]
)
def test_the_clusters_version_and_the_next_are_accepted(wanted: str, live: tuple[str, ...]) -> None:
    done = eks({"kubernetesVersion": wanted}, running(*live))
    assert done.one("eks/cluster:Cluster").inputs["version"] == wanted


def test_an_upgrade_says_what_restarts() -> None:
    def told(wanted: str) -> list[str]:
        return [text for _, text in eks({"kubernetesVersion": wanted}, running("1.34")).said if "becomes" in text]

    (upgrade,) = told("1.35")
    assert "1.34 becomes 1.35" in upgrade
    assert "ends running R sessions" in upgrade
    assert told("1.34") == []


def test_missing_permission_to_list_versions_stops_nothing() -> None:
    denied = {"aws:eks/getClusterVersions:getClusterVersions": refuse("AccessDenied")}
    done = eks({"kubernetesVersion": "1.35"}, denied)
    assert done.all("nodeGroup:NodeGroup")
    assert "whether EKS offers kubernetesVersion" in unchecked(done)


@pytest.mark.parametrize("lookup", ["resourcegroupstaggingapi/getResources:getResources", "eks/getCluster:getCluster"])
def test_a_hidden_live_version_is_said(lookup: str) -> None:
    done = eks({"kubernetesVersion": "1.35"}, {**running("1.33"), f"aws:{lookup}": refuse("AccessDenied")})
    assert "can be upgraded to kubernetesVersion" in unchecked(done)
    assert not unchecked(eks({"kubernetesVersion": "1.35"}, running("1.34")))


def test_two_clusters_of_one_stack_leave_the_upgrade_unchecked() -> None:
    assert "2 clusters have this stack's tag" in unchecked(eks({"kubernetesVersion": "1.34"}, running("1.35", "1.33")))


def test_upgrade_moves_the_control_plane_before_nodes_and_autoscaler() -> None:
    done = eks({"kubernetesVersion": "1.35", "maxWorkers": 40})
    cluster = done.one("eks/cluster:Cluster")
    for follower in (*done.all("eks/addon:Addon"), *done.all("nodeGroup:NodeGroup"), *done.all("v3:Release")):
        assert done.goes_before(follower, cluster), f"{follower.name} would be newer than the control plane"
