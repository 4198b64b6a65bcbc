"""IAM roles of the cluster's parts, each for one service, with AWS's own policies."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_aws as aws

from components.clouds.scope import Scope

PODS = "pods.eks.amazonaws.com"
"""EKS Pod Identity, which gives a role to the pods of one service account."""


@dataclass(frozen=True)
class Role:
    """A role and its policies. Depend on `policies`: a part that starts before them lacks its permissions."""

    role: aws.iam.Role
    policies: Sequence[pulumi.Resource]


def create_role(scope: Scope, part: str, service: str, partition: str, policies: Mapping[str, str]) -> Role:
    """A role that only `service` may assume. policies: short name to the path of an AWS policy."""
    actions = ["sts:AssumeRole"]
    if service == PODS:
        actions.append("sts:TagSession")
    role = aws.iam.Role(
        f"{scope.name}-{part}",
        assume_role_policy=allow({"Action": actions, "Principal": {"Service": service}}),
        opts=scope.options(),
    )
    attachments = [
        aws.iam.RolePolicyAttachment(
            f"{scope.name}-{part}-{short}",
            role=role.name,
            policy_arn=f"arn:{partition}:iam::aws:policy/{path}",
            opts=scope.options(),
        )
        for short, path in policies.items()
    ]
    return Role(role, attachments)


def allow(*statements: Mapping[str, Any]) -> str:
    """A policy document that allows `statements`."""
    return document("Allow", statements)


def deny(*statements: Mapping[str, Any]) -> str:
    """A policy document that denies `statements`, whatever else allows them."""
    return document("Deny", statements)


def document(effect: str, statements: Sequence[Mapping[str, Any]]) -> str:
    """A policy document of statements with one effect."""
    listed = [{"Effect": effect, **statement} for statement in statements]
    return json.dumps({"Version": "2012-10-17", "Statement": listed})
