"""EKS under mocks: node groups, their scaling, and the autoscaler."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.clouds.allocatable import Machine
from components.clouds.aws.allocatable import disk_for_pods, eks_allocatable, worker_disk_gib
from components.clouds.managed import SCHEDULER_DISK_GIB, WORKER_DISK_GIB
from tests.unit.aws_cloud import (
    ANSWERS,
    eks,
    refuse,
    refused,
    release_of,
    team,
)
from tests.unit.cloud_mocks import Recording

pytestmark = pytest.mark.usefixtures("installed_tools")


def test_workers_have_their_own_tainted_node_group() -> None:
    done = eks()
    assert len(done.all("nodeGroup:NodeGroup")) == 2
    system = done.one("nodeGroup:NodeGroup", "system").inputs
    workers = done.one("nodeGroup:NodeGroup", "workers").inputs
    assert system["labels"] == {"future-kubernetes/role": "system"}
    assert "taints" not in system
    assert workers["labels"]["future-kubernetes/role"] == "worker"
    assert workers["taints"] == [{"key": "future-kubernetes/worker", "value": "true", "effect": "NO_SCHEDULE"}]
    assert release_of(done)["worker"]["nodeSelector"] == {"future-kubernetes/role": "worker"}
    assert release_of(done)["scheduler"]["nodeSelector"] == {"future-kubernetes/role": "system"}


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


def types_of(done: Recording) -> list[str]:
    names: list[str] = done.one("nodeGroup:NodeGroup", "workers").inputs["instanceTypes"]
    return names


def test_spot_group_has_like_types_of_other_families() -> None:
    assert types_of(eks({"spot": True})) == ["m6i.xlarge", "m6a.xlarge", "m5.xlarge"], (
        "m5a has less memory, m7a fewer addresses for pods, m7i is not in the zone"
    )
    in_b = eks({"spot": True, "zone": "us-west-2b"})
    assert types_of(in_b) == ["m6i.xlarge", "m6a.xlarge", "m5.xlarge", "m7i.xlarge"]
    assert types_of(team()) == ["m6i.xlarge", "m6a.xlarge", "m5.xlarge"], "each of the three zones must offer it"
    assert types_of(eks()) == ["m6i.xlarge"], "machines on demand do not run out so easily"
    assert types_of(eks({"spot": True, "machineType": "m5n.xlarge", "zone": "us-west-2d"})) == ["m5n.xlarge"]
    assert eks({"spot": True}).one("nodeGroup:NodeGroup", "system").inputs["instanceTypes"] == ["m6i.large"]


def test_spot_group_whose_like_types_are_hidden_is_refused() -> None:
    """With fewer types for a moment, a new group would replace that of the stack."""
    for lookup in ("getInstanceTypes", "getInstanceTypeOfferings"):
        token = f"aws:ec2/{lookup}:{lookup}"
        original = ANSWERS[token]

        def answer(args: Mapping[str, Any], original: Any = original) -> Any:
            if len(args["filters"][0]["values"]) > 1:
                raise PermissionError("UnauthorizedOperation")
            return original(args)

        assert "ask for the permissions that docs/eks.md lists" in refused({"spot": True}, {token: answer})
        assert types_of(eks({"spot": True, "otherMachineTypes": "m6i.xlarge"}, {token: answer})) == ["m6i.xlarge"]


@pytest.mark.parametrize("spot", [True, False])
def test_other_machine_types_are_used_in_their_order(spot: bool) -> None:
    done = eks({"spot": spot, "otherMachineTypes": "m5.xlarge,m6i.xlarge,m6a.xlarge"})
    assert types_of(done) == ["m6i.xlarge", "m5.xlarge", "m6a.xlarge"]


def test_workers_fit_on_the_smallest_of_several_types() -> None:
    """m7a.xlarge has 29 addresses for pods here, so that fewer small workers fit on it."""
    small = {"workers": 92, "workerCpu": 0.01, "workerMemoryGiB": 0.0625}
    nodes = [
        eks({**small, **more}).one("nodeGroup:NodeGroup", "workers").inputs["scalingConfig"]["maxSize"]
        for more in ({}, {"otherMachineTypes": "m7a.xlarge"})
    ]
    assert nodes == [2, 4], "58 and 29 pods, 6 of them daemons"


def running(nodes: int, least: int, most: int, standing: tuple[str, ...] = ("1",)) -> dict[str, Any]:
    """Answers of AWS for an active group of workers, for one that is being deleted, and for another stack's."""
    arn = "arn:aws:eks:us-west-2:123456789012:nodegroup/future-team-1/{}/id"
    groups = ("future-team-workers-1", "future-team-workers-0", "future-team-system-1", "future-teams-workers-1")

    def group(args: Mapping[str, Any]) -> dict[str, Any]:
        if args["nodeGroupName"].removeprefix("future-team-workers-") not in standing:
            raise PermissionError("ResourceNotFoundException: No node group found")
        return {"id": "g", "scalingConfigs": [{"desiredSize": nodes, "minSize": least, "maxSize": most}]}

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


def test_only_spot_groups_span_zones() -> None:
    spread = team().one("nodeGroup:NodeGroup", "workers").inputs
    assert spread["capacityType"] == "SPOT"
    assert len(spread["subnetIds"]) == 3
    done = eks({"maxWorkers": 40})
    workers, system = (done.one("nodeGroup:NodeGroup", part).inputs for part in ("workers", "system"))
    assert workers["capacityType"] == "ON_DEMAND"
    assert team().one("nodeGroup:NodeGroup", "system").inputs["capacityType"] == "ON_DEMAND", "the R session is there"
    assert workers["subnetIds"] == system["subnetIds"]
    assert len(system["subnetIds"]) == 1


def test_spot_group_starts_at_zero_even_for_a_fixed_number_of_workers() -> None:
    """A fixed group whose nodes do not come fails the whole update."""
    done = eks({"workers": 10, "spot": True})
    workers = done.one("nodeGroup:NodeGroup", "workers").inputs
    assert workers["scalingConfig"] == {"desiredSize": 0, "minSize": 0, "maxSize": 3}
    assert len(workers["subnetIds"]) == 3
    assert done.one("v3:Release", "autoscaler").inputs["values"]["extraArgs"]["expander"] == "least-waste"
    assert not done.all("nodeGroup:NodeGroup", "on-demand")


def test_fallback_adds_a_group_on_demand_like_the_spot_group() -> None:
    done = eks({"workers": 10, "spot": "fallback"})
    spot, other = (done.one("nodeGroup:NodeGroup", part).inputs for part in ("workers", "on-demand"))
    assert (spot["capacityType"], other["capacityType"]) == ("SPOT", "ON_DEMAND")
    assert other == {**spot, "capacityType": "ON_DEMAND"}, "a worker must fit on either"
    assert other["scalingConfig"] == {"desiredSize": 0, "minSize": 0, "maxSize": 3}
    assert other["instanceTypes"] == ["m6i.xlarge", "m6a.xlarge", "m5.xlarge"]
    assert "spot, else on demand, autoscaled 0 to 3" in done.outputs["nodes"][0]


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


def test_each_group_keeps_its_own_live_number_when_the_limit_changes() -> None:
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


def test_load_balancers_send_no_traffic_through_workers() -> None:
    """A spot worker that ends would cut the connections of the IDE."""
    excluded = "node.kubernetes.io/exclude-from-external-load-balancers"
    done = eks({"host": "r.example.org", "spot": True})
    assert done.one("nodeGroup:NodeGroup", "workers").inputs["labels"][excluded] == "true"
    assert excluded not in done.one("nodeGroup:NodeGroup", "system").inputs["labels"], "none would be left"


def template(done: Recording, part: str) -> dict[str, Any]:
    return done.one("launchTemplate:LaunchTemplate", part).inputs


@pytest.mark.parametrize("part", ["system", "workers"])
def test_root_disk_is_encrypted_gp3_of_50_gib(part: str) -> None:
    (disk,) = template(eks(), part)["blockDeviceMappings"]
    assert disk["deviceName"] == "/dev/xvda", "the root disk of Amazon Linux, else there are two"
    assert disk["ebs"] == {"volumeType": "gp3", "volumeSize": 50, "encrypted": "true", "deleteOnTermination": "true"}


def test_workers_disk_grows_with_the_workers_of_a_node() -> None:
    def sizes(config: dict[str, Any]) -> list[int]:
        done = eks(config)
        return [template(done, part)["blockDeviceMappings"][0]["ebs"]["volumeSize"] for part in ("system", "workers")]

    assert sizes({"machineType": "m6i.16xlarge"}) == [50, 30 + 64 * 5]
    assert sizes({"machineType": "m6i.16xlarge", "workerCpu": 31}) == [50, 30 + 2 * 5]
    assert sizes({"machineType": "m6i.large"}) == [50, 30 + 2 * 5]


@given(st.integers(1, 250))
def test_disk_has_room_for_the_requests_of_all_workers_of_a_node(workers: int) -> None:
    assert disk_for_pods(worker_disk_gib(workers)) >= workers * WORKER_DISK_GIB
    assert disk_for_pods(50) >= SCHEDULER_DISK_GIB


def test_pods_request_their_share_of_the_disk() -> None:
    release = release_of(eks())
    assert release["worker"]["resources"]["requests"]["ephemeral-storage"] == "3Gi"
    assert release["scheduler"]["resources"]["requests"]["ephemeral-storage"] == "6Gi"
    assert "ephemeral-storage" not in release["worker"]["resources"]["limits"], "it would end a worker on an empty disk"


def test_node_update_drains_a_third_of_the_workers() -> None:
    done = eks()
    assert done.one("nodeGroup:NodeGroup", "workers").inputs["updateConfig"] == {"maxUnavailablePercentage": 33}
    assert done.one("nodeGroup:NodeGroup", "system").inputs["updateConfig"] == {"maxUnavailable": 1}


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
    most = [
        eks(config).one("nodeGroup:NodeGroup", "system").inputs["scalingConfig"]["maxSize"]
        for config in ({"maxWorkers": 40}, {})
    ]
    assert most == [3, 1]


def test_node_update_is_forced_past_disruption_budgets() -> None:
    assert [group.inputs["forceUpdateVersion"] for group in eks().all("nodeGroup:NodeGroup")] == [True, True]


def test_broken_nodes_are_replaced() -> None:
    done = eks()
    assert [group.inputs["nodeRepairConfig"] for group in done.all("nodeGroup:NodeGroup")] == [{"enabled": True}] * 2
    agent = done.one("eks/addon:Addon", "node-monitoring-agent")
    assert agent.inputs["addonName"] == "eks-node-monitoring-agent", "without it only the kubelet's own signs count"


def test_no_node_has_a_public_address() -> None:
    done = eks()
    private = {f"{subnet.name}-id" for subnet in done.all("ec2/subnet:Subnet", "private")}
    for group in done.all("nodeGroup:NodeGroup"):
        assert set(group.inputs["subnetIds"]) <= private
    assert not any(subnet.inputs.get("mapPublicIpOnLaunch") for subnet in done.all("ec2/subnet:Subnet"))


def test_pods_cannot_reach_the_nodes_metadata_service() -> None:
    for part in ("system", "workers"):
        nodes = eks().one("launchTemplate:LaunchTemplate", part)
        assert nodes.inputs["metadataOptions"] == {
            "httpEndpoint": "enabled",
            "httpTokens": "required",
            "httpPutResponseHopLimit": 1,
        }
        group = eks().one("nodeGroup:NodeGroup", part)
        assert group.inputs["launchTemplate"] == {"id": f"{nodes.name}-id", "version": "7"}, "its latest"


def test_pods_per_node_follow_network_interfaces_and_eks_limits() -> None:
    assert eks_allocatable(Machine("m6i.16xlarge", 64, 262144, 737)).pods == 250
    assert eks_allocatable(Machine("m6i.4xlarge", 16, 65536, 234)).pods == 110
    assert eks_allocatable(Machine("m6i.large", 2, 8192, 29)).pods == 29
    assert [eks_allocatable(Machine("m", vcpus, 65536, 737)).pods for vcpus in (30, 31)] == [110, 250]
    few, many = (eks_allocatable(Machine("m", 64, 262144, pods)).memory_mib for pods in (250, 737))
    assert few - many == 11 * (737 - 250), "the kubelet reserves memory for every address"
    full = eks({"workers": 46, "workerCpu": 0.01, "workerMemoryGiB": 0.0625, "machineType": "m6i.large"})
    assert full.one("nodeGroup:NodeGroup", "workers").inputs["scalingConfig"]["minSize"] == 2
    small = eks({"workers": 47, "workerCpu": 0.01, "workerMemoryGiB": 0.0625, "machineType": "m6i.large"})
    assert small.one("nodeGroup:NodeGroup", "workers").inputs["scalingConfig"]["minSize"] == 3, (
        "29 pods, 6 of them daemons"
    )


def release_values(config: dict[str, Any]) -> list[Any]:
    """The chart values of the product's own release."""
    return [made.inputs["values"] for made in eks(config).all("v3:Release") if made.name == "future-team"]


@pytest.mark.parametrize(("spot", "seconds"), [(True, 110), ("fallback", 110), (False, None)])
def test_workers_on_spot_end_within_the_clouds_notice(spot: bool | str, seconds: int | None) -> None:
    (values,) = release_values({"spot": spot, "maxWorkers": 40})
    assert values["worker"].get("gracePeriodSeconds") == seconds
    assert "gracePeriodSeconds" not in values["scheduler"], "the scheduler is never on spot"


def test_users_own_grace_period_wins() -> None:
    config = {"spot": True, "maxWorkers": 40, "chartValues": {"worker": {"gracePeriodSeconds": 5}}}
    (values,) = release_values(config)
    assert values["worker"]["gracePeriodSeconds"] == 5
