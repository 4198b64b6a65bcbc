"""Buckets of S3 that the pods of the stack may use, by EKS Pod Identity: without a key."""

from __future__ import annotations

import re

import pulumi
import pulumi_aws as aws

from components.clouds.aws.iam import PODS, allow
from components.clouds.aws.settings import EksSettings
from components.clouds.base import CloudIdentity, service_accounts
from components.clouds.buckets import parsed
from components.clouds.checks import CloudError, Refusal, ask_or_say, problem, refusals, say_unchecked
from components.clouds.scope import Scope

LIST_ACTIONS = ["s3:ListBucket", "s3:GetBucketLocation"]
READ_ACTIONS = ["s3:GetObject"]
WRITE_ACTIONS = ["s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]

ROLE = "data"
"""End of the name of the pods' role, before Pulumi's suffix."""

RESTARTS = "whether the first bucket restarts scheduler and workers"

IDENTITY = CloudIdentity("169.254.170.23:80", {"future-kubernetes/identity": "eks-pod-identity"})
"""The Pod Identity agent on each node (https://docs.aws.amazon.com/eks/latest/userguide/pod-id-agent-setup.html).

EKS gives a pod its way to the agent when the pod is created. The annotation replaces pods that were created before.
"""


def check_buckets(settings: EksSettings, lookup: pulumi.InvokeOptions) -> None:
    """Raises CloudError for a bucket that does not exist. Where AWS refuses the lookup, the check says so."""
    for bucket in parsed(settings.buckets):
        try:
            with refusals():
                region = region_of(bucket.name, lookup)
        except Refusal as error:
            if not re.search(r"StatusCode: 404|NoSuchBucket|NotFound|couldn't find|empty result", str(error)):
                # AWS refuses for a bucket of another account as it does for one that the caller may not see.
                say_unchecked(f"whether there is a bucket s3://{bucket.name} in this account", error)
                continue
            raise CloudError(
                problem(
                    f"buckets has s3://{bucket.name}, which does not exist",
                    "buckets that exist: the stack creates none, so that it deletes none",
                    f"aws s3 mb s3://{bucket.name} --region {settings.region}",
                )
            ) from error
        if region != settings.region:
            pulumi.log.warn(
                f"buckets has s3://{bucket.name}, which is in {region}, and the stack in "
                f"{settings.region}: AWS bills each GB between regions"
            )


def region_of(bucket: str, lookup: pulumi.InvokeOptions) -> str:
    """The region of a bucket. Raises Exception where AWS refuses.

    By its token: importing `pulumi_aws.s3` prints warnings about a dozen of its own deprecated classes.
    """
    answer = pulumi.runtime.invoke("aws:s3/getBucket:getBucket", {"bucket": bucket}, lookup)
    return str(answer.value["bucketRegion"])


def has_role(settings: EksSettings, lookup: pulumi.InvokeOptions) -> bool | None:
    """True if the stack has the role of its buckets. None where the lookup is refused, which it says."""
    # Pulumi ends the name of a role with seven hexadecimal digits.
    pattern = f"^{settings.name}-{ROLE}-[0-9a-f]{{7}}$"
    found = ask_or_say(RESTARTS, lambda: aws.iam.get_roles(name_regex=pattern, opts=lookup))
    return bool(found.names) if found else None


def grant_buckets(
    scope: Scope, settings: EksSettings, cluster: aws.eks.Cluster, account: str, partition: str
) -> list[pulumi.Resource]:
    """A role that only scheduler and workers of this stack can have, with rights on the buckets.

    account: that of the stack. The rights hold only for its buckets: after one is deleted, anybody may take its name.
    """
    if not settings.buckets:
        return []
    accounts = service_accounts(settings)

    def trust(cluster_arn: str) -> str:
        tags = {
            "eks-cluster-arn": cluster_arn,
            "kubernetes-namespace": settings.namespace,
            "kubernetes-service-account": list(accounts.values()),
        }
        return allow(
            {
                "Action": ["sts:AssumeRole", "sts:TagSession"],
                "Principal": {"Service": PODS},
                "Condition": {"StringEquals": {f"aws:RequestTag/{name}": value for name, value in tags.items()}},
            }
        )

    role = aws.iam.Role(f"{scope.name}-{ROLE}", assume_role_policy=cluster.arn.apply(trust), opts=scope.options())
    policy = aws.iam.RolePolicy(
        f"{scope.name}-data", role=role.name, policy=policy_of(settings, account, partition), opts=scope.options()
    )
    associations = [
        aws.eks.PodIdentityAssociation(
            f"{scope.name}-data-{part}",
            cluster_name=cluster.name,
            namespace=settings.namespace,
            service_account=name,
            role_arn=role.arn,
            opts=scope.options(depends_on=[policy]),
        )
        for part, name in accounts.items()
    ]
    return [policy, *associations]


def policy_of(settings: EksSettings, account: str, partition: str) -> str:
    """The policy document: reading for all buckets, writing for those with `:rw`."""
    arns = {bucket: f"arn:{partition}:s3:::{bucket.name}" for bucket in parsed(settings.buckets)}
    grants = [
        (LIST_ACTIONS, list(arns.values())),
        (READ_ACTIONS, [f"{arn}/*" for arn in arns.values()]),
        (WRITE_ACTIONS, [f"{arn}/*" for bucket, arn in arns.items() if bucket.writable]),
    ]
    own = {"StringEquals": {"aws:ResourceAccount": account}}
    return allow(*({"Action": what, "Resource": where, "Condition": own} for what, where in grants if where))
