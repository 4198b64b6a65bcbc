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
    STATISTICS,
    eks,
    refuse,
    refused,
)
from tests.unit.cloud_mocks import unchecked

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
        ({"otherMachineTypes": "m6i.2xlarge"}, "m6i.2xlarge, which has 8 vCPUs and 32 GiB"),
        ({"otherMachineTypes": "m5a.xlarge"}, "types with 4 vCPUs and 16 GiB, like m6i.xlarge"),
        ({"otherMachineTypes": "m6a.xlarge,m7i.xlarge"}, "m7i.xlarge, which us-west-2a does not offer"),
        ({"otherMachineTypes": "m6a.xlarge,m7i.xlarge"}, "pulumi config set otherMachineTypes m6a.xlarge"),
        ({"otherMachineTypes": "m6g.xlarge"}, "otherMachineTypes is m6g.xlarge, which is arm64"),
        ({"otherMachineTypes": "g5.xlarge"}, "which has 1 x A10G"),
        ({"otherMachineTypes": "m6i.5xlarge"}, "which region us-west-2 does not offer"),
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
        (
            {"network": "vpc-campus", "subnets": "subnet-1,subnet-2", "publicSubnets": "subnet-3,subnet-public"},
            "publicSubnets has subnet-3 and subnet-public, both in zone us-west-2a",
        ),
        (
            {"network": "vpc-campus", "subnets": "subnet-1,subnet-2", "publicSubnets": "subnet-other"},
            "publicSubnets are in zone us-west-2b, and the scheduler's node in us-west-2a",
        ),
        (
            {"network": "vpc-campus", "subnets": "subnet-1,subnet-2", "host": "r.example.org"},
            "pulumi config set publicSubnets subnet-",
        ),
        ({"acmeEmail": "a@example.org"}, "pulumi config set host r.example.org"),
        ({"host": "r.example.org", "acmeEmail": "example.org"}, "an e-mail address"),
        ({"auditLogDays": 31}, "one of the periods of CloudWatch: 0, 1, 3"),
        ({"auditLogDays": -1}, "one of the periods of CloudWatch"),
        ({"vpcCidr": "10.0.0.0/24"}, "from /16 to /20"),
        ({"vpcCidr": "8.8.0.0/16"}, "private addresses"),
        ({"vpcCidr": "10.0.0.1/16"}, "such as 10.20.0.0/16"),
        ({"vpcCidr": "fd00::/16"}, "an IPv4 network"),
        (
            {"network": "vpc-campus", "subnets": "subnet-1,subnet-2", "vpcCidr": "10.20.0.0/16"},
            "pulumi config rm vpcCidr",
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


GIVEN = {"network": "vpc-campus", "subnets": "subnet-1,subnet-2"}


@pytest.mark.parametrize("attribute", ["enableDnsSupport", "enableDnsHostnames"])
def test_given_network_without_dns_is_refused(attribute: str) -> None:
    token = "aws:ec2/getVpc:getVpc"
    message = refused(GIVEN, {token: lambda args: {**ANSWERS[token](args), attribute: False}})
    option = {"enableDnsSupport": "enable-dns-support", "enableDnsHostnames": "enable-dns-hostnames"}[attribute]
    assert f"vpc-campus, which has {option} switched off" in message
    assert (
        f"aws ec2 modify-vpc-attribute --region us-west-2 --vpc-id vpc-campus --{option} '{{\"Value\":true}}'"
        in message
    )


def routes(*routes: dict[str, str], public: bool = False, main: bool = False) -> dict[str, Any]:
    """AWS's answers about given subnets with these routes. main: those of the VPC's main table."""

    def table(args: Mapping[str, Any]) -> dict[str, Any]:
        if main and "subnetId" in args:
            raise PermissionError("query returned no results. Please change your search criteria and try again")
        if main:
            assert args["filters"] == [{"name": "association.main", "values": ["true"]}]
            assert args["vpcId"] == "vpc-campus"
        empty = {"gatewayId": "", "destinationPrefixListId": "", "vpcEndpointId": ""}
        listed = [{**empty, **route} for route in ({"cidrBlock": "10.0.0.0/8", "gatewayId": "local"}, *routes)]
        return {"id": "rtb-7", "routeTableId": "rtb-7", "routes": listed}

    subnet = "aws:ec2/getSubnet:getSubnet"
    return {
        "aws:ec2/getRouteTable:getRouteTable": table,
        subnet: lambda args: {**ANSWERS[subnet](args), "mapPublicIpOnLaunch": public},
    }


INTERNET = {"cidrBlock": "0.0.0.0/0", "gatewayId": "igw-1"}
NAT = {"cidrBlock": "0.0.0.0/0", "natGatewayId": "nat-1"}


@pytest.mark.parametrize("main", [False, True])
def test_given_subnet_without_a_way_out_is_refused(main: bool) -> None:
    message = refused(GIVEN, routes(main=main))
    assert "subnets has subnet-1, which has no way to the internet" in message
    assert "--route-table-ids rtb-7" in message
    storage = {"destinationPrefixListId": "pl-1", "gatewayId": "vpce-1"}
    assert "no way to the internet" in refused(GIVEN, routes(storage, main=main)), "the way to S3 leads nowhere else"
    assert "only by public addresses, and nodes have none" in refused(GIVEN, routes(INTERNET, main=main))


@pytest.mark.parametrize(
    "answers",
    [
        routes(NAT),
        routes(NAT, main=True),
        routes({"cidrBlock": "0.0.0.0/0", "transitGatewayId": "tgw-1"}),
        routes(INTERNET, public=True),
        routes({"destinationPrefixListId": "pl-2", "transitGatewayId": "tgw-1"}),
        {"aws:ec2/getRouteTable:getRouteTable": refuse("UnauthorizedOperation")},
    ],
)
def test_given_subnets_with_open_or_hidden_way_out_are_accepted(answers: dict[str, Any]) -> None:
    done = eks(GIVEN, answers)
    assert done.all("nodeGroup:NodeGroup")
    hidden = len(answers) == 1 and "getSubnet" not in str(answers)
    assert ("whether subnet-1 has a way to the internet" in unchecked(done)) == (hidden and denies(answers))


def denies(answers: dict[str, Any]) -> bool:
    try:
        answers["aws:ec2/getRouteTable:getRouteTable"]({"vpcId": "vpc-campus", "filters": []})
    except PermissionError:
        return True
    return False


def quotas(**values: float) -> dict[str, Any]:
    """AWS's answer about quotas, by service."""
    return {
        "aws:servicequotas/getServiceQuota:getServiceQuota": lambda args: {
            "id": "q",
            "quotaCode": args["quotaCode"],
            "quotaName": "Nodes per managed node group",
            "value": values.get(args["serviceCode"], 1e6),
        }
    }


def test_more_nodes_than_a_group_may_have_are_refused() -> None:
    message = refused({"workers": 4, "maxWorkers": 2000}, quotas(eks=450))
    assert "for which 500 nodes are needed" in message
    assert "--service-code eks --quota-code L-BD136A63 --desired-value 500" in message
    assert eks({"workers": 4, "maxWorkers": 1800}, quotas(eks=450)).all("nodeGroup:NodeGroup")


def test_more_workers_than_the_subnets_have_addresses_for_are_refused() -> None:
    """A node takes two of its four interfaces of 15 addresses: one for its pods, and one in reserve."""
    available = 2**14 - 5 - 200
    message = refused({"workers": 4, "maxWorkers": 5000}, quotas())
    assert "1250 nodes take 37500 addresses" in message
    assert f"{available} addresses, which the workers' subnets have: 10.0.0.0/18" in message
    maximum = available // 30 * 4
    assert f"pulumi config set maxWorkers {maximum}" in message
    assert eks({"workers": 4, "maxWorkers": maximum}, quotas()).all("nodeGroup:NodeGroup")
    assert "addresses" in refused({"workers": 4, "maxWorkers": maximum + 1}, quotas())
    spread = {"spot": True, "workers": 4, "maxWorkers": maximum + 1}
    assert eks(spread, quotas()).all("nodeGroup:NodeGroup"), "spot nodes use three zones"
    assert "a larger vpcCidr" in refused({"maxWorkers": 200, "vpcCidr": "10.1.0.0/20"}, quotas())
    assert "172.31.0.0/20" in refused({"maxWorkers": 600, **GIVEN}, quotas()), "a given subnet has its own size"


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

    done = eks({"spot": True, "workers": 8}, {"aws:ec2/getSpotPrice:getSpotPrice": priced})
    nodes = 2
    line = done.outputs["hourlyCost"][0]["parts"]["worker nodes"]
    assert line == f"${0.01 * nodes:.3f} now, $0.000 idle, ${0.01 * nodes:.3f} at most"


def test_workers_beyond_the_cpu_quota_are_refused() -> None:
    def small(code: str) -> dict[str, Any]:
        """Answers of an account of which only this quota is small."""

        def quota(args: Mapping[str, Any]) -> dict[str, Any]:
            value = 16.0 if args["quotaCode"] == code else 640.0
            return {"id": "q", "quotaCode": args["quotaCode"], "quotaName": "Standard instances", "value": value}

        return {"aws:servicequotas/getServiceQuota:getServiceQuota": quota}

    message = refused({"workers": 4, "maxWorkers": 40}, small("L-1216C47A"))
    assert "40 vCPUs" in message
    assert "--quota-code L-1216C47A" in message
    assert "--quota-code L-34B43A08" in refused({"workers": 40, "spot": True}, small("L-34B43A08"))
    both = {"spot": "fallback", "workers": 656}
    assert eks(both, small("L-34B43A08")).all("nodeGroup:NodeGroup"), "640 vCPUs on demand beside 16 on spot"
    assert "656 vCPUs, the account's quota" in refused({**both, "workers": 657}, small("L-34B43A08"))
    denied = {"aws:servicequotas/getServiceQuota:getServiceQuota": refuse("AccessDenied")}
    done = eks({"workers": 40}, denied)
    assert done.all("nodeGroup:NodeGroup")
    assert "the quota L-1216C47A of vCPUs" in unchecked(done)
    assert "the quota L-BD136A63 of nodes in a group" in unchecked(done)


def test_system_pods_leave_the_scheduler_room_only_with_autoscaler() -> None:
    assert "at most 1.21 cores and 5.42 GiB" in refused({"schedulerMemoryGiB": 5.8})
    assert eks({"schedulerMemoryGiB": 5.8, "maxWorkers": 40}).all("nodeGroup:NodeGroup")


def test_workers_that_use_the_whole_cpu_quota_are_accepted() -> None:
    assert eks({"workers": 640}).all("nodeGroup:NodeGroup"), "160 nodes of 4 vCPUs, and a quota of 640"
    assert "644 vCPUs" in refused({"workers": 641})


@pytest.mark.parametrize("machine_type", ["m6i.xlarge", "r7a.large", "t3.large", "c7i.large", "z1d.large"])
def test_standard_machine_types_count_towards_the_cpu_quota(machine_type: str) -> None:
    assert has_standard_quota(machine_type)


def test_quota_of_only_the_first_type_refuses_nothing() -> None:
    many = {"machineType": "m6a.24xlarge", "maxWorkers": 960}
    assert "960 vCPUs are needed" in refused(many), "a quota of 640"
    done = eks({**many, "otherMachineTypes": "hpc6a.48xlarge"})
    assert "Reason: hpc6a.48xlarge counts in a quota of its family" in unchecked(done)
    assert "quota of vCPUs" not in unchecked(eks({**many, "maxWorkers": 96}))


@pytest.mark.parametrize(
    "machine_type",
    ["inf2.xlarge", "trn1.2xlarge", "g5.xlarge", "p4d.24xlarge", "x2idn.large", "hpc7a.12xlarge", "dl1.24xlarge"],
)
def test_accelerated_machine_types_have_quotas_of_their_own(machine_type: str) -> None:
    assert not has_standard_quota(machine_type)


@pytest.mark.parametrize("reason", ["AccessDenied", "RequestLimitExceeded"])
def test_hidden_spot_market_is_refused(reason: str) -> None:
    """With other zones for a moment, a new node group would replace that of the stack."""
    message = refused({"spot": True}, {"aws:ec2/getSpotPrice:getSpotPrice": refuse(reason)})
    assert "the spot price of m6i.xlarge in us-west-2a" in message
    assert reason in message
