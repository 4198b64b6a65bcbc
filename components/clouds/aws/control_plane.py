"""The EKS control plane, without nodes, and the access entries of its users.

Control plane logs stay off: EKS writes them to a log group that it creates itself and that outlives the cluster.
"""

from __future__ import annotations

import pulumi
import pulumi_aws as aws

from components.clouds.aws.iam import create_role
from components.clouds.aws.network import Network
from components.clouds.aws.settings import EksSettings
from components.clouds.scope import Scope


def create_control_plane(scope: Scope, settings: EksSettings, network: Network, partition: str) -> aws.eks.Cluster:
    """The control plane, without the addons that EKS would install by default."""
    role = create_role(scope, "control-plane", "eks.amazonaws.com", partition, {"cluster": "AmazonEKSClusterPolicy"})
    return aws.eks.Cluster(
        scope.name,
        version=settings.kubernetes_version,
        role_arn=role.role.arn,
        vpc_config=aws.eks.ClusterVpcConfigArgs(
            subnet_ids=list(network.private.values()),
            endpoint_private_access=True,
            endpoint_public_access=True,
            public_access_cidrs=list(settings.authorized_networks) or None,
        ),
        access_config=aws.eks.ClusterAccessConfigArgs(
            authentication_mode="API",
            # Do not add an access entry for the caller: it would change with every user who runs `pulumi up`.
            bootstrap_cluster_creator_admin_permissions=True,
        ),
        bootstrap_self_managed_addons=False,
        # Extended support of an old version costs several times as much. With STANDARD EKS upgrades instead.
        upgrade_policy=aws.eks.ClusterUpgradePolicyArgs(support_type="STANDARD"),
        deletion_protection=False,
        opts=scope.options(depends_on=role.policies),
    )


def grant_access(
    scope: Scope, settings: EksSettings, cluster: aws.eks.Cluster, partition: str
) -> list[pulumi.Resource]:
    """Access entries: `adminRoles` administer the cluster, `teamRoles` edit the stack's namespace.

    Everything that Kubernetes deletes must depend on the returned resources. Otherwise a member of `adminRoles` who
    destroys the stack would delete their own access first.
    """
    made: list[pulumi.Resource] = []
    team = aws.eks.AccessPolicyAssociationAccessScopeArgs(type="namespace", namespaces=[settings.namespace])
    admin = aws.eks.AccessPolicyAssociationAccessScopeArgs(type="cluster")
    for part, arns, access_policy, access_scope in (
        ("team", settings.team_roles, "AmazonEKSEditPolicy", team),
        ("admin", settings.admin_roles, "AmazonEKSClusterAdminPolicy", admin),
    ):
        for arn in arns:
            name = f"{scope.name}-{part}-{arn.rsplit('/', 1)[-1]}"
            entry = aws.eks.AccessEntry(name, cluster_name=cluster.name, principal_arn=arn, opts=scope.options())
            association = aws.eks.AccessPolicyAssociation(
                name,
                cluster_name=cluster.name,
                principal_arn=entry.principal_arn,
                policy_arn=f"arn:{partition}:eks::aws:cluster-access-policy/{access_policy}",
                access_scope=access_scope,
                opts=scope.options(),
            )
            made += [entry, association]
    return made
