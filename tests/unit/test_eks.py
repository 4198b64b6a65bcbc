"""EKS under mocks: control plane, addons, storage, registry, order of deletion, tags and outputs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import pytest

from tests.unit.aws_cloud import (
    ANSWERS,
    SPOT_PRICE,
    eks,
    refuse,
    release_of,
    team,
)
from tests.unit.cloud_mocks import DRAWN, Answer, labelled, unchecked

pytestmark = pytest.mark.usefixtures("installed_tools")


def test_control_plane_has_private_endpoint_and_standard_support() -> None:
    cluster = eks().one("eks/cluster:Cluster").inputs
    assert cluster["vpcConfig"]["endpointPrivateAccess"] is True, "nodes are not in authorizedNetworks"
    assert cluster["vpcConfig"]["endpointPublicAccess"] is True, "authorizedNetworks would reach nothing"
    assert len(cluster["vpcConfig"]["subnetIds"]) >= 2, "EKS wants two zones"
    assert cluster["upgradePolicy"] == {"supportType": "STANDARD"}


def test_audit_log_precedes_the_cluster_and_is_deleted_with_it() -> None:
    """EKS would make a log group by itself, which outlives the cluster and is kept for ever."""
    done = eks({"auditLogDays": 90})
    cluster, group = done.one("eks/cluster:Cluster"), done.one("cloudwatch/logGroup:LogGroup")
    assert cluster.inputs["enabledClusterLogTypes"] == ["audit", "authenticator"]
    assert group.inputs["name"] == f"/aws/eks/{cluster.inputs['name']}/cluster"
    assert group.inputs["retentionInDays"] == 90
    assert not group.inputs.get("skipDestroy")
    assert done.goes_before(cluster, group), "EKS would make it first"
    denial = done.one("iam/rolePolicy:RolePolicy", "audit")
    (statement,) = json.loads(denial.inputs["policy"])["Statement"]
    assert (statement["Effect"], statement["Action"]) == ("Deny", "logs:CreateLogGroup")
    assert statement["Resource"] == "arn:aws:logs:*:*:log-group:/aws/eks/*"
    assert denial.inputs["role"] == f"future-team-control-plane-{DRAWN}"
    assert done.goes_before(cluster, denial), "late messages would make the group anew"
    assert eks().one("cloudwatch/logGroup:LogGroup").inputs["retentionInDays"] == 30


def test_no_audit_log_makes_no_log_group() -> None:
    done = eks({"auditLogDays": 0})
    assert done.all("cloudwatch/logGroup:LogGroup") == []
    assert done.all("iam/rolePolicy:RolePolicy") == []
    assert "enabledClusterLogTypes" not in done.one("eks/cluster:Cluster").inputs
    assert done.one("eks/cluster:Cluster").inputs["name"] == eks().one("eks/cluster:Cluster").inputs["name"]


def test_another_network_replaces_the_cluster() -> None:
    """EKS refuses to move a cluster to another network. With a name of its own the new one can stand beside it."""
    done = eks()
    assert done.one("RandomId").inputs["keepers"] == {"vpc": f"{done.one('ec2/vpc:Vpc').name}-id"}
    assert done.one("eks/cluster:Cluster").inputs["name"] == f"future-team-{DRAWN}"
    given = eks({"network": "vpc-campus", "subnets": "subnet-1,subnet-2"})
    assert given.one("RandomId").inputs["keepers"] == {"vpc": "vpc-campus"}


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
        "eks-node-monitoring-agent",
    }
    assert all(addon["addonVersion"] == "v1.2.3-for-1.35" for addon in addons.values())
    for when in ("Create", "Update"):
        assert all(addon[f"resolveConflictsOn{when}"] == "OVERWRITE" for addon in addons.values()), "or it would stop"
    assert json.loads(addons["vpc-cni"]["configurationValues"]) == {"enableNetworkPolicy": "true"}
    assert eks().one("eks/cluster:Cluster").inputs["bootstrapSelfManagedAddons"] is False


def test_pod_addons_wait_for_the_system_node() -> None:
    done = eks({"sharedGiB": 10})
    for addon in ("coredns", "metrics-server", "aws-ebs-csi-driver", "aws-efs-csi-driver"):
        assert done.goes_before(done.one("eks/addon:Addon", addon), done.one("nodeGroup:NodeGroup", "system")), addon


def test_disks_are_encrypted_gp3_by_default() -> None:
    disks = eks().one("StorageClass", "disks").inputs
    assert disks["metadata"]["annotations"] == {"storageclass.kubernetes.io/is-default-class": "true"}
    assert (disks["parameters"]["type"], disks["parameters"]["encrypted"]) == ("gp3", "true")
    for template in eks().all("launchTemplate:LaunchTemplate"):
        (disk,) = template.inputs["blockDeviceMappings"]
        assert disk["ebs"]["encrypted"] == "true"
        assert disk["ebs"]["deleteOnTermination"] == "true", "billed without its node"


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


def test_registry_scans_expires_and_is_deleted_with_its_images() -> None:
    repository = eks().one("ecr/repository:Repository").inputs
    assert repository["imageScanningConfiguration"] == {"scanOnPush": True}
    assert repository["forceDelete"] is True
    lifecycle = eks().one("ecr/lifecyclePolicy:LifecyclePolicy").inputs
    assert lifecycle["repository"] == eks().one("ecr/repository:Repository").name + f"-{DRAWN}"
    rules = json.loads(lifecycle["policy"])["rules"]
    assert [(rule["selection"]["tagStatus"], rule["action"]["type"]) for rule in rules] == [("untagged", "expire")]


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


def test_every_taggable_resource_carries_the_stacks_and_users_tags() -> None:
    import pulumi_aws

    done = eks({"labels": "team=statistics,course=243", "sharedGiB": 10, "maxWorkers": 40, "host": "r.example.org"})
    wanted = {"app": "future-kubernetes", "stack": "team", "team": "statistics", "course": "243"}
    provider = done.one("pulumi:providers:aws", "-aws")
    assert json.loads(provider.inputs["defaultTags"])["tags"] == wanted
    tagged = [entry for entry in done.resources if labelled(entry, {"aws": pulumi_aws}, ("tags",))]
    assert len(tagged) >= 20
    assert all(provider.name in entry.provider for entry in tagged)
    for template in done.all("launchTemplate:LaunchTemplate"):
        specifications = template.inputs["tagSpecifications"]
        assert {entry["resourceType"] for entry in specifications} == {"instance", "volume", "network-interface"}
        assert all(wanted.items() <= entry["tags"].items() for entry in specifications)
    parameters = done.one("StorageClass", "disks").inputs["parameters"]
    disks = dict(value.split("=") for key, value in parameters.items() if key.startswith("tagSpecification_"))
    assert disks == wanted
    annotations = done.one("v3:Release", "traefik").inputs["values"]["service"]["annotations"]
    balancer = annotations["service.beta.kubernetes.io/aws-load-balancer-additional-resource-tags"]
    assert dict(pair.split("=") for pair in balancer.split(",")) == wanted


def cost(config: dict[str, Any], answers: dict[str, Answer] | None = None) -> dict[str, Any]:
    """The output `hourlyCost` of a stack."""
    found: dict[str, Any] = eks(config, answers).outputs["hourlyCost"][0]
    return found


def test_hourly_cost_of_a_fixed_stack_is_always_the_same() -> None:
    disk = 0.073 / 730
    expected = {
        "worker nodes": 3 * 0.2,
        "system nodes": 0.1,
        "control plane": 0.1,
        "disks": (3 * 50 + 50 + 10) * disk,
        "NAT": 0.05,
        "public addresses": 0.005,
    }
    found = cost({"workers": 10})
    assert found["parts"] == {name: f"${price:.3f}" for name, price in expected.items()}
    assert found["now"] == found["idle"] == found["max"] == f"${sum(expected.values()):.2f}"
    assert "traffic" in found["notIncluded"]


def test_hourly_cost_of_an_idle_autoscaled_stack_excludes_workers() -> None:
    found = cost({"workers": 10, "maxWorkers": 40})
    assert found["parts"]["worker nodes"] == "$0.600 now, $0.000 idle, $2.000 at most"
    assert found["parts"]["system nodes"] == "$0.100 now, $0.100 idle, $0.300 at most"
    assert found["now"] == cost({"workers": 10})["now"], "counts nodes that do not run yet"
    assert float(found["idle"][1:]) < float(found["now"][1:]) < float(found["max"][1:])
    assert found["workerNode"] == f"${0.2 + 50 * 0.073 / 730:.3f}"
    assert cost({"workers": 10})["workerNode"] == "$0.000", "nodes stay where no autoscaler removes them"


def test_maximum_hourly_cost_has_the_higher_price_of_fallback() -> None:
    spot = cost({"workers": 10, "maxWorkers": 40, "spot": True})["parts"]["worker nodes"]
    assert spot == f"${3 * SPOT_PRICE:.3f} now, $0.000 idle, ${10 * SPOT_PRICE:.3f} at most"
    both = cost({"workers": 10, "maxWorkers": 40, "spot": "fallback"})["parts"]["worker nodes"]
    assert both == f"${3 * SPOT_PRICE:.3f} now, $0.000 idle, $2.000 at most"


def test_hourly_cost_has_network_and_shared_files_only_if_used() -> None:
    given = cost({"workers": 10, "network": "vpc-campus", "subnets": "subnet-1,subnet-2"})["parts"]
    assert (given["NAT"], given["public addresses"]) == ("$0.000", "$0.000"), "its way out is somebody else's"
    zones = cost({"workers": 10, "natPerZone": True})["parts"]
    assert (zones["NAT"], zones["public addresses"]) == ("$0.150", "$0.015")
    public = cost({"workers": 10, "host": "r.example.org", "homeGiB": 100})["parts"]
    assert (public["load balancer"], public["public addresses"]) == ("$0.020", "$0.010")
    assert public["disks"] == f"${(3 * 50 + 50 + 100 + 1) * 0.073 / 730:.3f}"
    shared = cost({"workers": 10, "sharedGiB": 100})
    assert shared["parts"]["shared files"].startswith("by use: $0.300 a GB-month stored")
    assert shared["now"] == cost({"workers": 10})["now"], "what is billed by use is in no sum"


def products(config: dict[str, Any]) -> list[dict[str, str]]:
    """The filters of each question to the price list."""
    asked = [args for token, args, _ in eks(config).asked if token.startswith("aws:pricing/")]
    return [{entry["field"]: entry["value"] for entry in args["filters"]} for args in asked]


def test_price_list_is_asked_for_one_product_each() -> None:
    everything = {"workers": 10, "host": "r.example.org", "sharedGiB": 10}
    asked = [provider for token, _, provider in eks(everything).asked if token.startswith("aws:pricing/")]
    assert len(asked) == 8
    assert all("-prices" in provider for provider in asked)
    found = products(everything)
    assert [each["regionCode"] for each in found] == ["us-west-2"] * 8
    machines = [each for each in found if "instanceType" in each]
    assert len(machines) == 2
    for each in machines:
        assert (each["operatingSystem"], each["tenancy"], each["preInstalledSw"]) == ("Linux", "Shared", "NA")
        assert each["capacitystatus"] == "Used", "else unused reservations match too"
    assert len(products({"machineType": "m6i.large"})) == 5, "asks twice for one machine type"
    control_plane = [each["operation"] for each in found if "operation" in each]
    assert control_plane == ["CreateOperation"], "else other products of EKS match too"
    hourly = [each["groupDescription"] for each in found if "groupDescription" in each]
    assert hourly == [
        "Hourly charge for NAT Gateways",
        "Hourly charge for In-use Public IPv4 Addresses",
        "LoadBalancer hourly usage by Network Load Balancer",
    ], "else the price of traffic matches too"
    prices = eks({"workers": 10}).one("pulumi:providers:aws", "-prices")
    assert prices.inputs["region"] == "us-east-1", "where the price list is served, wherever the cluster is"


def test_hourly_cost_is_unknown_without_a_price() -> None:
    denied = {"aws:pricing/getProduct:getProduct": refuse("AccessDenied")}
    done = eks({}, denied)
    assert done.outputs["hourlyCost"][0]["now"] == "unknown"
    assert set(done.outputs["hourlyCost"][0]["parts"].values()) == {"unknown"}
    assert done.warnings == []
    assert unchecked(done).count("not checked: the price of") == 1, "one reason is enough"


def test_part_without_a_price_is_unknown_and_named_beside_sum() -> None:
    def product(args: Mapping[str, Any]) -> dict[str, Any]:
        if args["serviceCode"] == "AmazonEKS":
            raise PermissionError("Pricing product query not precise enough. Returned 2 elements")
        found: dict[str, Any] = ANSWERS["aws:pricing/getProduct:getProduct"](args)
        return found

    found = cost({"workers": 10}, {"aws:pricing/getProduct:getProduct": product})
    assert found["parts"]["control plane"] == "unknown"
    assert found["parts"]["NAT"] == "$0.050", "a product that is not there is no refusal of the next one"
    assert re.fullmatch(r"at least \$0\.\d\d \(unknown: control plane\)", found["now"])


def test_price_must_be_single_and_of_the_unit() -> None:
    from components.clouds.aws.pricing import GIB_MONTH, HOUR, unit_price

    def product(*dimensions: tuple[str, str]) -> str:
        entries = {
            str(index): {"unit": unit, "pricePerUnit": {"USD": usd}} for index, (unit, usd) in enumerate(dimensions)
        }
        return json.dumps({"terms": {"OnDemand": {"x": {"priceDimensions": entries}}}})

    assert unit_price(product(("Hrs", "0.5")), HOUR) == 0.5
    assert unit_price(product(("Hrs", "0.5"), ("Hrs", "0.6")), HOUR) is None
    assert unit_price(product(("GB", "0.5")), HOUR) is None
    assert unit_price(product(("GB-Mo", "0.5")), GIB_MONTH) == 0.5
    assert unit_price("{}", HOUR) is None
    assert unit_price(product(("Hrs", "0.5")).replace("USD", "CNY"), HOUR) is None, "not in dollars"


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
