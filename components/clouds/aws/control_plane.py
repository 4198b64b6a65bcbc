"""The EKS control plane, without nodes, its audit log, and the access entries of its users."""

from __future__ import annotations

import pulumi
import pulumi_aws as aws
from pulumi_random import RandomId

from components.clouds.aws.iam import create_role, deny
from components.clouds.aws.network import Network
from components.clouds.aws.settings import EksSettings
from components.clouds.scope import Scope

AUDIT_LOGS = ("audit", "authenticator")
"""Logs of the control plane that are kept: each request to the Kubernetes API, and who logged in."""


def create_control_plane(scope: Scope, settings: EksSettings, network: Network, partition: str) -> aws.eks.Cluster:
    """The control plane, without the addons that EKS would install by default."""
    role = create_role(scope, "control-plane", "eks.amazonaws.com", partition, {"cluster": "AmazonEKSClusterPolicy"})
    name = cluster_name(scope, network)
    log = create_audit_log(scope, settings, name, role.role, partition) if settings.audit_log_days else []
    return aws.eks.Cluster(
        scope.name,
        name=name,
        enabled_cluster_log_types=list(AUDIT_LOGS) if log else None,
        version=settings.kubernetes_version,
        role_arn=role.role.arn,
        vpc_config=aws.eks.ClusterVpcConfigArgs(
            subnet_ids=list(network.private.values()),
            endpoint_private_access=True,
            endpoint_public_access=True,
            public_access_cidrs=list(settings.authorized_networks),
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
        opts=scope.options(depends_on=[*role.policies, *log]),
    )


def cluster_name(scope: Scope, network: Network) -> pulumi.Output[str]:
    """A random name, drawn again for another network: EKS cannot move a cluster, so it must be replaced."""
    suffix = RandomId(
        f"{scope.name}-cluster",
        byte_length=4,
        keepers={"vpc": network.vpc},
        opts=pulumi.ResourceOptions(parent=scope.parent),
    )
    return pulumi.Output.concat(scope.name, "-", suffix.hex)


def create_audit_log(
    scope: Scope, settings: EksSettings, cluster: pulumi.Output[str], role: aws.iam.Role, partition: str
) -> list[pulumi.Resource]:
    """The log group of a cluster, to exist before the cluster. EKS's own would be kept, and billed, for ever.

    The policy keeps late messages of a deleted cluster from creating the group anew
    (https://github.com/terraform-aws-modules/terraform-aws-eks/issues/920).
    """
    group = aws.cloudwatch.LogGroup(
        f"{scope.name}-audit",
        name=pulumi.Output.concat("/aws/eks/", cluster, "/cluster"),
        retention_in_days=settings.audit_log_days,
        opts=scope.options(),
    )
    groups = f"arn:{partition}:logs:*:*:log-group:/aws/eks/*"
    policy = aws.iam.RolePolicy(
        f"{scope.name}-audit",
        role=role.name,
        policy=deny({"Action": "logs:CreateLogGroup", "Resource": groups}),
        opts=scope.options(),
    )
    return [group, policy]


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
