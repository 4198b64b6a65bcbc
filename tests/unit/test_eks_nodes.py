"""EKS under mocks: node groups, their machines, disks and updates."""

from __future__ import annotations

import email
from base64 import b64decode
from collections.abc import Mapping
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from components.clouds.allocatable import Machine
from components.clouds.aws.allocatable import disk_for_pods, eks_allocatable, worker_disk_gib
from components.clouds.managed import SCHEDULER_DISK_GIB, WORKER_DISK_GIB
from tests.unit.aws_cloud import (
    ANSWERS,
    eks,
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


def test_fallback_adds_a_group_on_demand_like_the_spot_group() -> None:
    done = eks({"workers": 10, "spot": "fallback"})
    spot, other = (done.one("nodeGroup:NodeGroup", part).inputs for part in ("workers", "on-demand"))
    assert (spot["capacityType"], other["capacityType"]) == ("SPOT", "ON_DEMAND")
    assert other == {**spot, "capacityType": "ON_DEMAND"}, "a worker must fit on either"
    assert other["scalingConfig"] == {"desiredSize": 0, "minSize": 0, "maxSize": 3}
    assert other["instanceTypes"] == ["m6i.xlarge", "m6a.xlarge", "m5.xlarge"]
    assert "spot, else on demand, autoscaled 0 to 3" in done.outputs["nodes"][0]


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
def test_disk_has_room_for_requests_of_all_a_nodes_workers(workers: int) -> None:
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


@pytest.mark.parametrize("part", ["system", "workers"])
def test_kernel_ends_one_process_and_not_its_container(part: str) -> None:
    data = email.message_from_bytes(b64decode(template(eks(), part)["userData"]))
    assert data.get_content_type() == "multipart/mixed"
    [config] = [each for each in data.walk() if not each.is_multipart()]
    assert config.get_content_type() == "application/node.eks.aws", "what nodeadm reads"
    found = yaml.safe_load(str(config.get_payload()))
    assert (found["apiVersion"], found["kind"]) == ("node.eks.aws/v1alpha1", "NodeConfig")
    assert found["spec"] == {"kubelet": {"config": {"singleProcessOOMKill": True}}}


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
