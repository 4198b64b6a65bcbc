"""Questions to AWS, each refusal with its fix."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pulumi
import pulumi_aws as aws

from components.clouds import checks

Answer = TypeVar("Answer")

LOGIN = "aws sso login (or aws configure), and export AWS_PROFILE if you use one; then aws sts get-caller-identity"
FIXES = (
    (
        r"no valid credential|no EC2 IMDS role|NoCredentialProviders|ExpiredToken|InvalidClientTokenId|security token"
        r"|failed to refresh cached credentials|sso session|AuthFailure",
        LOGIN,
    ),
    (
        r"invalid AWS region|no such host|could not resolve endpoint",
        "aws account list-regions, then pulumi config set region",
    ),
    (r"OptInRequired|not subscribed|not enabled", "aws account enable-region --region-name REGION"),
    (r"AccessDenied|UnauthorizedOperation|not authorized", "ask for the permissions that docs/eks.md lists"),
)

GONE = r"(?i)ResourceNotFound|couldn't find|not found|empty result"
"""EKS's words where there is no such cluster or node group."""


def ask(question: str, call: Callable[[], Answer]) -> Answer:
    """The answer of a data source of AWS. Raises CloudError with the reason and a fix."""
    return checks.ask(question, call, FIXES)


def ask_late(question: str, answer: pulumi.Output[Answer]) -> pulumi.Output[Answer]:
    """The answer of a data source of AWS about what the update makes. A refusal stops the update with a fix."""
    return checks.ask_late(question, answer, FIXES)


def tagged_arns(kind: str, stack: str, lookup: pulumi.InvokeOptions) -> list[str]:
    """ARNs of the resources of one kind (`eks:cluster`) with a stack's tag. Raises Exception where AWS refuses.

    AWS lists a deleted resource for a while.
    """
    found = aws.resourcegroupstaggingapi.get_resources(
        resource_type_filters=[kind],
        tag_filters=[aws.resourcegroupstaggingapi.GetResourcesTagFilterArgs(key="stack", values=[stack])],
        opts=lookup,
    )
    return [entry.resource_arn for entry in found.resource_tag_mapping_lists]
