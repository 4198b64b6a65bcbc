"""EKS under mocks: refusals before anything is created."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

import pytest

from components.clouds.aws.preflight import has_standard_quota
from tests.unit.aws_cloud import (
    ACCELERATORS,
    ANSWERS,
    PRICES,
    STATISTICS,
    eks,
    refuse,
    refused,
)

pytestmark = pytest.mark.usefixtures("installed_tools")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            {"zone": "us-west-2z"},
            "region us-west-2 that Kubernetes may use: us-west-2a, us-west-2b, us-west-2c, us-west-2d",
        ),
        ({"machineType": "m6i.5xlarge"}, "m6i.16xlarge, m6i.2xlarge, m6i.large, m6i.xlarge"),
        ({"machineType": "m7i.xlarge", "zone": "us-west-2a"}, "pulumi config set zone us-west-2b"),
        ({"machineType": "m5n.xlarge"}, "pulumi config set zone us-west-2d"),
        ({"machineType": "m6g.xlarge"}, "x86-64"),
        ({"systemMachineType": "z9.huge"}, "pulumi config set systemMachineType"),
        ({"workerCpu": 6}, "pulumi config set machineType m6i.2xlarge"),
        ({"workerMemoryGiB": 40}, "a type on which it fits: r6i.2xlarge"),
        ({"schedulerMemoryGiB": 9}, "pulumi config set systemMachineType"),
        ({"network": "vpc-campus", "subnets": "subnet-1"}, "at least two private subnets"),
        ({"network": "vpc-campus", "subnets": "subnet-1,subnet-3"}, "in two zones at least"),
        ({"network": "vpc-other", "subnets": "subnet-1,subnet-2"}, "which is in vpc-campus"),
        (
            {"network": "vpc-campus", "subnets": "subnet-1,subnet-2", "publicSubnets": "subnet-elsewhere"},
            "publicSubnets has subnet-elsewhere, which is in vpc-other",
        ),
        ({"publicSubnets": "subnet-public"}, "publicSubnets is set\n    allowed: only together with network"),
        ({"teamRoles": "arn:aws:sts::123456789012:assumed-role/a/b"}, "the ARN of an IAM role"),
        ({"teamRoles": STATISTICS, "adminRoles": STATISTICS}, "pulumi config rm teamRoles"),
        ({"workers": 10, "maxWorkers": 4}, "at least workers, which is 10"),
    ],
)
def test_impossible_settings_are_refused_with_a_fix(config: dict[str, Any], said: str) -> None:
    message = refused(config)
    assert said in message, message
    assert "fix:" in message


@pytest.mark.parametrize(
    ("reason", "fix"),
    [
        ("no valid credential sources for found", "aws sso login"),
        ("ExpiredToken: The security token included in the request is expired", "aws sso login"),
        ("dial tcp: lookup sts.us-nowhere-1.amazonaws.com: no such host", "pulumi config set region"),
        ("AccessDenied: User is not authorized to perform", "docs/eks.md"),
    ],
)
def test_refusals_of_aws_are_reported_with_their_fix(reason: str, fix: str) -> None:
    message = refused({}, {"aws:index/getCallerIdentity:getCallerIdentity": refuse(reason)})
    assert fix in message
    assert reason in message


@pytest.mark.parametrize("key", ["machineType", "systemMachineType"])
@pytest.mark.parametrize("machine_type", ACCELERATORS)
def test_machine_types_with_an_accelerator_are_refused(machine_type: str, key: str) -> None:
    """The image uses no accelerator, and the nodes' machine image has no driver for one."""
    message = refused({key: machine_type})
    (devices,) = ACCELERATORS[machine_type].values()
    assert f"{key} is {machine_type}, which has 1 x {devices[0]['name']}" in message
    assert f"pulumi config set {key} m6i" in message


ENGINEER = "arn:aws:iam::123456789012:role/staff/engineer"
"""The role of who asks in these tests, with its path."""


TAGGED = "aws:resourcegroupstaggingapi/getResources:getResources"


@pytest.mark.parametrize("key", ["teamRoles", "adminRoles"])
def test_creators_role_is_refused_in_team_and_admin_roles(key: str) -> None:
    message = refused({key: f"{STATISTICS},{ENGINEER}"})
    assert f"{key} has {ENGINEER}, the role that you create the cluster with" in message
    assert f"pulumi config set {key} {STATISTICS}" in message
    assert f"pulumi config rm {key}" in refused({key: ENGINEER})


@pytest.mark.parametrize(
    "answer",
    [lambda _args: {"id": "r", "resourceTagMappingLists": [{"resourceArn": "arn:aws:eks:::cluster/x"}]}, refuse("no")],
)
def test_callers_role_is_accepted_for_an_existing_cluster(answer: Any) -> None:
    asked: list[Any] = []

    def listed(args: Mapping[str, Any]) -> Any:
        asked.append(args)
        return answer(args)

    assert eks({"adminRoles": ENGINEER}, {TAGGED: listed}).all("AccessEntry")
    assert asked[0]["resourceTypeFilters"] == ["eks:cluster"]
    assert asked[0]["tagFilters"] == [{"key": "stack", "values": ["team"]}]


def test_creators_role_is_found_by_a_name_with_punctuation() -> None:
    caller = dict(ANSWERS["aws:index/getCallerIdentity:getCallerIdentity"]({}))
    caller["arn"] = "arn:aws:sts::123456789012:assumed-role/lab+r/me"
    answers = {"aws:index/getCallerIdentity:getCallerIdentity": lambda _args: caller}
    assert "the role that you create" in refused({"adminRoles": "arn:aws:iam::123456789012:role/lab+r"}, answers)


def test_similar_role_names_are_not_the_creators() -> None:
    others = "arn:aws:iam::999999999999:role/engineer,arn:aws:iam::123456789012:role/lead-engineer"
    assert len(eks({"adminRoles": others}).all("AccessEntry")) == 2


def test_missing_aws_cli_is_refused_with_its_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "aws" else name)
    assert "getting-started-install" in refused({})


def test_spot_skips_zones_without_a_market_or_is_refused() -> None:
    def only_in_c(args: Mapping[str, Any]) -> dict[str, Any]:
        if args["availabilityZone"] != "us-west-2c":
            raise PermissionError("no EC2 Spot Price History found matching criteria; try different search")
        return dict(ANSWERS["aws:ec2/getSpotPrice:getSpotPrice"](args))

    answers = {"aws:ec2/getSpotPrice:getSpotPrice": only_in_c}
    message = refused({"spot": True, "zone": "us-west-2a"}, answers)
    assert "no spot market in us-west-2a" in message
    assert "pulumi config rm zone" in message
    workers = eks({"spot": True}, answers).one("nodeGroup:NodeGroup", "workers")
    assert workers.inputs["subnetIds"] == ["future-team-private-us-west-2c-id"]


def test_spot_cost_is_linux_price_in_the_first_zone() -> None:
    def priced(args: Mapping[str, Any]) -> dict[str, Any]:
        assert args["filters"] == [{"name": "product-description", "values": ["Linux/UNIX"]}]
        price = "0.01" if args["availabilityZone"] == "us-west-2a" else "9"
        return {**ANSWERS["aws:ec2/getSpotPrice:getSpotPrice"](args), "spotPrice": price}

    done = eks({"spot": True, "workers": 4}, {"aws:ec2/getSpotPrice:getSpotPrice": priced})
    nodes = done.one("nodeGroup:NodeGroup", "workers").inputs["scalingConfig"]["desiredSize"]
    others = PRICES["m6i.large"] + PRICES["AmazonEKS"] + PRICES["NAT"]
    assert done.outputs["hourlyCost"][0] == f"${0.01 * nodes + others:.2f}"


def test_workers_beyond_the_cpu_quota_are_refused() -> None:
    def small(code: str) -> dict[str, Any]:
        """Answers of an account of which this quota alone is small."""

        def quota(args: Mapping[str, Any]) -> dict[str, Any]:
            value = 16.0 if args["quotaCode"] == code else 640.0
            return {"id": "q", "quotaCode": args["quotaCode"], "quotaName": "Standard instances", "value": value}

        return {"aws:servicequotas/getServiceQuota:getServiceQuota": quota}

    message = refused({"workers": 4, "maxWorkers": 40}, small("L-1216C47A"))
    assert "40 vCPUs" in message
    assert "--quota-code L-1216C47A" in message
    assert "--quota-code L-34B43A08" in refused({"workers": 40, "spot": True}, small("L-34B43A08"))
    denied = {"aws:servicequotas/getServiceQuota:getServiceQuota": refuse("AccessDenied")}
    assert eks({"workers": 40}, denied).all("nodeGroup:NodeGroup")


def test_system_pods_leave_room_to_the_scheduler_only_with_an_autoscaler() -> None:
    assert "at most 1.23 cores and 5.47 GiB" in refused({"schedulerMemoryGiB": 5.8})
    assert eks({"schedulerMemoryGiB": 5.8, "maxWorkers": 40}).all("nodeGroup:NodeGroup")


def test_workers_that_use_the_whole_cpu_quota_are_accepted() -> None:
    assert eks({"workers": 640}).all("nodeGroup:NodeGroup"), "160 nodes of 4 vCPUs, and a quota of 640"
    assert "644 vCPUs" in refused({"workers": 641})


@pytest.mark.parametrize("machine_type", ["m6i.xlarge", "r7a.large", "t3.large", "c7i.large", "z1d.large"])
def test_standard_machine_types_count_towards_the_cpu_quota(machine_type: str) -> None:
    assert has_standard_quota(machine_type)


@pytest.mark.parametrize("machine_type", ["inf2.xlarge", "trn1.2xlarge", "g5.xlarge", "p4d.24xlarge", "x2idn.large"])
def test_accelerated_machine_types_have_quotas_of_their_own(machine_type: str) -> None:
    assert not has_standard_quota(machine_type)


def test_missing_permission_to_see_spot_prices_leaves_the_cost_unknown() -> None:
    done = eks({"spot": True}, {"aws:ec2/getSpotPrice:getSpotPrice": refuse("AccessDenied")})
    assert done.one("nodeGroup:NodeGroup", "workers").inputs["capacityType"] == "SPOT"
    assert done.outputs["hourlyCost"][0] == "unknown"
