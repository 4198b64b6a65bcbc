"""EKS under mocks: roles, policies and access entries."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from tests.unit.aws_cloud import (
    ANSWERS,
    STATISTICS,
    eks,
    team,
)
from tests.unit.cloud_mocks import DRAWN, Recording

pytestmark = pytest.mark.usefixtures("installed_tools")


def test_policy_arns_use_the_callers_partition() -> None:
    def in_china(args: Mapping[str, Any]) -> dict[str, Any]:
        known = ANSWERS["aws:index/getCallerIdentity:getCallerIdentity"](args)
        return {**known, "arn": known["arn"].replace("arn:aws:", "arn:aws-cn:")}

    answers = {"aws:index/getCallerIdentity:getCallerIdentity": in_china}
    done = eks({"adminRoles": STATISTICS.replace("arn:aws:", "arn:aws-cn:")}, answers)
    named = [entry.inputs["policyArn"] for entry in done.resources if "policyArn" in entry.inputs]
    assert len(named) >= 6
    assert all(arn.startswith("arn:aws-cn:") for arn in named)


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
            if statement["Effect"] == "Deny":
                continue
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
    statements = json.loads(team().one("iam/rolePolicy:RolePolicy", "autoscaler").inputs["policy"])["Statement"]
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
        "AmazonEBSCSIDriverEKSClusterScopedPolicy",
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


def test_access_entries_outlast_all_that_needs_the_kubernetes_api() -> None:
    """A destroy by a member of `adminRoles` would otherwise delete its own access first."""
    done = eks({"adminRoles": STATISTICS, "teamRoles": f"{STATISTICS}-team", "maxWorkers": 40, "host": "r.example.org"})
    access = [*done.all("accessEntry:AccessEntry"), *done.all("accessPolicyAssociation:AccessPolicyAssociation")]
    assert len(access) == 4
    inside = [entry for entry in done.resources if entry.type.startswith("kubernetes:")]
    assert len(inside) >= 5
    for right in access:
        for resource in (*inside, done.one("DestroyGuard")):
            assert done.goes_before(resource, right), f"{resource.name} could not be deleted without {right.name}"


def test_admin_roles_administer_the_cluster() -> None:
    done = eks({"adminRoles": STATISTICS})
    assert done.one("accessEntry:AccessEntry").inputs["principalArn"] == STATISTICS
    association = done.one("accessPolicyAssociation:AccessPolicyAssociation").inputs
    assert association["policyArn"].endswith("/AmazonEKSClusterAdminPolicy")
    assert association["accessScope"] == {"type": "cluster"}
