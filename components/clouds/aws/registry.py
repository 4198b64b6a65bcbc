"""The ECR repository of the stack's image."""

from __future__ import annotations

import json

import pulumi
import pulumi_aws as aws

from components.clouds.aws.api import ask
from components.clouds.base import ImageRegistry
from components.clouds.scope import Scope

UNTAGGED_DAYS = 30
"""Days for which an image is kept after a newer one has taken its tag."""


def find_token(account: str, lookup: pulumi.InvokeOptions) -> aws.ecr.GetAuthorizationTokenResult:
    """The login to the registry of an account. Raises CloudError where AWS refuses it.

    Asked before anything is created: an update that may not push an image would stop after the cluster was made. The
    token lasts twelve hours
    (https://docs.aws.amazon.com/AmazonECR/latest/APIReference/API_GetAuthorizationToken.html).
    """
    return ask(
        "the login to the account's image registry",
        lambda: aws.ecr.get_authorization_token(registry_id=account, opts=lookup),
    )


def create_registry(scope: Scope, token: aws.ecr.GetAuthorizationTokenResult) -> ImageRegistry:
    """A repository that scans on push, expires untagged images, and is deleted together with its images."""
    repository = aws.ecr.Repository(
        f"{scope.name}-images",
        force_delete=True,
        image_scanning_configuration={"scan_on_push": True},
        encryption_configurations=[{"encryption_type": "AES256"}],
        opts=scope.options(),
    )
    aws.ecr.LifecyclePolicy(
        f"{scope.name}-images",
        repository=repository.name,
        policy=json.dumps({"rules": [expiry_rule()]}),
        opts=scope.options(),
    )
    return ImageRegistry(
        repository=repository.repository_url,
        server=repository.repository_url.apply(lambda url: url.split("/")[0]),
        username=token.user_name,
        password=token.password,
        oci_cache=True,
    )


def expiry_rule() -> dict[str, object]:
    """The rule that deletes untagged images."""
    return {
        "rulePriority": 1,
        "description": "What a newer image took the tag from, after a month",
        "selection": {
            "tagStatus": "untagged",
            "countType": "sinceImagePushed",
            "countUnit": "days",
            "countNumber": UNTAGGED_DAYS,
        },
        "action": {"type": "expire"},
    }
