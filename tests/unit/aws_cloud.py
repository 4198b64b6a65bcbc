"""A mock of AWS: four zones of us-west-2, a few machine types, a price list, ample quotas."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Mapping
from typing import Any

from tests.unit.cloud_mocks import DRAWN, Answer, Recording
from tests.unit.mocked_program import MockedProgram

ZONES = ["us-west-2a", "us-west-2b", "us-west-2c", "us-west-2d"]

MACHINE_TYPES = {
    # name: vCPUs, memory in MiB, interfaces, addresses each, architecture, zones
    "m6i.large": (2, 8192, 3, 10, "x86_64", ZONES),
    "m6i.xlarge": (4, 16384, 4, 15, "x86_64", ZONES),
    "m6i.2xlarge": (8, 32768, 4, 15, "x86_64", ZONES),
    "r6i.2xlarge": (8, 65536, 4, 15, "x86_64", ZONES),
    "m6g.xlarge": (4, 16384, 4, 15, "arm64", ZONES),
    "m7i.xlarge": (4, 16384, 4, 15, "x86_64", ["us-west-2b", "us-west-2c"]),
    "m5n.xlarge": (4, 16384, 4, 15, "x86_64", ["us-west-2d"]),
    "m7i-flex.large": (2, 8192, 3, 10, "x86_64", ZONES),
    "t3.small": (2, 2048, 3, 4, "x86_64", ZONES),
    "t4g.small": (2, 2048, 3, 4, "arm64", ZONES),
    "m6a.xlarge": (4, 16384, 4, 15, "x86_64", ZONES),
    "m5.xlarge": (4, 16384, 4, 15, "x86_64", ZONES),
    "m5a.xlarge": (4, 15360, 4, 15, "x86_64", ZONES),
    "m7a.xlarge": (4, 16384, 3, 10, "x86_64", ZONES),
    "m6i.16xlarge": (64, 262144, 15, 50, "x86_64", ZONES),
    "m6a.24xlarge": (96, 393216, 15, 50, "x86_64", ZONES),
    "hpc6a.48xlarge": (96, 393216, 2, 50, "x86_64", ZONES),
    "g5.xlarge": (4, 16384, 4, 15, "x86_64", ZONES),
    "inf2.xlarge": (4, 16384, 4, 15, "x86_64", ZONES),
    "trn1.2xlarge": (8, 32768, 4, 15, "x86_64", ZONES),
    "f2.6xlarge": (24, 262144, 8, 30, "x86_64", ZONES),
    "vt1.3xlarge": (12, 24576, 4, 15, "x86_64", ZONES),
    "inf1.xlarge": (4, 8192, 4, 10, "x86_64", ZONES),
}
ACCELERATORS: dict[str, dict[str, Any]] = {
    "g5.xlarge": {"gpuses": [{"name": "A10G", "manufacturer": "NVIDIA", "count": 1, "memorySize": 24576}]},
    "inf2.xlarge": {"neuronDevices": [{"name": "Inferentia2", "count": 1, "memorySize": 32768, "coreInfos": []}]},
    "trn1.2xlarge": {"neuronDevices": [{"name": "Trainium", "count": 1, "memorySize": 32768, "coreInfos": []}]},
    "f2.6xlarge": {"fpgas": [{"name": "VU47P", "manufacturer": "Xilinx", "count": 1, "memorySize": 16384}]},
    "vt1.3xlarge": {"mediaAccelerators": [{"name": "U30", "manufacturer": "Xilinx", "count": 1, "memorySize": 24576}]},
    "inf1.xlarge": {"inferenceAccelerators": [{"name": "Inferentia", "manufacturer": "AWS", "count": 1}]},
}
"""EC2's description of the accelerators of a type. Each field is an empty list for the others."""
NO_ACCELERATOR: dict[str, Any] = {
    "gpuses": [],
    "neuronDevices": [],
    "fpgas": [],
    "mediaAccelerators": [],
    "inferenceAccelerators": [],
}
FREE_PLAN = ("t3.small", "m7i-flex.large", "t4g.small")
PRICES = {
    "m6i.large": 0.1,
    "m6i.xlarge": 0.2,
    "AmazonEKS": 0.1,
    "NAT": 0.05,
    "gp3": 0.073,
    "AmazonVPC": 0.005,
    "AWSELB": 0.02,
    "AmazonEFS": 0.3,
}
"""Invented round figures, because the tests are about their use. Disks and files for a month, the rest for an hour."""
SPOT_PRICE = 0.08

STATISTICS = "arn:aws:iam::123456789012:role/statistics"

EKS = {"cloud": "eks", "region": "us-west-2", "authorizedNetworks": "203.0.113.0/24"}


def offerings(args: Mapping[str, Any]) -> dict[str, Any]:
    """Offers of machine types in zones or regions."""
    patterns = args["filters"][0]["values"]
    names = [name for name in MACHINE_TYPES if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]
    pairs = [(name, zone) for name in names for zone in MACHINE_TYPES[name][5]]
    if args["locationType"] == "region":
        pairs = [(name, "us-west-2") for name in names]
    return {
        "id": "us-west-2",
        "region": "us-west-2",
        "instanceTypes": [name for name, _ in pairs],
        "locations": [place for _, place in pairs],
        "locationTypes": [args["locationType"] for _ in pairs],
    }


def instance_type(args: Mapping[str, Any]) -> dict[str, Any]:
    """Description of a machine type."""
    name = args["instanceType"]
    if name not in MACHINE_TYPES:
        raise PermissionError(f"InvalidInstanceType: the following supplied instance types do not exist: [{name}]")
    cpus, memory, interfaces, addresses, architecture, _ = MACHINE_TYPES[name]
    return {
        "id": name,
        "instanceType": name,
        "defaultVcpus": cpus,
        "memorySize": memory,
        "maximumNetworkInterfaces": interfaces,
        "maximumIpv4AddressesPerInterface": addresses,
        "supportedArchitectures": [architecture],
        "freeTierEligible": name in FREE_PLAN,
        **NO_ACCELERATOR,
        **ACCELERATORS.get(name, {}),
    }


def instance_types(args: Mapping[str, Any]) -> dict[str, Any]:
    """Names of the machine types that the filters select."""
    wanted = {entry["name"]: entry["values"] for entry in args["filters"]}
    facts = {
        name: {
            "instance-type": name,
            "processor-info.supported-architecture": architecture,
            "supported-usage-class": "spot",
            "free-tier-eligible": "true" if name in FREE_PLAN else "false",
            "vcpu-info.default-vcpus": str(cpus),
            "memory-info.size-in-mib": str(memory),
            "network-info.maximum-network-interfaces": str(interfaces),
            "network-info.ipv4-addresses-per-interface": str(addresses),
        }
        for name, (cpus, memory, interfaces, addresses, architecture, _) in MACHINE_TYPES.items()
    }
    names = [name for name, fact in facts.items() if all(fact[key] in values for key, values in wanted.items())]
    return {"id": "us-west-2", "region": "us-west-2", "instanceTypes": names}


def role(args: Mapping[str, Any]) -> dict[str, Any]:
    """A role of the account. Those whose name begins with `missing` do not exist."""
    name = args["name"]
    if name.startswith("missing"):
        raise PermissionError(f"reading IAM Role ({name}): couldn't find resource")
    path = "staff/" if name == "engineer" else ""
    return {"id": name, "name": name, "arn": f"arn:aws:iam::123456789012:role/{path}{name}"}


def product(args: Mapping[str, Any]) -> dict[str, Any]:
    """One product of the price list."""
    wanted = {entry["field"]: entry["value"] for entry in args["filters"]}
    name = (
        wanted.get("instanceType")
        or wanted.get("volumeApiName")
        or ("NAT" if wanted.get("productFamily") == "NAT Gateway" else args["serviceCode"])
    )
    if name not in PRICES:
        raise PermissionError("Pricing product query not precise enough. Returned 0 elements")
    unit = "GB-Mo" if name in ("gp3", "AmazonEFS") else "Hrs"
    terms = {"x": {"priceDimensions": {"y": {"unit": unit, "pricePerUnit": {"USD": str(PRICES[name])}}}}}
    return {"id": name, "serviceCode": args["serviceCode"], "result": json.dumps({"terms": {"OnDemand": terms}})}


def no_budget(args: Mapping[str, Any]) -> dict[str, Any]:
    """An account without this budget, whose budgets the caller may see."""
    raise PermissionError(f"reading AWS Budgets Budget ({args['name']}): couldn't find resource")


BUCKETS = {"team-data": "us-west-2", "results": "us-west-2", "far": "eu-west-1"}
"""The region of each bucket."""


def bucket(args: Mapping[str, Any]) -> dict[str, Any]:
    """A bucket, or AWS's refusal."""
    name = args["bucket"]
    if name.startswith("hidden"):
        raise PermissionError(f"reading S3 Bucket ({name}): operation error S3: HeadBucket, StatusCode: 403, Forbidden")
    if name not in BUCKETS:
        raise PermissionError(f"reading S3 Bucket ({name}): couldn't find resource")
    return {"id": name, "bucket": name, "arn": f"arn:aws:s3:::{name}", "bucketRegion": BUCKETS[name]}


def nothing_found(_args: Mapping[str, Any]) -> dict[str, Any]:
    """An account that has no such disk or snapshot."""
    raise PermissionError("Your query returned no results. Please change your search criteria and try again.")


def a_snapshot(gib: int = 10) -> Answer:
    """An account with a snapshot of this home, by any ID that is asked for."""

    def answer(args: Mapping[str, Any]) -> dict[str, Any]:
        name = (args.get("snapshotIds") or ["snap-0123456789abcdef0"])[0]
        return {"id": name, "snapshotId": name, "volumeSize": gib, "startTime": "2026-11-28T17:00:00Z"}

    return answer


def a_disk(zone: str, gib: int) -> Answer:
    """An account in which the home has a disk."""
    return lambda _args: {"id": "vol-1", "volumeId": "vol-1", "availabilityZone": zone, "size": gib}


GET_DISK, GET_SNAPSHOT = "aws:ebs/getVolume:getVolume", "aws:ebs/getSnapshot:getSnapshot"

ANSWERS: dict[str, Answer] = {
    GET_DISK: nothing_found,
    GET_SNAPSHOT: nothing_found,
    "aws:s3/getBucket:getBucket": bucket,
    "aws:budgets/getBudget:getBudget": no_budget,
    "aws:index/getCallerIdentity:getCallerIdentity": lambda _args: {
        "id": "123456789012",
        "accountId": "123456789012",
        "arn": "arn:aws:sts::123456789012:assumed-role/engineer/me",
        "userId": "AROA:me",
    },
    "aws:index/getAvailabilityZones:getAvailabilityZones": lambda _args: {
        "id": "us-west-2",
        "names": ZONES,
        "zoneIds": [f"usw2-az{index}" for index in range(1, 5)],
        "groupNames": ["us-west-2"],
        "region": "us-west-2",
    },
    "aws:ec2/getInstanceTypeOfferings:getInstanceTypeOfferings": offerings,
    "aws:ec2/getInstanceType:getInstanceType": instance_type,
    "aws:ec2/getInstanceTypes:getInstanceTypes": instance_types,
    "aws:ec2/getSpotPrice:getSpotPrice": lambda args: {
        "id": "spot",
        "instanceType": args["instanceType"],
        "availabilityZone": args["availabilityZone"],
        "region": "us-west-2",
        "spotPrice": str(SPOT_PRICE),
        "spotPriceTimestamp": "",
    },
    "aws:servicequotas/getServiceQuota:getServiceQuota": lambda args: {
        "id": "quota",
        "quotaCode": args["quotaCode"],
        "quotaName": "Running On-Demand Standard instances",
        "value": 640.0,
    },
    "aws:pricing/getProduct:getProduct": product,
    "aws:eks/getAddonVersion:getAddonVersion": lambda args: {
        "id": args["addonName"],
        "addonName": args["addonName"],
        "kubernetesVersion": args["kubernetesVersion"],
        "version": f"v1.2.3-for-{args['kubernetesVersion']}",
    },
    "aws:eks/getClusterVersions:getClusterVersions": lambda _args: {
        "id": "versions",
        "clusterVersions": [{"clusterVersion": version} for version in ("1.36", "1.35", "1.34", "1.33")],
    },
    "aws:ssm/getParameter:getParameter": lambda args: {
        "id": args["name"],
        "name": args["name"],
        "insecureValue": f"{args['name'].split('/')[5]}.2-20260601",
    },
    "aws:resourcegroupstaggingapi/getResources:getResources": lambda _args: {"id": "r", "resourceTagMappingLists": []},
    "aws:ecr/getAuthorizationToken:getAuthorizationToken": lambda _args: {
        "id": "token",
        "userName": "AWS",
        "password": "short-lived-token",
        "authorizationToken": "QVdT",
        "expiresAt": "",
        "proxyEndpoint": "",
    },
    "aws:ec2/getVpc:getVpc": lambda args: {
        "id": args["id"],
        "enableDnsSupport": True,
        "enableDnsHostnames": True,
    },
    "aws:ec2/getRouteTable:getRouteTable": lambda _args: {
        "id": "rtb-1",
        "routeTableId": "rtb-1",
        "routes": [
            {"cidrBlock": "172.31.0.0/16", "gatewayId": "local", "destinationPrefixListId": ""},
            {"cidrBlock": "0.0.0.0/0", "natGatewayId": "nat-1", "gatewayId": "", "destinationPrefixListId": ""},
        ],
    },
    "aws:iam/getRole:getRole": role,
    "aws:iam/getRoles:getRoles": lambda args: {"id": "r", "nameRegex": args["nameRegex"], "names": [], "arns": []},
    "aws:ec2/getSubnet:getSubnet": lambda args: {
        "id": args["id"],
        "cidrBlock": "172.31.0.0/20",
        "mapPublicIpOnLaunch": False,
        "vpcId": "vpc-other" if args["id"] == "subnet-elsewhere" else "vpc-campus",
        "availabilityZone": {
            "subnet-1": "us-west-2a",
            "subnet-2": "us-west-2b",
            "subnet-3": "us-west-2a",
            "subnet-public": "us-west-2a",
        }.get(args["id"], "us-west-2b"),
    },
}


def computed(type_: str, name: str, inputs: dict[str, Any]) -> dict[str, Any]:
    """Outputs of a resource that AWS would compute."""
    state: dict[str, Any] = {"name": inputs.get("name", f"{name}-{DRAWN}")}
    kind = type_.split(":")[-1]
    state["arn"] = f"arn:aws:{type_.split(':')[1].split('/')[0]}:us-west-2:123456789012:{kind}/{state['name']}"
    if type_ == "aws:iam/role:Role":
        state["arn"] = f"arn:aws:iam::123456789012:role/{state['name']}"
    if type_ == "aws:eks/cluster:Cluster":
        state |= {
            "endpoint": "https://ABC.us-west-2.eks.amazonaws.com",
            "certificateAuthority": {"data": "Q0E="},
            "version": inputs.get("version", "1.35"),
            "vpcConfig": {**inputs["vpcConfig"], "clusterSecurityGroupId": "sg-cluster"},
        }
    if type_ == "aws:eks/nodeGroup:NodeGroup":
        state["resources"] = [{"autoscalingGroups": [{"name": f"eks-{name}"}], "remoteAccessSecurityGroupId": ""}]
    if type_ == "aws:ec2/launchTemplate:LaunchTemplate":
        state["latestVersion"] = 7
    if type_ == "aws:ecr/repository:Repository":
        state |= {
            "repositoryUrl": f"123456789012.dkr.ecr.us-west-2.amazonaws.com/{state['name']}",
            "registryId": "123456789012",
        }
    if type_ == "docker-build:index:Image":
        state |= {"ref": "123456789012.dkr.ecr.us-west-2.amazonaws.com/i@sha256:" + "a" * 64, "digest": "a"}
    if type_ == "aws:ec2/eip:Eip":
        state |= {
            "publicIp": f"198.51.100.{20 + int(name[-1]) if name[-1].isdigit() else 9}",
            "allocationId": f"{name}-id",
        }
    return state


PROGRAM = MockedProgram(EKS, ANSWERS, computed, "eks-team")
eks, team, refused = PROGRAM.run, PROGRAM.team, PROGRAM.refused


def refuse(reason: str) -> Any:
    """An answer that is a refusal."""

    def answer(_args: Mapping[str, Any]) -> dict[str, Any]:
        raise PermissionError(reason)

    return answer


def release_of(done: Recording) -> dict[str, Any]:
    """The values of the project's own chart."""
    return dict(next(entry for entry in done.all("v3:Release") if entry.name.count("-") == 1).inputs["values"])
