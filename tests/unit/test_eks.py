"""EKS under mocks: resources, dependencies, permissions, refusals and outputs."""

from __future__ import annotations

import functools
import ipaddress
import itertools
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from components.clouds.allocatable import Machine
from components.clouds.aws.allocatable import eks_allocatable
from tests.unit.aws_cloud import ANSWERS, PRICES, SPOT_PRICE, computed, eks
from tests.unit.cloud_mocks import DRAWN, Recording, Refused, labelled, run, stack_config

GOLDEN = Path(__file__).parent / "golden"
STATISTICS = "arn:aws:iam::123456789012:role/statistics"


@pytest.fixture(autouse=True)
def _command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")


@functools.cache
def team(*, preview: bool = False) -> Recording:
    return run(stack_config("eks-team"), ANSWERS, computed, stack_name="eks-team", preview=preview)


def refused(config: Mapping[str, Any], answers: Mapping[str, Any] | None = None) -> str:
    """The message with which these settings are refused; nothing may have been made."""
    with pytest.raises(Refused) as caught:
        eks(config, {"never-asked": lambda _args: {}, **(answers or {})})
    assert caught.value.nothing_was_made, [resource.urn for resource in caught.value.recording.resources]
    assert type(caught.value.error).__mro__[1].__name__ == "RunError", "printed with a stack trace"
    return str(caught.value)


def refuse(reason: str) -> Any:
    """A data source that refuses."""

    def answer(_args: Mapping[str, Any]) -> dict[str, Any]:
        raise PermissionError(reason)

    return answer


def release_of(done: Recording) -> dict[str, Any]:
    """The values of the project's own chart."""
    return dict(next(entry for entry in done.all("v3:Release") if entry.name.count("-") == 1).inputs["values"])


# Resources


def test_workers_have_their_own_tainted_node_group() -> None:
    done = eks()
    assert len(done.all("nodeGroup:NodeGroup")) == 2
    system = done.one("nodeGroup:NodeGroup", "system").inputs
    workers = done.one("nodeGroup:NodeGroup", "workers").inputs
    assert system["labels"] == {"future-kubernetes/role": "system"}
    assert "taints" not in system
    assert workers["labels"] == {"future-kubernetes/role": "worker"}
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


def test_autoscaled_group_ranges_from_workers_to_max_workers() -> None:
    workers = eks({"workers": 10, "maxWorkers": 40}).one("nodeGroup:NodeGroup", "workers")
    assert workers.inputs["scalingConfig"] == {"desiredSize": 3, "minSize": 3, "maxSize": 10}
    assert workers.ignore_changes == ["scalingConfig.desiredSize"]


@pytest.mark.parametrize("key", ["idleMinutes", "ttlHours"])
def test_nodes_scale_to_zero_with_their_workers(key: str) -> None:
    workers = eks({"workers": 8, key: 30}).one("nodeGroup:NodeGroup", "workers")
    assert workers.inputs["scalingConfig"] == {"desiredSize": 2, "minSize": 0, "maxSize": 2}


def running(nodes: int, least: int, most: int, standing: tuple[str, ...] = ("1",)) -> dict[str, Any]:
    """What AWS answers of a workers' group that stands, of one that is deleted, and of another stack's."""
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
        ({"workers": 10, "maxWorkers": 40}, 8, 3, ["scalingConfig.desiredSize"]),  # nothing changes, nothing is sent
        ({"workers": 10, "maxWorkers": 80}, 8, 8, []),  # those that the autoscaler added stay
        ({"workers": 40, "maxWorkers": 40}, 8, 10, []),
        ({"workers": 40, "maxWorkers": 80}, 3, 10, []),  # AWS refuses less than the least
        ({"workers": 4, "maxWorkers": 20}, 8, 5, []),  # and more than the most
    ],
)
def test_changed_limit_is_sent_with_the_live_node_count(
    config: dict[str, Any], nodes: int, sent: int, ignored: list[str]
) -> None:
    group = eks(config, running(nodes, 3, 10)).one("nodeGroup:NodeGroup", "workers")
    assert (group.inputs["scalingConfig"]["desiredSize"], group.ignore_changes) == (sent, ignored)


def test_ambiguous_node_groups_give_no_live_count() -> None:
    answers = running(8, 3, 10, standing=("0", "1"))
    group = eks({"workers": 10, "maxWorkers": 80}, answers).one("nodeGroup:NodeGroup", "workers")
    assert (group.inputs["scalingConfig"]["desiredSize"], group.ignore_changes) == (3, ["scalingConfig.desiredSize"])


def test_missing_permission_to_list_groups_stops_nothing() -> None:
    denied = {"aws:resourcegroupstaggingapi/getResources:getResources": refuse("AccessDenied")}
    group = eks({"workers": 10, "maxWorkers": 40}, denied).one("nodeGroup:NodeGroup", "workers")
    assert group.ignore_changes == ["scalingConfig.desiredSize"]


def test_autoscaler_reads_an_empty_groups_label_and_taint_from_tags() -> None:
    tags = [tag.inputs["tag"] for tag in team().all("autoscaling/tag:Tag")]
    assert {tag["key"]: tag["value"] for tag in tags} == {
        "k8s.io/cluster-autoscaler/node-template/label/future-kubernetes/role": "worker",
        "k8s.io/cluster-autoscaler/node-template/taint/future-kubernetes/worker": "true:NoSchedule",
    }


def test_only_autoscaled_spot_groups_span_zones() -> None:
    spread = team().one("nodeGroup:NodeGroup", "workers").inputs
    assert spread["capacityType"] == "SPOT"
    assert len(spread["subnetIds"]) == 3
    done = eks({"maxWorkers": 40})
    workers, system = (done.one("nodeGroup:NodeGroup", part).inputs for part in ("workers", "system"))
    assert workers["capacityType"] == "ON_DEMAND"
    assert team().one("nodeGroup:NodeGroup", "system").inputs["capacityType"] == "ON_DEMAND", "the R session is there"
    assert workers["subnetIds"] == system["subnetIds"]
    assert len(system["subnetIds"]) == 1
    assert len(eks({"spot": True}).one("nodeGroup:NodeGroup", "workers").inputs["subnetIds"]) == 1


def test_workers_machine_type_moves_neither_network_nor_scheduler() -> None:
    for type_ in ("ec2/subnet:Subnet", "ec2/natGateway:NatGateway"):
        names = [[entry.name for entry in done.all(type_)] for done in (eks(), eks({"machineType": "m7i.xlarge"}))]
        assert names[0] == names[1]
    moved = eks({"machineType": "m7i.xlarge"})
    assert moved.one("nodeGroup:NodeGroup", "system").inputs["subnetIds"] == ["future-team-private-us-west-2a-id"]
    assert moved.one("nodeGroup:NodeGroup", "workers").inputs["subnetIds"] == ["future-team-private-us-west-2b-id"]


def test_system_node_takes_the_first_zone_offering_its_machine() -> None:
    for group in eks({"systemMachineType": "m7i.xlarge"}).all("nodeGroup:NodeGroup"):
        assert group.inputs["subnetIds"] == ["future-team-private-us-west-2b-id"]


def test_one_nat_serves_all_zones_unless_nat_per_zone() -> None:
    assert len(eks().all("natGateway:NatGateway")) == 1
    each = eks({"natPerZone": True})
    assert len(each.all("natGateway:NatGateway")) == 3
    private = each.all("routeTable:RouteTable", "private")
    assert len({entry.inputs["routes"][0]["natGatewayId"] for entry in private}) == 3


def test_private_subnets_reach_the_internet_only_through_nat() -> None:
    done = eks()
    private = done.one("routeTable:RouteTable", "private")
    assert private.inputs["routes"] == [{"cidrBlock": "0.0.0.0/0", "natGatewayId": done.one("NatGateway").name + "-id"}]
    joined = [entry.inputs for entry in done.all("RouteTableAssociation", "private")]
    assert {entry["routeTableId"] for entry in joined} == {f"{private.name}-id"}
    assert len(joined) == len(done.all("ec2/subnet:Subnet", "private")) == 3


def test_public_subnets_route_to_the_internet_and_hold_nat_gateways() -> None:
    done = eks({"natPerZone": True})
    internet = done.one("InternetGateway")
    table = done.one("routeTable:RouteTable", "public")
    assert table.inputs["routes"] == [{"cidrBlock": "0.0.0.0/0", "gatewayId": f"{internet.name}-id"}]
    public = done.all("ec2/subnet:Subnet", "public")
    joined = [entry.inputs for entry in done.all("RouteTableAssociation", "public")]
    assert {(entry["subnetId"], entry["routeTableId"]) for entry in joined} == {
        (f"{subnet.name}-id", f"{table.name}-id") for subnet in public
    }
    for subnet in public:
        gateway = done.one("natGateway:NatGateway", subnet.inputs["availabilityZone"])
        assert gateway.inputs["subnetId"] == f"{subnet.name}-id"
        assert subnet.inputs["tags"].get("kubernetes.io/role/elb") == "1", "where EKS puts a load balancer"
    for subnet in done.all("ec2/subnet:Subnet", "private"):
        assert "kubernetes.io/role/elb" not in subnet.inputs["tags"], "a load balancer there would not come up"


def test_subnets_lie_within_the_vpc_without_overlap() -> None:
    vpc = eks().one("ec2/vpc:Vpc").inputs
    assert (vpc["enableDnsSupport"], vpc["enableDnsHostnames"]) == (True, True), "or EFS has no name within"
    blocks = [ipaddress.IPv4Network(subnet.inputs["cidrBlock"]) for subnet in eks().all("ec2/subnet:Subnet")]
    assert all(block.subnet_of(ipaddress.IPv4Network(vpc["cidrBlock"])) for block in blocks)
    assert not any(one.overlaps(other) for one, other in itertools.combinations(blocks, 2))


def test_private_subnets_have_an_address_for_every_pod() -> None:
    private = eks().all("ec2/subnet:Subnet", "private")
    sizes = {ipaddress.IPv4Network(subnet.inputs["cidrBlock"]).num_addresses for subnet in private}
    assert sizes == {2**14}, "every pod takes an address of its node's subnet"


def test_root_disk_is_encrypted_gp3_of_50_gib() -> None:
    (disk,) = eks().one("launchTemplate:LaunchTemplate").inputs["blockDeviceMappings"]
    assert disk["deviceName"] == "/dev/xvda", "the root disk of Amazon Linux, else there are two"
    assert disk["ebs"] == {"volumeType": "gp3", "volumeSize": 50, "encrypted": "true", "deleteOnTermination": "true"}


def test_node_update_drains_a_third_of_the_workers() -> None:
    done = eks()
    assert done.one("nodeGroup:NodeGroup", "workers").inputs["updateConfig"] == {"maxUnavailablePercentage": 33}
    assert done.one("nodeGroup:NodeGroup", "system").inputs["updateConfig"] == {"maxUnavailable": 1}


def test_requested_fourth_zone_replaces_the_third() -> None:
    done = eks({"zone": "us-west-2d"})
    zones = [subnet.inputs["availabilityZone"] for subnet in done.all("ec2/subnet:Subnet", "private")]
    assert zones == ["us-west-2a", "us-west-2b", "us-west-2d"]
    for group in done.all("nodeGroup:NodeGroup"):
        assert group.inputs["subnetIds"] == ["future-team-private-us-west-2d-id"]


def test_policy_arns_use_the_callers_partition() -> None:
    def in_china(args: Mapping[str, Any]) -> dict[str, Any]:
        known = ANSWERS["aws:index/getCallerIdentity:getCallerIdentity"](args)
        return {**known, "arn": known["arn"].replace("arn:aws:", "arn:aws-cn:")}

    answers = {"aws:index/getCallerIdentity:getCallerIdentity": in_china}
    done = eks({"adminRoles": STATISTICS.replace("arn:aws:", "arn:aws-cn:")}, answers)
    named = [entry.inputs["policyArn"] for entry in done.resources if "policyArn" in entry.inputs]
    assert len(named) >= 6
    assert all(arn.startswith("arn:aws-cn:") for arn in named)


def test_zones_without_eks_are_excluded() -> None:
    (asked,) = [args for token, args, _ in eks({"zone": "us-west-2b"}).asked if "getAvailabilityZones" in token]
    assert {"use1-az3", "usw1-az2", "cac1-az3"} <= set(asked["excludeZoneIds"])
    assert asked["filters"] == [{"name": "opt-in-status", "values": ["opt-in-not-required"]}], "no local zones"
    assert asked["state"] == "available"


def test_control_plane_has_private_endpoint_and_standard_support() -> None:
    cluster = eks().one("eks/cluster:Cluster").inputs
    assert cluster["vpcConfig"]["endpointPrivateAccess"] is True, "nodes are not in authorizedNetworks"
    assert cluster["vpcConfig"]["endpointPublicAccess"] is True, "authorizedNetworks would reach nothing"
    assert len(cluster["vpcConfig"]["subnetIds"]) >= 2, "EKS wants two zones"
    assert cluster["upgradePolicy"] == {"supportType": "STANDARD"}
    assert "enabledClusterLogTypes" not in cluster, "the log group would outlive the cluster"


def test_autoscaler_runs_on_the_system_node_with_its_permissions() -> None:
    done = team()
    release = done.one("v3:Release", "autoscaler")
    assert release.inputs["values"]["nodeSelector"] == {"future-kubernetes/role": "system"}
    assert release.inputs["values"]["awsRegion"] == "us-west-2"
    assert release.inputs["version"], "another chart on each update"
    for tag in done.all("autoscaling/tag:Tag"):
        assert tag.inputs["autoscalingGroupName"] == "eks-future-eks-team-workers"
    for type_ in ("RolePolicy", "PodIdentityAssociation", "autoscaling/tag:Tag"):
        for right in done.all(type_, "future-eks-team-autoscaler") + done.all(type_, "workers-"):
            assert done.goes_before(release, right), f"it would start without {right.name}"


def test_load_balancer_uses_the_given_public_subnets() -> None:
    given = {"network": "vpc-campus", "subnets": "subnet-1,subnet-2", "host": "r.example.org"}
    annotation = "service.beta.kubernetes.io/aws-load-balancer-subnets"

    def balancer(config: dict[str, str]) -> dict[str, str]:
        service = eks(config).one("v3:Release", "traefik").inputs["values"]["service"]
        return dict(service["annotations"])

    assert balancer({**given, "publicSubnets": "subnet-public"})[annotation] == "subnet-public"
    assert annotation not in balancer(given), "unset, EKS looks for public subnets by itself"


def test_addon_versions_follow_the_clusters_version() -> None:
    addons = {addon.inputs["addonName"]: addon.inputs for addon in eks({"sharedGiB": 10}).all("eks/addon:Addon")}
    assert set(addons) == {
        "vpc-cni",
        "kube-proxy",
        "coredns",
        "eks-pod-identity-agent",
        "aws-ebs-csi-driver",
        "aws-efs-csi-driver",
        "metrics-server",
    }
    assert all(addon["addonVersion"] == "v1.2.3-for-1.35" for addon in addons.values())
    for when in ("Create", "Update"):
        assert all(addon[f"resolveConflictsOn{when}"] == "OVERWRITE" for addon in addons.values()), "or it would stop"
    assert json.loads(addons["vpc-cni"]["configurationValues"]) == {"enableNetworkPolicy": "true"}
    assert eks().one("eks/cluster:Cluster").inputs["bootstrapSelfManagedAddons"] is False


def test_addons_get_permissions_by_pod_identity() -> None:
    addons = {addon.inputs["addonName"]: addon.inputs for addon in eks({"sharedGiB": 10}).all("eks/addon:Addon")}
    accounts = {
        name: addon["podIdentityAssociations"][0]["serviceAccount"]
        for name, addon in addons.items()
        if "podIdentityAssociations" in addon
    }
    assert accounts == {
        "vpc-cni": "aws-node",
        "aws-ebs-csi-driver": "ebs-csi-controller-sa",
        "aws-efs-csi-driver": "efs-csi-controller-sa",
    }
    assert json.loads(addons["aws-ebs-csi-driver"]["configurationValues"]) == {
        "controller": {"extraVolumeTags": {"app": "future-kubernetes", "stack": "team"}}
    }
    for role in eks({"sharedGiB": 10}).all("iam/role:Role"):
        statement = json.loads(role.inputs["assumeRolePolicy"])["Statement"][0]
        tags = statement["Principal"]["Service"] == "pods.eks.amazonaws.com"
        assert statement["Action"] == ["sts:AssumeRole", *(["sts:TagSession"] if tags else [])], "pod identity tags"
    assert not any("serviceAccountRoleArn" in addon for addon in addons.values())
    done = eks({"sharedGiB": 10})
    for addon, part in (("vpc-cni", "network"), ("aws-ebs-csi-driver", "disks"), ("aws-efs-csi-driver", "files")):
        own = done.one("eks/addon:Addon", addon)
        (identity,) = own.inputs["podIdentityAssociations"]
        assert identity["roleArn"].endswith(f"/future-team-{part}-{DRAWN}"), "another part's rights"
        assert done.goes_before(own, done.one("RolePolicyAttachment", f"-{part}-")), (
            "an addon that starts without rights"
        )
        assert done.goes_before(own, done.one("eks/addon:Addon", "pod-identity-agent"))


def test_pod_addons_wait_for_the_system_node() -> None:
    done = eks({"sharedGiB": 10})
    for addon in ("coredns", "metrics-server", "aws-ebs-csi-driver", "aws-efs-csi-driver"):
        assert done.goes_before(done.one("eks/addon:Addon", addon), done.one("nodeGroup:NodeGroup", "system")), addon


def test_system_group_grows_only_with_an_autoscaler() -> None:
    most = [
        eks(config).one("nodeGroup:NodeGroup", "system").inputs["scalingConfig"]["maxSize"]
        for config in ({"maxWorkers": 40}, {})
    ]
    assert most == [3, 1]


def test_disks_are_encrypted_gp3_by_default() -> None:
    disks = eks().one("StorageClass", "disks").inputs
    assert disks["metadata"]["annotations"] == {"storageclass.kubernetes.io/is-default-class": "true"}
    assert (disks["parameters"]["type"], disks["parameters"]["encrypted"]) == ("gp3", "true")
    template = eks().one("launchTemplate:LaunchTemplate").inputs
    assert template["blockDeviceMappings"][0]["ebs"]["encrypted"] == "true"
    assert template["blockDeviceMappings"][0]["ebs"]["deleteOnTermination"] == "true", "billed without its node"


def test_efs_exists_only_with_shared_gib() -> None:
    assert [entry.name for entry in eks().resources if "efs" in entry.type or "efs" in entry.name] == []
    done = eks({"sharedGiB": 10})
    assert done.one("efs/fileSystem:FileSystem").inputs["encrypted"] is True
    assert len(done.all("efs/mountTarget:MountTarget")) == 1
    spread = eks({"sharedGiB": 10, "spot": True, "maxWorkers": 40})
    mounted = {target.inputs["subnetId"] for target in spread.all("efs/mountTarget:MountTarget")}
    assert mounted == set(spread.one("nodeGroup:NodeGroup", "workers").inputs["subnetIds"])
    door = done.one("SecurityGroupIngressRule").inputs
    assert (door["fromPort"], door["toPort"], door["referencedSecurityGroupId"]) == (2049, 2049, "sg-cluster")
    shared = done.one("StorageClass", "shared").inputs
    assert (shared["parameters"]["uid"], shared["parameters"]["gid"]) == ("1000", "1000"), "the image's user"
    files = f"{done.one('efs/fileSystem:FileSystem').name}-id"
    assert shared["parameters"]["fileSystemId"] == files
    assert shared["reclaimPolicy"] == "Delete", "an access point would outlive its claim"
    for target in spread.all("efs/mountTarget:MountTarget"):
        assert target.inputs["fileSystemId"] == files
        assert target.inputs["securityGroups"] == [f"{spread.one('ec2/securityGroup:SecurityGroup').name}-id"]
    assert release_of(done)["shared"]["storageClass"] == shared["metadata"]["name"]


def test_load_balancer_exists_only_with_host() -> None:
    assert eks().all("v3:Release", "traefik") == []
    done = eks({"host": "r.example.org"})
    annotations = done.one("v3:Release", "traefik").inputs["values"]["service"]["annotations"]
    assert annotations["service.beta.kubernetes.io/aws-load-balancer-type"] == "nlb"
    public = done.all("ec2/subnet:Subnet", "public")
    assert len(public) >= 2
    assert all(subnet.inputs["tags"]["kubernetes.io/role/elb"] == "1" for subnet in public)
    assert done.outputs["hostAddress"][0] == "lb.us-west-2.elb.amazonaws.com"
    assert release_of(done)["ingress"]["className"] == "future-kubernetes"
    # An empty map would vanish in Traefik's chart, and with it the only way to a certificate.
    resolver = done.one("v3:Release", "traefik").inputs["values"]["certificatesResolvers"]["letsencrypt"]
    assert resolver["acme"]["tlsChallenge"] is True


def test_registry_scans_expires_and_is_deleted_with_its_images() -> None:
    repository = eks().one("ecr/repository:Repository").inputs
    assert repository["imageScanningConfiguration"] == {"scanOnPush": True}
    assert repository["forceDelete"] is True
    lifecycle = eks().one("ecr/lifecyclePolicy:LifecyclePolicy").inputs
    assert lifecycle["repository"] == eks().one("ecr/repository:Repository").name + f"-{DRAWN}"
    rules = json.loads(lifecycle["policy"])["rules"]
    assert [(rule["selection"]["tagStatus"], rule["action"]["type"]) for rule in rules] == [("untagged", "expire")]


def test_given_image_and_network_create_neither() -> None:
    done = eks({"image": "ghcr.io/o/i@sha256:" + "b" * 64, "network": "vpc-campus", "subnets": "subnet-1,subnet-2"})
    assert done.all("ecr/repository:Repository") == []
    made = {entry.type for entry in done.resources if entry.type.startswith("aws:ec2/")}
    assert made == {"aws:ec2/launchTemplate:LaunchTemplate"}
    assert done.one("eks/cluster:Cluster").inputs["vpcConfig"]["subnetIds"] == ["subnet-1", "subnet-2"]
    assert [group.inputs["subnetIds"] for group in done.all("nodeGroup:NodeGroup")] == [["subnet-1"], ["subnet-1"]]


def test_node_update_is_forced_past_disruption_budgets() -> None:
    assert [group.inputs["forceUpdateVersion"] for group in eks().all("nodeGroup:NodeGroup")] == [True, True]


# Dependencies


def test_destroy_deletes_releases_then_guard_then_nodes_then_network() -> None:
    done = eks({"host": "r.example.org", "sharedGiB": 10, "maxWorkers": 40})
    wait = done.one("DestroyGuard")
    cluster = done.one("eks/cluster:Cluster")
    addons = {addon.inputs["addonName"]: addon for addon in done.all("eks/addon:Addon")}
    groups = done.all("nodeGroup:NodeGroup")
    claims = [*done.all("v3:Release"), *done.all("core/v1:Namespace")]
    assert len(claims) == 5
    for claim in claims:
        assert done.goes_before(claim, wait), f"{claim.name} could outlive the wait for its disks and load balancers"
    for driver in ("aws-ebs-csi-driver", "aws-efs-csi-driver"):
        assert done.goes_before(wait, addons[driver]), "nobody would be left to delete the volumes"
    for role in ("disks", "files"):
        for right in done.all("RolePolicyAttachment", f"-{role}-"):
            assert done.goes_before(wait, right), "the driver could not delete the volumes"
    for group in groups:
        assert done.goes_before(wait, group)
        assert done.goes_before(group, cluster)
        for needed in ("vpc-cni", "eks-pod-identity-agent"):
            assert done.goes_before(group, addons[needed]), (
                "network interfaces of nodes would stay, and hold the subnets"
            )
    for way_out in (*done.all("natGateway:NatGateway"), *done.all("routeTableAssociation:RouteTableAssociation")):
        assert done.goes_before(wait, way_out), "the drivers could not reach AWS to delete anything"
    vpc = done.one("ec2/vpc:Vpc")
    for target in done.all("efs/mountTarget:MountTarget"):
        assert done.goes_before(wait, target)
    for resource in done.resources:
        if resource.type.startswith(("aws:ec2/subnet", "aws:ec2/internet", "aws:ec2/nat", "aws:ec2/security")):
            assert done.goes_before(resource, vpc), f"{resource.name} would hold the network"
    assert done.goes_before(cluster, vpc)


# Permissions


def test_no_node_has_a_public_address() -> None:
    done = eks()
    private = {f"{subnet.name}-id" for subnet in done.all("ec2/subnet:Subnet", "private")}
    for group in done.all("nodeGroup:NodeGroup"):
        assert set(group.inputs["subnetIds"]) <= private
    assert not any(subnet.inputs.get("mapPublicIpOnLaunch") for subnet in done.all("ec2/subnet:Subnet"))


def test_pods_cannot_reach_the_nodes_metadata_service() -> None:
    template = eks().one("launchTemplate:LaunchTemplate")
    assert template.inputs["metadataOptions"] == {
        "httpEndpoint": "enabled",
        "httpTokens": "required",
        "httpPutResponseHopLimit": 1,
    }
    for group in eks().all("nodeGroup:NodeGroup"):
        assert group.inputs["launchTemplate"] == {"id": f"{template.name}-id", "version": "7"}, "its latest"


def documents(done: Recording) -> list[tuple[str, dict[str, Any]]]:
    """Every policy document that the stack writes itself."""
    found = []
    for resource in done.resources:
        for key in ("assumeRolePolicy", "policy"):
            text = resource.inputs.get(key)
            if resource.type.startswith("aws:iam/") and isinstance(text, str):
                found.append((resource.name, json.loads(text)))
    return found


def test_every_policy_names_its_actions_and_principals() -> None:
    found = documents(eks({"maxWorkers": 40, "sharedGiB": 10}))
    assert len(found) >= 7
    for name, document in found:
        for statement in document["Statement"]:
            actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
            assert not any("*" in action for action in actions), name
            if "Principal" in statement:
                assert list(statement["Principal"]) == ["Service"], name
                assert statement["Principal"]["Service"] in (
                    "eks.amazonaws.com",
                    "ec2.amazonaws.com",
                    "pods.eks.amazonaws.com",
                )
            writes = [action for action in actions if ":Describe" not in action and ":Get" not in action]
            if "Resource" in statement and writes:
                assert statement["Resource"] != "*" or statement.get("Condition"), f"{name}: {writes} on everything"


def test_autoscaler_may_resize_only_its_own_clusters_groups() -> None:
    statements = json.loads(team().one("iam/rolePolicy:RolePolicy").inputs["policy"])["Statement"]
    writing = next(statement for statement in statements if statement["Sid"] == "ResizeOwnGroups")
    assert writing["Action"] == ["autoscaling:SetDesiredCapacity", "autoscaling:TerminateInstanceInAutoScalingGroup"]
    assert writing["Condition"] == {
        "StringEquals": {
            "autoscaling:ResourceTag/k8s.io/cluster-autoscaler/future-eks-team-0a1b2c3": "owned",
        }
    }
    identity = team().one("podIdentityAssociation:PodIdentityAssociation").inputs
    values = team().one("v3:Release", "autoscaler").inputs["values"]
    assert (identity["namespace"], identity["serviceAccount"]) == ("kube-system", "cluster-autoscaler")
    assert values["rbac"]["serviceAccount"]["name"] == identity["serviceAccount"]
    assert values["autoDiscovery"]["clusterName"] == "future-eks-team-0a1b2c3"


def test_attached_aws_policies_are_these() -> None:
    attached = {
        entry.inputs["policyArn"].split("policy/")[1]
        for entry in eks({"maxWorkers": 40, "sharedGiB": 10}).all("RolePolicyAttachment")
    }
    assert attached == {
        "AmazonEKSClusterPolicy",
        "AmazonEKSWorkerNodePolicy",
        "AmazonEC2ContainerRegistryPullOnly",
        "AmazonSSMManagedInstanceCore",
        "AmazonEKS_CNI_Policy",
        "service-role/AmazonEBSCSIDriverPolicy",
        "service-role/AmazonEFSCSIDriverPolicy",
    }


def test_nodes_may_join_pull_and_accept_session_manager() -> None:
    attached = eks({"maxWorkers": 40, "sharedGiB": 10}).all("RolePolicyAttachment", "-nodes-")
    assert {entry.inputs["policyArn"].rsplit("/", 1)[-1] for entry in attached} == {
        "AmazonEKSWorkerNodePolicy",
        "AmazonEC2ContainerRegistryPullOnly",
        "AmazonSSMManagedInstanceCore",
    }


def test_team_roles_edit_only_the_stacks_namespace() -> None:
    done = team()
    assert done.one("accessEntry:AccessEntry").inputs["principalArn"] == STATISTICS
    association = done.one("accessPolicyAssociation:AccessPolicyAssociation").inputs
    assert association["policyArn"].endswith("/AmazonEKSEditPolicy")
    assert association["accessScope"] == {"type": "namespace", "namespaces": ["future-eks-team"]}
    access = done.one("eks/cluster:Cluster").inputs["accessConfig"]
    assert access == {"authenticationMode": "API", "bootstrapClusterCreatorAdminPermissions": True}


def test_admin_roles_administer_the_cluster() -> None:
    done = eks({"adminRoles": STATISTICS})
    assert done.one("accessEntry:AccessEntry").inputs["principalArn"] == STATISTICS
    association = done.one("accessPolicyAssociation:AccessPolicyAssociation").inputs
    assert association["policyArn"].endswith("/AmazonEKSClusterAdminPolicy")
    assert association["accessScope"] == {"type": "cluster"}


def test_every_taggable_resource_carries_the_stacks_and_users_tags() -> None:
    import pulumi_aws

    done = eks({"labels": "team=statistics,course=243", "sharedGiB": 10, "maxWorkers": 40, "host": "r.example.org"})
    wanted = {"app": "future-kubernetes", "stack": "team", "team": "statistics", "course": "243"}
    provider = done.one("pulumi:providers:aws", "-aws")
    assert json.loads(provider.inputs["defaultTags"])["tags"] == wanted
    tagged = [entry for entry in done.resources if labelled(entry, {"aws": pulumi_aws}, ("tags",))]
    assert len(tagged) >= 20
    assert all(provider.name in entry.provider for entry in tagged)
    template = done.one("launchTemplate:LaunchTemplate").inputs["tagSpecifications"]
    assert {entry["resourceType"] for entry in template} == {"instance", "volume", "network-interface"}
    assert all(wanted.items() <= entry["tags"].items() for entry in template)
    parameters = done.one("StorageClass", "disks").inputs["parameters"]
    disks = dict(value.split("=") for key, value in parameters.items() if key.startswith("tagSpecification_"))
    assert disks == wanted
    annotations = done.one("v3:Release", "traefik").inputs["values"]["service"]["annotations"]
    balancer = annotations["service.beta.kubernetes.io/aws-load-balancer-additional-resource-tags"]
    assert dict(pair.split("=") for pair in balancer.split(",")) == wanted


# Refusals


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


# Outputs


def test_hourly_cost_sums_nodes_control_plane_and_nat() -> None:
    expected = 3 * PRICES["m6i.xlarge"] + PRICES["m6i.large"] + PRICES["AmazonEKS"] + PRICES["NAT"]
    assert eks({"workers": 10}).outputs["hourlyCost"][0] == f"${expected:.2f}"
    spot = expected + 3 * (SPOT_PRICE - PRICES["m6i.xlarge"])
    assert eks({"workers": 10, "spot": True}).outputs["hourlyCost"][0] == f"${spot:.2f}"
    given = eks({"workers": 10, "network": "vpc-campus", "subnets": "subnet-1,subnet-2"})
    assert given.outputs["hourlyCost"][0] == f"${expected - PRICES['NAT']:.2f}", "its way out is somebody else's"
    gateways = expected + 2 * PRICES["NAT"]
    assert eks({"workers": 10, "natPerZone": True}).outputs["hourlyCost"][0] == f"${gateways:.2f}"
    asked = [provider for token, _, provider in eks({"workers": 10}).asked if token.startswith("aws:pricing/")]
    assert asked
    assert all("-prices" in provider for provider in asked)
    machines = [
        {entry["field"]: entry["value"] for entry in args["filters"]}
        for token, args, _ in eks({"workers": 10}).asked
        if token.startswith("aws:pricing/") and any(entry["field"] == "instanceType" for entry in args["filters"])
    ]
    assert len(machines) == 2
    for each in machines:
        assert each["regionCode"] == "us-west-2"
        assert (each["operatingSystem"], each["tenancy"], each["preInstalledSw"]) == ("Linux", "Shared", "NA")
    prices = eks({"workers": 10}).one("pulumi:providers:aws", "-prices")
    assert prices.inputs["region"] == "us-east-1", "where the price list is served, wherever the cluster is"


def test_hourly_cost_is_unknown_without_a_price() -> None:
    denied = {"aws:pricing/getProduct:getProduct": refuse("AccessDenied")}
    done = eks({}, denied)
    assert done.outputs["hourlyCost"][0] == "unknown"
    assert done.warnings == []


def test_price_must_be_single_and_hourly() -> None:
    from components.clouds.aws.pricing import hourly_price

    def product(*dimensions: tuple[str, str]) -> str:
        entries = {
            str(index): {"unit": unit, "pricePerUnit": {"USD": usd}} for index, (unit, usd) in enumerate(dimensions)
        }
        return json.dumps({"terms": {"OnDemand": {"x": {"priceDimensions": entries}}}})

    assert hourly_price(product(("Hrs", "0.5"))) == 0.5
    assert hourly_price(product(("Hrs", "0.5"), ("Hrs", "0.6"))) is None
    assert hourly_price(product(("GB", "0.5"))) is None
    assert hourly_price("{}") is None


def test_outputs_give_the_commands_to_connect() -> None:
    told = {name: value for name, (value, _secret) in team().outputs.items()}
    name = "future-eks-team-0a1b2c3"
    assert told["kubeconfigCommand"] == f"aws eks update-kubeconfig --region us-west-2 --name {name} --alias {name}"
    assert f"kubectl --context {name} " in told["portForward"]
    assert told["nodeShell"].startswith("aws ssm start-session --region us-west-2")
    assert told["nodes"].startswith("3 x m6i.xlarge, 4 workers each")
    args = json.loads(told["kubeconfig"])["users"][0]["user"]["exec"]["args"]
    assert args[args.index("--region") + 1] == "us-west-2"
    assert args[args.index("--cluster-name") + 1] == name


def test_pods_per_node_follow_network_interfaces_and_eks_limits() -> None:
    assert eks_allocatable(Machine("m6i.16xlarge", 64, 262144, 737)).pods == 250
    assert eks_allocatable(Machine("m6i.4xlarge", 16, 65536, 234)).pods == 110
    assert eks_allocatable(Machine("m6i.large", 2, 8192, 29)).pods == 29
    few, many = (eks_allocatable(Machine("m", 64, 262144, pods)).memory_mib for pods in (250, 737))
    assert few - many == 11 * (737 - 250), "the kubelet reserves memory for every address"
    small = eks({"workers": 60, "workerCpu": 0.01, "workerMemoryGiB": 0.0625, "machineType": "m6i.large"})
    assert small.one("nodeGroup:NodeGroup", "workers").inputs["scalingConfig"]["minSize"] == 3, (
        "29 pods, 5 of them daemons"
    )
