"""The cluster autoscaler: its permissions, and the release of its chart."""

from __future__ import annotations

from collections.abc import Sequence

import pulumi
import pulumi_aws as aws
import pulumi_kubernetes as kubernetes

from components.clouds.aws.iam import PODS, allow, create_role
from components.clouds.base import WORKER_NODE_LABEL, WORKER_TAINT
from components.clouds.managed import SYSTEM_PLACEMENT
from components.clouds.scope import Scope

CHART = "cluster-autoscaler"
CHART_REPOSITORY = "https://kubernetes.github.io/autoscaler"
CHART_VERSION = "9.59.0"
SERVICE_ACCOUNT = "cluster-autoscaler"
NAMESPACE = "kube-system"
NODE_TEMPLATE = "k8s.io/cluster-autoscaler/node-template"


def grant_autoscaler(
    scope: Scope, cluster: aws.eks.Cluster, workers: aws.eks.NodeGroup, partition: str
) -> list[pulumi.Resource]:
    """Permissions to read everything and to resize this cluster's own groups, and hints about an empty group."""
    role = create_role(scope, "autoscaler", PODS, partition, {})
    policy = aws.iam.RolePolicy(
        f"{scope.name}-autoscaler",
        role=role.role.name,
        policy=cluster.name.apply(resize_policy),
        opts=scope.options(),
    )
    identity = aws.eks.PodIdentityAssociation(
        f"{scope.name}-autoscaler",
        cluster_name=cluster.name,
        namespace=NAMESPACE,
        service_account=SERVICE_ACCOUNT,
        role_arn=role.role.arn,
        opts=scope.options(),
    )
    return [policy, identity, *empty_group_hints(scope, workers)]


def resize_policy(cluster: str) -> str:
    """The policy of the autoscaler. AWS cannot limit reading to single groups; resizing is limited by their tag.

    Source: https://github.com/kubernetes/autoscaler/blob/master/cluster-autoscaler/cloudprovider/aws/README.md. EKS
    generates the groups' names, so the policy selects them by the tag that EKS adds.
    """
    return allow(
        {
            "Sid": "Look",
            "Action": [
                "autoscaling:DescribeAutoScalingGroups",
                "autoscaling:DescribeAutoScalingInstances",
                "autoscaling:DescribeLaunchConfigurations",
                "autoscaling:DescribeScalingActivities",
                "autoscaling:DescribeTags",
                "ec2:DescribeImages",
                "ec2:DescribeInstanceTypes",
                "ec2:DescribeLaunchTemplateVersions",
                "ec2:GetInstanceTypesFromInstanceRequirements",
                "eks:DescribeNodegroup",
            ],
            "Resource": "*",
        },
        {
            "Sid": "ResizeOwnGroups",
            "Action": ["autoscaling:SetDesiredCapacity", "autoscaling:TerminateInstanceInAutoScalingGroup"],
            "Resource": "*",
            "Condition": {"StringEquals": {f"autoscaling:ResourceTag/k8s.io/cluster-autoscaler/{cluster}": "owned"}},
        },
    )


def empty_group_hints(scope: Scope, workers: aws.eks.NodeGroup) -> list[aws.autoscaling.Tag]:
    """Tags with the label and the taint of a worker node.

    While a group has no node the autoscaler reads them from these tags. Without them it would never scale up from zero.
    """
    group = workers.resources.apply(lambda resources: autoscaling_group(resources))
    return [
        aws.autoscaling.Tag(
            f"{scope.name}-workers-{part}",
            autoscaling_group_name=group,
            tag=aws.autoscaling.TagTagArgs(key=f"{NODE_TEMPLATE}/{key}", value=value, propagate_at_launch=False),
            opts=scope.options(),
        )
        for part, key, value in (
            ("label", f"label/{WORKER_NODE_LABEL}", "worker"),
            ("taint", f"taint/{WORKER_TAINT['key']}", f"{WORKER_TAINT['value']}:{WORKER_TAINT['effect']}"),
        )
    ]


def autoscaling_group(resources: Sequence[aws.eks.outputs.NodeGroupResource]) -> str:
    """The name of the autoscaling group that EKS created for a node group."""
    groups = resources[0].autoscaling_groups if resources else None
    return groups[0].name or "" if groups else ""


def create_autoscaler(scope: Scope, cluster: aws.eks.Cluster, region: str) -> kubernetes.helm.v3.Release:
    """The autoscaler's release. scope: with the provider of the Kubernetes cluster."""
    return kubernetes.helm.v3.Release(
        f"{scope.name}-autoscaler",
        chart=CHART,
        version=CHART_VERSION,
        repository_opts={"repo": CHART_REPOSITORY},
        name="cluster-autoscaler",
        namespace=NAMESPACE,
        values={
            "cloudProvider": "aws",
            "awsRegion": region,
            "autoDiscovery": {"clusterName": cluster.name},
            "rbac": {"serviceAccount": {"create": True, "name": SERVICE_ACCOUNT}},
            # The autoscaler simulates the scheduler of one minor version, of which each has a release of its own.
            "image": {"tag": cluster.version.apply(lambda version: f"v{version}.0")},
            "nodeSelector": dict(SYSTEM_PLACEMENT.node_selector),
            "extraArgs": {"expander": "least-waste", "scale-down-unneeded-time": "5m"},
            "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}},
        },
        opts=scope.options(),
    )
