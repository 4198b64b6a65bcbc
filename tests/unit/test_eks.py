"""EKS under a recorded cloud: what exists, how it is wired, what it may do, and what is refused in good time."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from aws_cloud import ANSWERS, PRICES, SPOT_PRICE, computed, eks
from cloud_mocks import ROOT, Recording, Refused, labelled, listing, plain, run, stack_config

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
    return next(entry for entry in done.all("v3:Release") if entry.name.count("-") == 1).inputs["values"]


# What exists


def test_the_example_stack_registers_the_resources_of_its_golden_list() -> None:
    golden = GOLDEN / "eks-team.txt"
    found = listing(team())
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(found)
    assert found == golden.read_text(), "if this change is meant: UPDATE_GOLDEN=1 pytest tests/unit/test_eks.py"


def test_the_example_stack_gives_no_warning_in_update_and_preview() -> None:
    assert team().warnings == []
    assert team(preview=True).warnings == []


def test_workers_have_a_tainted_node_group_of_their_own() -> None:
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


def test_a_fixed_group_has_the_nodes_that_the_workers_need_and_no_autoscaler() -> None:
    done = eks({"workers": 10})
    workers = done.one("nodeGroup:NodeGroup", "workers")
    assert workers.inputs["scalingConfig"] == {"desiredSize": 3, "minSize": 3, "maxSize": 3}
    assert workers.ignore_changes == []
    assert done.all("v3:Release", "autoscaler") == []
    assert done.all("iam/role:Role", "autoscaler") == []


def test_an_autoscaled_group_goes_from_the_wanted_workers_to_the_most_and_its_count_is_left_alone() -> None:
    workers = eks({"workers": 10, "maxWorkers": 40}).one("nodeGroup:NodeGroup", "workers")
    assert workers.inputs["scalingConfig"] == {"desiredSize": 3, "minSize": 3, "maxSize": 10}
    assert workers.ignore_changes == ["scalingConfig.desiredSize"]


def test_workers_that_go_when_idle_take_their_nodes_with_them() -> None:
    workers = eks({"workers": 8, "idleMinutes": 30}).one("nodeGroup:NodeGroup", "workers")
    assert workers.inputs["scalingConfig"] == {"desiredSize": 2, "minSize": 0, "maxSize": 2}


def test_the_autoscaler_knows_an_empty_groups_label_and_taint_by_tags() -> None:
    tags = [tag.inputs["tag"] for tag in team().all("autoscaling/tag:Tag")]
    assert {tag["key"]: tag["value"] for tag in tags} == {
        "k8s.io/cluster-autoscaler/node-template/label/future-kubernetes/role": "worker",
        "k8s.io/cluster-autoscaler/node-template/taint/future-kubernetes/worker": "true:NoSchedule",
    }


def test_spot_groups_that_scale_look_in_every_zone_and_others_stay_in_the_systems_zone() -> None:
    spread = team().one("nodeGroup:NodeGroup", "workers").inputs
    assert spread["capacityType"] == "SPOT"
    assert len(spread["subnetIds"]) == 3
    done = eks({"maxWorkers": 40})
    workers, system = (done.one("nodeGroup:NodeGroup", part).inputs for part in ("workers", "system"))
    assert workers["capacityType"] == "ON_DEMAND"
    assert workers["subnetIds"] == system["subnetIds"]
    assert len(system["subnetIds"]) == 1


def test_the_network_and_the_schedulers_zone_do_not_hang_on_the_workers_machine() -> None:
    for type_ in ("ec2/subnet:Subnet", "ec2/natGateway:NatGateway"):
        names = [[entry.name for entry in done.all(type_)] for done in (eks(), eks({"machineType": "m7i.xlarge"}))]
        assert names[0] == names[1]
    moved = eks({"machineType": "m7i.xlarge"})
    assert moved.one("nodeGroup:NodeGroup", "system").inputs["subnetIds"] == ["future-team-private-us-west-2a-id"]
    assert moved.one("nodeGroup:NodeGroup", "workers").inputs["subnetIds"] == ["future-team-private-us-west-2b-id"]


def test_one_nat_serves_all_zones_unless_each_is_to_have_its_own() -> None:
    assert len(eks().all("natGateway:NatGateway")) == 1
    each = eks({"natPerZone": True})
    assert len(each.all("natGateway:NatGateway")) == 3
    private = each.all("routeTable:RouteTable", "private")
    assert len({entry.inputs["routes"][0]["natGatewayId"] for entry in private}) == 3


def test_addons_come_in_versions_that_aws_gives_for_the_clusters_version() -> None:
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
    assert json.loads(addons["vpc-cni"]["configurationValues"]) == {"enableNetworkPolicy": "true"}
    assert eks().one("eks/cluster:Cluster").inputs["bootstrapSelfManagedAddons"] is False


def test_addons_get_their_rights_by_pod_identity() -> None:
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
    assert not any("serviceAccountRoleArn" in addon for addon in addons.values())
    done = eks({"sharedGiB": 10})
    for addon, part in (("vpc-cni", "network"), ("aws-ebs-csi-driver", "disks"), ("aws-efs-csi-driver", "files")):
        own = done.one("eks/addon:Addon", addon)
        assert done.goes_before(own, done.one("RolePolicyAttachment", f"-{part}-")), (
            "an addon that starts without rights"
        )
        assert done.goes_before(own, done.one("eks/addon:Addon", "pod-identity-agent"))


def test_disks_are_encrypted_gp3_by_default() -> None:
    disks = eks().one("StorageClass", "disks").inputs
    assert disks["metadata"]["annotations"] == {"storageclass.kubernetes.io/is-default-class": "true"}
    assert (disks["parameters"]["type"], disks["parameters"]["encrypted"]) == ("gp3", "true")
    template = eks().one("launchTemplate:LaunchTemplate").inputs
    assert template["blockDeviceMappings"][0]["ebs"]["encrypted"] == "true"


def test_efs_is_there_only_when_shared_space_is_asked_for() -> None:
    assert [entry.name for entry in eks().resources if ":efs/" in entry.type] == []
    done = eks({"sharedGiB": 10})
    assert done.one("efs/fileSystem:FileSystem").inputs["encrypted"] is True
    assert len(done.all("efs/mountTarget:MountTarget")) == 1
    door = done.one("SecurityGroupIngressRule").inputs
    assert (door["fromPort"], door["toPort"], door["referencedSecurityGroupId"]) == (2049, 2049, "sg-cluster")
    shared = done.one("StorageClass", "shared").inputs
    assert shared["parameters"]["uid"] == "1000"
    assert release_of(done)["shared"]["storageClass"] == shared["metadata"]["name"]


def test_a_load_balancer_is_there_only_when_a_host_is_asked_for_and_finds_its_subnets() -> None:
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


def test_the_registry_scans_forgets_and_goes_with_its_images() -> None:
    repository = eks().one("ecr/repository:Repository").inputs
    assert repository["imageScanningConfiguration"] == {"scanOnPush": True}
    assert repository["forceDelete"] is True
    rules = json.loads(eks().one("ecr/lifecyclePolicy:LifecyclePolicy").inputs["policy"])["rules"]
    assert [(rule["selection"]["tagStatus"], rule["action"]["type"]) for rule in rules] == [("untagged", "expire")]


def test_a_given_image_needs_no_registry_and_a_given_network_none_of_its_own() -> None:
    done = eks({"image": "ghcr.io/o/i@sha256:" + "b" * 64, "network": "vpc-campus", "subnets": "subnet-1,subnet-2"})
    assert done.all("ecr/repository:Repository") == []
    made = {entry.type for entry in done.resources if entry.type.startswith("aws:ec2/")}
    assert made == {"aws:ec2/launchTemplate:LaunchTemplate"}
    assert done.one("eks/cluster:Cluster").inputs["vpcConfig"]["subnetIds"] == ["subnet-1", "subnet-2"]


# How it is wired


def test_every_resource_has_a_component_as_parent_and_the_provider_that_was_made_for_it() -> None:
    done = team()
    components = {resource.urn for resource in done.resources if not resource.custom}
    for resource in done.resources:
        if not resource.custom:
            continue
        assert resource.parent in components, resource.name
        assert not resource.protect
        wanted = {"aws": "eks-team-aws", "kubernetes": "eks-team-kubernetes"}.get(resource.type.split(":")[0])
        assert wanted is None or wanted in resource.provider, f"{resource.name}: {resource.provider or 'the default'}"


def test_the_kubernetes_provider_knows_its_cluster_by_more_than_the_kubeconfig() -> None:
    identifier = eks().one("pulumi:providers:kubernetes").inputs["clusterIdentifier"]
    assert identifier.startswith("arn:aws:eks:us-west-2:123456789012:")


def test_the_image_waits_for_no_cluster_and_nothing_but_the_release_waits_for_the_image() -> None:
    done = team()
    image = done.one("docker-build:index:Image")
    assert not done.goes_before(image, done.one("eks/cluster:Cluster"))
    assert not done.goes_before(image, done.one("ec2/vpc:Vpc"))
    waiting = [resource for resource in done.resources if done.goes_before(resource, image)]
    assert [resource.type for resource in waiting] == ["kubernetes:helm.sh/v3:Release"]


def test_destroy_takes_what_kubernetes_made_before_its_drivers_and_nodes_and_those_before_the_network() -> None:
    done = eks({"host": "r.example.org", "sharedGiB": 10, "maxWorkers": 40})
    wait = done.one("Leftovers")
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


def test_a_changed_machine_type_or_spot_makes_the_new_group_before_the_old_one_goes() -> None:
    for group in team().all("nodeGroup:NodeGroup"):
        assert "instanceTypes" in group.replace_on_changes
        assert not group.delete_before_replace
        assert "nodeGroupName" not in group.inputs, "two groups of one name cannot stand side by side"
    assert "capacityType" in team().one("nodeGroup:NodeGroup", "workers").replace_on_changes


@pytest.mark.parametrize("most", [40, 80])
def test_more_workers_resize_the_group_and_the_worker_deployment_and_touch_nothing_else(most: int) -> None:
    before = eks({"workers": 4, "maxWorkers": most if most > 40 else 4})
    after = eks({"workers": 40, "maxWorkers": most})
    changed = {
        resource.name: {
            key for key in {*resource.inputs, *old.inputs} if resource.inputs.get(key) != old.inputs.get(key)
        }
        for resource, old in zip(
            sorted(after.resources, key=lambda entry: entry.urn),
            sorted(before.resources, key=lambda entry: entry.urn),
            strict=True,
        )
        if resource.inputs != old.inputs
    }
    assert changed == {"future-team-workers": {"scalingConfig"}, "future-team": {"values"}}
    assert release_of(before)["scheduler"] == release_of(after)["scheduler"]
    assert release_of(before)["worker"]["resources"] == release_of(after)["worker"]["resources"]


# What it may do


def test_no_node_has_a_public_address() -> None:
    done = eks()
    private = {f"{subnet.name}-id" for subnet in done.all("ec2/subnet:Subnet", "private")}
    for group in done.all("nodeGroup:NodeGroup"):
        assert set(group.inputs["subnetIds"]) <= private
    assert not any(subnet.inputs.get("mapPublicIpOnLaunch") for subnet in done.all("ec2/subnet:Subnet"))


def test_nodes_use_the_newer_metadata_service_alone_and_pods_do_not_reach_it() -> None:
    template = eks().one("launchTemplate:LaunchTemplate")
    assert template.inputs["metadataOptions"] == {
        "httpEndpoint": "enabled",
        "httpTokens": "required",
        "httpPutResponseHopLimit": 1,
    }
    for group in eks().all("nodeGroup:NodeGroup"):
        assert group.inputs["launchTemplate"]["id"] == f"{template.name}-id"


def documents(done: Recording) -> list[tuple[str, dict[str, Any]]]:
    """Every policy document that the stack writes itself."""
    found = []
    for resource in done.resources:
        for key in ("assumeRolePolicy", "policy"):
            text = resource.inputs.get(key)
            if resource.type.startswith("aws:iam/") and isinstance(text, str):
                found.append((resource.name, json.loads(text)))
    return found


def test_every_policy_names_its_actions_and_who_may_take_a_role() -> None:
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


def test_the_autoscaler_resizes_the_groups_of_its_own_cluster_alone() -> None:
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


def test_awss_own_policies_are_these_and_none_of_them_administers() -> None:
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


def test_the_team_works_in_the_stacks_namespace_alone() -> None:
    done = team()
    assert done.one("accessEntry:AccessEntry").inputs["principalArn"] == STATISTICS
    association = done.one("accessPolicyAssociation:AccessPolicyAssociation").inputs
    assert association["policyArn"].endswith("/AmazonEKSEditPolicy")
    assert association["accessScope"] == {"type": "namespace", "namespaces": ["future-eks-team"]}
    assert done.one("eks/cluster:Cluster").inputs["accessConfig"]["authenticationMode"] == "API"


def test_an_open_control_plane_is_warned_of_and_a_stated_one_is_not() -> None:
    silent = eks({"authorizedNetworks": ""})
    assert "publicAccessCidrs" not in silent.one("eks/cluster:Cluster").inputs["vpcConfig"]
    assert len(silent.warnings) == 1
    assert "pulumi config set authorizedNetworks" in silent.warnings[0]
    stated = eks({"authorizedNetworks": "0.0.0.0/0"})
    assert stated.warnings == []
    assert stated.one("eks/cluster:Cluster").inputs["vpcConfig"]["publicAccessCidrs"] == ["0.0.0.0/0"]


def test_the_whole_world_is_where_routes_lead_and_is_let_in_nowhere() -> None:
    for done in (team(), eks({"authorizedNetworks": ""}), eks({"host": "r.example.org", "sharedGiB": 10})):
        for resource in done.resources:
            if not resource.type.endswith("RouteTable"):
                assert "0.0.0.0/0" not in json.dumps(resource.inputs), resource.name


def test_kubeconfig_and_registry_password_are_secrets_and_hold_no_lasting_credential() -> None:
    done = eks()
    assert "kubeconfig" in done.one("pulumi:providers:kubernetes").secrets
    assert "kubeconfig" in done.one("Leftovers").secrets
    text, secret = done.outputs["kubeconfig"]
    assert secret
    user = json.loads(text)["users"][0]["user"]
    assert list(user) == ["exec"]
    assert user["exec"]["args"][:2] == ["eks", "get-token"]
    registry = done.one("docker-build:index:Image").sent["registries"]
    assert "short-lived-token" in json.dumps(plain(registry))
    assert "4dabf18193072939515e22adb298388d" in json.dumps(registry)
    for resource in done.resources:
        if resource.type != "docker-build:index:Image":
            assert "short-lived-token" not in json.dumps(resource.sent), resource.name


def test_everything_that_takes_tags_carries_the_stacks_and_the_users() -> None:
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


# What is refused, and what is said


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"zone": "us-west-2z"}, "us-west-2a, us-west-2b, us-west-2c, us-west-2d"),
        ({"machineType": "m6i.5xlarge"}, "m6i.16xlarge, m6i.2xlarge, m6i.large, m6i.xlarge"),
        ({"machineType": "m7i.xlarge", "zone": "us-west-2a"}, "pulumi config set zone us-west-2b"),
        ({"machineType": "m5n.xlarge"}, "pulumi config set zone us-west-2d"),
        ({"machineType": "m6g.xlarge"}, "x86-64"),
        ({"systemMachineType": "z9.huge"}, "pulumi config set systemMachineType"),
        ({"workerCpu": 6}, "pulumi config set machineType m6i.2xlarge"),
        ({"workerMemoryGiB": 40}, "it fits on: r6i.2xlarge"),
        ({"schedulerMemoryGiB": 9}, "pulumi config set systemMachineType"),
        ({"network": "vpc-campus", "subnets": "subnet-1"}, "at least two private subnets"),
        ({"network": "vpc-campus", "subnets": "subnet-1,subnet-3"}, "in two zones at least"),
        ({"network": "vpc-other", "subnets": "subnet-1,subnet-2"}, "which is in vpc-campus"),
        ({"teamRoles": "arn:aws:sts::123456789012:assumed-role/a/b"}, "the ARN of an IAM role"),
        ({"workers": 10, "maxWorkers": 4}, "at least workers, which is 10"),
    ],
)
def test_what_aws_cannot_do_is_refused_before_anything_is_made_with_what_would_do(
    config: dict[str, Any], said: str
) -> None:
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
def test_missing_credentials_rights_and_regions_are_named_with_their_remedy(reason: str, fix: str) -> None:
    message = refused({}, {"aws:index/getCallerIdentity:getCallerIdentity": refuse(reason)})
    assert fix in message
    assert reason in message


def test_a_missing_command_line_is_named_with_where_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    assert "getting-started-install" in refused({})


def test_spot_where_there_is_no_market_for_it_is_refused_and_other_zones_are_taken_where_they_may() -> None:
    def only_in_c(args: Mapping[str, Any]) -> dict[str, Any]:
        if args["availabilityZone"] != "us-west-2c":
            raise PermissionError("no EC2 Spot Price History found matching criteria; try different search")
        return ANSWERS["aws:ec2/getSpotPrice:getSpotPrice"](args)

    answers = {"aws:ec2/getSpotPrice:getSpotPrice": only_in_c}
    message = refused({"spot": True, "zone": "us-west-2a"}, answers)
    assert "no spot market in us-west-2a" in message
    assert "pulumi config rm zone" in message
    workers = eks({"spot": True}, answers).one("nodeGroup:NodeGroup", "workers")
    assert workers.inputs["subnetIds"] == ["future-team-private-us-west-2c-id"]


def test_more_cpus_than_the_accounts_quota_are_refused() -> None:
    def quota(args: Mapping[str, Any]) -> dict[str, Any]:
        return {"id": "q", "quotaCode": args["quotaCode"], "quotaName": "Standard instances", "value": 16.0}

    answers = {"aws:servicequotas/getServiceQuota:getServiceQuota": quota}
    message = refused({"workers": 40}, answers)
    assert "40 vCPUs" in message
    assert "--quota-code L-1216C47A" in message
    assert "--quota-code L-34B43A08" in refused({"workers": 40, "spot": True}, answers)
    denied = {"aws:servicequotas/getServiceQuota:getServiceQuota": refuse("AccessDenied")}
    assert eks({"workers": 40}, denied).all("nodeGroup:NodeGroup")


# What is told


def test_the_cost_is_what_the_price_list_says_of_nodes_control_plane_and_nat() -> None:
    expected = 3 * PRICES["m6i.xlarge"] + PRICES["m6i.large"] + PRICES["AmazonEKS"] + PRICES["NAT"]
    assert eks({"workers": 10}).outputs["hourlyCost"][0] == f"${expected:.2f}"
    spot = expected + 3 * (SPOT_PRICE - PRICES["m6i.xlarge"])
    assert eks({"workers": 10, "spot": True}).outputs["hourlyCost"][0] == f"${spot:.2f}"
    gateways = expected + 2 * PRICES["NAT"]
    assert eks({"workers": 10, "natPerZone": True}).outputs["hourlyCost"][0] == f"${gateways:.2f}"
    asked = [provider for token, _, provider in eks({"workers": 10}).asked if token.startswith("aws:pricing/")]
    assert asked
    assert all("-prices" in provider for provider in asked)


def test_a_cost_of_which_a_part_is_not_known_is_unknown() -> None:
    denied = {"aws:pricing/getProduct:getProduct": refuse("AccessDenied")}
    done = eks({}, denied)
    assert done.outputs["hourlyCost"][0] == "unknown"
    assert done.warnings == []


def test_a_price_that_is_not_single_or_not_hourly_is_not_taken() -> None:
    from components.aws_site import hourly

    def product(*dimensions: tuple[str, str]) -> str:
        entries = {
            str(index): {"unit": unit, "pricePerUnit": {"USD": usd}} for index, (unit, usd) in enumerate(dimensions)
        }
        return json.dumps({"terms": {"OnDemand": {"x": {"priceDimensions": entries}}}})

    assert hourly(product(("Hrs", "0.5"))) == 0.5
    assert hourly(product(("Hrs", "0.5"), ("Hrs", "0.6"))) is None
    assert hourly(product(("GB", "0.5"))) is None
    assert hourly("{}") is None


def test_the_outputs_say_how_to_get_in() -> None:
    told = {name: value for name, (value, _secret) in team().outputs.items()}
    name = "future-eks-team-0a1b2c3"
    assert told["kubeconfigCommand"] == f"aws eks update-kubeconfig --region us-west-2 --name {name} --alias {name}"
    assert f"kubectl --context {name} " in told["portForward"]
    assert told["nodeShell"].startswith("aws ssm start-session --region us-west-2")
    assert told["nodes"].startswith("3 x m6i.xlarge, 4 workers each")


def test_the_kubelets_room_for_pods_is_that_of_the_machines_network_interfaces() -> None:
    from components.aws_site import capacity
    from components.sizing import Machine, eks_capacity

    assert capacity(Machine("m6i.16xlarge", 64, 262144, 737)).pods == 250
    assert capacity(Machine("m6i.4xlarge", 16, 65536, 234)).pods == 110
    assert capacity(Machine("m6i.large", 2, 8192, 29)).pods == 29
    machine = Machine("m6i.16xlarge", 64, 262144, 737)
    assert capacity(machine).memory_mib == eks_capacity(machine).memory_mib


def test_only_awss_sdk_is_imported() -> None:
    script = (
        "import sys, shutil; sys.path[:0] = ['tests/unit', '.']; shutil.which = lambda name: name\n"
        "from aws_cloud import eks\n"
        "eks({'host': 'r.example.org', 'sharedGiB': 10, 'maxWorkers': 40})\n"
        "print(sorted(name for name in sys.modules if name in ('pulumi_aws', 'pulumi_gcp', 'components.gke')))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "['pulumi_aws']"
