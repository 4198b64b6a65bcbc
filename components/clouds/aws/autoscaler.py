"""The cluster autoscaler: its permissions, and the release of its chart."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pulumi
import pulumi_aws as aws
import pulumi_kubernetes as kubernetes

from components.clouds.aws.allocatable import disk_for_pods, worker_disk_gib
from components.clouds.aws.iam import PODS, allow, create_role
from components.clouds.aws.nodes import ON_DEMAND, WORKERS, NodeGroups
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
    scope: Scope, cluster: aws.eks.Cluster, groups: NodeGroups, workers_per_node: int, partition: str
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
    parts = zip((WORKERS, ON_DEMAND), groups.workers, strict=False)
    disk = disk_for_pods(worker_disk_gib(workers_per_node))
    hints = itertools.chain.from_iterable(empty_group_hints(scope, part, group, disk) for part, group in parts)
    return [policy, identity, *hints]


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


def empty_group_hints(scope: Scope, part: str, workers: aws.eks.NodeGroup, disk_gib: int) -> list[aws.autoscaling.Tag]:
    """Tags with the label and the taint of a worker node, and the disk that pods may request there.

    While a group has no node the autoscaler reads them from these tags. Without them it would never scale up from zero.
    """
    return [
        aws.autoscaling.Tag(
            f"{scope.name}-{part}-{kind}",
            autoscaling_group_name=autoscaling_group_of(workers),
            tag=aws.autoscaling.TagTagArgs(key=f"{NODE_TEMPLATE}/{key}", value=value, propagate_at_launch=False),
            opts=scope.options(),
        )
        for kind, key, value in (
            ("label", f"label/{WORKER_NODE_LABEL}", "worker"),
            ("disk", "resources/ephemeral-storage", f"{disk_gib}Gi"),
            ("taint", f"taint/{WORKER_TAINT['key']}", f"{WORKER_TAINT['value']}:{WORKER_TAINT['effect']}"),
        )
    ]


def autoscaling_group_of(group: aws.eks.NodeGroup) -> pulumi.Output[str]:
    """The name of the autoscaling group behind a node group."""
    return group.resources.apply(lambda resources: autoscaling_group(resources))


def autoscaling_group(resources: Sequence[aws.eks.outputs.NodeGroupResource]) -> str:
    """The name of the autoscaling group that EKS created for a node group."""
    groups = resources[0].autoscaling_groups if resources else None
    return groups[0].name or "" if groups else ""


def expander(groups: NodeGroups) -> dict[str, Any]:
    """Values of the chart by which the autoscaler chooses among node groups in which a pod fits.

    With two groups of workers the first has priority. Where AWS has no machine for it, the autoscaler leaves it out for
    a while (backoff, five minutes at first) and takes the next.
    """
    if len(groups.workers) == 1:
        return {"extraArgs": {"expander": "least-waste"}}
    preferred = autoscaling_group_of(groups.workers[0]).apply(lambda name: f"^{name}$")
    return {
        "extraArgs": {"expander": "priority,least-waste"},
        # Regular expressions for the names of autoscaling groups. A group that none matches would be taken at random.
        "expanderPriorities": {"10": [".*"], "20": [preferred]},
    }


def create_autoscaler(
    scope: Scope, cluster: aws.eks.Cluster, groups: NodeGroups, region: str
) -> kubernetes.helm.v3.Release:
    """The autoscaler's release. scope: with the provider of the Kubernetes cluster."""
    choice = expander(groups)
    return kubernetes.helm.v3.Release(
        f"{scope.name}-autoscaler",
        chart=CHART,
        version=CHART_VERSION,
        repository_opts={"repo": CHART_REPOSITORY},
        name="cluster-autoscaler",
        namespace=NAMESPACE,
        values={
            **choice,
            "cloudProvider": "aws",
            "awsRegion": region,
            "autoDiscovery": {"clusterName": cluster.name},
            "rbac": {"serviceAccount": {"create": True, "name": SERVICE_ACCOUNT}},
            # The autoscaler simulates the scheduler of one minor version, of which each has a release of its own.
            "image": {"tag": cluster.version.apply(lambda version: f"v{version}.0")},
            "nodeSelector": dict(SYSTEM_PLACEMENT.node_selector),
            "extraArgs": {**choice["extraArgs"], "scale-down-unneeded-time": "5m"},
            "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}},
        },
        opts=scope.options(),
    )
