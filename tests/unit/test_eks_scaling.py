"""EKS under mocks: sizes of the node groups, their live numbers, and the autoscaler."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import pytest

from tests.unit.aws_cloud import (
    eks,
    refuse,
    refused,
    team,
)

pytestmark = pytest.mark.usefixtures("installed_tools")


def test_fixed_group_has_the_needed_nodes_and_no_autoscaler() -> None:
    done = eks({"workers": 10})
    workers = done.one("nodeGroup:NodeGroup", "workers")
    assert workers.inputs["scalingConfig"] == {"desiredSize": 3, "minSize": 3, "maxSize": 3}
    assert workers.ignore_changes == []
    assert done.all("v3:Release", "autoscaler") == []
    assert done.all("iam/role:Role", "autoscaler") == []


def test_autoscaled_group_starts_at_zero_and_ranges_to_max_workers() -> None:
    """Otherwise EKS waits for the first nodes, and a zone without spot capacity fails the whole update."""
    done = eks({"workers": 10, "maxWorkers": 40})
    workers = done.one("nodeGroup:NodeGroup", "workers")
    assert workers.inputs["scalingConfig"] == {"desiredSize": 0, "minSize": 0, "maxSize": 10}
    assert "autoscaled 0 to 10" in done.outputs["nodes"][0]
    assert workers.ignore_changes == ["scalingConfig.desiredSize"]


@pytest.mark.parametrize(
    ("key", "value"), [("idleMinutes", 30), ("ttlHours", 30), ("workHours", "Mon-Fri 08:00-18:00 UTC")]
)
def test_nodes_scale_to_zero_with_their_workers(key: str, value: Any) -> None:
    workers = eks({"workers": 8, key: value}).one("nodeGroup:NodeGroup", "workers")
    assert workers.inputs["scalingConfig"] == {"desiredSize": 0, "minSize": 0, "maxSize": 2}


def running(nodes: int, minimum: int, maximum: int, standing: tuple[str, ...] = ("1",)) -> dict[str, Any]:
    """Answers of AWS for an active group of workers, for one that is being deleted, and for another stack's."""
    arn = "arn:aws:eks:us-west-2:123456789012:nodegroup/future-team-1/{}/id"
    groups = ("future-team-workers-1", "future-team-workers-0", "future-team-system-1", "future-teams-workers-1")

    def group(args: Mapping[str, Any]) -> dict[str, Any]:
        if args["nodeGroupName"].removeprefix("future-team-workers-") not in standing:
            raise PermissionError("ResourceNotFoundException: No node group found")
        return {"id": "g", "scalingConfigs": [{"desiredSize": nodes, "minSize": minimum, "maxSize": maximum}]}

    return {
        "aws:resourcegroupstaggingapi/getResources:getResources": lambda args: {
            "id": "r",
            "resourceTagMappingLists": [{"resourceArn": arn.format(name)} for name in groups]
            if args["tagFilters"] == [{"key": "stack", "values": ["team"]}]
            else [],
        },
        "aws:eks/getNodeGroup:getNodeGroup": group,
    }


@pytest.mark.parametrize(
    ("config", "nodes", "sent", "ignored"),
    [
        ({"workers": 10, "maxWorkers": 40}, 8, 0, ["scalingConfig.desiredSize"]),  # nothing changes, nothing is sent
        ({"workers": 10, "maxWorkers": 80}, 8, 8, []),  # those that the autoscaler added stay
        ({"workers": 40, "maxWorkers": 40}, 8, 10, []),  # fixed from now on
        ({"workers": 4, "maxWorkers": 20}, 8, 5, []),  # AWS refuses more than the most
    ],
)
def test_changed_limit_is_sent_with_the_live_node_count(
    config: dict[str, Any], nodes: int, sent: int, ignored: list[str]
) -> None:
    group = eks(config, running(nodes, 0, 10)).one("nodeGroup:NodeGroup", "workers")
    assert (group.inputs["scalingConfig"]["desiredSize"], group.ignore_changes) == (sent, ignored)


def test_ambiguous_node_groups_give_no_live_count() -> None:
    answers = running(8, 0, 10, standing=("0", "1"))
    done = eks({"workers": 10, "maxWorkers": 80}, answers)
    group = done.one("nodeGroup:NodeGroup", "workers")
    assert (group.inputs["scalingConfig"]["desiredSize"], group.ignore_changes) == (0, ["scalingConfig.desiredSize"])
    (warning,) = done.warnings
    assert "2 node groups future-team-workers with this stack's tag" in warning


@pytest.mark.parametrize("reason", ["AccessDenied", "ExpiredToken: the security token is expired", "RequestTimeout"])
def test_hidden_number_of_nodes_stops_an_autoscaled_stack(reason: str) -> None:
    """Pulumi would send its last known number, and end the nodes that the autoscaler added."""
    autoscaled = {"workers": 10, "maxWorkers": 40}
    for token in ("aws:resourcegroupstaggingapi/getResources:getResources", "aws:eks/getNodeGroup:getNodeGroup"):
        message = refused(autoscaled, {**running(8, 0, 10), token: refuse(reason)})
        assert "how many nodes the workers have" in message
        assert "fix:" in message
    denied = {"aws:resourcegroupstaggingapi/getResources:getResources": refuse(reason)}
    assert eks({"workers": 10}, denied).all("nodeGroup:NodeGroup"), "a fixed number needs no question"


def test_autoscaler_reads_an_empty_groups_label_and_taint_from_tags() -> None:
    tags = [tag.inputs["tag"] for tag in team().all("autoscaling/tag:Tag")]
    assert {tag["key"]: tag["value"] for tag in tags} == {
        "k8s.io/cluster-autoscaler/node-template/label/future-kubernetes/role": "worker",
        "k8s.io/cluster-autoscaler/node-template/taint/future-kubernetes/worker": "true:NoSchedule",
        # Without it no worker fits on a node of an empty group: an autoscaler knows no size of its disk.
        "k8s.io/cluster-autoscaler/node-template/resources/ephemeral-storage": "42Gi",
    }


def test_spot_group_starts_at_zero_even_for_fixed_workers() -> None:
    """A fixed group whose nodes do not come fails the whole update."""
    done = eks({"workers": 10, "spot": True})
    workers = done.one("nodeGroup:NodeGroup", "workers").inputs
    assert workers["scalingConfig"] == {"desiredSize": 0, "minSize": 0, "maxSize": 3}
    assert len(workers["subnetIds"]) == 3
    assert done.one("v3:Release", "autoscaler").inputs["values"]["extraArgs"]["expander"] == "least-waste"
    assert not done.all("nodeGroup:NodeGroup", "on-demand")


def test_autoscaler_takes_the_group_on_demand_last() -> None:
    done = eks({"spot": "fallback"})
    values = done.one("v3:Release", "autoscaler").inputs["values"]
    assert values["extraArgs"]["expander"] == "priority,least-waste"
    names: dict[str, set[str]] = defaultdict(set)
    for tag in done.all("autoscaling/tag:Tag"):
        names[tag.inputs["tag"]["key"]].add(tag.inputs["autoscalingGroupName"])
    assert [len(groups) for groups in names.values()] == [2, 2, 2], "each empty group has its own hints"
    groups = set.union(*names.values())
    by_priority = {int(key): patterns for key, patterns in values["expanderPriorities"].items()}
    preferred = {
        priority: {name for name in groups if any(re.search(pattern, name) for pattern in patterns)}
        for priority, patterns in by_priority.items()
    }
    spot = next(name for name in groups if "workers" in name)
    assert preferred[max(preferred)] == {spot}
    assert preferred[min(preferred)] == groups, "a group of no priority would be taken at random"


def test_each_group_keeps_its_live_number_when_the_limit_changes() -> None:
    numbers = {"future-team-workers-1": 7, "future-team-on-demand-1": 2}
    arn = "arn:aws:eks:us-west-2:123456789012:nodegroup/future-team-1/{}/id"
    answers = {
        "aws:resourcegroupstaggingapi/getResources:getResources": lambda _args: {
            "id": "r",
            "resourceTagMappingLists": [{"resourceArn": arn.format(name)} for name in numbers],
        },
        "aws:eks/getNodeGroup:getNodeGroup": lambda args: {
            "id": "g",
            "scalingConfigs": [{"desiredSize": numbers[args["nodeGroupName"]], "minSize": 0, "maxSize": 10}],
        },
    }
    done = eks({"workers": 10, "maxWorkers": 80, "spot": "fallback"}, answers)
    groups = [done.one("nodeGroup:NodeGroup", part).inputs for part in ("workers", "on-demand")]
    assert [group["scalingConfig"]["desiredSize"] for group in groups] == [7, 2]


def test_autoscaler_runs_on_the_system_node_with_its_permissions() -> None:
    done = team()
    release = done.one("v3:Release", "autoscaler")
    assert release.inputs["values"]["nodeSelector"] == {"future-kubernetes/role": "system"}
    assert release.inputs["values"]["awsRegion"] == "us-west-2"
    assert release.inputs["version"], "another chart on each update"
    for part in ("workers", "on-demand"):
        for tag in done.all("autoscaling/tag:Tag", part):
            assert tag.inputs["autoscalingGroupName"] == f"eks-future-eks-team-{part}"
    for type_ in ("RolePolicy", "PodIdentityAssociation", "autoscaling/tag:Tag"):
        for right in (
            done.all(type_, "future-eks-team-autoscaler") + done.all(type_, "workers-") + done.all(type_, "demand-")
        ):
            assert done.goes_before(release, right), f"it would start without {right.name}"


def test_system_group_grows_only_with_an_autoscaler() -> None:
    maximum = [
        eks(config).one("nodeGroup:NodeGroup", "system").inputs["scalingConfig"]["maxSize"]
        for config in ({"maxWorkers": 40}, {})
    ]
    assert maximum == [3, 1]
