"""EKS addons: those that a node needs to become ready, and those that run on the system node."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pulumi
import pulumi_aws as aws

from components.clouds.aws.api import ask_late
from components.clouds.aws.iam import PODS, Role, create_role
from components.clouds.scope import Scope


def create_addons_before_nodes(scope: Scope, cluster: aws.eks.Cluster, partition: str) -> list[pulumi.Resource]:
    """Addons that a node needs to become ready.

    Deleted after the nodes: without the network plugin the nodes' interfaces would stay and hold the network.
    """
    role = create_role(scope, "network", PODS, partition, {"cni": "AmazonEKS_CNI_Policy"})
    agent = create_addon(scope, cluster, "eks-pod-identity-agent")
    network = create_addon(
        scope,
        cluster,
        "vpc-cni",
        # Without this the chart's network policies have no effect.
        values={"enableNetworkPolicy": "true"},
        identity=("aws-node", role),
        depends_on=[agent],
    )
    return [agent, network, create_addon(scope, cluster, "kube-proxy")]


def create_addons_on_nodes(
    scope: Scope, cluster: aws.eks.Cluster, partition: str, system: pulumi.Resource, *, shared_files: bool
) -> list[pulumi.Resource]:
    """Addons that run as pods: DNS, metrics, disk driver, the nodes' monitoring agent, and file driver if needed.

    system: the node on which those run that are not on every node.
    """
    # Limited to disks that carry this cluster's name. EKS passes the name to the driver and to its pod identity.
    disks = create_role(scope, "disks", PODS, partition, {"ebs": "AmazonEBSCSIDriverEKSClusterScopedPolicy"})
    addons: list[pulumi.Resource] = [
        create_addon(scope, cluster, "coredns", depends_on=[system]),
        create_addon(scope, cluster, "metrics-server", depends_on=[system]),
        create_addon(scope, cluster, "eks-node-monitoring-agent", depends_on=[system]),
        create_addon(
            scope,
            cluster,
            "aws-ebs-csi-driver",
            values={"controller": {"extraVolumeTags": dict(scope.labels)}},
            identity=("ebs-csi-controller-sa", disks),
            depends_on=[system],
        ),
    ]
    if shared_files:
        files = create_role(scope, "files", PODS, partition, {"efs": "service-role/AmazonEFSCSIDriverPolicy"})
        addons.append(
            create_addon(
                scope,
                cluster,
                "aws-efs-csi-driver",
                identity=("efs-csi-controller-sa", files),
                depends_on=[system],
            )
        )
    return addons


def create_addon(
    scope: Scope,
    cluster: aws.eks.Cluster,
    addon: str,
    *,
    values: Mapping[str, Any] | None = None,
    identity: tuple[str, Role] | None = None,
    depends_on: Sequence[pulumi.Resource] = (),
) -> aws.eks.Addon:
    """An addon in the default version for the cluster's version. identity: a service account and its role."""
    version = ask_late(
        f"the default version of addon {addon}",
        aws.eks.get_addon_version_output(
            addon_name=addon, kubernetes_version=cluster.version, opts=scope.lookup_output
        ),
    )
    associations, policies = None, list[pulumi.Resource]()
    if identity:
        account, role = identity
        associations = [aws.eks.AddonPodIdentityAssociationArgs(service_account=account, role_arn=role.role.arn)]
        policies += role.policies
    return aws.eks.Addon(
        f"{scope.name}-{addon}",
        cluster_name=cluster.name,
        addon_name=addon,
        addon_version=version.apply(lambda found: found.version),
        configuration_values=json.dumps(values, sort_keys=True) if values else None,
        pod_identity_associations=associations,
        resolve_conflicts_on_create="OVERWRITE",
        resolve_conflicts_on_update="OVERWRITE",
        opts=scope.options(depends_on=[*depends_on, *policies]),
    )
